"""What a point estimate predicts worse than the posterior that a stand-in stands for, each example left out in turn."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.assess.loo import LIMIT, smooth
from jaxmap.assess.predictive import Predictive
from jaxmap.assess.stand_in import StandIn
from jaxmap.model import Model
from jaxmap.trees import precision_scope
from jaxmap.types import Key

NODES = 64
"""Values of y per example at which two predictives are compared."""

POINT_DRAWS = 400
"""Draws of y per example that give the point's 90 % interval."""

SURPRISE = 0.005
"""How far, in nats, the loss under the data is believed beforehand to lie from the loss under the model (one sd), where
the latter is small; half of it where it is large."""


class Price(NamedTuple):
    """The expected loss of log-likelihood of a point against a posterior, at a new example.

    Example i is predicted without itself: the posterior by importance weights 1 / p(y_i | draw), smoothed (Vehtari,
    Gelman and Gabry, 2017), the point by the shift of the posterior mean under these weights, which is Newton's step
    to first order. `expected` is the Kullback-Leibler divergence of the two predictives, averaged over i: what the
    point loses if the model is right. `observed` is the mean difference at the y_i themselves: right under any model,
    and noisy. `loss` corrects the first by the second as far as its standard error allows:

        loss = expected + d t^2 / (t^2 + se^2),   d = observed - expected,   t = max(0.005, expected / 2).

    Attributes:
        loss, loss_se: nats per example.
        expected, observed, observed_se: as above.
        coverage_gap: of the point's 90 % interval under the posterior's predictive, less that of the posterior's own;
            NaN for classes and vectors.
        elpd, elpd_se: the sum over the examples looked at of log p(y_i | the others) of the posterior, per example.
        k_largest: the largest Pareto k of the weights that leave one out.
        unreliable: the share of examples whose k is above 0.7: what they observed is not to be trusted.
    """

    loss: float
    loss_se: float
    expected: float
    observed: float
    observed_se: float
    coverage_gap: float
    elpd: float
    elpd_se: float
    k_largest: float
    unreliable: float


def price(key: Key, model: Model, stand: StandIn, y: Any) -> Price:
    """Compare a point with a stand-in, by leaving out each of the examples that it was made for."""
    predictive = stand.predictive
    with precision_scope(predictive.dtype):
        y = jnp.asarray(y)
        y = y if jnp.issubdtype(y.dtype, jnp.integer) else y.astype(predictive.dtype)
        log_lik = np.asarray(predictive.emission.log_prob(predictive.members, y), np.float64)
        log_weights, k_hats = _left_out(stand.log_ratios, log_lik)
        shares = np.exp(log_weights) - np.exp(smooth(_finite(stand.log_ratios)).log_weights)[:, None]
        point = _LeftOutPoint(model, stand, stand.members_without(shares))
        nodes, log_shares = values_at(key, predictive, log_weights)
        each = _divergences(log_shares, mixture_at(predictive, log_weights, nodes), point.log_prob(nodes))
        seen = mixture_at(predictive, log_weights, y[None])[0]
        gaps = seen - point.log_prob(y[None])[0]
        gap = _coverage_gap(key, predictive, log_weights, point, y)
    expected, n = float(each.mean()), len(each)
    surprise = gaps - each
    error = float(surprise.std(ddof=1) / np.sqrt(n)) if n > 1 else np.inf
    scale = max(SURPRISE, expected / 2)
    believed = scale**2 / (scale**2 + error**2)
    return Price(
        loss=expected + believed * float(surprise.mean()),
        loss_se=float(error * np.sqrt(believed)) if np.isfinite(error) else scale,
        expected=expected,
        observed=float(gaps.mean()),
        observed_se=float(gaps.std(ddof=1) / np.sqrt(n)) if n > 1 else np.inf,
        coverage_gap=gap,
        elpd=float(seen.mean()),
        elpd_se=float(seen.std(ddof=1) / np.sqrt(n)) if n > 1 else np.inf,
        k_largest=float(k_hats.max()),
        unreliable=float(np.mean(~(k_hats <= LIMIT))),
    )


def divergence(key: Key, stand: StandIn, other: Predictive) -> float:
    """KL(stand-in || other), nats per example, both with all examples."""
    predictive, n = stand.predictive, len(stand.predictive.member_means[0])
    with precision_scope(predictive.dtype):
        weights = np.repeat(smooth(_finite(stand.log_ratios)).log_weights[:, None], n, axis=1)
        nodes, log_shares = values_at(key, predictive, weights)
        theirs = mixture_at(other, np.repeat(np.asarray(other.log_weights)[:, None], n, axis=1), nodes)
        return float(_divergences(log_shares, mixture_at(predictive, weights, nodes), theirs).mean())


