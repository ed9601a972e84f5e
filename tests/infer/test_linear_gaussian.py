"""Closed form first: linear-Gaussian models, and conjugate counts for a parameter that is positive."""

from dataclasses import replace
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints
from scipy import stats

import jaxmap as jm
from tests.cases import (
    BUILDS,
    COUNTS,
    LINEAR,
    TOLERANCE,
    as_tree,
    as_vectors,
    build_name,
    check_counts,
    check_draws,
    check_gaussian,
    check_mode,
    flat,
)

BY_NAME = {case.name: case for case in LINEAR}
KEY = jax.random.key(1)


class Fits:
    """One model, and its fits, each made when it is first asked for."""

    def __init__(self, case, make):
        self.case, self.model = case, make()

    def fit(self, method):
        return jm.fit(KEY, self.model, self.case.data, method, precision="float64")

    def predict(self, posterior):
        return jm.predict(KEY, self.model, posterior, self.case.x_new)

    @cached_property
    def laplace(self):
        return self.fit(jm.Laplace(hessian="exact"))


@pytest.fixture(scope="module", params=BUILDS, ids=build_name)
def fits(request):
    return Fits(*request.param)


@pytest.fixture(scope="module")
def vector():
    case = BY_NAME["vector"]
    return Fits(case, case.by_hand)


def test_map_is_the_posterior_mean(fits):
    point = fits.fit(jm.MAP())
    check_mode(fits.case, point.mode)
    assert point.info.status is jm.Status.CONVERGED


def test_reported_densities_are_totals_in_nats(fits):
    """At the mode, log joint = log evidence - P/2 log 2 pi - 1/2 log det covariance."""
    info, exact = fits.fit(jm.MAP()).info, fits.case.exact
    _, log_det = np.linalg.slogdet(2 * np.pi * exact.covariance)
    log_joint = exact.log_evidence - 0.5 * log_det
    np.testing.assert_allclose(info.log_joint, log_joint, rtol=TOLERANCE)
    prior = stats.norm.logpdf(exact.mean, flat(fits.case.prior_mean), flat(fits.case.prior_scale)).sum()
    np.testing.assert_allclose(info.log_prior, prior, rtol=TOLERANCE)
    np.testing.assert_allclose(info.log_likelihood, log_joint - prior, rtol=TOLERANCE)


def test_laplace_is_exact(fits):
    check_gaussian(fits.case, fits.laplace)
    assert fits.laplace.info.status is jm.Status.CONVERGED


def test_the_ggn_of_a_linear_model_is_its_hessian(fits):
    if fits.model.outputs is None:
        with pytest.raises(ValueError, match="network outputs"):
            fits.fit(jm.Laplace(hessian="ggn"))
        return
    posterior = fits.fit(jm.Laplace())
    check_gaussian(fits.case, posterior)
    assert "Curvature: Gauss-Newton (Fisher information of the outputs)." in posterior.info.notes


def test_the_predictive_is_exact(fits):
    """In closed form from a network; by 256 draws, within their errors, from a model without one."""
    mean, variance = fits.case.predictive
    noise = fits.case.noise_of_y
    if fits.model.outputs is None:
        predictive = fits.predict(fits.laplace)
        assert predictive.size == 256
        error = np.sqrt((variance - noise**2) / 256)
        np.testing.assert_array_less(np.abs(predictive.mean - mean), 4 * error)
        np.testing.assert_array_less(np.abs(predictive.epistemic / (variance - noise**2) - 1), 4 * np.sqrt(2 / 256))
        np.testing.assert_allclose(predictive.aleatoric, np.broadcast_to(noise**2, mean.shape), rtol=TOLERANCE)
        return
    predictive = fits.predict(fits.fit(jm.Laplace()))
    assert predictive.size == 1
    np.testing.assert_allclose((predictive.mean - mean) / np.sqrt(variance), 0.0, atol=TOLERANCE)
    np.testing.assert_allclose(predictive.variance, variance, rtol=TOLERANCE)
    log_prob = stats.norm.logpdf(fits.case.y_new, mean, np.sqrt(variance)).reshape(len(mean), -1).sum(1)
    np.testing.assert_allclose(predictive.log_prob(fits.case.y_new), log_prob, rtol=TOLERANCE)


def test_a_point_predicts_with_the_noise_alone(fits):
    predictive = fits.predict(fits.fit(jm.MAP()))
    mean, variance = fits.case.predictive
    np.testing.assert_allclose((predictive.mean - mean) / np.sqrt(variance), 0.0, atol=TOLERANCE)
    np.testing.assert_allclose(predictive.epistemic, 0.0)
    np.testing.assert_allclose(predictive.variance, np.broadcast_to(fits.case.noise_of_y**2, mean.shape))


