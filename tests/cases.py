"""A registry of small models with known answers.

Every case is a linear-Gaussian model y = apply(params, x) + noise with independent Gaussian priors, so that mode,
posterior, evidence and predictive have exact answers (tests/reference.py). The cases differ in what tends to go
wrong: the shape of the parameters and of y, shifted and scaled data, priors that are not centred or not alike, the
order of the leaves. `design` is written by hand, not derived from `apply`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import jaxmap as jm
from tests import reference


@dataclass(frozen=True, eq=False)
class LinearCase:
    """One linear-Gaussian model with its data.

    Attributes:
        name: for the test's id.
        apply: (params, x) -> means, (n,) or (n, k), in jax.
        design: x -> (n k, P) in numpy, columns in jax's ravel order of the parameters, rows example by example.
        start: the parameters at which fits begin.
        prior_mean, prior_scale: trees like `start`.
        noise: standard deviation of y.
        x, y: training data; `x_new`, `y_new`: what is predicted.
        standardized: the supervised model is given `scaling=jm.standardize((x, y))`; apply and prior then speak of
            standardised units.
    """

    name: str
    apply: Callable[[Any, Any], Any]
    design: Callable[[Any], np.ndarray]
    start: Any
    prior_mean: Any
    prior_scale: Any
    noise: float
    x: Any
    y: np.ndarray
    x_new: Any
    y_new: np.ndarray
    standardized: bool = False

    @property
    def data(self) -> tuple[Any, np.ndarray]:
        return self.x, self.y

    @cached_property
    def scaling(self) -> jm.Scaling | None:
        return jm.standardize(self.data) if self.standardized else None

    def _inputs(self, x: Any) -> Any:
        return x if self.scaling is None else (x - self.scaling.x_shift) / self.scaling.x_scale

    def _targets(self, y: np.ndarray) -> np.ndarray:
        return y if self.scaling is None else (y - self.scaling.y_shift) / self.scaling.y_scale

    @property
    def matrix(self) -> np.ndarray:
        """The training design."""
        return self.design(self._inputs(self.x))

    @property
    def targets(self) -> np.ndarray:
        """y in the order of the design's rows."""
        return self._targets(self.y).ravel()

    @cached_property
    def exact(self) -> reference.LinearGaussian:
        """The posterior, with log p(y) in the units of y."""
        mean, scale = flat(self.prior_mean), flat(self.prior_scale)
        found = reference.linear_gaussian(self.matrix, self.targets, mean, np.diag(scale**2), self.noise)
        if self.scaling is None:
            return found
        return found._replace(log_evidence=found.log_evidence - len(self.y) * np.sum(np.log(self.scaling.y_scale)))

    @property
    def noise_of_y(self) -> Any:
        """The noise in the units of y."""
        return self.noise if self.scaling is None else self.noise * self.scaling.y_scale

    @cached_property
    def least_squares(self) -> np.ndarray:
        """The maximum-likelihood estimate in ravel order."""
        return reference.least_squares(self.matrix, self.targets)

    @cached_property
    def predictive(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of y at x_new, shaped and scaled like y_new."""
        mean, variance = reference.predictive(self.exact, self.design(self._inputs(self.x_new)), self.noise)
        mean, variance = mean.reshape(self.y_new.shape), variance.reshape(self.y_new.shape)
        if self.scaling is None:
            return mean, variance
        return self.scaling.y_shift + self.scaling.y_scale * mean, self.scaling.y_scale**2 * variance

    def begin(self, key: Any = None) -> Any:
        """The start as fresh arrays. jax 0.10 remembers numpy constants in the precision that saw them first."""
        return jax.tree.map(np.array, self.start)

    def by_hand(self) -> jm.Model:
        """The model as pure functions; nothing of jaxmap but `Model` itself."""

        def observe(params: Any, x: Any) -> dist.Distribution:
            means = self.apply(params, x)
            return dist.Normal(means, self.noise).to_event(means.ndim - 1)

        def log_likelihood(params: Any, batch: Any) -> Any:
            x, y = batch
            away = (y - self.apply(params, x)) / self.noise
            each = -0.5 * away**2 - jnp.log(self.noise) - 0.5 * jnp.log(2 * jnp.pi)
            return each.reshape(len(y), -1).sum(axis=1)

        def log_prior(params: Any) -> Any:
            away = jax.tree.map(lambda p, m, s: (p - m) / s, params, self.prior_mean, self.prior_scale)
            constants = sum(-np.log(s) - 0.5 * np.log(2 * np.pi) for s in flat(self.prior_scale))
            return -0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(away)) + constants

        return jm.Model(log_likelihood=log_likelihood, log_prior=log_prior, init=self.begin(), observe=observe)

    def supervised(self, prior: Any = None) -> jm.Model:
        """The model as network, likelihood and prior; another prior (`jm.flat`) on request."""
        if prior is None:
            prior = jax.tree.map(dist.Normal, self.prior_mean, self.prior_scale)
        network = (self.begin, self.apply)
        return jm.supervised(network, jm.Gaussian(scale=self.noise), jm.Prior(prior), scaling=self.scaling)


def flat(tree: Any) -> np.ndarray:
    """The numbers of a tree in jax's order, as float64."""
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves)


