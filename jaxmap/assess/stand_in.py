"""A stand-in for the posterior, from Gaussians at the modes, for an audit that may not sample."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.special import logsumexp

from jaxmap.assess.loo import smooth
from jaxmap.assess.predict import predict
from jaxmap.assess.predictive import Predictive
from jaxmap.curvature import moving_size
from jaxmap.infer import Draws, GaussianPosterior, Problem
from jaxmap.infer.grade import GRADED_UP_TO, density_of_draws, spread_normal
from jaxmap.infer.posteriors import equal_weights
from jaxmap.model import Density, Model
from jaxmap.trees import shaper
from jaxmap.types import Info, Key, Status

DRAWS = 1000
"""Draws of parameters."""

OUTPUT_DRAWS = 500
"""Draws of the outputs of a linearised network."""


@dataclass(frozen=True, eq=False)
class StandIn:
    """Weighted draws that stand for the posterior at some training inputs.

    Where importance weights can be trusted, and for models without a network, the draws are parameters with weights
    p(z) / q(z), q the mixture of Gaussians; else they are outputs of the networks linearised at the modes, which have
    equal weights there: their evidence is not trusted either.

    Attributes:
        predictive: of the draws.
        log_ratios: log importance ratios of the draws, up to a constant, (S,).
        k_hat: of the ratios of draws of parameters, also where those of outputs are used instead; NaN where no number
            of draws would tell.
        corrected: whether the draws are parameters that k-hat trusts.
        members_without: the point's parameters or outputs when example i is left out, from shifts
            `shares (S, n) -> members (n, ...)`.
        each: one of those members -> the distribution of its example, batch shape (1,).
        name: of `each` among the model's programs.
        depth: mean over the draws of log p(mode) - log p(draw), nats; NaN for outputs.
        gradients: what the densities of the draws cost, a third of a gradient each.
    """

    predictive: Predictive
    log_ratios: np.ndarray
    k_hat: float
    corrected: bool
    members_without: Callable[[np.ndarray], Any]
    each: Callable[[Any], Any]
    name: str
    depth: float = float("nan")
    gradients: float = 0.0


def stand_in(
    key: Key, problem: Problem, gaussians: list[GaussianPosterior], z: Any, params: Any, x: Any, limit: float
) -> StandIn:
    """Make one.

    Args:
        key: for draws.
        problem: model and all data.
        gaussians: at distinct modes, that of the user's point first.
        z: the user's point, in unconstrained coordinates.
        params: the same, in the user's space.
        x: the inputs that are looked at.
        limit: the largest k-hat that is trusted.
    """
    dense = moving_size(gaussians[0].precision) == problem.num_params <= GRADED_UP_TO
    drawn = _by_parameters(key, problem, gaussians, z, x, limit) if dense else None
    if drawn is not None and (drawn.corrected or problem.model.outputs is None):
        return drawn
    k_hat, spent = (drawn.k_hat, drawn.gradients) if drawn is not None else (float("nan"), 0.0)
    if problem.model.outputs is None:
        raise ValueError(
            f"Expected at most {GRADED_UP_TO} parameters, or a network, to audit predictions; got {problem.num_params} "
            "and none. Compare with jm.VI() or jm.NUTS() on held-out data."
        )
    return replace(_by_outputs(key, problem.model, gaussians, params, x), k_hat=k_hat, gradients=spent)


def _by_parameters(
    key: Key, problem: Problem, gaussians: list[GaussianPosterior], point: Any, x: Any, limit: float
) -> StandIn:
    """Draws of parameters from the mixture, with importance ratios against the density."""
    model, density = problem.model, Density(problem.model, jacobian=not problem.model.space.is_real)
    z, log_mixture = _mixture_draws(key, gaussians)
    values, _ = density_of_draws(density, problem, gaussians[0].mean, z)
    log_ratios = np.where(np.isnan(values), -np.inf, values) - log_mixture
    smoothed = smooth(log_ratios)
    k_hat = float(smoothed.k)
    shaped = shaper(gaussians[0].mean)
    rows = jnp.asarray(z, problem.dtype)
    params = model.programs.jitted("constrain draws", jax.vmap(lambda v: model.space.constrain(shaped(v))))(rows)
    chain = jax.tree.map(lambda leaf: np.asarray(leaf)[None], params)
    info = Info(Status.CONVERGED)
    draws = Draws(chain, info, values[None])
    flat = np.asarray(ravel_pytree(point)[0], np.float64)

    def members_without(shares: np.ndarray) -> Any:
        return jnp.asarray(flat[None] + shares.T @ z, problem.dtype), x

    def each(member: Any) -> Any:
        coordinates, inputs = member
        one = jax.tree.map(lambda leaf: leaf[None], inputs)
        return model.observe(model.space.constrain(shaped(coordinates)), one)  # type: ignore[misc]

    weights = np.exp(smoothed.log_weights) if np.isfinite(smoothed.log_weights).all() else np.full(len(z), 1 / len(z))
    top = max(float(density_of_draws(density, problem, g.mean, _flat(g)[None])[0][0]) for g in gaussians)
    with np.errstate(invalid="ignore"):
        depth = float(np.sum(np.where(weights > 0, weights * (top - values), 0.0)))
    predictive = predict(key, model, draws, x, draws=len(z))
    trusted = bool(k_hat < limit)
    return StandIn(predictive, log_ratios, k_hat, trusted, members_without, each, "parameters", depth, len(z) / 3)


def _flat(gaussian: GaussianPosterior) -> np.ndarray:
    return np.asarray(ravel_pytree(gaussian.mean)[0], np.float64)


def _mixture_draws(key: Key, gaussians: list[GaussianPosterior]) -> tuple[np.ndarray, np.ndarray]:
    """Draws (S, P) of the mixture weighted by evidence, each mode at least a tenth, and its log density there.

    The Gaussians are widened, their variances by 1 + 1 / sqrt(P): the posterior without an influential example is wider
    than with it, and weights of draws that never went there would not show it. It costs about a third of the draws.
    """
    size = gaussians[0].precision.size
    wider = np.sqrt(1.0 + 1.0 / np.sqrt(size))
    evidence = np.array([g.log_evidence for g in gaussians])
    shares = np.maximum(np.exp(evidence - logsumexp(evidence)), 0.1)
    counts = np.maximum(np.round(DRAWS * shares / shares.sum()).astype(int), 1)
    parts = []
    for k, (gaussian, count) in enumerate(zip(gaussians, counts, strict=True)):
        noise = wider * spread_normal(jax.random.fold_in(key, k), int(count), size)
        parts.append(_flat(gaussian)[None] + gaussian.precision.color(noise.T).T)
    z = np.concatenate(parts)
    logs = []
    for gaussian, count in zip(gaussians, counts, strict=True):
        white = gaussian.precision.whiten((z - _flat(gaussian)[None]).T) / wider
        log_normal = 0.5 * gaussian.precision.log_det - 0.5 * np.sum(white**2, axis=0)
        logs.append(np.log(count / len(z)) + log_normal - 0.5 * z.shape[1] * np.log(2 * np.pi))
    return z, logsumexp(np.stack(logs), axis=0) - size * np.log(wider)


def _by_outputs(key: Key, model: Model, gaussians: list[GaussianPosterior], params: Any, x: Any) -> StandIn:
    """Draws of the outputs of the networks linearised at the modes."""
    share = max(50, OUTPUT_DRAWS // len(gaussians))
    keys = jax.random.split(key, len(gaussians))
    parts = [predict(k, model, g, x, draws=share, how="outputs") for k, g in zip(keys, gaussians, strict=True)]
    members = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(part.members for part in parts))
    size = share * len(parts)
    first = parts[0]
    predictive = Predictive(first.emission, members, equal_weights(size), first.key)
    outputs, learned = model.programs.jitted("outputs", model.outputs)(params, x)  # type: ignore[arg-type]
    drawn = np.asarray(members[0], np.float64)

    def members_without(shares: np.ndarray) -> Any:
        moved = np.einsum("sn,sn...->n...", shares, drawn)
        learned_by_all = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(moved), *jnp.shape(leaf))), learned)
        return outputs + jnp.asarray(moved, outputs.dtype), learned_by_all

    def each(member: Any) -> Any:
        return model.emission(member[0][None], member[1])  # type: ignore[misc]

    return StandIn(predictive, np.zeros(size), float("nan"), False, members_without, each, "outputs")
