"""Pathfinder: Gaussians of known mean and covariance, densities with edges, and Stan's draws (posteriordb)."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import jaxmap as jm
from experiments import posteriordb
from jaxmap import Status
from jaxmap.infer.pathfinder_walk import Gaussian, Pairs, even_noise, joined

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)) @ np.array([[1.0, 0.6, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 1.0]])
Y = X @ np.array([1.0, 2.0, -1.0]) + 0.3 * RNG.normal(size=60)
TRACES = []
"""One entry for each time that the regression's network is called: in a compiled program, for each trace."""


def predict(b, x):
    TRACES.append(1)
    return x @ b


@cache
def model():
    return jm.supervised((lambda key: jnp.zeros(3), predict), jm.Gaussian(0.3), jm.Prior(dist.Normal(0.0, 1.0)))


@cache
def exact():
    return jm.fit(KEY, model(), (X, Y), jm.Laplace(), precision="float64")


@cache
def found():
    return jm.fit(KEY, model(), (X, Y), jm.Pathfinder(), precision="float64")


def gaussian(precision, mean):
    """A normalised density: its evidence is one."""
    return jm.from_log_density(
        lambda t: dist.MultivariateNormal(jnp.asarray(mean), precision_matrix=jnp.asarray(precision)).log_prob(t),
        init=np.zeros(len(mean)),
    )


# The algebra.


def bfgs(pairs, diagonal):
    """The inverse Hessian update, pair by pair, in its textbook form (Nocedal and Wright, 2006, equation 6.17)."""
    matrix = np.diag(diagonal)
    for move, bend in pairs:
        left = np.eye(len(move)) - np.outer(move, bend) / (move @ bend)
        matrix = left @ matrix @ left.T + np.outer(move, move) / (move @ bend)
    return matrix


@pytest.mark.parametrize(("size", "count"), [(1, 1), (4, 2), (4, 3), (3, 6), (9, 4)])
def test_the_gaussian_is_that_of_bfgs_updates(x64, rank_promotion, size, count):
    root = RNG.normal(size=(size, size))
    hessian = root @ root.T + np.eye(size)
    moves = RNG.normal(size=(count, size))
    told = [(s, hessian @ s) for s in moves]
    blank = jnp.zeros((count + 1, size))  # room for one pair that does not come
    pairs = Pairs(jnp.ones(size), blank, blank)
    for move, bend in told:
        pairs, used = joined(pairs, jnp.asarray(move), jnp.asarray(bend))
        assert used
    covariance = bfgs(told, np.asarray(pairs.diagonal))
    point, slope = RNG.normal(size=size), RNG.normal(size=size)
    made = Gaussian.of(jnp.asarray(point), jnp.asarray(slope), pairs)
    np.testing.assert_allclose(made.mean, point - covariance @ slope, rtol=1e-8, atol=1e-8)
    assert float(made.distance) == pytest.approx(np.sqrt(slope @ covariance @ slope))
    z, log_q = made.draw(jnp.asarray(RNG.normal(size=(5, size))))
    law = dist.MultivariateNormal(made.mean, jnp.asarray(covariance))
    np.testing.assert_allclose(log_q, law.log_prob(z), rtol=1e-7)


def test_a_pair_that_tells_of_no_curvature_is_left_out(x64):
    blank = jnp.zeros((2, 3))
    pairs, used = joined(Pairs(jnp.ones(3), blank, blank), jnp.ones(3), -jnp.ones(3))
    assert not used
    np.testing.assert_array_equal(pairs.diagonal, 1.0)
    np.testing.assert_array_equal(pairs.moves, 0.0)


@pytest.mark.parametrize(("draws", "size"), [(32, 5), (32, 16), (32, 40), (2, 3), (2, 1)])
def test_draws_for_bounds_are_even(x64, key, draws, size):
    noise = np.asarray(even_noise(key, draws, size, jnp.float64))
    assert noise.shape == (draws, size)
    np.testing.assert_allclose(noise.sum(axis=0), 0.0, atol=1e-12)
    assert np.mean(noise**2) == pytest.approx(1.0)
    if draws // 2 >= size:
        np.testing.assert_allclose(noise.T @ noise / draws, np.eye(size), atol=1e-12)


# Closed forms.


