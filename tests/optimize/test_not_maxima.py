"""Attempts to have CONVERGED said where it is false: run-aways, plateaus, inflections, kinks. None may succeed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import jaxmap as jm
from jaxmap import Status

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
SOLVERS = {"Newton": jm.Newton(), "L-BFGS": jm.LBFGS(), "Newton-CG": jm.NewtonCG(), "Adam": optax.adam(0.03)}


def status_of(model, data, method, precision="float64"):
    """The status, DIVERGED where the fit said so by an error."""
    try:
        return jm.fit(KEY, model, data, method, precision=precision).info.status
    except jm.FitError:
        return Status.DIVERGED


# Densities without a maximum where they are climbed: (log density, start).


def coupled(sign):
    """A coordinate that runs to -infinity, coupled ever more weakly to a sound one.

    Scaled to a unit diagonal the curvature is the identity but for rounding, so that eigenvectors mix the two.
    """
    return lambda p: -0.5 * p["x"] ** 2 - jax.nn.sigmoid(p["y"]) * (1 + sign * 0.1 * p["x"])


def hinge(w):
    """exp(-hinge loss^2), the hinge rounded off: flat on one side."""
    return -((0.002 * jax.nn.softplus(-w / 0.002)) ** 2)


ENDLESS = {
    "a run-away beside a sound coordinate": (coupled(1), {"x": 0.3, "y": 0.0}),
    "the same with the other sign": (coupled(-1), {"x": 0.3, "y": 0.0}),
    "an inflection": (lambda w: -((w - 1) ** 3) / 3, 2.0),
    "an inflection on a slope of others": (
        lambda p: -((p["a"] - 1) ** 3) - (p["b"] - p["a"]) ** 2,
        {"a": 2.0, "b": 1.0},
    ),
    "a rounded hinge": (hinge, -2.0),
    "a hinge": (lambda w: -(jnp.maximum(0.0, 1 - w) ** 2), -1.0),
    "an exponential": (lambda w: -jnp.exp(-w), 0.0),
    "a hyperbolic tangent": (jnp.tanh, 0.0),
    "an arc tangent": (jnp.arctan, 0.0),
    "a banana ridge": (lambda p: -((p["b"] - p["a"] ** 2) ** 2), {"a": 0.5, "b": 2.5}),
    "a product ridge": (lambda p: -((p["a"] * p["b"] - 1) ** 2), {"a": 0.5, "b": 2.5}),
    "a relu plateau": (lambda p: -(jax.nn.relu(p["a"] - 1.0) ** 2) - p["b"] ** 2, {"a": 3.0, "b": 1.0}),
    "a funnel": (lambda p: -(p["a"] ** 2) / 2 * jnp.exp(-p["b"]) - p["b"] / 2, {"a": 1.0, "b": 0.0}),
    "a stopped gradient": (lambda w: -((w - jax.lax.stop_gradient(w)) ** 2), 0.3),
}


SUBTLE = ("a run-away beside a sound coordinate", "an inflection", "a rounded hinge")


@functools.cache
def endless(name):
    log_density, start = ENDLESS[name]
    return jm.from_log_density(log_density, init=start)


@pytest.mark.parametrize("name", ENDLESS)
def test_a_density_without_a_maximum_is_certified_for_no_solver(name):
    for label in SOLVERS if name in SUBTLE else ("Newton", "L-BFGS"):
        method = jm.MAP(SOLVERS[label], steps=300 if label == "Adam" else None)
        assert status_of(endless(name), None, method) is not Status.CONVERGED, label


@pytest.mark.parametrize("name", ["a run-away beside a sound coordinate", "an inflection"])
def test_nor_in_single_precision(name):
    assert status_of(endless(name), None, jm.MAP(), "float32") is not Status.CONVERGED


@pytest.mark.parametrize("place", [-8.0, -12.0, -20.0, -30.0])
@pytest.mark.parametrize("name", ["a run-away beside a sound coordinate", "the same with the other sign"])
def test_no_point_on_the_way_of_a_run_away_is_certified(name, place):
    given = {"x": np.asarray(0.0), "y": np.asarray(place)}
    assert status_of(endless(name), None, jm.Given(given)) is not Status.CONVERGED


@pytest.mark.parametrize("place", [-0.002, 0.0, 0.001, 0.003, 0.01])
def test_no_point_on_the_edge_of_a_plateau_is_certified(place):
    assert status_of(endless("a rounded hinge"), None, jm.Given(np.asarray(place))) is not Status.CONVERGED


# Real models without an estimate.


def intercept():
    return (lambda key: {"b": jnp.zeros(1)}), (lambda p, x: jnp.broadcast_to(p["b"], (len(x),)))


def underdispersed():
    """Counts that vary less than a Poisson: the concentration runs to infinity."""
    model = jm.supervised(intercept(), jm.NegativeBinomial(concentration=jm.Learned(dist.HalfNormal(5.0))))
    return model, (np.zeros((50, 1)), np.repeat([3, 2, 4], [30, 10, 10]))


def no_excess_zeros():
    """A zero-inflated Poisson on counts with too few zeros: the inflation runs to zero."""
    counts = np.random.default_rng(0).poisson(3.0, size=60)

    def log_likelihood(p, y):
        poisson = y * p["rate"] - jnp.exp(p["rate"]) - jax.scipy.special.gammaln(y + 1.0)
        inflated, rest = jax.nn.log_sigmoid(p["zero"]), jax.nn.log_sigmoid(-p["zero"])
        return jnp.where(y == 0, jnp.logaddexp(inflated, rest + poisson), rest + poisson)

    return jm.Model(log_likelihood=log_likelihood, init={"rate": 0.0, "zero": 0.0}), counts.astype(float)


def no_variance_between_groups():
    groups = np.random.default_rng(8).normal(size=(5, 10))
    groups = groups - groups.mean(axis=1, keepdims=True)

    def log_likelihood(p, y):
        inner, between = jnp.exp(2 * p["inner"]), jnp.exp(2 * p["between"])
        mean, left = y.mean(1), ((y - y.mean(1, keepdims=True)) ** 2).sum(1)
        spread = inner / 10 + between
        return -left / inner / 2 - 9 * p["inner"] - jnp.log(spread) / 2 - (mean - p["mean"]) ** 2 / spread / 2

    return jm.Model(log_likelihood=log_likelihood, init={"mean": 0.1, "inner": 0.0, "between": 0.0}), groups


def quasi_separated():
    """One group without failures beside two sound coordinates."""
    rng = np.random.default_rng(5)
    x = np.stack([np.ones(80), rng.normal(size=80), rng.uniform(size=80) < 0.2], axis=1)
    y = np.where(x[:, 2] > 0, 1, rng.uniform(size=80) < 1 / (1 + np.exp(-x[:, 1]))).astype(int)
    return jm.supervised(((lambda key: {"w": jnp.zeros(3)}), lambda p, x: x @ p["w"]), jm.Bernoulli()), (x, y)


def collapsing_mixture():
    """A component that closes in on one value."""
    rng = np.random.default_rng(5)
    values = np.concatenate([rng.normal(-2, 1, 30), rng.normal(2, 1, 30), [5.0]])

    def log_likelihood(p, y):
        first = jax.nn.log_sigmoid(p["l"]) + dist.Normal(p["m"], jnp.exp(p["s"])).log_prob(y)
        second = jax.nn.log_sigmoid(-p["l"]) + dist.Normal(p["n"], jnp.exp(p["t"])).log_prob(y)
        return jnp.logaddexp(first, second)

    start = {"l": 3.0, "m": 0.0, "s": 0.0, "n": 5.0, "t": -2.0}
    return jm.Model(log_likelihood=log_likelihood, init=start), values


@pytest.mark.parametrize(
    "problem",
    [underdispersed, no_excess_zeros, no_variance_between_groups, quasi_separated, collapsing_mixture],
    ids=lambda problem: problem.__name__,
)
def test_a_model_without_an_estimate_is_certified_for_no_solver(problem):
    model, data = problem()
    for label in ("Newton", "L-BFGS"):
        assert status_of(model, data, jm.MLE(SOLVERS[label])) is not Status.CONVERGED, label


# Kinks.


@functools.cache
def kinked(name):
    """A smooth part under jm.l1(1): coordinates b (and a) start at the kink."""
    smooth = SMOOTH[name]
    start = {"a": 0.0, "b": 0.0}
    return jm.Model(log_likelihood=lambda p, y: smooth(p) + 0 * y, log_prior=jm.Prior(jm.l1(1.0)), init=start)


SMOOTH = {
    "growing beyond the edge": lambda p: p["b"] + p["b"] ** 2 - p["b"] ** 4 - p["a"] ** 2,
    "growing with the third power": lambda p: p["b"] + p["b"] ** 3 - p["b"] ** 4 - p["a"] ** 2,
    "above the edge": lambda p: 1.1 * p["b"] - p["b"] ** 2 / 2 - p["a"] ** 2,
    "on the edge of a concave one": lambda p: p["b"] - p["b"] ** 2 / 2 - p["a"] ** 2,
    "inside the edge": lambda p: 0.9 * p["b"] + 0.5 * p["a"] - p["b"] ** 2 / 2,
}


@pytest.mark.parametrize("name", ["growing beyond the edge", "growing with the third power", "above the edge"])
def test_a_kink_does_not_hold_what_grows(name):
    model, data = kinked(name), np.zeros(1)
    given = {"a": np.asarray(0.0), "b": np.asarray(0.0)}
    assert status_of(model, data, jm.Given(given)) is not Status.CONVERGED
    point = jm.fit(KEY, model, data, jm.MAP(), precision="float64")
    assert point.info.status is not Status.CONVERGED or point.mode["b"] > 0.05


def test_a_kink_holds_what_pulls_less_than_its_weight_and_names_it():
    model, data = kinked("inside the edge"), np.zeros(1)
    for method in (jm.Given({"a": np.asarray(0.0), "b": np.asarray(0.0)}), jm.MAP()):
        info = jm.fit(KEY, model, data, method, precision="float64").info
        assert info.status is Status.CONVERGED
        assert info.certificate.held == ("a", "b")
        assert info.certificate.gradient == 0.0


def test_a_pull_of_exactly_the_weight_is_optimal_where_the_density_bends_down():
    """The derivative from the right is zero; to either side it falls."""
    point = jm.fit(KEY, kinked("on the edge of a concave one"), np.zeros(1), jm.MAP(), precision="float64")
    np.testing.assert_allclose(point.mode["b"], 0.0, atol=1e-6)
    assert point.info.status is Status.CONVERGED


def test_equal_columns_under_an_l1_prior_are_a_ridge_and_not_certified():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))[:, [0, 1, 2, 2]]
    y = x @ np.array([1.0, 0.0, 0.7, 0.7]) + 0.3 * rng.normal(size=40)
    model = jm.supervised(((lambda key: {"w": jnp.zeros(4)}), lambda p, x: x @ p["w"]), jm.Gaussian(scale=0.3),
                          jm.l1(5.0))  # fmt: skip
    for solver in (jm.ProximalNewton(), jm.ProximalGradient()):
        assert status_of(model, (x, y), jm.MAP(solver)) is not Status.CONVERGED


HAND_MADE = {
    "a peak": (lambda w: -jnp.abs(w), 0.5, 0.0),
    "a peak on a slope": (lambda w: -jnp.maximum(w - 1.0, 2 * (1.0 - w)), 0.0, 1.0),
    "a power of 3/2": (lambda w: -(jnp.abs(w) ** 1.5), 0.5, 0.0),
    "a cusp": (lambda w: -(jnp.abs(w) ** 0.5), 0.5, 0.0),
    "a valley": (lambda w: -(w**2) / 2 + 0.3 * jnp.abs(w), 0.0, 0.3),
    "a shallow valley": (lambda w: -(w**2) / 2 + 0.06 * jnp.abs(w), 0.0, 0.06),
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_kinks_written_by_hand_are_not_certified_except_at_their_mode(name):
    log_density, start, mode = HAND_MADE[name]
    model = jm.from_log_density(log_density, init=start)
    for solver in (jm.Newton(), jm.LBFGS()):
        point = jm.fit(KEY, model, None, jm.MAP(solver), precision="float64")
        assert point.info.status is not Status.CONVERGED or abs(abs(float(point.mode)) - mode) < 0.01
    if "valley" in name:
        assert status_of(model, None, jm.Given(np.asarray(0.0))) is not Status.CONVERGED


# Numbers too large for the precision.


def test_an_offset_of_ten_million_in_single_precision_is_as_near_as_it_can_be_or_not_certified():
    for center, width in ((1e7, 1.0), (1e7 + 0.3, 1.0), (1e4 + 0.3, 1e-3)):
        model = jm.from_log_density(lambda w, c=center, s=width: -0.5 * ((w - c) / s) ** 2, init=0.9 * center)
        point = jm.fit(KEY, model, None, jm.MAP(), precision="float32")
        if point.info.status is Status.CONVERGED:
            assert abs(np.float64(point.mode) - center) < 0.12 * width


@pytest.mark.parametrize("constant", [1e9, -1e12])
def test_a_huge_constant_hides_no_distance(constant):
    """The scaled gradient shrinks with it; the distance in standard deviations does not."""
    model = jm.from_log_density(lambda w: constant - 0.5 * (w - 3.0) ** 2, init=0.0)
    for place, certified in ((3.0, True), (3.05, False), (4.0, False)):
        status = status_of(model, None, jm.Given(np.asarray(place)))
        assert (status is Status.CONVERGED) == certified


def test_a_laplace_approximation_is_refused_where_the_curvature_does_not_last():
    """exp(-w^4) as a log density: its width is about one, the curvature at its end says thousands."""
    model = jm.from_log_density(lambda w: jnp.exp(-(w**4)), init=0.5)
    try:
        posterior = jm.fit(KEY, model, None, jm.Laplace(), precision="float64")
    except jm.FitError:
        return
    assert posterior.info.status is not Status.CONVERGED