def _divergences(log_shares: np.ndarray, log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """KL(p || q) of each example, (n,): the mean under p of log p / q + q / p - 1.

    The last two terms average to zero and make every term positive: with p near q the noise is of second order.
    """
    ratio = np.where(log_shares > -30, log_q - log_p, 0.0)
    return np.sum(np.exp(log_shares) * (np.expm1(ratio) - ratio), axis=0)


def values_at(key: Key, predictive: Predictive, log_weights: np.ndarray) -> tuple[Any, np.ndarray]:
    """Values of y (k, n, ...) and the log shares (k, n) that make averages over the weighted predictive of them.

    All classes with their probabilities; else as many draws of y, of members picked evenly by weight.
    """
    if predictive.kind == "classes":
        probs = np.einsum("sn,sn...->n...", np.exp(log_weights), predictive.member_means)
        n, count = probs.shape[0], probs.shape[-1]
        labels = jnp.broadcast_to(jnp.arange(count)[:, None], (count, n))
        return labels, np.log(np.maximum(probs.T, 1e-300))
    drawn = _one_of_each(key, predictive)
    picks = _evenly(key, log_weights, NODES)
    return drawn[picks, np.arange(picks.shape[1])[None]], np.full(picks.shape, -np.log(NODES))


def mixture_at(predictive: Predictive, log_weights: np.ndarray, y: Any) -> np.ndarray:
    """Log density of the predictive with weights of its own for each example, (k, n)."""
    weights = jnp.asarray(log_weights, predictive.dtype)
    return np.asarray(predictive.emission.mixed(predictive.members, weights, y), np.float64)


def _one_of_each(key: Key, predictive: Predictive) -> Any:
    """One y of every member at every input, (S, n, ...)."""
    return predictive.emission.sample(jax.random.split(key, predictive.size), predictive.members)


def _evenly(key: Key, log_weights: np.ndarray, count: int) -> np.ndarray:
    """Systematic picks of rows by the weights of each column, (count, n)."""
    edges = np.cumsum(np.exp(log_weights), axis=0)
    offset = float(jax.random.uniform(jax.random.fold_in(key, 1)))
    places = (np.arange(count) + offset) / count * edges[-1][:, None]
    found = [np.searchsorted(edges[:, i], places[i]) for i in range(edges.shape[1])]
    return np.minimum(np.stack(found, axis=1), len(edges) - 1)


def _coverage_gap(key: Key, predictive: Predictive, log_weights: np.ndarray, point: "_LeftOutPoint", y: Any) -> float:
    """Coverage of the point's central 90 % interval less that of the mixture's, both under the mixture."""
    if predictive.kind == "classes" or y.ndim > 1:
        return float("nan")
    drawn, weights = np.asarray(_one_of_each(key, predictive), np.float64), np.exp(log_weights)
    own = np.asarray(point.sample(jax.random.fold_in(key, 2)), np.float64)
    low, high = np.quantile(own, [0.05, 0.95], axis=0, method="inverted_cdf")
    inside = np.sum(weights * ((drawn >= low) & (drawn <= high)), axis=0)
    order = np.argsort(drawn, axis=0)
    ranked, mass = np.take_along_axis(drawn, order, 0), np.cumsum(np.take_along_axis(weights, order, 0), axis=0)
    ends = [ranked[np.argmax(mass >= level, axis=0), np.arange(len(low))] for level in (0.05, 0.95)]
    whole = np.sum(weights * ((drawn >= ends[0]) & (drawn <= ends[1])), axis=0)
    return float(np.mean(inside - whole))


class _LeftOutPoint:
    """The point's distribution of each example, left out."""

    def __init__(self, model: Model, stand: StandIn, members: Any):
        self.members, self.each, self.programs = members, stand.each, model.programs
        self.name = stand.name

    def log_prob(self, y: Any) -> np.ndarray:
        """(k, n)."""

        def of_one(member: Any, values: Any) -> Any:
            distribution = self.each(member)
            return jax.vmap(lambda value: distribution.log_prob(value[None])[0])(values)

        program = self.programs.jitted(("left out, log_prob", self.name), jax.vmap(of_one, in_axes=(0, 1), out_axes=1))
        return np.asarray(program(self.members, y), np.float64)

    def sample(self, key: Key) -> Any:
        """(draws, n)."""

        def of_one(member: Any, key: Key) -> Any:
            distribution = self.each(member)
            return jax.vmap(lambda k: distribution.sample(k)[0])(jax.random.split(key, POINT_DRAWS))

        count = len(jax.tree.leaves(self.members)[0])
        program = self.programs.jitted(("left out, sample", self.name), jax.vmap(of_one, out_axes=1))
        return program(self.members, jax.random.split(key, count))


def _left_out(log_ratios: np.ndarray, log_lik: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed, normalised log weights of the draws without each example, (S, n), and their Pareto k."""
    found = [smooth(_finite(log_ratios - column)) for column in log_lik.T]
    return np.stack([one.log_weights for one in found], axis=1), np.array([one.k for one in found])


def _finite(log_ratios: np.ndarray) -> np.ndarray:
    """Ratios where a draw that cannot explain an example has no weight instead of all of it."""
    return np.where(np.isfinite(log_ratios), log_ratios, -np.inf)
