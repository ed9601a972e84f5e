"""Sums over examples in bounded memory, shared out over a mesh where there is one."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmap.data import EXAMPLES, num_examples, shared, take_examples, width
from jaxmap.types import Data


def sum_over_examples(function: Callable[[Data, Float[Array, " chunk"]], Any], data: Data, chunk: int) -> Any:
    """Add function(batch, weights) over chunks of the data; the last chunk is padded with weight zero.

    Under a mesh with an axis `data` each of its devices adds up its share of the examples; these sums are added once.

    Args:
        function: returns a pytree of sums in which example i counts weights[i] times.
        data: pytree with leading axis n.
        chunk: examples held at a time.

    Returns:
        total: the same pytree, summed over all n examples.
    """
    devices = width(EXAMPLES)
    if devices == 1:
        return _chunked(function, data, jnp.ones(num_examples(data)), chunk)
    shares, counted = shared(_in_shares(data, devices))
    parts = jax.vmap(lambda share, weights: _chunked(function, share, weights, chunk))(shares, counted)
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), parts)


NUMBERS = 2**24
"""Numbers that a program over a chunk of examples may make at a time."""

FEW = 256
"""Examples that are never shared out."""


def examples_at_a_time(function: Callable[[Data], Any], data: Data) -> int:
    """How many examples a program may be given at once so that what it computes stays in bounded memory.

    Args:
        function: batch -> anything; traced, not run.
        data: pytree with leading axis n, possibly traced.

    Returns:
        chunk: between 1 and n; n where that is small, or where the function takes no other number of examples.
    """
    n = num_examples(data)
    return n if n <= FEW else max(1, min(n, NUMBERS // numbers_per_example(function, data)))


def numbers_per_example(function: Callable[[Data], Any], data: Data) -> int:
    """How many numbers the steps of a program make for each example; what is made once for all does not count.

    Args:
        function: batch -> anything; traced, not run, for one and for two examples.
        data: pytree with leading axis n, possibly traced.

    Returns:
        numbers: at least 1; 1 where the function takes no other number of examples.
    """
    try:
        one, two = (
            _numbers(jax.make_jaxpr(function)(take_examples(data, jnp.zeros(count, int))).jaxpr) for count in (1, 2)
        )
    except (TypeError, ValueError):
        return 1
    return max(1, two - one)


def _numbers(program: Any) -> int:
    """How many numbers the steps of a program make, those of programs inside it included."""
    total = 0
    for step in program.eqns:
        total += sum(math.prod(v.aval.shape) for v in step.outvars)
        inside = [getattr(p, "jaxpr", p) for p in jax.tree.leaves(step.params, is_leaf=lambda p: hasattr(p, "eqns"))]
        total += sum(_numbers(p) for p in inside if hasattr(p, "eqns"))
    return total


def _in_shares(data: Data, devices: int) -> tuple[Data, Float[Array, "devices share"]]:
    """The data as (devices, share, ...), and weights that leave out what fills the last share: copies of its last row.

    The shares are those that `spread` put on the devices, so that nothing is sent.
    """
    n = num_examples(data)
    rows = jnp.arange(-(-n // devices) * devices).reshape(devices, -1)
    if rows.size == n:
        return jax.tree.map(lambda leaf: leaf.reshape(*rows.shape, *leaf.shape[1:]), data), jnp.ones(rows.shape)
    return take_examples(data, jnp.minimum(rows, n - 1)), (rows < n).astype(float)


def _chunked(function: Any, data: Data, counted: Float[Array, " n"], chunk: int) -> Any:
    n = num_examples(data)
    if n <= chunk:
        return function(data, counted)
    chunks = -(-n // chunk)
    chunk = -(-n // chunks)  # even ones, of which little is padded
    rows = jnp.arange(chunks * chunk).reshape(chunks, chunk)

    def add(total: Any, index: Array) -> tuple[Any, None]:
        inside = jnp.minimum(index, n - 1)
        part = function(take_examples(data, inside), jnp.where(index < n, counted[inside], 0.0))
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
    chunk = -(-n // chunks)  # even ones, of which little is padded
    rows = jnp.minimum(jnp.arange(chunks * chunk), n - 1).reshape(chunks, chunk)
    parts = jax.lax.map(lambda index: function(take_examples(data, index)), rows)
    return jax.tree.map(lambda leaf: leaf.reshape(chunks * chunk, *leaf.shape[2:])[:n], parts)
