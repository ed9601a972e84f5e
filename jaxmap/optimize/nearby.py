"""The density around a point: its change and its gradient a little way off, and where its support ends."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxmap.data import Stream
from jaxmap.model import Density, is_real
from jaxmap.optimize.objective import flat_kinks
from jaxmap.optimize.slope import likelihood_slope, summed
from jaxmap.trees import coordinate_paths
from jaxmap.types import Data

FAR_OUT = 7.0
"""Unconstrained coordinates beyond this are the edge of the support: exp(-7) is 0.0009."""


def pull_of(density: Density) -> Any:
    """The smooth part's gradient at each of several moves from z."""

    def pull(z: Any, data: Data, moves: Any) -> Any:
        flat, unravel = ravel_pytree(z)

        def at(move: Any) -> Any:
            point = unravel(flat + move)
            of_prior = jax.grad(density.smooth_log_prior)(point)
            return ravel_pytree(jax.tree.map(jnp.add, likelihood_slope(density, point, data)[1], of_prior))[0]

        return jax.lax.map(at, moves)

    return pull


def change_of(density: Density) -> Any:
    """The density at each of several moves from z, less the density at z; kinks keep the slope they have there."""

    def change(z: Any, data: Data, moves: Any) -> Any:
        flat, unravel = ravel_pytree(z)
        weights, centers = flat_kinks(density.kinks(z), z)
        pull = weights * jnp.sign(flat - centers)

        def at(move: Any) -> Any:
            point = unravel(flat + move)
            likelihood = jnp.sum(density.log_likelihoods(point, data))
            return likelihood + density.smooth_log_prior(point) - jnp.dot(pull, move)

        here = at(jnp.zeros_like(flat))
        return jax.lax.map(lambda move: at(move) - here, moves)

    return change


def far_out(density: Density, z: Any) -> bool:
    """True where a constrained parameter has run so far that it lies on the edge of its support."""
    flat = np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(z)])
    return bool(np.any((np.abs(flat) > FAR_OUT) & bounded(density, z)))


def bounded(density: Density, z: Any) -> np.ndarray:
    """True for the coordinates of parameters that have a support other than the real line, (p,)."""
    pairs = zip(density.model.space.supports, jax.tree.leaves(z), strict=True)
    return np.concatenate([np.full(np.size(leaf), not is_real(support)) for support, leaf in pairs])


def growing_outwards(density: Density, z: Any, data: Data | Stream) -> tuple[str, ...]:
    """The coordinates at the edge of their support towards which the density still grows.

    Asked where there is no curvature to ask: a scale that runs to zero overflows its own second derivatives.
    """
    flat = np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(z)])
    out = np.flatnonzero((np.abs(flat) > FAR_OUT) & bounded(density, z))
    if not out.size:
        return ()
    moves = np.zeros((out.size, flat.size))
    moves[np.arange(out.size), out] = np.sign(flat[out])
    names = coordinate_paths(z)
    changes = np.asarray(summed(density, "change", change_of, z, data, moves), np.float64)
    return tuple(names[i] for i, grown in zip(out, changes, strict=True) if grown > 0)
