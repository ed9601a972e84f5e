"""examine(): what a certificate looks at, as one piece of a program that fits many problems."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxmap.curvature import is_concave, negative_hessian
from jaxmap.curvature.factor import FLAT
from jaxmap.model import Density, weighted_sum
from jaxmap.optimize.certificate import GRADIENT_WORTH_A_HESSIAN
from jaxmap.optimize.slope import Slope, slope_of_sums
from jaxmap.optimize.spectrum import DECREMENT, Spectrum, near
from jaxmap.trees import take
from jaxmap.types import Certificate, Data, Status


class Evidence(NamedTuple):
    """What was seen at the end of one climb; totals in nats.

    Attributes:
        log_likelihood, log_prior, value: at z; the value is that of the density that is maximised.
        relative: the scaled gradient, less what kinks can absorb.
        held: (p,) True where a kink holds a coordinate.
        decrement: the distance to the maximum in standard deviations, or an upper bound of it.
        smallest: the smallest eigenvalue of the curvature scaled to a unit diagonal, or a lower bound of it.
        falls: True where the gradient a tenth of a standard deviation away is what the curvature says.
        bounded: True where decrement and smallest are bounds, which may be too wide to decide.
        rounding: how far rounding z to the dtype of the fit moves it, in standard deviations.
    """

    log_likelihood: Any
    log_prior: Any
    value: Any
    relative: Any
    held: Any
    decrement: Any
    smallest: Any
    falls: Any
    bounded: Any
    rounding: Any


def examine(density: Density, z: Any, data: Data, weights: Any = None, known: Any = None) -> Evidence:
    """Look at z as `certify` does; pure and vmappable.

    Where the density is strongly concave its prior's precision bounds the curvature from below everywhere, and with it
    the distance to the one maximum: no Hessian is formed then.

    Args:
        density: what was maximised.
        z: where.
        data: all examples.
        weights: how often each counts; once if left out.
        known: per coordinate, the diagonal of an estimate of the negative Hessian, for the scale of the bound.
    """

    def slope_at(point: Any) -> Slope:
        def likelihood(v: Any) -> Any:
            values = density.log_likelihoods(v, data)
            return jnp.sum(values) if weights is None else weighted_sum(weights.astype(values.dtype), values)

        return slope_of_sums(density, point, *jax.value_and_grad(likelihood)(point))

    flat, unravel = ravel_pytree(z)
    here = slope_at(z)
    residual, held = here.residual, here.held
    bounded = is_concave(density, data, strongly=True)
    if bounded:
        ones = jnp.ones_like(flat)
        of_prior = jax.grad(lambda v: -density.smooth_log_prior(unravel(v)))
        precision = jax.jvp(of_prior, (flat,), (ones,))[1]  # the prior is separable: this is its diagonal
        scale = precision if known is None else jnp.maximum(known, precision)
        decrement = jnp.linalg.norm(residual / jnp.sqrt(precision))
        smallest, falls = jnp.min(precision / scale), jnp.asarray(True)
    else:
        matrix = negative_hessian(density, z, data, weights)
        kinks = density.kinks(z)
        everywhere = kinks is not None and all(kink is not None for kink in kinks)
        # A concave density under L1 everywhere has a maximum, which positive curvature makes the only one.
        exists = everywhere and is_concave(density, data)
        slope = None if exists else lambda v: slope_at(unravel(flat + v)).gradient
        decrement, smallest, falls, scale = _dense(matrix, residual, held, slope)
    rounding = jnp.linalg.norm(jnp.abs(flat) * jnp.sqrt(scale))
    told = jnp.asarray(bounded)
    seen = here.log_likelihood, here.log_prior, here.value, here.relative, held
    return Evidence(*seen, decrement, smallest, falls, told, rounding)


def _dense(matrix: Any, residual: Any, held: Any, slope: Any) -> tuple[Any, Any, Any, Any]:
    """Decrement, smallest curvature, whether the gradient bears it out, and the diagonal."""
    diagonal = jnp.abs(jnp.diagonal(matrix))
    scales = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))
    free = ~held
    size = len(scales)
    apart = 2.0 * size  # above every eigenvalue of the rest, so that held coordinates mix with none of them
    scaled = matrix / (scales[:, None] * scales[None])
    scaled = jnp.where(free[:, None] & free[None], scaled, jnp.diag(jnp.where(held, apart, 0.0)))
    values, vectors = jnp.linalg.eigh(scaled)
    sound = values > FLAT
    own = values < 0.75 * apart
    along = vectors.T @ jnp.where(free, residual / scales, 0.0)
    decrement = jnp.sqrt(jnp.sum(jnp.where(sound & own, along**2 / jnp.where(sound, values, 1.0), 0.0)))
    spectrum = Spectrum(jnp.where(sound, values, 1.0), vectors, along, sound & own)
    moves = jnp.stack([jnp.where(free, corner, 0.0) / scales for corner in spectrum.corners()])
    if slope is None:
        return decrement, values[0], jnp.asarray(True), scales**2
    here = slope(jnp.zeros_like(scales))
    ahead = jax.lax.map(lambda move: here - slope(move), moves)
    behind = jax.lax.map(lambda move: slope(-move) - here, moves)
    falls = spectrum.borne_out(jnp.where(free[None], ahead / scales[None], 0.0)) & spectrum.borne_out(
        jnp.where(free[None], behind / scales[None], 0.0)
    )
    return decrement, values[0], falls, scales**2


def verdict(seen: Evidence, names: list[str], resolution: float) -> tuple[Certificate, Status | None]:
    """Turn evidence (of one fit, on the host) into a certificate.

    Returns:
        certificate, status: None where only a closer look (`certify`) can tell.
    """
    relative, smallest = float(seen.relative), float(seen.smallest)
    held = tuple(names[i] for i in np.flatnonzero(np.asarray(seen.held)))
    certificate = Certificate(relative, float(seen.decrement), smallest, held=held)
    if not np.isfinite(relative) or (relative > GRADIENT_WORTH_A_HESSIAN and float(seen.decrement) > 1.0):
        return certificate, Status.STEPS_EXHAUSTED
    if len(held) == len(names):
        return Certificate(relative, 0.0, held=held), Status.CONVERGED
    if smallest <= FLAT or not bool(seen.falls):
        return certificate, None
    status = near(float(seen.decrement), resolution * float(seen.rounding))
    return certificate, None if bool(seen.bounded) and status is not Status.CONVERGED else status


def statuses_of(seen: Evidence, resolution: float) -> tuple[Status, ...]:
    """The status of each of many fits; what only a closer look could tell is not called a maximum."""
    size = seen.held.shape[1]
    close = seen.decrement <= np.minimum(DECREMENT + resolution * seen.rounding, 10 * DECREMENT)
    sure = (seen.relative <= GRADIENT_WORTH_A_HESSIAN) & (seen.smallest > FLAT) & seen.falls & close
    names = [""] * size

    def doubtful(one: Evidence) -> Status:
        known = verdict(one, names, resolution)[1]
        return known or (Status.STEPS_EXHAUSTED if bool(one.bounded) else Status.NOT_A_MAXIMUM)

    return tuple(Status.CONVERGED if good else doubtful(take(seen, k)) for k, good in enumerate(sure))
