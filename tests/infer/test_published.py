"""Regressions whose estimates, standard errors and log-likelihoods were published, by Stata or R."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import jaxmap as jm

KEY = jax.random.key(0)
LIKELIHOODS = {
    "spector_logit": jm.Bernoulli(),
    "lbw_logit": jm.Bernoulli(),
    "cpunish_poisson": jm.Poisson(),
    "randhie_poisson": jm.Poisson(),
}
ORDINAL_REFIT = ([1.047664, -0.058682, 0.615745], [2.203322, 4.298766], -358.51244)
"""Slopes, thresholds and log-likelihood of an independent fit; the published one stopped early."""


@pytest.fixture(scope="module")
def published(reference_data):
    """Cases by name, with their data as a pair (x, y)."""
    folder = reference_data / "mle"
    cases = {case["name"]: case for case in json.loads((folder / "regression_reference.json").read_text())}
    for case in cases.values():
        with np.load(folder / case["data"]) as arrays:
            case["xy"] = arrays["X"], arrays["y"]
    return cases


def linear(columns):
    return (lambda key: jnp.zeros(columns), lambda b, x: x @ b)


def spreads(point):
    """Standard errors by parameter."""
    return {row["parameter"]: row["std err"] for row in point.summary().rows}


def check_estimates(found, case):
    """As they were published, up to a ten thousandth of a standard error."""
    away = (np.asarray(found) - case["params"]) / np.asarray(case["std_errors"])
    assert np.abs(away).max() < 1e-4


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_generalised_linear_models(published, name):
    case = published[name]
    x, y = case["xy"]
    model = jm.supervised(linear(x.shape[1]), LIKELIHOODS[name])
    point = jm.fit(KEY, model, (x, y), jm.MLE(), precision="float64")
    assert point.info.status is jm.Status.CONVERGED
    check_estimates(point.mode, case)
    np.testing.assert_allclose(list(spreads(point).values()), case["std_errors"], rtol=1e-4)
    # Stata's own value for spector_logit is 6e-8 away from that of Stata's own estimates.
    np.testing.assert_allclose(point.info.log_likelihood, case["log_likelihood"], rtol=1e-7)


def test_longley(published):
    case = published["longley_ols"]
    x, y = case["xy"]
    model = jm.supervised(linear(x.shape[1]), jm.Gaussian(scale=jm.Learned(dist.HalfNormal(1.0))))
    point = jm.fit(KEY, model, (x, y), jm.MLE(), precision="float64")
    assert point.info.status is jm.Status.CONVERGED
    check_estimates(point.mode["network"], case)
    unbiased = np.sqrt(len(y) / (len(y) - x.shape[1]))
    found = np.array([spreads(point)[f"network[{i}]"] for i in range(x.shape[1])])
    np.testing.assert_allclose(found * unbiased, case["std_errors"], rtol=1e-4)
    scale = float(point.mode["likelihood"]["scale"]) * unbiased
    np.testing.assert_allclose(scale**2, case["s2_unbiased"], rtol=1e-6)
    np.testing.assert_allclose(point.info.log_likelihood, case["log_likelihood"], rtol=1e-9)


def ordinal_log_likelihood(params, batch):
    """log P(y = k) = log (F(cut_k - x b) - F(cut_{k-1} - x b)), F the logistic function, for three classes."""
    x, y = batch
    outputs = x @ params["slopes"]
    low, high = (cut - outputs for cut in params["cuts"])
    between = jax.nn.log_sigmoid(high) + jax.nn.log_sigmoid(-low) + jnp.log(-jnp.expm1(low - high))
    return jnp.select([y == 0, y == 1], [jax.nn.log_sigmoid(low), between], jax.nn.log_sigmoid(-high))


@pytest.mark.slow
def test_ordinal_logit(published):
    case = published["ordinal_logit"]
    model = jm.Model(
        log_likelihood=ordinal_log_likelihood,
        init={"slopes": jnp.zeros(3), "cuts": jnp.array([-1.0, 1.0])},
        support={"slopes": constraints.real, "cuts": constraints.ordered_vector},
    )
    point = jm.fit(KEY, model, case["xy"], jm.MLE(), precision="float64")
    slopes, cuts, log_likelihood = ORDINAL_REFIT
    assert point.info.status is jm.Status.CONVERGED
    np.testing.assert_allclose(point.mode["slopes"], slopes, atol=2e-6)
    np.testing.assert_allclose(point.mode["cuts"], cuts, atol=2e-6)
    np.testing.assert_allclose(point.info.log_likelihood, log_likelihood, atol=1e-5)
    found = [spreads(point)[f"slopes[{i}]"] for i in range(3)]
    np.testing.assert_allclose(found, case["std_errors"], atol=1e-4)  # published with four digits
    x = case["xy"][0][:7]
    classes = [jnp.exp(ordinal_log_likelihood(point.mode, (x, np.full(7, k)))) for k in range(3)]
    np.testing.assert_allclose(np.transpose(classes), case["first_7_class_probabilities"], atol=2e-4)


@pytest.mark.parametrize("solver", [None, jm.LBFGS()], ids=["default", "L-BFGS"])
def test_median_regression_reaches_the_published_loss(published, solver):
    """A Laplace density has a kink at every example and no curvature between them."""
    case = published["engel_quantile_0.5"]

    def log_likelihood(params, batch):
        x, y = batch
        residual = y - x @ params
        return jnp.log(0.25) - residual * (0.5 - (residual < 0))

    model = jm.Model(log_likelihood=log_likelihood, init=jnp.zeros(2))
    point = jm.fit(KEY, model, case["xy"], jm.MLE(solver), precision="float64")
    x, y = case["xy"]
    residual = y - x @ np.asarray(point.mode)
    loss = np.sum(residual * (0.5 - (residual < 0)))
    assert loss < case["check_loss"] * (1 + 1e-6), f"{loss}, {point.info.status.name}"
