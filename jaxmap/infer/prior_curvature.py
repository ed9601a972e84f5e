"""The diagonal of the curvature of all that does not depend on the data, and whether that is all of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxmap.curvature import View
from jaxmap.infer.curved import Curved
from jaxmap.types import Data

FORMED_UP_TO = 2_000
"""Parameters for which the prior's curvature is formed, to see whether it ties parameters together."""

PROBES = 64
"""Random vectors that estimate its diagonal beyond that; a tie of two parameters escapes them once in 2^63 times."""

ROUNDING = 1e-12
"""An entry off the diagonal below this share of the largest one on it is no tie."""

TIED = "only the diagonal of the prior's curvature, which ties parameters together, is kept"


def prior_diagonal(at: Curved) -> tuple[Float[np.ndarray, " p"], list[str]]:
    """The diagonal of the prior's curvature, Jacobian included, and a remark if that is not all of it.

    Of a sum over single parameters one product with the vector of ones is the diagonal. Otherwise the matrix is formed;
    for many parameters random sign vectors tell whether the prior ties them together, and each gives the diagonal where
    it does not.

    Args:
        at: a density at a point.
    """
    if at.density.is_prior_separable:
        diagonal = at.run("prior diagonal", lambda z, data: separable_diagonal(at.view, z))
        return np.asarray(diagonal, np.float64), []
    if len(at.positions) > FORMED_UP_TO:
        return _probed(at)
    matrix = at.of_prior()
    diagonal = np.diag(matrix).copy()
    tie = np.abs(matrix - np.diag(diagonal)).max(initial=0.0)
    return diagonal, [] if tie <= ROUNDING * np.abs(diagonal).max(initial=0.0) else [TIED]


def separable_diagonal(view: View, z: Any) -> Float[Array, " p"]:
    """The diagonal of the curvature of -log prior along the leaves that move, for a prior that ties none together."""
    return _along(view, z, jnp.ones_like(ravel_pytree(view.of(z))[0]))


def _along(view: View, z: Any, direction: Float[Array, " p"]) -> Float[Array, " p"]:
    """The curvature of -log prior times a vector."""
    moving = view.of(z)
    moves = ravel_pytree(moving)[1](direction)
    slope = jax.grad(lambda m: -view.density.smooth_log_prior(view.into(z, m)))
    return ravel_pytree(jax.jvp(slope, (moving,), (moves,))[1])[0]


def _probed(at: Curved) -> tuple[np.ndarray, list[str]]:
    def probe(z: Any, data: Data) -> Any:
        flat = ravel_pytree(at.view.of(z))[0]

        def one(key: Any) -> Any:
            signs = jax.random.rademacher(key, flat.shape, flat.dtype)
            return signs * _along(at.view, z, signs)

        keys = jax.random.split(jax.random.key(0), PROBES)
        first = one(keys[0])

        def look(seen: Any, key: Any) -> Any:  # one probe at a time: all together they would be 64 p numbers
            total, apart, largest = seen
            found = one(key)
            apart = jnp.maximum(apart, jnp.max(jnp.abs(found - first) - 1e-9 * jnp.abs(first)))
            return (total + found, apart, jnp.maximum(largest, jnp.max(jnp.abs(found)))), None

        begin = (first, jnp.zeros((), flat.dtype), jnp.max(jnp.abs(first), initial=0.0))
        (total, apart, largest), _ = jax.lax.scan(look, begin, keys[1:])
        return first, total / PROBES, apart <= ROUNDING * largest

    first, mean, same = at.run("prior diagonal by probes", probe)
    if bool(same):
        return np.asarray(first, np.float64), []
    return np.asarray(mean, np.float64), [TIED + ", estimated"]