def _make(
    name: str,
    apply: Callable[[Any, Any], Any],
    design: Callable[[Any], np.ndarray],
    start: Any,
    x: Callable[[np.random.Generator, int], Any],
    *,
    prior_mean: Any = None,
    prior_scale: Any = 1.0,
    noise: float = 0.5,
    shift: float = 0.0,
    columns: int | None = None,
    rows: int = 24,
    standardized: bool = False,
) -> LinearCase:
    """Draw data from a model whose parameters are drawn from its prior."""
    rng = np.random.default_rng([len(name), *map(ord, name)])
    mean = jax.tree.map(np.zeros_like, start) if prior_mean is None else prior_mean
    scale = jax.tree.map(lambda p: np.full(p.shape, prior_scale), start) if np.isscalar(prior_scale) else prior_scale
    truth = flat(mean) + flat(scale) * rng.normal(size=len(flat(start)))

    def targets(x: Any) -> np.ndarray:
        means = design(x) @ truth
        y = means + shift + noise * rng.normal(size=means.shape)
        return y if columns is None else y.reshape(-1, columns)

    train, new = x(rng, rows), x(rng, 5)
    return LinearCase(
        name, apply, design, start, mean, scale, noise, train, targets(train), new, targets(new), standardized
    )


def _gaussians(columns: int, center: float = 0.0, spread: float = 1.0) -> Callable[[np.random.Generator, int], Any]:
    return lambda rng, n: center + spread * rng.normal(size=(n, columns))


def _with_ones(x: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(x)), x])


def _kernel_columns(x: np.ndarray, outputs: int) -> np.ndarray:
    """Columns for a kernel (inputs, outputs) in ravel order, rows example by example."""
    return np.kron(x, np.eye(outputs))


def _bias_columns(x: np.ndarray, outputs: int) -> np.ndarray:
    return np.kron(np.ones((len(x), 1)), np.eye(outputs))


def _scalar() -> LinearCase:
    return _make(
        "scalar",
        lambda slope, x: slope * x,
        lambda x: x[:, None],
        np.zeros(()),
        lambda rng, n: rng.normal(size=n),
    )


def _vector() -> LinearCase:
    return _make("vector", lambda w, x: x @ w, lambda x: x, np.zeros(3), _gaussians(3))


def _matrix() -> LinearCase:
    """y of shape (n, 3): kernel (2, 3) and bias (3,); `bias` comes before `kernel` in ravel order."""
    return _make(
        "matrix",
        lambda p, x: x @ p["kernel"] + p["bias"][None],
        lambda x: np.column_stack([_bias_columns(x, 3), _kernel_columns(x, 3)]),
        {"kernel": np.zeros((2, 3)), "bias": np.zeros(3)},
        _gaussians(2),
        columns=3,
        rows=15,
    )


def _nested() -> LinearCase:
    """A dict of a dict and a list, scalars among the leaves."""

    def apply(p: Any, x: Any) -> Any:
        first, second = p["steps"]
        return (
            p["body"]["offset"] + x[:, :2] @ p["body"]["slope"] + x[:, 2:] @ first[:, 0] + 2.0 * second * x[:, 0] ** 2
        )

    return _make(
        "nested",
        apply,
        lambda x: np.column_stack([np.ones(len(x)), x[:, :2], x[:, 2:], 2.0 * x[:, 0] ** 2]),
        {"steps": [np.zeros((2, 1)), np.zeros(())], "body": {"slope": np.zeros(2), "offset": np.zeros(())}},
        _gaussians(4),
    )


