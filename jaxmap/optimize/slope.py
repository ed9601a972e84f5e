"""The slope of a density at a point, over all examples, in float64 unless it is not worth it."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxmap.curvature import examples_at_a_time, sum_over_examples
from jaxmap.data import Ahead, Batch, Stream, take_examples
from jaxmap.model import Density, weighted_sum
from jaxmap.optimize.objective import flat_kinks
from jaxmap.optimize.solver import scaled_gradient
from jaxmap.trees import in_double, precision_scope
from jaxmap.types import Data

STRICTLY = 1 - 1e-6
"""A kink holds a coordinate whose gradient is smaller than its weight; at equality the curvature decides."""

SWEEP_BYTES = 2**23
"""What is read of a stream at a time."""


class Slope(NamedTuple):
    """The density at a point, over all examples; totals in nats.

    Attributes:
        log_likelihood, log_prior: of the model, the prior also where it is not maximised.
        value: the density that is maximised.
        gradient: of its smooth part, (p,).
        held: True for coordinates that lie at a kink whose subgradient holds them there, (p,).
        residual: what must vanish at a maximum, (p,): the gradient, less what the kinks can absorb.
        relative: the scaled residual.
    """

    log_likelihood: Any
    log_prior: Any
    value: Any
    gradient: Any
    held: Any
    residual: Any
    relative: Any


def slope_at(density: Density, z: Any, data: Data | Stream, *, double: bool = True) -> Slope:
    """Evaluate density and gradient at z, in bounded memory, in float64 or else in the precision of z."""
    if isinstance(data, Stream):
        likelihood, gradient = _swept(density, z, data, double)
        program = _program(density, "slope of sums", lambda z, sums: slope_of_sums(density, z, *sums))
        found = in_double(program, z, (np.asarray(likelihood), gradient))
    else:
        program = _program(
            density, "slope", lambda z, data: slope_of_sums(density, z, *likelihood_slope(density, z, data))
        )
        found = in_double(program, z, data) if double else program(z, data)
    return Slope(*(np.asarray(v) for v in found))


def slope_of_sums(density: Density, z: Any, likelihood: Any, gradient: Any) -> Slope:
    """The slope, from the sum of the log-likelihood and of its gradient over all examples."""
    smooth, of_prior = jax.value_and_grad(density.smooth_log_prior)(z)
    gradient = ravel_pytree(jax.tree.map(jnp.add, gradient, of_prior))[0]
    flat, unravel = ravel_pytree(z)
    weights, centers = flat_kinks(density.kinks(z), z)
    kinked = (weights > 0) & (flat == centers)
    held = kinked & (jnp.abs(gradient) < STRICTLY * weights)
    outward = jnp.sign(gradient) * jnp.maximum(jnp.abs(gradient) - weights, 0.0)
    residual = jnp.where(kinked, outward, gradient - weights * jnp.sign(flat - centers))
    value = likelihood + smooth - jnp.sum(weights * jnp.abs(flat - centers))
    prior = density.model.log_prior(density.model.space.constrain(z))
    return Slope(likelihood, prior, value, gradient, held, residual, scaled_gradient(unravel(residual), z, value))


def likelihood_slope(density: Density, z: Any, data: Data, counted: Any = None) -> tuple[Any, Any]:
    """The summed log-likelihood and its gradient, in bounded memory.

    Args:
        density: whose likelihood it is.
        z: where.
        data: examples.
        counted: how often each counts; once if left out.
    """

    def part(batch: Data, weights: Any) -> Any:
        examples, given = batch

        def likelihood(z: Any) -> Any:
            values = density.log_likelihoods(z, examples)
            return weighted_sum((weights if given is None else weights * given).astype(values.dtype), values)

        return jax.value_and_grad(likelihood)(z)

    chunk = examples_at_a_time(lambda batch: density.log_likelihoods(z, batch), data)
    return sum_over_examples(part, (data, counted), chunk)


def summed(density: Density, name: str, make: Callable[[Density], Any], z: Any, data: Data | Stream, *more: Any) -> Any:
    """Evaluate in float64 what is a sum over examples plus something of the prior; a stream is read once.

    Args:
        density: f.
        name: of the program.
        make: density -> function of (z, data, *more); without prior and Jacobian what is left is the sum.
        z: where.
        data: all examples, or a stream of them.
        more: what else the function takes.
    """
    if not isinstance(data, Stream):
        return in_double(_program(density, name, make(density)), z, data, *more)
    total, likelihood = None, replace(density, prior=False, jacobian=False)
    with contextlib.closing(_parts(data)) as batches:
        for batch, weights in batches:
            each = density if total is None else likelihood
            part = take_examples(batch, weights > 0)
            found = in_double(_program(each, name, make(each)), z, part, *more)
            found = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)
            total = found if total is None else jax.tree.map(np.add, total, found)
    return total


def _parts(stream: Stream) -> Ahead[Batch]:
    """All examples of a stream once, read ahead."""
    size = max(1, SWEEP_BYTES // max(1, stream.row_bytes()))
    return Ahead(stream.sweep(size), lambda: precision_scope(stream.dtype))


def _swept(density: Density, z: Any, stream: Stream, double: bool) -> tuple[Any, Any]:
    """The same sums over a stream, those of its parts added in float64."""

    def part(z: Any, batch: Data, weights: Any) -> Any:
        return likelihood_slope(density, z, batch, weights)

    program, total = _program(density, "swept", part), None
    with contextlib.closing(_parts(stream)) as batches:
        for batch, weights in batches:
            made = in_double(program, z, batch, weights) if double else program(z, batch, weights)
            found = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), made)
            total = found if total is None else jax.tree.map(np.add, total, found)
    return total  # type: ignore[return-value]


def _program(density: Density, name: str, function: Any) -> Any:
    """Compile once per model and density."""
    return density.model.programs.jitted((name, density), function)
