"""Leave-one-out: ArviZ on the same log-likelihoods, and models from which an example can really be left out."""

import importlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import jaxmap as jm
from jaxmap.assess import Loo, loo
from jaxmap.curvature import Full
from tests import cases, reference

RNG = np.random.default_rng(5)
X = RNG.normal(size=(14, 2))
Y = X @ np.array([1.0, -0.5]) + 0.5 * RNG.normal(size=14)
Y[3] += 2.0  # an example that matters
NOISE, INFO = 0.5, jm.Info(jm.Status.CONVERGED, method="NUTS()")
MODULE = importlib.import_module("jaxmap.assess.loo")


def linear(network=None):
    pair = network or (lambda key: jnp.zeros(2), lambda w, x: x @ w)
    return jm.supervised(pair, jm.Gaussian(NOISE), jm.Prior(dist.Normal(0.0, 1.0)))


def exact(rows=slice(None), x=X, y=Y):
    return reference.linear_gaussian(x[rows], y[rows], np.zeros(2), np.eye(2), NOISE)


def left_out():
    """log p(y_i | the others), one refit each."""
    values = []
    for i in range(len(Y)):
        others = np.arange(len(Y)) != i
        mean, variance = reference.predictive(exact(others), X[i : i + 1], NOISE)
        values.append(stats.norm(mean[0], np.sqrt(variance[0])).logpdf(Y[i]))
    return np.array(values)


