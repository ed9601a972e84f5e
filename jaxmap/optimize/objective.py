"""Objective: what one step of a solver minimises."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmap.curvature import gauss_newton, has_outputs, hessian, is_concave, negative_hessian
from jaxmap.data import num_examples
from jaxmap.model import Density, Kink, soft_threshold
from jaxmap.trees import float_dtype
from jaxmap.types import Data, Key


@dataclass(frozen=True)
class Objective:
    """A loss in nats per example: a smooth function and, for L1 priors, kinks.

    loss(z) = smooth(z) + sum over leaves with a kink of weight |z - center|

    Attributes:
        smooth: z -> loss without the kinks.
        kinks: one per leaf in flattening order, None where a leaf is smooth; None where all are.
        hessian: z -> the Hessian of `smooth`, (p, p) in ravel order.
        of_prior: z -> the Hessian of the prior's part of `smooth`.
        gauss_newton: z -> the Gauss-Newton matrix of `smooth`, where the model has outputs.
        convex: True where the loss is known to be convex.
        training: (z, key) -> the smooth loss of a network in training mode, and its statistics after the batch or None;
            None where the network has no other mode.
        key: for `training`.
    """

    smooth: Callable[[Any], Float[Array, ""]]
    hessian: Callable[[Any], Float[Array, "p p"]]
    of_prior: Callable[[Any], Float[Array, "p p"]]
    kinks: list[Kink | None] | None = None
    gauss_newton: Callable[[Any], Float[Array, "p p"]] | None = None
    convex: bool = False
    training: Callable[[Any, Key], tuple[Float[Array, ""], Any]] | None = None
    key: Any = None

    def __call__(self, z: Any) -> Float[Array, ""]:
        """The whole loss."""
        return self.smooth(z) + self.penalty(z)

    def penalty(self, z: Any) -> Any:
        """The kinks' part of the loss."""
        if self.kinks is None:
            return 0.0
        pairs = zip(jax.tree.leaves(z), self.kinks, strict=True)
        return sum(jnp.sum(k.weight * jnp.abs(v - k.center)) for v, k in pairs if k is not None)

    def proximal(self, z: Any, step: Any) -> Any:
        """argmin_v |v - z|^2 / (2 step) + penalty(v); step is a number, or a tree like z with one per coordinate."""
        if self.kinks is None:
            return z
        leaves, treedef = jax.tree.flatten(z)
        same = len(jax.tree.leaves(step)) == 1 and jnp.ndim(jax.tree.leaves(step)[0]) == 0
        steps = [jax.tree.leaves(step)[0]] * len(leaves) if same else treedef.flatten_up_to(step)
        rows = zip(leaves, self.kinks, steps, strict=True)
        return treedef.unflatten([v if k is None else soft_threshold(v, k, s) for v, k, s in rows])


def objective_of(density: Density, data: Data, weights: Any = None, total: Any = None) -> Objective:
    """The loss -f(z) / N of a density on all examples, or its estimate from a batch.

    Args:
        density: f.
        data: all examples, or a batch of them.
        weights: one per example, as in `Density.mean_loss`.
        total: N where `data` is a batch; the sum of the weights where they count all examples.
    """
    n = num_examples(data) if total is None else total
    counted = None if weights is None else n / jnp.sum(weights) * weights

    def smooth(z: Any) -> Any:
        return density.mean_nll(z, data, weights) - density.smooth_log_prior(z) / n

    def training(z: Any, key: Key) -> Any:
        loss, state = density.training_nll(z, key, data, weights)
        return loss - density.smooth_log_prior(z) / n, state

    kinks = density.kinks(density.model.start_unconstrained(float_dtype(density.model.start)))
    if kinks is not None:
        kinks = [None if k is None else Kink(k.weight / n, k.center) for k in kinks]
    return Objective(
        smooth=smooth,
        hessian=lambda z: negative_hessian(density, z, data, counted) / n,
        of_prior=lambda z: hessian(lambda v: -density.smooth_log_prior(v), z) / n,
        kinks=kinks,
        gauss_newton=(lambda z: gauss_newton(density, z, data, counted) / n)
        if has_outputs(density.model, data)
        else None,
        convex=is_concave(density, data),
        training=None if density.model.train is None else training,
    )


def flat_kinks(kinks: list[Kink | None] | None, z: Any) -> tuple[Float[Array, " p"], Float[Array, " p"]]:
    """Weights (zero where the loss is smooth) and centers of the kinks, in ravel order."""
    pairs = list(zip(jax.tree.leaves(z), kinks or [None] * len(jax.tree.leaves(z)), strict=True))
    weights = [jnp.broadcast_to(0.0 if k is None else k.weight, v.shape).ravel() for v, k in pairs]
    centers = [jnp.broadcast_to(0.0 if k is None else k.center, v.shape).ravel() for v, k in pairs]
    return jnp.concatenate(weights), jnp.concatenate(centers)