def test_a_linear_gaussian_posterior_is_found():
    posterior = found()
    assert posterior.info.status is Status.CONVERGED
    assert exact().distance(posterior.mean) < 1e-3
    whole = exact().covariance.dense()
    np.testing.assert_allclose(posterior.covariance.dense(), whole, atol=0.02 * np.abs(whole).max())


def test_the_bound_is_below_the_evidence_and_near_it():
    gap, error = exact().log_evidence - found().log_evidence, found().info.diagnostics["elbo_se"]
    assert -4 * error - 1e-9 < gap < 0.02
    assert "lower bound" in found().info.target


def test_it_is_graded_and_everything_is_counted():
    posterior = found()
    assert posterior.grade.trusted
    assert posterior.grade.log_evidence == pytest.approx(exact().log_evidence, abs=1e-3)
    assert posterior.info.members == (Status.CONVERGED,) * 4
    assert posterior.info.num_gradients > 2000 / 3
    assert posterior.info.history[-1] < posterior.info.history[0]


def test_a_badly_scaled_gaussian_is_found():
    """Standard deviations from 1e-4 to 1e4, correlated."""
    scales = 10.0 ** np.linspace(-4, 4, 6)
    root = RNG.normal(size=(6, 6))
    precision = (root @ root.T / 6 + 0.3 * np.eye(6)) * np.outer(scales, scales)
    posterior = jm.fit(KEY, gaussian(precision, 1 / scales), None, jm.Pathfinder(paths=2), precision="float64")
    assert posterior.info.status is Status.CONVERGED
    np.testing.assert_allclose(posterior.mode, 1 / scales, rtol=1e-3)
    np.testing.assert_allclose(posterior.covariance.diagonal(), np.diag(np.linalg.inv(precision)), rtol=0.01)
    assert posterior.log_evidence == pytest.approx(0.0, abs=0.05)


def test_a_start_at_the_mode_is_left():
    """There no step would tell of the curvature."""
    posterior = jm.fit(KEY, gaussian(4.0 * np.eye(2), np.zeros(2)), None, jm.Pathfinder(paths=1))
    assert posterior.info.status is Status.CONVERGED
    np.testing.assert_allclose(posterior.covariance.dense(), np.eye(2) / 4, atol=1e-4)


def test_a_gamma_density_is_approximated_in_its_logarithm():
    """Gamma(4, 2) exp(3): its logarithm has mode log 2 and curvature 4; the best Gaussian is a bit off both."""
    made = jm.from_log_density(
        lambda t: dist.Gamma(4.0, 2.0).log_prob(t["rate"]) + 3.0,
        init={"rate": np.array(0.1)},
        support={"rate": dist.constraints.positive},
    )
    posterior = jm.fit(KEY, made, None, jm.Pathfinder(), precision="float64")
    assert float(posterior.mean["rate"]) == pytest.approx(np.log(2.0), abs=0.2)
    assert float(posterior.covariance.diagonal()[0]) == pytest.approx(0.25, rel=0.35)
    assert 2.8 < posterior.log_evidence < 3.0 + 4 * posterior.info.diagnostics["elbo_se"]
    assert posterior.grade.trusted
    assert float(posterior.grade.mean["rate"]) == pytest.approx(2.0, abs=0.05)
    assert np.all(posterior.sample(KEY, 100)["rate"] > 0)


# Densities that are hard.


def test_a_density_without_a_mode_has_a_gaussian_and_says_so():
    """It is a normal near zero and grows without bound far out."""
    made = jm.from_log_density(lambda t: -0.5 * jnp.sum(t**2) + 1e-4 * jnp.sum(t**4), init=np.full(2, 0.5))
    away = jm.from_log_density(lambda t: jnp.sum(t), init=np.zeros(2))
    posterior = jm.fit(KEY, made, None, jm.Pathfinder(paths=2))
    np.testing.assert_allclose(posterior.covariance.dense(), np.eye(2), atol=0.1)
    with pytest.raises(jm.FitError, match=r"no curvature along the paths.*jm\.NUTS\(\)"):
        jm.fit(KEY, away, None, jm.Pathfinder(paths=2))


def test_paths_that_fail_are_counted():
    """The density ends at -0.1: of the starts, one lies inside, others a uniform(-2, 2) step from it."""

    def log_density(t):
        return jnp.where(jnp.all(t > -0.1), -0.5 * jnp.sum((t - 4.0) ** 2) / 0.01, -jnp.inf)

    made = jm.from_log_density(log_density, init=np.full(3, 0.2))
    posterior = jm.fit(KEY, made, None, jm.Pathfinder(paths=8))
    lost = posterior.info.members.count(Status.DIVERGED)
    assert 0 < lost < 8
    assert any(note.startswith(f"{lost} of 8 paths") for note in posterior.info.notes)
    np.testing.assert_allclose(posterior.mode, 4.0, atol=1e-2)


