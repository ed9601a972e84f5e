"""Laplace approximations and their grades: closed forms, densities of known shape, and Stan's draws (posteriordb)."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.integrate import quad
from scipy.special import ndtr

import jaxmap as jm
from experiments import posteriordb
from jaxmap import Status
from jaxmap.infer.grade import spread_normal

KEY = jax.random.key(0)
NEARLY_GAUSSIAN = ("nes1980", "sblri", "arK", "mesquite", "kilpisjarvi", "earn_height")
"""The last two are so badly scaled that a careless Hessian ruins them."""

OTHERS = ("kidiq", "gauss_mix", "hmm_example", "garch", "gp_regr")
FEW, ENOUGH = 0.7, 1.0
"""A k-hat from 1000 draws scatters by 0.15: a mean over five keys is compared with 0.7, a single one with 1."""


def laplace(case, key=KEY, grade=None, precision=None):
    return jm.fit(key, case.model, case.data, jm.Laplace(grade=grade), precision=precision)


def column(case, params):
    """Parameters in the order of the published columns."""
    return case.to_columns(jax.tree.map(lambda leaf: np.asarray(leaf)[None], params))[0]


def error(case, column):
    """Distance from the published mean in posterior standard deviations, averaged over the parameters."""
    return np.mean(np.abs(column - case.mean) / case.sd)


# Closed forms.


def test_a_gaussian_is_graded_as_one():
    posterior = jm.fit(KEY, jm.from_log_density(lambda t: -0.5 * jnp.sum(t**2), init=np.zeros(3)), None, jm.Laplace())
    assert posterior.grade.k_hat == -np.inf
    assert posterior.grade.trusted
    assert posterior.grade.ess == pytest.approx(posterior.grade.draws)
    assert posterior.grade.log_evidence == pytest.approx(1.5 * np.log(2 * np.pi), abs=1e-9)


def test_evidence_and_moments_of_a_skewed_density_against_quadrature():
    """A gamma density that is not normalised, Gamma(4, 2) exp(3): Laplace works in its logarithm."""
    model = jm.from_log_density(
        lambda t: dist.Gamma(4.0, 2.0).log_prob(t) + 3.0, init=np.array(1.0), support=dist.constraints.positive
    )
    posterior = jm.fit(KEY, model, None, jm.Laplace(), precision="float64")
    grade = posterior.grade
    assert grade.trusted
    assert grade.log_evidence == pytest.approx(3.0, abs=0.01)
    assert abs(grade.log_evidence - 3.0) < 0.5 * abs(posterior.log_evidence - 3.0)
    assert float(grade.mean) == pytest.approx(2.0, abs=0.02)
    assert float(grade.sd) == pytest.approx(1.0, abs=0.03)


def test_evidence_where_the_density_ends_inside_the_gaussian():
    """Most draws have weight zero: the density ends a tenth of a deviation below its mode."""

    def log_density(t):
        return jnp.where((t > -0.1) & (t < 0.3), -0.5 * t**2, -jnp.inf)

    model = jm.from_log_density(log_density, init=np.array(0.1))
    grade = jm.fit(KEY, model, None, jm.Laplace(), precision="float64").grade
    exact = np.log(quad(lambda t: np.exp(-0.5 * t**2), -0.1, 0.3)[0])
    assert grade.log_evidence == pytest.approx(exact, abs=0.02)


def test_a_density_that_is_no_number_somewhere_has_an_infinite_k_hat():
    model = jm.from_log_density(lambda t: jnp.where(t > 2.0, jnp.nan, -0.5 * t**2), init=np.array(0.5))
    grade = jm.fit(KEY, model, None, jm.Laplace()).grade
    assert grade.k_hat == np.inf
    assert not grade.trusted
    assert np.isnan([grade.log_evidence, grade.ess, float(grade.mean)]).all()


@pytest.mark.parametrize(("draws", "limit"), [(25, 1 - 1 / np.log10(25)), (1000, 2 / 3), (100_000, 0.7)])
def test_limit_depends_on_the_draws(draws, limit):
    model = jm.from_log_density(lambda t: -0.5 * t**2, init=np.array(1.0))
    grade = jm.fit(KEY, model, None, jm.Laplace(grade=draws)).grade
    assert grade.threshold == pytest.approx(limit)
    assert grade.draws == draws


def test_no_grade_where_none_is_wanted():
    model = jm.from_log_density(lambda t: -0.5 * t**2, init=np.array(1.0))
    assert jm.fit(KEY, model, None, jm.Laplace(grade=0)).grade is None


@pytest.mark.parametrize("size", [1, 7, 300])
def test_draws_of_a_grade_are_normal_and_spread_evenly(key, size):
    draws = spread_normal(key, 1000, size)
    assert draws.shape == (1000, size)
    slices = np.floor(1000 * ndtr(draws)).astype(int)
    np.testing.assert_array_equal(np.sort(slices, axis=0), np.tile(np.arange(1000)[:, None], (1, size)))
    np.testing.assert_allclose(draws.mean(axis=0), 0.0, atol=0.1 / np.sqrt(1000))
    np.testing.assert_allclose(draws.std(axis=0), 1.0, atol=0.01)
    assert np.abs(np.corrcoef(draws.T) - np.eye(size)).max() < 5 / np.sqrt(1000)
    assert np.abs(draws - spread_normal(jax.random.key(1), 1000, size)).max() > 0.1
    with jax.enable_x64(True):
        np.testing.assert_array_equal(spread_normal(key, 1000, size), draws)


# Densities that are not Gaussian.


def funnel(t):
    """Neal's funnel; its mode, v = -81/2 and x = 0, is a proper one."""
    return dist.Normal(0.0, 3.0).log_prob(t["v"]) + jnp.sum(dist.Normal(0.0, jnp.exp(t["v"] / 2)).log_prob(t["x"]))