def _reordered() -> LinearCase:
    """Leaves built in another order than jax flattens them, a tuple, and a start away from zero."""

    def apply(p: Any, x: Any) -> Any:
        return p["z"] * x[:, 0] + p["a"][1] * x[:, 1] + x[:, 2:] @ p["a"][0]

    return _make(
        "reordered",
        apply,
        lambda x: np.column_stack([x[:, 2:], x[:, 1], x[:, 0]]),
        {"z": np.asarray(3.0), "a": (np.asarray([-2.0, 1.0]), np.asarray(0.5))},
        _gaussians(4),
        prior_mean={"z": np.asarray(1.0), "a": (np.asarray([0.0, 2.0]), np.asarray(-1.0))},
        prior_scale={"z": np.asarray(0.5), "a": (np.asarray([2.0, 1.0]), np.asarray(4.0))},
    )


def _shifted() -> LinearCase:
    """Inputs around 300 with spread 20, targets in the thousands, noise 50: nothing is near zero or one."""
    return _make(
        "shifted",
        lambda p, x: p["bias"] + x @ p["slope"],
        _with_ones,
        {"bias": np.zeros(()), "slope": np.zeros(2)},
        _gaussians(2, center=300.0, spread=20.0),
        prior_scale={"bias": np.asarray(5000.0), "slope": np.asarray([30.0, 60.0])},
        noise=50.0,
        shift=-7000.0,
    )


def _off_centre() -> LinearCase:
    return _make(
        "off-centre",
        lambda w, x: x @ w,
        lambda x: x,
        np.zeros(2),
        _gaussians(2),
        prior_mean=np.asarray([4.0, -3.0]),
        prior_scale=0.25,
        noise=2.0,
        rows=6,
    )


def _per_entry() -> LinearCase:
    """A prior scale for each entry of a matrix, so that a transposed one would show."""
    return _make(
        "per-entry",
        lambda kernel, x: x @ kernel,
        lambda x: _kernel_columns(x, 2),
        np.zeros((3, 2)),
        _gaussians(3),
        prior_scale=np.asarray([[0.125, 2.0], [1.0, 0.25], [4.0, 0.5]]),
        columns=2,
        rows=8,
    )


def _standardized() -> LinearCase:
    """The data of `shifted`'s kind through `scaling=`: parameters in standardised units, y in its own."""
    return _make(
        "standardized",
        lambda p, x: p["bias"] + x @ p["slope"],
        _with_ones,
        {"bias": np.zeros(()), "slope": np.zeros(2)},
        _gaussians(2, center=300.0, spread=20.0),
        shift=40.0,
        standardized=True,
    )


LINEAR = [
    _scalar(),
    _vector(),
    _matrix(),
    _nested(),
    _reordered(),
    _shifted(),
    _off_centre(),
    _per_entry(),
    _standardized(),
]
"""All cases; `BUILDS` crosses them with the ways to build a model."""

BY_HAND = ("matrix", "nested")

BUILDS = [
    *((case, case.supervised) for case in LINEAR),
    *((case, case.by_hand) for case in LINEAR if case.name in BY_HAND),
]


def build_name(build: tuple[LinearCase, Callable[[], jm.Model]]) -> str:
    """The id of a build: `matrix-by_hand`."""
    case, make = build
    return f"{case.name}-{make.__name__}"


def as_tree(case: LinearCase, vector: np.ndarray) -> Any:
    """Bring P numbers in ravel order into the shape of the case's parameters; leading axes of `vector` stay."""
    leaves, treedef = jax.tree.flatten(case.start)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    parts = np.split(np.asarray(vector, np.float64), ends, axis=-1)
    shaped = [part.reshape((*part.shape[:-1], *leaf.shape)) for part, leaf in zip(parts, leaves, strict=True)]
    return treedef.unflatten(shaped)


