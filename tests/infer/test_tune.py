"""Scales chosen by the evidence or by held-out examples, against closed forms and finite differences."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy import optimize, stats

import jaxmap as jm

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
N = 60
X = RNG.normal(size=(N, 6))
Y = X @ np.array([2.0, -1.5, 2.5, 0.2, -0.1, 0.15]) + 0.5 * RNG.normal(size=N)
START = {"large": 1.0, "small": 1.0, "noise": 1.0}


def linear(scales):
    """Two groups of coefficients with a scale each, and a noise scale."""
    network = (
        lambda key: {"large": jnp.zeros(3), "small": jnp.zeros(3)},
        lambda p, x: x[:, :3] @ p["large"] + x[:, 3:] @ p["small"],
    )
    prior = {name: dist.Normal(0.0, scales[name]) for name in ("large", "small")}
    return jm.supervised(network, jm.Gaussian(scales["noise"]), jm.Prior(prior))


def log_evidence(large, small, noise):
    """log N(y | 0, K), which knows of no mode."""
    covariance = large**2 * X[:, :3] @ X[:, :3].T + small**2 * X[:, 3:] @ X[:, 3:].T + noise**2 * np.eye(N)
    return stats.multivariate_normal.logpdf(Y, np.zeros(N), covariance)


@cache
def best():
    """The largest evidence, by a simplex search."""
    found = optimize.minimize(lambda v: -log_evidence(*np.exp(v)), np.zeros(3), method="Nelder-Mead",
                              options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 2000})  # fmt: skip
    return np.exp(found.x), -found.fun


@pytest.fixture(scope="module")
def tuned():
    return jm.tune(KEY, linear, (X, Y), START, precision="float64")


def in_order(scales):
    return [scales[name] for name in ("large", "small", "noise")]


def test_the_evidence_is_maximised(tuned):
    scales, value = best()
    np.testing.assert_allclose(in_order(tuned.scales), scales, rtol=2e-3)
    np.testing.assert_allclose(tuned.criterion, value, atol=1e-6)
    np.testing.assert_allclose(tuned.posterior.log_evidence, value, atol=1e-6)
    assert tuned.info.status is jm.Status.CONVERGED
    assert tuned.posterior.info.status is jm.Status.CONVERGED


def test_every_step_of_the_history_is_the_evidence_of_its_scales(tuned):
    for row in tuned.history:
        np.testing.assert_allclose(row["log evidence"], log_evidence(*in_order(row)), rtol=1e-7)
    assert f"{len(tuned.history)} evaluations" in str(tuned)


def test_the_scales_follow_the_evidence_while_it_trains():
    method = jm.MAP(optax.adam(3e-2), steps=1500)
    found = jm.tune(KEY, linear, (X, Y), START, method=method, precision="float64")
    np.testing.assert_allclose(in_order(found.scales), best()[0], rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("curvature", ["diagonal", "kronecker"])
def test_structured_evidences_have_their_own_best_scales(curvature):
    """The design is orthogonal, so that the diagonal is exact; one layer of a Gaussian is a Kronecker product."""
    x = np.linalg.qr(X)[0] * np.sqrt(N)
    network = (lambda key: {"kernel": jnp.zeros((6, 1))}, lambda p, x: x @ p["kernel"])

    def build(scales):
        return jm.supervised(network, jm.Gaussian(0.5), jm.Prior(dist.Normal(0.0, scales)))

    def exact(log_scale):
        covariance = np.exp(2 * log_scale) * x @ x.T + 0.25 * np.eye(N)
        return -stats.multivariate_normal.logpdf(Y, np.zeros(N), covariance)

    expected = np.exp(optimize.minimize_scalar(exact, bounds=(-2.0, 2.0), options={"xatol": 1e-8}).x)
    for method in (jm.MAP(), jm.MAP(optax.adam(3e-2), steps=600)):
        found = jm.tune(KEY, build, (x, Y), 1.0, curvature=curvature, method=method, precision="float64")
        np.testing.assert_allclose(found.scales, expected, rtol=5e-3)


def test_minibatches_follow_it_too():
    method = jm.MAP(optax.adam(optax.cosine_decay_schedule(3e-2, 2400)), steps=2400, batch_size=20)
    found = jm.tune(KEY, linear, (X, Y), START, method=method, precision="float64")
    np.testing.assert_allclose(in_order(found.scales), best()[0], rtol=0.05)


def logistic(scales):
    """Not Gaussian: here the mode's movement counts."""
    network = (lambda key: {"w": jnp.zeros(6)}, lambda p, x: x @ p["w"])
    return jm.supervised(network, jm.Bernoulli(), jm.Prior(dist.Normal(0.0, scales)))


@pytest.mark.slow
@pytest.mark.parametrize("by", ["evidence", "validation"])
def test_the_derivative_is_that_of_the_criterion(by):
    """Around the chosen scale the criterion, fitted anew at each, is highest."""
    data = (X, (Y > 0).astype(int))
    found = jm.tune(KEY, logistic, data, 1.0, by=by, precision="float64")
    values = [
        jm.tune(KEY, logistic, data, found.scales * factor, by=by, steps=1, precision="float64").criterion
        for factor in (0.97, 1.0, 1.03)
    ]
    assert values[1] == max(values)
    np.testing.assert_allclose(values[1], found.criterion, rtol=1e-5)


def test_one_program_serves_all_evaluations_and_calls():
    traces = []

    def build(scales):
        traces.append(1)
        return linear(scales)

    jm.tune(KEY, build, (X, Y), START, precision="float64", steps=3)
    before = len(traces)
    jm.tune(KEY, build, (X, Y), START, precision="float64", steps=6)
    assert len(traces) == before + 1  # the final model


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"start": -1.0}, "positive number"),
        ({"start": {}}, "positive number"),
        ({"by": "cv"}, "by='evidence' or 'validation'"),
        ({"method": jm.MLE()}, r"jm\.MAP"),
        ({"method": jm.MAP(restarts=2)}, "one start"),
        ({"curvature": "low_rank"}, "curvature='full'"),
        ({"curvature": "diagonal", "hessian": "exact"}, "hessian='ggn'"),
        ({"held_out": 1.0}, "held_out between"),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_words(change, words):
    arguments = {"start": START} | change
    with pytest.raises((TypeError, ValueError), match=words):
        jm.tune(KEY, linear, (X, Y), **arguments)


def test_a_model_is_not_a_build():
    with pytest.raises(TypeError, match=r"function scales -> jm\.Model"):
        jm.tune(KEY, linear(START), (X, Y), START)