def banana(t):
    """A ridge y = x^2, bent over several of its own widths; the mode is 0."""
    return -0.5 * (t["x"] / 2.0) ** 2 - 0.5 * ((t["y"] - t["x"] ** 2) / 0.3) ** 2


@pytest.mark.parametrize(
    ("density", "start"),
    [(funnel, {"v": 0.0, "x": np.full(9, 0.5)}), (banana, {"x": 1.0, "y": 0.0})],
    ids=["funnel", "banana"],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_not_gaussian_is_found_out(density, start, seed):
    model = jm.from_log_density(density, init=start)
    posterior = jm.fit(jax.random.key(seed), model, None, jm.Laplace())
    assert posterior.info.status is Status.CONVERGED
    assert posterior.grade.k_hat > 0.7
    assert not posterior.grade.trusted
    assert "jm.NUTS()" in str(posterior.summary())


# The posteriordb collection.


@pytest.fixture(scope="module", params=NEARLY_GAUSSIAN + OTHERS)
def case(request, reference_data):
    return request.param, posteriordb.load(reference_data, request.param)


@pytest.mark.slow
def test_k_hat_of_real_posteriors(case):
    """The collection's regressions are close enough to Gaussian for the correction."""
    name, case = case
    k_hats = [laplace(case, jax.random.key(seed)).grade.k_hat for seed in range(5)]
    assert np.mean(k_hats) < (FEW if name in NEARLY_GAUSSIAN else ENOUGH)


@pytest.mark.slow
@pytest.mark.parametrize("precision", [None, "float64"])
def test_corrected_mean_is_closer_to_that_of_the_reference_draws(case, precision):
    """The raw mean is that of the Gaussian, carried into the user's space by 20,000 draws (each error 0.007 sd)."""
    _, case = case
    posterior = laplace(case, precision=precision)
    raw = case.to_columns(posterior.sample(jax.random.key(1), 20_000)).mean(axis=0)
    corrected = column(case, posterior.grade.mean)
    assert error(case, corrected) < error(case, raw)
    noise = np.sqrt(1 / posterior.grade.ess + case.standard_error**2)
    assert np.all(np.abs(corrected - case.mean) / case.sd < 4 * noise)


@pytest.mark.slow
def test_precision_makes_no_difference(case):
    """The curvature is taken in float64 in any case: a mode in float32 costs no digits that matter."""
    _, case = case
    single, double = laplace(case), laplace(case, precision="float64")
    assert single.info.status is double.info.status is Status.CONVERGED
    assert single.log_evidence == pytest.approx(double.log_evidence, abs=1e-2)
    assert single.grade.k_hat == pytest.approx(double.grade.k_hat, abs=0.02)
    sds = [np.sqrt(posterior.covariance.diagonal()) for posterior in (single, double)]
    np.testing.assert_allclose(*sds, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("precision", [None, "float64"])
def test_centered_eight_schools_have_no_mode(reference_data, precision):
    """The density grows without bound as tau goes to zero."""
    case = posteriordb.load(reference_data, "schools_centered")
    for space in ("constrained", "unconstrained"):
        point = jm.fit(KEY, case.model, case.data, jm.MAP(space=space), precision=precision)
        assert point.info.status is Status.NOT_A_MAXIMUM
        assert point.info.certificate.flat[0] == "tau"
    with pytest.raises(jm.FitError, match=r"grows along tau.*other coordinates.*jm\.NUTS\(\)"):
        laplace(case, precision=precision)


@pytest.mark.slow
def test_noncentered_eight_schools_have_one_that_says_little(reference_data):
    grade = laplace(posteriordb.load(reference_data, "schools_noncentered")).grade
    assert grade.k_hat > 0.7
    assert not grade.trusted