def as_vectors(tree: Any, leading: int) -> np.ndarray:
    """Put the leaves of stacked trees side by side: (..., P), where `leading` axes stay."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(*leaf.shape[:leading], -1) for leaf in leaves], axis=-1)


# Models whose support is bounded, with conjugate answers.


@dataclass(frozen=True)
class GammaCase:
    """Counts with a Gamma prior on their rate: the posterior is Gamma(shape, rate).

    Attributes:
        shape, rate: of the posterior.
        y: the counts.
        log_evidence: exact.
    """

    prior_shape: float
    prior_rate: float
    y: np.ndarray

    @property
    def shape(self) -> float:
        return self.prior_shape + float(self.y.sum())

    @property
    def rate(self) -> float:
        return self.prior_rate + len(self.y)

    @property
    def log_constant(self) -> float:
        """The log joint density at r is log_constant + (shape - 1) log r - rate r."""
        from scipy.special import gammaln

        prior = self.prior_shape * np.log(self.prior_rate) - gammaln(self.prior_shape)
        return float(prior - gammaln(self.y + 1).sum())

    @property
    def log_evidence(self) -> float:
        from scipy.special import gammaln

        return float(self.log_constant + gammaln(self.shape) - self.shape * np.log(self.rate))

    def log_joint(self, r: float) -> float:
        return float(self.log_constant + (self.shape - 1) * np.log(r) - self.rate * r)

    def model(self) -> jm.Model:
        prior = jm.Prior({"rate": dist.Gamma(self.prior_shape, self.prior_rate)})
        return jm.Model(
            observe=lambda p, x: dist.Poisson(p["rate"] * jnp.ones_like(x)),
            log_prior=prior,
            init={"rate": 1.0},
        )

    @property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(self.y)), self.y


COUNTS = GammaCase(2.0, 0.5, np.array([3, 1, 4, 1, 5]))


# What it means for a fit of a linear-Gaussian case to be right. Distances are in posterior standard deviations.

TOLERANCE = 1e-8


def check_mode(case: LinearCase, params: Any, tolerance: float = TOLERANCE) -> None:
    """The mode of a linear-Gaussian posterior is its mean."""
    away = (flat(params) - case.exact.mean) / np.sqrt(np.diag(case.exact.covariance))
    np.testing.assert_allclose(away, 0.0, atol=tolerance)


def check_gaussian(case: LinearCase, posterior: jm.GaussianPosterior) -> None:
    """Mean, covariance and evidence of a Laplace approximation, which is exact here."""
    check_mode(case, posterior.mode)
    spread = np.sqrt(np.diag(case.exact.covariance))
    away = (posterior.covariance.dense() - case.exact.covariance) / np.outer(spread, spread)
    np.testing.assert_allclose(away, 0.0, atol=TOLERANCE)
    np.testing.assert_allclose(posterior.log_evidence, case.exact.log_evidence, rtol=TOLERANCE)


def check_draws(
    draws: np.ndarray, mean: np.ndarray, spread: np.ndarray, least_ess: float = 300.0, *, bias: float = 0.0
) -> None:
    """Mean and variance of Markov chain draws within 4 Monte Carlo standard errors, and twice a stated bias.

    Args:
        draws: (chain, draw, p).
        mean, spread: exact means and standard deviations, (p,).
        least_ess: what the chains must be worth before their moments say anything.
        bias: of a sampler that is not exact, relative, of standard deviations.
    """
    from jaxmap.statistics import ess_bulk

    white = (np.asarray(draws, np.float64) - mean) / spread
    for moment, exact in ((white, 0.0), (white**2, 1.0)):
        size = ess_bulk(moment)
        assert np.min(size) > least_ess
        error = moment.std((0, 1)) / np.sqrt(size)
        np.testing.assert_array_less(np.abs(moment.mean((0, 1)) - exact), 2 * bias + 4 * error)


def check_counts(case: GammaCase, constrained: Any, unconstrained: Any, gaussian: jm.GaussianPosterior) -> None:
    """Two modes that differ by 1 / rate, and a Gaussian in log r at the second one.

    In z = log r the log density is shape z - rate e^z + constant: its mode is log(shape / rate), its curvature there
    is shape.
    """
    mode = case.shape / case.rate
    np.testing.assert_allclose(constrained["rate"], mode - 1 / case.rate, rtol=TOLERANCE)
    np.testing.assert_allclose(unconstrained["rate"], mode, rtol=TOLERANCE)
    np.testing.assert_allclose(gaussian.mean["rate"], np.log(mode), rtol=TOLERANCE)
    np.testing.assert_allclose(gaussian.covariance.dense(), [[1 / case.shape]], rtol=TOLERANCE)
    by_hand = case.log_joint(mode) + np.log(mode) + 0.5 * np.log(2 * np.pi) - 0.5 * np.log(case.shape)
    np.testing.assert_allclose(gaussian.log_evidence, by_hand, rtol=TOLERANCE)