def test_the_density_of_the_posterior_is_that_of_scipy(fits):
    mean, covariance, _ = fits.case.exact
    exact = stats.multivariate_normal(mean, covariance)
    for point in np.random.default_rng(0).multivariate_normal(mean, covariance, 3):
        found = fits.laplace.log_prob(as_tree(fits.case, point))
        np.testing.assert_allclose(found, exact.logpdf(point), rtol=TOLERANCE, atol=1e-7)


def test_samples_have_the_moments_of_the_posterior(fits):
    n = 4000
    exact = fits.case.exact
    drawn = fits.laplace.sample(KEY, n)
    for leaf, own in zip(jax.tree.leaves(drawn), jax.tree.leaves(fits.case.start), strict=True):
        assert leaf.shape == (n, *own.shape)
    spread = np.sqrt(np.diag(exact.covariance))
    white = (as_vectors(drawn, 1) - exact.mean) / spread
    np.testing.assert_array_less(np.abs(white.mean(0)), 4 / np.sqrt(n))
    correlation = exact.covariance / np.outer(spread, spread)
    error = np.sqrt((1 + correlation**2) / n)
    np.testing.assert_array_less(np.abs(white.T @ white / n - correlation), 4 * error)


@pytest.mark.parametrize("build", ["supervised", "by_hand"])
def test_a_model_with_numpy_constants_is_fitted_in_single_precision(build):
    """numpy's arrays are float64; as constants of a model they must not get in the way of the certificate."""
    case = BY_NAME["reordered"]
    scales = {name: jax.tree.map(np.array, getattr(case, name)) for name in ("prior_mean", "prior_scale")}
    model = getattr(replace(case, **scales), build)()
    # A user's own function keeps its constants, in the precision of the first fit. A `Prior` serves both.
    for precision in ("float32", "float64", "float32") if build == "supervised" else ("float32", "float32"):
        point = jm.fit(KEY, model, case.data, jm.MAP(), precision=precision)
        check_mode(case, point.mode, 1e-3 if precision == "float32" else TOLERANCE)
        assert point.info.status is jm.Status.CONVERGED
        assert point.mode["z"].dtype == precision


# The optimisers, where the program is what differs and not the model.


@pytest.fixture(scope="module")
def shifted():
    case = BY_NAME["shifted"]
    return Fits(case, case.by_hand)


@pytest.mark.parametrize("solver", [None, jm.LBFGS(), jm.Newton()], ids=["chosen", "L-BFGS", "Newton"])
def test_every_solver_finds_the_mode_from_three_starts(shifted, solver):
    point = shifted.fit(jm.MAP(solver, restarts=3))
    check_mode(shifted.case, point.mode)
    assert point.info.members == (jm.Status.CONVERGED,) * 3


@pytest.mark.parametrize("name", ["matrix", "shifted", "standardized"])
def test_mle_is_least_squares_and_map_under_a_flat_prior(name):
    case = BY_NAME[name]
    spread = np.sqrt(np.diag(np.linalg.inv(case.matrix.T @ case.matrix))) * case.noise
    fits = Fits(case, lambda: case.supervised(jm.flat))
    mle, at_map = fits.fit(jm.MLE()), fits.fit(jm.MAP())
    np.testing.assert_allclose((flat(mle.mode) - case.least_squares) / spread, 0.0, atol=TOLERANCE)
    np.testing.assert_allclose((flat(mle.mode) - flat(at_map.mode)) / spread, 0.0, atol=TOLERANCE)
    assert mle.info.status is at_map.info.status is jm.Status.CONVERGED
    assert mle.info.target == "mode of the log-likelihood"


def test_mle_does_not_see_the_prior():
    case = BY_NAME["off-centre"]
    mode = Fits(case, case.supervised).fit(jm.MLE()).mode
    np.testing.assert_allclose(flat(mode), case.least_squares, rtol=TOLERANCE)


def test_laplace_at_the_mle_holds_the_classical_standard_errors():
    case = BY_NAME["matrix"]
    posterior = Fits(case, case.supervised).fit(jm.Laplace(jm.MLE(), hessian="exact"))
    errors = case.noise * np.sqrt(np.diag(np.linalg.inv(case.matrix.T @ case.matrix)))
    rows = posterior.summary().rows
    np.testing.assert_allclose([row["estimate"] for row in rows], case.least_squares, rtol=TOLERANCE)
    np.testing.assert_allclose([row["std err"] for row in rows], errors, rtol=TOLERANCE)


# A positive parameter: counts y ~ Poisson(r), r ~ Gamma.


@pytest.fixture(scope="module")
def counts():
    model = COUNTS.model()
    return lambda method, **options: jm.fit(KEY, model, COUNTS.data, method, **{"precision": "float64", **options})


def test_the_two_modes_differ_by_the_jacobian_and_the_evidence_is_that_of_the_formula(counts):
    constrained, unconstrained = counts(jm.MAP()), counts(jm.MAP(space="unconstrained"))
    check_counts(COUNTS, constrained.mode, unconstrained.mode, counts(jm.Laplace()))
    assert constrained.info.target == "mode of the log joint density in the user's own coordinates"
    assert "Jacobian included" in unconstrained.info.target
    # The reported log joint is that of the user's density at either mode, without the Jacobian.
    for point in (constrained, unconstrained):
        np.testing.assert_allclose(point.info.log_joint, COUNTS.log_joint(float(point.mode["rate"])), rtol=TOLERANCE)


