"""The certificate of many parameters: their curvature is known by Hessian-vector products alone."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxmap.curvature.factor import FLAT, flat_paths
from jaxmap.model import Density
from jaxmap.optimize.krylov import decrement as decrement_by_products
from jaxmap.optimize.krylov import lanczos, vectors_of
from jaxmap.optimize.nearby import change_of
from jaxmap.optimize.slope import Slope, likelihood_slope
from jaxmap.optimize.spectrum import STRIDE, near
from jaxmap.trees import coordinate_paths, in_double
from jaxmap.types import Certificate, Data, Status


def certify_by_products(
    density: Density, z: Any, data: Data, slope: Slope, resolution: float, most: int
) -> tuple[Certificate, Status]:
    """The certificate of many parameters, from Hessian-vector products, at most so many for the decrement."""
    free = ~np.asarray(slope.held, bool)
    noise = np.random.default_rng(0).normal(size=free.size) * free
    program = density.model.programs.jitted(("products", density), _looked_of(density))
    distance, ends, moves, spent = in_double(program, z, data, slope.residual, free.astype(float), noise, most)
    weakest, largest, error = (float(v) for v in (ends.smallest, ends.largest, ends.residual))
    products = int(spent) + vectors_of(free.size, free.size) + 3
    relative = weakest / max(largest, np.finfo(float).tiny)
    certificate = Certificate(float(slope.relative), float(distance), relative, products=products)
    if relative <= FLAT and error <= 1e-3 * largest:
        flat = flat_paths(np.asarray(ends.vector, np.float64)[:, None], coordinate_paths(z))
        return replace(certificate, flat=flat), Status.NOT_A_MAXIMUM
    if not (np.isfinite(distance) and error <= 0.1 * weakest):
        return certificate, Status.STEPS_EXHAUSTED
    certificate, status = _walk(density, z, data, STRIDE * np.asarray(moves, np.float64), certificate)
    if status is not Status.CONVERGED:
        return certificate, status
    flat_z = np.abs(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(z)]))
    return certificate, near(float(distance), float(np.linalg.norm(resolution * flat_z) * np.sqrt(largest)))


def _looked_of(density: Density) -> Any:
    """(z, data, residual, free, noise, most) -> the decrement, the ends of the spectrum, three moves, products spent.

    The moves are of one standard deviation: the Newton step, the weakest direction, a random one.
    """

    def looked(z: Any, data: Data, residual: Any, free: Any, noise: Any, most: Any) -> Any:
        flat, unravel = ravel_pytree(z)

        def gradient(v: Any) -> Any:
            point = unravel(v)
            of_prior = jax.grad(density.smooth_log_prior)(point)
            return -ravel_pytree(jax.tree.map(jnp.add, likelihood_slope(density, point, data)[1], of_prior))[0]

        def product(v: Any) -> Any:
            return free * jax.jvp(gradient, (flat,), (free * v,))[1]

        distance, step, spent = decrement_by_products(product, free * residual, most)
        ends = lanczos(product, noise, int(flat.size))
        moves = jnp.stack([step, ends.vector, noise])
        bends = jnp.stack([jnp.dot(move, product(move)) for move in moves])
        return distance, ends, moves * free[None] / jnp.sqrt(jnp.where(bends > 0, bends, 1.0))[:, None], spent

    return looked


def _walk(
    density: Density, z: Any, data: Data, moves: np.ndarray, certificate: Certificate
) -> tuple[Certificate, Status]:
    """Believe the curvature only if the density falls as it says along the moves, both ways."""
    walked = density.model.programs.jitted(("change", density), change_of(density))
    change = in_double(walked, z, data, np.concatenate([moves, -moves]))
    fall = -np.asarray(change, np.float64).reshape(2, -1) / (STRIDE**2 / 2)
    weak = np.any(fall <= 0.1, axis=0) & (np.linalg.norm(moves, axis=1) > 0)
    if weak.any():
        axes = moves[weak].T / np.linalg.norm(moves[weak], axis=1)
        return replace(certificate, flat=flat_paths(axes, coordinate_paths(z))), Status.NOT_A_MAXIMUM
    return certificate, Status.STEPS_EXHAUSTED if np.any(fall > 10.0) else Status.CONVERGED
