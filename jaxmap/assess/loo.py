"""Leave-one-out: how well a posterior predicts each training example had it not seen it, from draws alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from jaxmap.assess.predict import check_posterior, dtype_of, over_draws
from jaxmap.data import Stream, check_data, num_examples, take_examples
from jaxmap.infer import Draws, GaussianPosterior, MixturePosterior
from jaxmap.infer.point import check_counts
from jaxmap.infer.posteriors import is_posterior
from jaxmap.infer.problem import named_key
from jaxmap.model import Density, Model
from jaxmap.statistics import pareto_smooth
from jaxmap.trees import precision_scope
from jaxmap.types import Data, Key

LIMIT = 0.7
"""The Pareto k above which the density of an example is not to be trusted."""

NUMBERS = 2**24
"""Log-likelihoods, draws times examples, that are held at a time."""

SAME = 1e-6
"""Log ratios that differ by less are one number: leaving the example out changes nothing."""


@dataclass(frozen=True, eq=False)
class Loo:
    """The expected log predictive density of new data, by leaving out each training example.

    Attributes:
        elpd: sum over examples of log p(y_i | all others), nats.
        se: its standard error, sqrt(n var_i) over the examples' values (divisor n, as ArviZ has it).
        p_loo: the effective number of parameters, the log density of the examples when seen less `elpd`.
        pointwise: log p(y_i | all others), (n,).
        pareto_k: the shape of the tail of each example's importance weights, (n,).
        draws: how many it was made of.
    """

    elpd: float
    se: float
    p_loo: float
    pointwise: np.ndarray = field(repr=False)
    pareto_k: np.ndarray = field(repr=False)
    draws: int

    @property
    def unreliable(self) -> int:
        """How many examples have a Pareto k above 0.7 or none, so that their values are not to be trusted."""
        return int(np.sum(~(self.pareto_k <= LIMIT)))

    @property
    def note(self) -> str:
        """In a sentence."""
        per = self.elpd / len(self.pointwise)
        said = f"Leave-one-out: {per:.3f} nats per example (se {self.se / len(self.pointwise):.2g})"
        if not self.unreliable:
            return f"{said}; every Pareto k is below {LIMIT}."
        return (
            f"{said}; not to be trusted for {self.unreliable} of {len(self.pointwise)} examples (Pareto k > {LIMIT})."
        )


def has_loo(posterior: Any) -> bool:
    """True for what has draws of its own; a point, or an ensemble of points, has none to weight anew."""
    if isinstance(posterior, MixturePosterior):
        return all(has_loo(member) for member in posterior.members)
    return isinstance(posterior, GaussianPosterior | Draws)


def loo(key: Key, model: Model, data: Data, posterior: Any, *, draws: int = 1000) -> Loo:
    """Estimate the leave-one-out predictive density of every training example.

    elpd = sum_i log sum_s w_is p(y_i | s),   w_is ~ r_s / p(y_i | s),   sum_s w_is = 1

    Draws s of the posterior are weighted to what they would be without example i; the largest weights are smoothed
    (Vehtari, Gelman and Gabry, 2017; Vehtari, Simpson, Gelman, Yao and Gabry, 2024). r_s is 1 for draws of the
    posterior itself; for draws of a Gaussian q it is p(z_s) / q(z_s), p the joint density, so that the estimate is of
    the true posterior as far as the weights reach (Magnusson, Andersen, Jonasson and Vehtari, 2019). A Gaussian that
    predicts by the linearised network is taken at its word: likelihood and p are those of that network. Members of an
    ensemble keep their weights: p(y_i | others) is the weighted mean of theirs.

    Args:
        key: for draws of Gaussians.
        model: the model that was fitted.
        data: what it was fitted to.
        posterior: from `jm.fit`; draws, a Gaussian, or an ensemble of these.
        draws: how many at most; more draws of a sampler are thinned, and the members of an ensemble share them.

    Returns:
        loo: elpd, its standard error, p_loo, and each example's value and Pareto k.

    Raises:
        TypeError: no posterior, or a stream.
        ValueError: a point, a posterior of another model, or data without examples.
    """
    key = named_key(key, "loo")
    _check(model, data, posterior)
    check_counts(draws=draws)
    dtype = dtype_of(posterior)
    with precision_scope(dtype):
        data = check_data(data, dtype=dtype)
        check_posterior(model, posterior)
        left = _left_out(key, model, data, posterior, draws)
    n = len(left.values)
    elpd = float(left.values.sum())
    return Loo(
        elpd, float(np.sqrt(n * left.values.var())), float(left.seen.sum()) - elpd, left.values, left.k, left.draws
    )


class _LeftOut(NamedTuple):
    """Per example: the log density without it, the one with it, and the Pareto k."""

    values: np.ndarray
    seen: np.ndarray
    k: np.ndarray
    draws: int


def _check(model: Model, data: Data, posterior: Any) -> None:
    if not isinstance(model, Model):
        raise TypeError(f"Expected a jm.Model as second argument; got {type(model).__name__}.")
    if isinstance(data, Stream):
        raise TypeError("Expected the training data in memory, for leave-one-out; got a jm.Stream. Give arrays.")
    if data is None:
        raise ValueError("Expected data with examples, to leave one out; got None.")
    if not is_posterior(posterior):
        raise TypeError(f"Expected a posterior from jm.fit; got {type(posterior).__name__}.")
    if not has_loo(posterior):
        raise ValueError(
            f"Expected draws or a Gaussian, to leave an example out; got {posterior!r}, which has no spread to weight "
            "anew. Fit jm.Laplace() or jm.NUTS()."
        )


def _left_out(key: Key, model: Model, data: Data, posterior: Any, draws: int) -> _LeftOut:
    if isinstance(posterior, MixturePosterior):
        keys = jax.random.split(key, len(posterior.members))
        share = max(1, draws // len(posterior.members))
        parts = [_left_out(k, model, data, m, share) for k, m in zip(keys, posterior.members, strict=True)]
        weights = posterior.log_weights[:, None]
        values, seen = (np.asarray(logsumexp(np.stack([p[k] for p in parts]) + weights, axis=0)) for k in (0, 1))
        return _LeftOut(values, seen, np.max([p.k for p in parts], axis=0), sum(p.draws for p in parts))
    sample = _gaussian(key, model, posterior, draws) if isinstance(posterior, GaussianPosterior) else None
    if sample is None:
        particles = posterior.particles(key, draws)
        program = model.programs.jitted("log likelihoods of draws", over_draws(model.log_likelihood))
        sample = _Sample(particles.params, lambda members, batch: program(members, batch), len(particles.log_weights))
    return _weighted(sample, data)


class _Sample(NamedTuple):
    """Draws, their likelihoods, and what is known of their density.

    Attributes:
        members: a tree whose arrays lead with the draws.
        likelihoods: (members, batch) -> (draws, examples).
        size: how many draws.
        base: log p less its sum of log-likelihoods less log q, (draws,); None for draws of the posterior itself.
    """

    members: Any
    likelihoods: Callable[[Any, Data], Any]
    size: int
    base: np.ndarray | None = None


def _gaussian(key: Key, model: Model, posterior: GaussianPosterior, draws: int) -> _Sample:
    """Draws of a Gaussian; the constants of its density are left out."""
    density = Density(model, prior=posterior.prior, jacobian=posterior.prior)
    z = jax.tree.map(jnp.asarray, posterior.sample_unconstrained(key, draws))
    flat = np.concatenate([np.asarray(v, np.float64).reshape(draws, -1) for v in jax.tree.leaves(z)], axis=1)
    mean = np.concatenate([np.ravel(np.asarray(v, np.float64)) for v in jax.tree.leaves(posterior.mean)])
    log_q = -0.5 * np.sum(posterior.precision.whiten((flat - mean).T) ** 2, axis=0)
    prior = model.programs.jitted(("log priors of draws", density), jax.vmap(density.log_prior))
    base = np.asarray(prior(z), np.float64) - log_q
    if not (posterior.linearised and model.outputs is not None):
        program = model.programs.jitted(("log likelihoods of draws", density), over_draws(density.log_likelihoods))
        return _Sample(z, program, draws, base)
    center, each = jax.tree.map(jnp.asarray, posterior.mean), _tangent(model)
    many = lambda members, batch: over_draws(partial(each, members[0]))(members[1], batch)  # noqa: E731
    return _Sample((center, z), model.programs.jitted("log likelihoods of tangents", many), draws, base)


def _tangent(model: Model) -> Callable[[Any, Any, Data], Any]:
    """(mean, z, batch) -> log p(y_i) under the outputs' tangent at the mean; learned likelihood parameters as at z."""
    space = model.space

    def log_likelihoods(mean: Any, z: Any, batch: Data) -> Any:
        x, y = batch
        move = jax.tree.map(jnp.subtract, z, mean)
        outputs, slope = jax.jvp(lambda v: model.outputs(space.constrain(v), x)[0], (mean,), (move,))  # type: ignore[misc]
        first = jax.tree.map(lambda leaf: leaf[:1], x)
        learned = model.outputs(space.constrain(z), first)[1]  # type: ignore[misc]
        return model.emission(outputs + slope, learned).log_prob(y)  # type: ignore[misc]

    return log_likelihoods


