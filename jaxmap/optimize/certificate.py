"""Certificates: evidence that a point is a maximum, in float64 whatever the fit computed in."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxmap.curvature import SingularCurvatureError, hessian, scaled_spectrum, sum_over_examples
from jaxmap.curvature.factor import FLAT, flat_paths
from jaxmap.model import Density, is_real
from jaxmap.optimize.solvers import scaled_gradient
from jaxmap.trees import in_double, named_leaves
from jaxmap.types import Certificate, Data, Status

GRADIENT_WORTH_A_HESSIAN = 1e-3
"""Above this scaled gradient nothing is a maximum, and no Hessian is spent on it."""

SMALL = 200
"""Up to this many parameters the Hessian is always spent: a gradient has units, a Newton decrement has none."""

STRIDE = 0.1
"""How far the density is walked along each axis, in posterior standard deviations."""

FAR_OUT = 7.0
"""Unconstrained coordinates beyond this are the edge of the support: exp(-7) is 0.0009."""

DENSE_UP_TO = 1500
"""The largest number of parameters whose Hessian is formed."""

DECREMENT = 1e-2
"""Distance to the maximum, in posterior standard deviations, below which a point counts as the maximum."""

EXAMPLES_AT_A_TIME = 16384


class Totals(NamedTuple):
    """Sums over all examples, in nats."""

    log_likelihood: Any
    log_prior: Any


def totals(density: Density, z: Any, data: Data) -> Totals:
    """Evaluate likelihood and prior at z over all examples, in bounded memory, in float64."""

    def evaluate(z: Any, data: Data) -> Totals:
        def part(batch: Data, weights: Any) -> Any:
            values = density.log_likelihoods(z, batch)
            return jnp.sum(jnp.where(weights > 0, values, 0.0))

        likelihood = sum_over_examples(part, data, EXAMPLES_AT_A_TIME)
        return Totals(likelihood, density.model.log_prior(density.model.space.constrain(z)))

    found = in_double(_program(density, "totals", evaluate), z, data)
    return Totals(float(found.log_likelihood), float(found.log_prior))


def certify(density: Density, z: Any, data: Data, *, resolution: float) -> tuple[Certificate, Status]:
    """Decide whether z is a maximum of the density.

    CONVERGED needs all three: a scaled gradient below 1e-3, positive curvature in every direction, and a Newton
    decrement (the distance to the maximum in posterior standard deviations) below 0.01, plus what the rounding of z
    itself moves, and never more than 0.1.

    Args:
        density: what was maximised.
        z: where.
        data: all examples.
        resolution: eps of the dtype of the fit.

    Returns:
        certificate, status: CONVERGED, NOT_A_MAXIMUM, or STEPS_EXHAUSTED where it is too early to tell.
    """

    def slope(z: Any, data: Data) -> Any:
        def part(batch: Data, weights: Any) -> Any:
            def likelihood(z: Any) -> Any:
                return jnp.sum(jnp.where(weights > 0, density.log_likelihoods(z, batch), 0.0))

            return jax.value_and_grad(likelihood)(z)

        value, gradient = sum_over_examples(part, data, EXAMPLES_AT_A_TIME)
        prior, of_prior = jax.value_and_grad(density.log_prior)(z)
        gradient = jax.tree.map(jnp.add, gradient, of_prior)
        return ravel_pytree(gradient)[0], scaled_gradient(gradient, z, value + prior)

    def curvature(z: Any, data: Data) -> Any:
        return hessian(lambda v: -density(v, data), z)

    gradient, relative = (np.asarray(v, np.float64) for v in in_double(_program(density, "slope", slope), z, data))
    hopeless = not relative <= GRADIENT_WORTH_A_HESSIAN and gradient.size > SMALL
    if hopeless or gradient.size > DENSE_UP_TO:
        return Certificate(float(relative)), Status.STEPS_EXHAUSTED
    matrix = np.asarray(in_double(_program(density, "curvature", curvature), z, data), np.float64)
    certificate, status = _judge(gradient, float(relative), matrix, z, resolution)
    return _walk(density, z, data, matrix, certificate) if status is Status.CONVERGED else (certificate, status)


def _walk(density: Density, z: Any, data: Data, matrix: np.ndarray, certificate: Certificate) -> Any:
    """Believe the curvature only if the density falls as it says, a tenth of a standard deviation along every axis.

    Where gradient and curvature vanish together (a separable logistic regression, a variance that goes to zero, a mode
    at the edge of the support), the Newton decrement alone would call the run-away a maximum.
    """
    values, vectors, scales = scaled_spectrum(matrix)
    moves = (vectors / np.sqrt(values)[None]).T / scales[None] * STRIDE

    def change(z: Any, data: Data, moves: Any) -> Any:
        flat, unravel = ravel_pytree(z)
        here = density(z, data)
        return jax.lax.map(lambda move: density(unravel(flat + move), data) - here, moves)

    both = jnp.asarray(np.concatenate([moves, -moves]), jnp.result_type(float))
    fall = -np.asarray(in_double(_program(density, "change", change), z, data, both), np.float64) / (STRIDE**2 / 2)
    if np.all((fall > 0.1) & (fall < 10.0)):
        return certificate, Status.CONVERGED
    weak = np.any(fall.reshape(2, -1) <= 0.1, axis=0)
    if not weak.any():
        return certificate, Status.STEPS_EXHAUSTED
    names = coordinate_paths(z)
    flat = flat_paths(vectors[:, weak], names)
    edge = _far_out(density, z)
    status = Status.AT_BOUNDARY if edge else Status.NOT_A_MAXIMUM
    return replace(certificate, flat=flat), status


def _far_out(density: Density, z: Any) -> bool:
    """True where a constrained parameter has run so far that it lies on the edge of its support."""
    pairs = zip(density.model.space.supports, jax.tree.leaves(z), strict=True)
    return any(not is_real(support) and np.any(np.abs(np.asarray(leaf)) > FAR_OUT) for support, leaf in pairs)


def _judge(
    gradient: np.ndarray, relative: float, matrix: np.ndarray, z: Any, resolution: float
) -> tuple[Certificate, Status]:
    try:
        values, vectors, scales = scaled_spectrum(matrix)
    except SingularCurvatureError:
        return Certificate(relative), Status.STEPS_EXHAUSTED
    names = coordinate_paths(z)
    weak = values <= FLAT
    along = vectors.T @ (gradient / scales)
    decrement = float(np.sqrt(np.sum(along[~weak] ** 2 / values[~weak])))
    certificate = Certificate(relative, decrement, float(values[0]), flat_paths(vectors[:, weak], names))
    if weak.any():
        return certificate, Status.NOT_A_MAXIMUM
    # Rounding z to the dtype of the fit moves it by up to eps |z|: no solver can do better than that. Where this is
    # more than a tenth of a posterior standard deviation, the fit needs float64 and is not called converged.
    coordinates = np.abs(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(z)]))
    rounding = float(np.sqrt(np.sum((resolution * coordinates * scales) ** 2)))
    return certificate, Status.CONVERGED if decrement <= min(
        DECREMENT + rounding, 10 * DECREMENT
    ) else Status.STEPS_EXHAUSTED


def coordinate_paths(z: Any) -> list[str]:
    """The path of each number in ravel order: `kernel` for a scalar, `kernel[0,2]` inside an array."""
    names = []
    for path, leaf in named_leaves(z):
        for index in np.ndindex(np.shape(leaf)):
            names.append(f"{path}[{','.join(map(str, index))}]" if index else path)
    return names


def _program(density: Density, name: str, function: Any) -> Any:
    """Compile once per model and density."""
    return density.model.programs.setdefault((name, density), jax.jit(function))