def test_steps_that_are_used_up_are_no_convergence():
    posterior = jm.fit(KEY, model(), (X, Y), jm.Pathfinder(paths=1, steps=2, grade=0))
    assert posterior.info.status is Status.STEPS_EXHAUSTED
    assert posterior.grade is None
    assert any("steps=" in note for note in posterior.info.notes)


# Company.


def test_nothing_is_traced_again_for_new_data_or_a_new_key():
    method = jm.Pathfinder(paths=2)
    jm.fit(KEY, model(), (X, Y), method)
    before = len(TRACES)
    jm.fit(jax.random.key(1), model(), (X[::-1], Y[::-1]), method)
    assert before > 0
    assert len(TRACES) == before


@pytest.mark.slow
def test_it_composes_with_ensembles_chains_and_predictions():
    ensemble = jm.fit(KEY, model(), (X, Y), jm.Ensemble(jm.Pathfinder(paths=2), members=2))
    assert [member.info.status for member in ensemble.members] == [Status.CONVERGED] * 2
    nuts = jm.NUTS(start=jm.Pathfinder(paths=2), chains=2, warmup=100, draws=100)
    draws = jm.fit(KEY, model(), (X, Y), nuts)
    assert not any("without curvature" in note for note in draws.info.notes)
    np.testing.assert_allclose(draws.draws.mean(axis=(0, 1)), exact().mode, atol=0.1)
    predictive = jm.predict(KEY, model(), found(), X[:5])
    np.testing.assert_allclose(predictive.mean, X[:5] @ np.asarray(exact().mode), atol=0.05)
    table = jm.compare(KEY, model(), ((X, Y), (X, Y)), {"Pathfinder": jm.Pathfinder(paths=2), "MAP": jm.MAP()})
    assert len(table.rows) == 2


def test_it_is_saved_and_loaded(tmp_path):
    loaded = jm.load(found().save(tmp_path / "posterior"))
    np.testing.assert_array_equal(loaded.covariance.dense(), found().covariance.dense())
    np.testing.assert_array_equal(loaded.mean, found().mean)
    assert loaded.grade.k_hat == found().grade.k_hat
    assert loaded.info.members == found().info.members


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"paths": 0}, "paths"),
        ({"draws": 3}, "even number"),
        ({"steps": 0}, "steps"),
        ({"memory": 0}, "memory"),
        ({"grade": 3}, "at least 25"),
    ],
)
def test_bad_options_are_refused_in_words(options, words):
    with pytest.raises(ValueError, match=words):
        jm.Pathfinder(**options)


# The posteriordb collection.


def error(case, posterior):
    """Distance of the mean from the published one in posterior standard deviations, averaged over the parameters."""
    found = case.to_columns(posterior.sample(jax.random.key(1), 20_000)).mean(axis=0)
    return np.mean(np.abs(found - case.mean) / case.sd)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nes1980", "sblri", "arK", "garch", "gauss_mix"])
def test_it_is_about_as_good_as_laplace(reference_data, name):
    case = posteriordb.load(reference_data, name)
    path, peak = (jm.fit(KEY, case.model, case.data, method) for method in (jm.Pathfinder(), jm.Laplace()))
    assert path.info.status is Status.CONVERGED
    assert error(case, path) < error(case, peak) + 0.1
    assert path.grade.k_hat < max(peak.grade.k_hat, 0.7) + 0.2
    assert path.grade.log_evidence == pytest.approx(peak.grade.log_evidence, abs=0.2)
    assert path.log_evidence < path.grade.log_evidence + 4 * path.info.diagnostics["elbo_se"]


@pytest.mark.slow
def test_it_beats_laplace_where_the_mode_says_little(reference_data):
    case = posteriordb.load(reference_data, "schools_noncentered")
    path, peak = (jm.fit(KEY, case.model, case.data, method) for method in (jm.Pathfinder(), jm.Laplace()))
    assert error(case, path) < 0.5 * error(case, peak)
    assert path.log_evidence > peak.log_evidence
    assert not path.grade.trusted
