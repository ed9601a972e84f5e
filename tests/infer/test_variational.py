"""Variational Gaussians of linear-Gaussian models, where everything is known."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import jaxmap as jm

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)) @ np.array([[1.0, 0.6, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 1.0]])
Y = X @ np.array([1.0, 2.0, -1.0]) + 0.3 * RNG.normal(size=60)


@cache
def model():
    network = (lambda key: jnp.zeros(3), lambda b, x: x @ b)
    return jm.supervised(network, jm.Gaussian(0.3), jm.Prior(dist.Normal(0.0, 1.0)))


@cache
def exact():
    return jm.fit(KEY, model(), (X, Y), jm.Laplace(), precision="float64")


@pytest.fixture(scope="module", params=["mean_field", "low_rank", "full"])
def fitted(request):
    return request.param, jm.fit(KEY, model(), (X, Y), jm.VI(request.param), precision="float64")


def test_the_mean_is_the_posterior_mean(fitted):
    assert exact().distance(fitted[1].mean) < 1e-2


def test_the_covariance_is_the_closest_of_its_family(fitted):
    """Mean field: the diagonal of the precision; the others reach the posterior itself."""
    family, posterior = fitted
    whole = exact().covariance.dense()
    expected = np.diag(1 / np.diag(np.linalg.inv(whole))) if family == "mean_field" else whole
    np.testing.assert_allclose(posterior.covariance.dense(), expected, atol=0.05 * np.abs(whole).max())


def test_the_bound_is_below_the_evidence_and_reaches_it(fitted):
    family, posterior = fitted
    gap = exact().log_evidence - posterior.log_evidence
    precision = np.linalg.inv(exact().covariance.dense())
    least = 0.5 * (np.sum(np.log(np.diag(precision))) - np.linalg.slogdet(precision)[1])
    np.testing.assert_allclose(gap, least if family == "mean_field" else 0.0, atol=0.07)


def test_it_is_graded_and_says_how_it_ended(fitted):
    family, posterior = fitted
    assert posterior.info.status is jm.Status.CONVERGED
    assert posterior.grade.trusted or family == "mean_field"  # which leaves the correlation out
    assert posterior.info.num_gradients > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"family": "diagonal"}, "family"),
        ({"draws": 3}, "even number"),
        ({"grade": 3}, "at least 25"),
        ({"rank": 0}, "rank"),
    ],
)
def test_bad_options_are_refused_in_words(options, words):
    with pytest.raises(ValueError, match=words):
        jm.VI(**options)
