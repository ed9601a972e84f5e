"""Hessians of scalar functions, exact."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

COLUMNS_AT_A_TIME = 64


def hessian(function: Callable[[Any], Float[Array, ""]], z: Any) -> Float[Array, "p p"]:
    """Compute all second derivatives, forward over reverse, in ravel order.

    Args:
        function: scalar function of a pytree.
        z: where, a pytree with p numbers.

    Returns:
        hessian: symmetric to the last bit.
    """
    flat, unravel = ravel_pytree(z)
    gradient = jax.grad(lambda v: function(unravel(v)))

    def column(direction: Float[Array, " p"]) -> Float[Array, " p"]:
        return jax.jvp(gradient, (flat,), (direction,))[1]

    matrix = jax.lax.map(column, jnp.eye(flat.size, dtype=flat.dtype), batch_size=min(flat.size, COLUMNS_AT_A_TIME))
    return (matrix + matrix.T) / 2