def drawn(count=4000, chains=4):
    """Draws of the exact posterior, without a sampler."""
    found, rng = exact(), np.random.default_rng(0)
    draws = rng.multivariate_normal(found.mean, found.covariance, size=(chains, count // chains))
    return jm.Draws(draws, INFO, np.zeros(draws.shape[:2]))


@pytest.mark.usefixtures("x64")
@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_equals_arviz(key):
    az = pytest.importorskip("arviz")
    if not hasattr(az, "psislw"):
        pytest.skip("ArviZ from 1.0 on computes leave-one-out otherwise")
    posterior = drawn(1000)
    ours = loo(key, linear(), (X, Y), posterior)
    table = stats.norm(posterior.draws @ X.T, NOISE).logpdf(Y)
    theirs = az.loo(az.from_dict(posterior={"w": posterior.draws}, log_likelihood={"y": table}), pointwise=True, reff=1)
    np.testing.assert_allclose(ours.pointwise, theirs.loo_i, atol=1e-6)
    np.testing.assert_allclose(ours.pareto_k, theirs.pareto_k, atol=1e-6)
    np.testing.assert_allclose(
        [ours.elpd, ours.se, ours.p_loo], [theirs.elpd_loo, theirs.se, theirs.p_loo], atol=1e-6, rtol=1e-6
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("how", ["draws", "Laplace", "tangent", "wrong Gaussian", "ensemble"])
def test_equals_refits_without_each_example(key, how):
    model = linear()
    if how == "draws":
        posterior, count = drawn(), 4000
    elif how == "ensemble":
        posterior, count = jm.fit(key, model, (X, Y), jm.Ensemble(jm.Laplace(), members=2)), 8000
    else:
        posterior, count = jm.fit(key, model, (X, Y), jm.Laplace()), 4000
    if how == "Laplace":
        posterior = replace(posterior, linearised=False)
    if how == "wrong Gaussian":  # wide and off: its importance weights put it right
        precision = Full(np.diag([0.7, 0.8]) @ np.linalg.cholesky(np.linalg.inv(exact().covariance)))
        posterior = replace(posterior, precision=precision, mean=posterior.mean + 0.05)
    found = loo(key, model, (X, Y), posterior, draws=count)
    assert found.draws == count
    assert found.unreliable == 0
    np.testing.assert_allclose(found.pointwise, left_out(), atol=0.1)
    np.testing.assert_allclose(found.elpd, left_out().sum(), atol=0.15)
    seen = stats.norm(*_predictive()).logpdf(Y)
    np.testing.assert_allclose(found.p_loo, seen.sum() - left_out().sum(), atol=0.15)
    assert np.max(np.abs(seen - left_out())) > 0.3  # the weights' sign would show


def _predictive():
    mean, variance = reference.predictive(exact(), X, NOISE)
    return mean, np.sqrt(variance)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["draws", "Gaussian"])
def test_chunks_of_examples_change_nothing(key, monkeypatch, kind):
    posterior = drawn(500) if kind == "draws" else jm.fit(key, linear(), (X, Y), jm.Laplace())
    whole = loo(key, linear(), (X, Y), posterior, draws=500)
    monkeypatch.setattr(MODULE, "NUMBERS", 500 * 4)  # 14 examples, four at a time
    parts = loo(key, linear(), (X, Y), posterior, draws=500)
    np.testing.assert_allclose(parts.pointwise, whole.pointwise, rtol=1e-10)
    np.testing.assert_allclose(parts.pareto_k, whole.pareto_k, rtol=1e-8)


@pytest.mark.usefixtures("x64")
def test_a_linearised_network_is_taken_at_its_word(key):
    """The Gaussian of a tangent is its exact posterior: weights without the example alone, whatever the network."""
    bent = lambda key: jnp.array([0.3, -0.2]), lambda w, x: jnp.sinh(x @ w)
    model = linear(bent)
    posterior = jm.fit(key, model, (X, Y), jm.Laplace())
    assert posterior.linearised
    slope = jax.vmap(jax.grad(lambda w, row: jnp.sinh(row @ w)), (None, 0))(posterior.mode, X)
    outputs = jnp.sinh(X @ posterior.mode)
    targets = np.asarray(Y - outputs + slope @ posterior.mode)
    rows = np.asarray(slope)
    values = []
    for i in range(len(Y)):
        others = np.arange(len(Y)) != i
        without = reference.linear_gaussian(rows[others], targets[others], np.zeros(2), np.eye(2), NOISE)
        mean, variance = reference.predictive(without, rows[i : i + 1], NOISE)
        values.append(stats.norm(mean[0], np.sqrt(variance[0])).logpdf(targets[i]))
    found = loo(key, model, (X, Y), posterior, draws=4000)
    trusted = found.pareto_k < 0.5
    assert trusted.sum() >= 10
    np.testing.assert_allclose(found.pointwise[trusted], np.array(values)[trusted], atol=0.06)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", [c for c in cases.LINEAR if c.name in ("matrix", "nested")], ids=lambda c: c.name)
def test_parameters_of_any_shape(key, case):
    found = loo(key, case.supervised(), case.data, jm.fit(key, case.supervised(), case.data, jm.Laplace()))
    assert len(found.pointwise) == len(case.y)
    assert 0 < found.p_loo < 1.5 * case.exact.mean.size


def test_a_constrained_parameter_brings_its_jacobian(key):
    """Counts under a Gamma prior: without each example a negative binomial."""
    case = cases.COUNTS
    posterior = jm.fit(key, case.model(), case.data, jm.Laplace(), precision="float64")
    found = loo(key, case.model(), case.data, posterior, draws=8000)
    values = [
        stats.nbinom(case.shape - y, (case.rate - 1) / case.rate).logpmf(y) for y in case.y
    ]  # a Gamma(shape - y, rate - 1) mixture of Poissons
    np.testing.assert_allclose(found.pointwise, values, atol=0.03)


def test_one_example_that_breaks_the_weights_is_counted(key):
    y = Y.copy()
    y[0] += 40.0
    posterior = jm.fit(key, linear(), (X, y), jm.Laplace(), precision="float64")
    found = loo(key, linear(), (X, y), posterior)
    assert found.unreliable >= 1
    assert "not to be trusted for" in found.note


def test_an_example_that_tells_nothing_leaves_the_weights_alone(key):
    x = np.concatenate([X, np.zeros((1, 2))])
    y = np.concatenate([Y, [0.3]])
    posterior = jm.fit(key, linear(), (x, y), jm.Laplace(), precision="float64")
    found = loo(key, linear(), (x, y), posterior)
    assert found.pareto_k[-1] == -np.inf
    np.testing.assert_allclose(found.pointwise[-1], stats.norm(0, NOISE).logpdf(0.3), rtol=1e-6)
    assert isinstance(found, Loo)
    assert "every Pareto k" in found.note or found.unreliable


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda a: a | {"posterior": jm.fit(a["key"], linear(), (X, Y), jm.MAP())}, ValueError, "no spread to weight"),
        (lambda a: a | {"posterior": 3}, TypeError, "Expected a posterior"),
        (lambda a: a | {"data": None}, ValueError, "data with examples"),
        (lambda a: a | {"model": "m"}, TypeError, "Expected a jm.Model"),
        (lambda a: a | {"draws": 0}, ValueError, "draws to be a positive integer"),
        (
            lambda a: a | {"posterior": replace(drawn(8), draws=np.zeros((4, 2, 3)))},
            ValueError,
            "a posterior of this model",
        ),
    ],
)
def test_bad_input_is_refused(key, change, error, told):
    given = change({"key": key, "model": linear(), "data": (X, Y), "posterior": drawn(100), "draws": 10})
    draws = given.pop("draws")
    with pytest.raises(error, match=told):
        loo(*given.values(), draws=draws)