def test_laplace_climbs_on_from_a_constrained_mode_and_says_so(counts):
    climbed, direct = counts(jm.Laplace(jm.MAP())), counts(jm.Laplace())
    np.testing.assert_allclose(climbed.mean["rate"], direct.mean["rate"], rtol=TOLERANCE)
    np.testing.assert_allclose(climbed.log_evidence, direct.log_evidence, rtol=TOLERANCE)
    assert any("climbed on" in note for note in climbed.info.notes)
    assert not any("climbed on" in note for note in direct.info.notes)
    fitted = counts(jm.Laplace(counts(jm.MAP())))
    np.testing.assert_allclose(fitted.mean["rate"], direct.mean["rate"], rtol=TOLERANCE)


def test_the_evidence_is_near_the_exact_one(counts):
    """Stirling's series: the error of Laplace's formula for a Gamma density in log r is 1 / (12 shape)."""
    error = COUNTS.log_evidence - counts(jm.Laplace()).log_evidence
    np.testing.assert_allclose(error, 1 / (12 * COUNTS.shape), rtol=1e-3)


def test_the_density_of_the_posterior_is_log_normal(counts):
    posterior = counts(jm.Laplace())
    mean, spread = np.log(COUNTS.shape / COUNTS.rate), COUNTS.shape**-0.5
    for rate in (1.0, 2.5, 4.0):
        expected = stats.lognorm.logpdf(rate, spread, scale=np.exp(mean))
        np.testing.assert_allclose(posterior.log_prob({"rate": rate}), expected, rtol=TOLERANCE)


def test_laplace_at_the_mle_knows_no_jacobian(counts):
    """The information of the mean of n counts is n / r: the classical standard error is sqrt(r / n)."""
    posterior = counts(jm.Laplace(jm.MLE(), hessian="exact"))
    (row,) = posterior.summary().rows
    np.testing.assert_allclose(row["estimate"], COUNTS.y.mean(), rtol=TOLERANCE)
    np.testing.assert_allclose(row["std err"], np.sqrt(COUNTS.y.mean() / len(COUNTS.y)), rtol=TOLERANCE)


def test_a_log_density_alone_finds_the_same_modes():
    def log_density(r):
        return (COUNTS.shape - 1) * jnp.log(r) - COUNTS.rate * r

    model = jm.from_log_density(log_density, init=1.0, support=constraints.positive)

    def fit(method):
        return jm.fit(KEY, model, None, method, precision="float64")

    laplace = fit(jm.Laplace())
    np.testing.assert_allclose(fit(jm.MAP()).mode, (COUNTS.shape - 1) / COUNTS.rate, rtol=TOLERANCE)
    np.testing.assert_allclose(laplace.mode, COUNTS.shape / COUNTS.rate, rtol=TOLERANCE)
    np.testing.assert_allclose(laplace.covariance.dense(), [[1 / COUNTS.shape]], rtol=TOLERANCE)


# Markov chains.


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) for n in BY_NAME if n != "vector"])
def test_nuts_has_the_moments_of_the_posterior(name):
    case = BY_NAME[name]
    _check_nuts(case, Fits(case, case.supervised).fit(jm.NUTS(warmup=300, draws=400)))


@pytest.mark.parametrize(
    "start", [pytest.param(None, marks=pytest.mark.slow, id="init"), pytest.param(jm.MAP(), id="MAP")]
)
def test_nuts_has_the_same_moments_from_any_start(vector, start):
    draws = vector.fit(jm.NUTS(start=start, warmup=300, draws=400))
    _check_nuts(vector.case, draws)
    assert draws.shape == (4, 400)


def test_nuts_has_the_same_moments_in_whitened_coordinates(vector):
    whitened = vector.fit(jm.NUTS(start=jm.Laplace(), warmup=150, draws=400))
    _check_nuts(vector.case, whitened)
    # Whitened by the exact covariance, the posterior is a standard normal: short trees.
    assert whitened.info.diagnostics["gradients_per_draw"] < 8


@pytest.mark.slow
def test_nuts_samples_a_positive_parameter(counts):
    draws = counts(jm.NUTS(warmup=300, draws=400))
    exact = stats.gamma(COUNTS.shape, scale=1 / COUNTS.rate)
    values = np.asarray(draws.draws["rate"])[..., None]
    check_draws(values, np.array([exact.mean()]), np.array([exact.std()]))
    assert np.all(values > 0)


def _check_nuts(case, draws):
    exact = case.exact
    check_draws(as_vectors(draws.draws, 2), exact.mean, np.sqrt(np.diag(exact.covariance)))
    assert draws.info.diagnostics["divergences"] == 0
