"""The Hessian of a density, by the shortest way there is."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmap.curvature.affine import is_affine
from jaxmap.curvature.ggn import ggn
from jaxmap.curvature.hessian import hessian
from jaxmap.data import take_examples
from jaxmap.model import Density, Model, weighted_sum
from jaxmap.trees import full_products
from jaxmap.types import Data


def unconstrained_outputs(model: Model) -> Any:
    """`model.outputs` as a function of unconstrained coordinates."""

    def outputs(z: Any, x: Any) -> Any:
        return model.outputs(model.space.constrain(z), x)  # type: ignore[misc]

    return outputs


def has_outputs(model: Model, data: Data) -> bool:
    """True where the likelihood of these data goes through known outputs."""
    return model.outputs is not None and isinstance(data, tuple) and len(data) == 2


def is_linear(model: Model, data: Data) -> bool:
    """True where the outputs are affine in the coordinates, as in every generalised linear model."""
    if not has_outputs(model, data):
        return False
    if "linear" not in model.programs:
        one = take_examples(data[0], jnp.zeros(1, int))
        model.programs["linear"] = is_affine(unconstrained_outputs(model), model.start_unconstrained(float), one)
    return model.programs["linear"]


def negative_hessian(density: Density, z: Any, data: Data, weights: Any = None) -> Float[Array, "p p"]:
    """-d^2 f / dz^2 of the smooth part of a density f, totals in nats, in ravel order.

    Where the outputs are linear in z it is X'LX with L the Hessian in the outputs, which costs one product of matrices;
    elsewhere p Hessian-vector products.

    Args:
        density: f.
        z: where, p numbers.
        data: all examples.
        weights: how often each counts; once if left out.
    """
    if is_linear(density.model, data):
        outputs = unconstrained_outputs(density.model)
        with full_products():
            prior = hessian(lambda v: -density.smooth_log_prior(v), z)
            return prior + ggn(outputs, density.model.emission, z, data, weights=weights, kind="exact")  # type: ignore[arg-type]

    def likelihood(v: Any) -> Any:
        values = density.log_likelihoods(v, data)
        return -(jnp.sum(values) if weights is None else weighted_sum(weights.astype(values.dtype), values))

    with full_products():
        return hessian(lambda v: -density.smooth_log_prior(v), z) + hessian(likelihood, z)


def gauss_newton(density: Density, z: Any, data: Data, weights: Any = None) -> Float[Array, "p p"]:
    """The generalised Gauss-Newton matrix of the likelihood plus the Hessian of everything else that is smooth."""
    outputs, emission = unconstrained_outputs(density.model), density.model.emission
    with full_products():
        prior = hessian(lambda v: -density.smooth_log_prior(v), z)
        return prior + ggn(outputs, emission, z, data, weights=weights)  # type: ignore[arg-type]
