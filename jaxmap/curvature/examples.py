"""Sums over examples in bounded memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmap.data import num_examples, take_examples
from jaxmap.types import Data


def sum_over_examples(function: Callable[[Data, Float[Array, " chunk"]], Any], data: Data, chunk: int) -> Any:
    """Add function(batch, weights) over chunks of the data; the last chunk is padded with weight zero.

    Args:
        function: returns a pytree of sums in which example i counts weights[i] times.
        data: pytree with leading axis n.
        chunk: examples held at a time.

    Returns:
        total: the same pytree, summed over all n examples.
    """
    n = num_examples(data)
    if n <= chunk:
        return function(data, jnp.ones(n))
    chunks = -(-n // chunk)
    rows = jnp.arange(chunks * chunk).reshape(chunks, chunk)

    def add(total: Any, index: Array) -> tuple[Any, None]:
        part = function(take_examples(data, jnp.minimum(index, n - 1)), (index < n).astype(float))
        return jax.tree.map(jnp.add, total, part), None

    shapes = jax.eval_shape(function, take_examples(data, rows[0]), jnp.ones(chunk))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zero, rows)[0]


def map_over_examples(function: Callable[[Data], Any], data: Data, chunk: int) -> Any:
    """Stack function(batch) over chunks of the data, one row per example.

    Args:
        function: returns a pytree of arrays with the leading axis of its batch.
        data: pytree with leading axis n.
        chunk: examples held at a time.

    Returns:
        rows: the same pytree with leading axis n.
    """
    n = num_examples(data)
    if n <= chunk:
        return function(data)
    chunks = -(-n // chunk)
    rows = jnp.minimum(jnp.arange(chunks * chunk), n - 1).reshape(chunks, chunk)
    parts = jax.lax.map(lambda index: function(take_examples(data, index)), rows)
    return jax.tree.map(lambda leaf: leaf.reshape(chunks * chunk, *leaf.shape[2:])[:n], parts)