def _weighted(sample: _Sample, data: Data) -> _LeftOut:
    """Smooth the weights of every example, a chunk of examples at a time."""
    n, chunk = num_examples(data), max(1, NUMBERS // sample.size)
    log_base = np.zeros(sample.size)
    parts: Any = _in_chunks(sample, data, chunk)
    if sample.base is not None:
        parts = list(parts) if n <= chunk else parts
        log_base = sample.base + sum(part.sum(axis=1) for part in parts)
        parts = parts if n <= chunk else _in_chunks(sample, data, chunk)
    whole = smooth(log_base)
    found = [_of_example(log_base, whole.log_weights, column) for part in parts for column in part.T]
    values, seen, k = (np.array(column) for column in zip(*found, strict=True))
    return _LeftOut(values, seen, k, sample.size)


def _in_chunks(sample: _Sample, data: Data, chunk: int) -> Iterator[np.ndarray]:
    """The log-likelihoods (draws, examples) in float64, chunk after chunk."""
    n = num_examples(data)
    chunk = min(chunk, n)
    for begin in range(0, n, chunk):
        # the last ones are computed once more where the number does not come out even: one shape, one program
        first = min(begin, n - chunk)
        batch = take_examples(data, slice(first, first + chunk))
        yield np.asarray(sample.likelihoods(sample.members, batch), np.float64)[:, begin - first :]


class Smoothed(NamedTuple):
    """Normalised log weights, and the shape of their tail."""

    log_weights: np.ndarray
    k: float


def smooth(log_ratios: np.ndarray) -> Smoothed:
    """Normalised log weights and their k, minus infinity where all are equal but for rounding."""
    if np.isfinite(log_ratios).all() and np.ptp(log_ratios) < SAME:
        return Smoothed(np.asarray(log_ratios - logsumexp(log_ratios)), -np.inf)
    return Smoothed(*pareto_smooth(log_ratios))


def _of_example(log_base: np.ndarray, log_weights: np.ndarray, column: np.ndarray) -> tuple[float, float, float]:
    """The log density without the example and with it, and the Pareto k."""
    without = smooth(log_base - column)
    values = (float(np.asarray(logsumexp(weights + column))) for weights in (without.log_weights, log_weights))
    return *values, without.k  # type: ignore[return-value]
