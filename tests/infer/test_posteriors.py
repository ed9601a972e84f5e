"""What fits return: shapes, orders, weights, tables, and fits that are made once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

import jaxmap as jm
from jaxmap import Info, Status
from jaxmap.infer import fit_problem, point
from jaxmap.infer.problem import Problem, seeds_of
from jaxmap.optimize.progress import Progress
from tests.cases import LINEAR, flat

KEY = jax.random.key(5)
CASE = next(case for case in LINEAR if case.name == "nested")


@pytest.fixture(scope="module")
def model():
    return CASE.by_hand()


@pytest.fixture(scope="module")
def fit(model):
    return lambda method, key=KEY: jm.fit(key, model, CASE.data, method, precision="float64")


@pytest.fixture(scope="module")
def chains(fit):
    return fit(jm.NUTS(chains=3, warmup=60, draws=50))


# Samples.


def made_up_draws(chain=2, draw=7):
    """Draws that say where they stand: a = 100 * chain + draw, b = (a, -a)."""
    a = 100 * np.arange(chain)[:, None] + np.arange(draw)[None]
    info = Info(Status.CONVERGED, method="made up")
    return jm.Draws({"a": jnp.asarray(a), "b": jnp.stack([a, -a], axis=-1)}, info, np.zeros((chain, draw)))


@pytest.mark.parametrize(
    "method",
    [jm.MAP(), jm.Laplace(), jm.Ensemble(jm.MAP(), members=3), jm.Ensemble(jm.Laplace(), members=3)],
    ids=["Point", "Gaussian", "mixture of points", "mixture of Gaussians"],
)
def test_samples_lead_with_n(fit, method):
    posterior = fit(method)
    for n in (1, 4):
        drawn = posterior.sample(KEY, n)
        assert jax.tree.structure(drawn) == jax.tree.structure(CASE.start)
        for leaf, own in zip(jax.tree.leaves(drawn), jax.tree.leaves(CASE.start), strict=True):
            assert leaf.shape == (n, *own.shape)
            assert leaf.dtype == np.float64
    first, again, other = (flat(posterior.sample(k, 3)) for k in (KEY, KEY, jax.random.key(6)))
    np.testing.assert_array_equal(first, again)
    assert isinstance(posterior, jm.Point) or np.any(first != other)


def test_chains_lead_with_chain_and_draw(chains):
    assert chains.shape == (3, 50)
    assert chains.log_joint.shape == (3, 50)
    for leaf, own in zip(jax.tree.leaves(chains.draws), jax.tree.leaves(CASE.start), strict=True):
        assert leaf.shape == (3, 50, *own.shape)
    for leaf, own in zip(jax.tree.leaves(chains.sample(KEY, 4)), jax.tree.leaves(CASE.start), strict=True):
        assert leaf.shape == (4, *own.shape)


def test_the_log_joint_of_draws_is_that_of_the_model(chains, model, x64):
    for chain, draw in [(0, 0), (1, 17), (2, 49)]:
        params = jax.tree.map(lambda leaf, c=chain, d=draw: jnp.asarray(leaf[c, d]), chains.draws)
        np.testing.assert_allclose(chains.log_joint[chain, draw], model.log_joint(params, CASE.data), rtol=1e-10)


def test_pooling_puts_chain_after_chain():
    pooled = made_up_draws().pooled()
    expected = [*range(7), *range(100, 107)]
    np.testing.assert_array_equal(pooled["a"], expected)
    np.testing.assert_array_equal(pooled["b"][:, 1], -np.array(expected))


@pytest.mark.parametrize(("most", "kept"), [(14, 7), (7, 3), (5, 2), (2, 1), (1000, 7)])
def test_thinning_keeps_every_kth_draw_of_each_chain(most, kept):
    thin = made_up_draws().thinned(most)
    assert thin["a"].shape == (2, kept)
    assert thin["b"].shape == (2, kept, 2)
    assert thin["a"].size <= most
    steps = np.diff(thin["a"], axis=1)
    assert np.all(steps == steps[:1, :1]) if kept > 1 else True
    np.testing.assert_array_equal(thin["a"][1] - thin["a"][0], 100)


def test_sampling_draws_keeps_parameters_together():
    drawn = made_up_draws().sample(KEY, 50)
    np.testing.assert_array_equal(drawn["b"], np.stack([drawn["a"], -drawn["a"]], axis=-1))
    assert set(np.asarray(drawn["a"]).tolist()) <= {*range(7), *range(100, 107)}
    assert len(set(np.asarray(drawn["a"]).tolist())) > 7


# Tables.


@pytest.mark.parametrize(
    ("method", "columns"),
    [
        (jm.MAP(), ["estimate", "std err", "z", "P>|z|", "[0.025", "0.975]", "prior share"]),
        (jm.Laplace(), ["estimate", "posterior sd", "[0.025", "0.975]"]),
        (jm.Ensemble(jm.MAP(), members=3), ["mean", "sd"]),
    ],
    ids=["Point", "Gaussian", "mixture"],
)
def test_a_summary_has_a_row_for_every_number(fit, method, columns):
    summary = fit(method).summary()
    assert list(summary.rows[0]) == ["parameter", *columns]
    names = ["body/offset", "body/slope[0]", "body/slope[1]", "steps/0[0,0]", "steps/0[1,0]", "steps/1"]
    assert [row["parameter"] for row in summary.rows] == names
    np.testing.assert_allclose([row[columns[0]] for row in summary.rows], CASE.exact.mean, rtol=1e-6)
    text = str(summary)
    assert all(name in text for name in (*names, *columns))


def test_the_summary_of_a_gaussian_is_that_of_its_marginals(fit):
    rows = fit(jm.Laplace()).summary(level=0.9).rows
    spread = np.sqrt(np.diag(CASE.exact.covariance))
    np.testing.assert_allclose([row["posterior sd"] for row in rows], spread, rtol=1e-8)
    np.testing.assert_allclose([row["[0.05"] for row in rows], CASE.exact.mean - 1.6448536 * spread, rtol=1e-6)
    np.testing.assert_allclose([row["0.95]"] for row in rows], CASE.exact.mean + 1.6448536 * spread, rtol=1e-6)


def test_the_summary_of_chains_has_their_diagnostics(chains):
    summary = chains.summary()
    assert list(summary.rows[0]) == ["parameter", "mean", "sd", "0.025", "0.975", "mcse", "ess", "ess tail", "rhat"]
    assert len(summary.rows) == 6
    pooled = flat(jax.tree.map(lambda leaf: np.asarray(leaf).mean((0, 1)), chains.draws))
    np.testing.assert_allclose([row["mean"] for row in summary.rows], pooled)
    assert "rhat" in str(summary)


def test_the_summary_of_many_numbers_has_a_row_per_array():
    values = np.random.default_rng(0).normal(size=(2, 8, 10, 10))
    draws = jm.Draws({"w": jnp.asarray(values)}, Info(Status.CONVERGED), np.zeros((2, 8)))
    (row,) = draws.summary().rows
    assert row["parameter"] == "w[10, 10] (mean)"


# Mixtures.


def test_members_weigh_alike(fit):
    mixture = fit(jm.Ensemble(jm.Laplace(), members=3))
    np.testing.assert_allclose(mixture.log_weights, -np.log(3))
    assert len(mixture.members) == 3
    assert mixture.info.members == (Status.CONVERGED,) * 3
    assert mixture.info.status is Status.CONVERGED
    assert mixture.mode is None


def test_members_at_the_same_mode_count_once(fit):
    single, mixture = fit(jm.Laplace()), fit(jm.Ensemble(jm.Laplace(), members=3))
    np.testing.assert_allclose(mixture.log_evidence, single.log_evidence, rtol=1e-10)
    np.testing.assert_allclose(mixture.log_evidence, CASE.exact.log_evidence, rtol=1e-8)
    assert fit(jm.Ensemble(jm.MAP(), members=3)).log_evidence is None


def test_the_evidence_of_two_modes_is_the_sum_of_both():
    """A mixture 0.3 N(-6, 1) + 0.7 N(6, 0.5^2), times e^4: Laplace is exact at each mode."""

    def log_density(w):
        left = jnp.log(0.3) - 0.5 * (w + 6) ** 2
        right = jnp.log(0.7) - 0.5 * ((w - 6) / 0.5) ** 2 - jnp.log(0.5)
        return jnp.logaddexp(left, right) - 0.5 * jnp.log(2 * jnp.pi) + 4.0

    model = jm.from_log_density(log_density, init=lambda key: jax.random.uniform(key, (), minval=-9.0, maxval=9.0))
    mixture = jm.fit(KEY, model, None, jm.Ensemble(jm.Laplace(), members=8), precision="float64")
    modes = np.array([member.mode for member in mixture.members])
    assert 0 < np.sum(modes < 0) < 8
    np.testing.assert_allclose(np.abs(modes), 6.0, rtol=1e-8)
    np.testing.assert_allclose(mixture.log_evidence, 4.0, atol=1e-8)
    expected = special.logsumexp(sorted({round(member.log_evidence, 6) for member in mixture.members}))
    np.testing.assert_allclose(mixture.log_evidence, expected, atol=1e-5)
    # Sampled: as many draws in a well as members there, whatever the masses of the wells.
    drawn = np.asarray(mixture.sample(KEY, 4000))
    share = np.mean(modes < 0)
    assert abs(np.mean(drawn < 0) - share) < 4 * np.sqrt(share * (1 - share) / 4000)


# Given parameters.


def test_given_parameters_are_certified_and_not_moved(fit):
    exact = jax.tree.map(np.asarray, fit(jm.MAP()).mode)
    given = fit(jm.Given(exact))
    np.testing.assert_array_equal(flat(given.mode), flat(exact))
    assert given.info.status is Status.CONVERGED
    assert given.info.method == "Given"
    away = jax.tree.map(lambda leaf: leaf + 0.5, exact)
    elsewhere = fit(jm.Given(away))
    np.testing.assert_array_equal(flat(elsewhere.mode), flat(away))
    assert elsewhere.info.status is Status.STEPS_EXHAUSTED


def test_laplace_at_given_parameters_stands_there(fit):
    away = jax.tree.map(lambda leaf: leaf + 0.01, fit(jm.MAP()).mode)
    posterior = fit(jm.Laplace(jm.Given(away)))
    np.testing.assert_array_equal(flat(posterior.mean), flat(away))
    spread = np.sqrt(np.diag(CASE.exact.covariance))
    relative = (posterior.covariance.dense() - CASE.exact.covariance) / np.outer(spread, spread)
    np.testing.assert_allclose(relative, 0.0, atol=1e-8)
    assert any("standard deviations away" in note for note in posterior.info.notes)


def test_given_parameters_must_be_the_models(fit):
    with pytest.raises(ValueError, match="Expected params to have the parameters of the model"):
        fit(jm.Given({"other": 1.0}))
    with pytest.raises(ValueError, match=r"Expected 'steps/1' of shape \(\); got \(3,\)"):
        fit(jm.Given({**CASE.start, "steps": [np.zeros((2, 1)), np.zeros(3)]}))


# Fits that are made once.


@pytest.fixture
def climbs(monkeypatch):
    """Count the climbs, and how many members each has."""
    seen = []
    original = point.maximize

    def counting(density, data, starts, keys, *rest):
        seen.append(len(keys))
        return original(density, data, starts, keys, *rest)

    monkeypatch.setattr(point, "maximize", counting)
    return seen


def test_equal_fits_are_made_once(model, climbs, x64):
    problem = Problem.of(model, CASE.data, precision="float64")
    at = jm.MAP(space="unconstrained")
    mode = fit_problem(KEY, problem, at)
    assert climbs == [1]
    gaussian = fit_problem(KEY, problem, jm.Laplace())
    assert fit_problem(KEY, problem, jm.Laplace()) is gaussian
    assert gaussian.mean is mode.z
    assert fit_problem(KEY, problem, jm.Laplace(at, hessian="exact")).mean is mode.z
    assert climbs == [1]
    fit_problem(KEY, problem, jm.Ensemble(at, members=3))
    fit_problem(KEY, problem, jm.Ensemble(jm.Laplace(), members=3))
    assert climbs == [1, 3]
    fit_problem(jax.random.key(8), problem, at)
    assert climbs == [1, 3, 1]


def test_a_problem_in_double_precision_keeps_all_digits(model):
    """As `jm.compare(precision="float64")` makes it, outside any scope."""
    problem = Problem.of(model, CASE.data, precision="float64")
    for leaf, own in zip(problem.data, CASE.data, strict=True):
        np.testing.assert_array_equal(np.asarray(leaf), own)


def test_a_fitted_posterior_stands_for_its_method(model, fit, climbs):
    mode = fit(jm.MAP(space="unconstrained"))
    del climbs[:]
    posterior = fit(jm.Laplace(mode))
    assert climbs == []
    np.testing.assert_allclose(posterior.log_evidence, CASE.exact.log_evidence, rtol=1e-8)


def test_member_zero_is_the_fit_itself(model, x64):
    """Member 0 gets the key of the ensemble and begins at `init`; member k begins elsewhere."""
    problem = Problem.of(model, CASE.data, precision="float64")
    method = jm.MAP(optax.adam(0.01), steps=30, batch_size=6)
    members = fit_problem(KEY, problem, jm.Ensemble(method, members=3)).members
    alone = fit_problem(KEY, problem, method)
    np.testing.assert_allclose(flat(members[0].mode), flat(alone.mode), rtol=1e-12)
    assert not np.allclose(flat(members[1].mode), flat(alone.mode))
    seed = seeds_of(jax.random.fold_in(KEY, 2))._replace(ranks=np.array([2]))
    np.testing.assert_allclose(flat(members[2].mode), flat(problem.solve(method, seed)[0].mode), rtol=1e-12)


# What a person reads.


def test_the_gradients_of_chains_count_warm_up_and_start(fit, chains):
    info = chains.info
    drawn = info.diagnostics["gradients_per_draw"] * 50 * 3
    assert info.num_gradients >= drawn + 60 * 3
    started = fit(jm.NUTS(start=jm.MAP(), chains=3, warmup=60, draws=50)).info
    of_start = fit(jm.MAP()).info.num_gradients
    assert of_start > 0
    assert started.num_gradients >= started.diagnostics["gradients_per_draw"] * 50 * 3 + 60 * 3 + of_start


def test_info_holds_what_a_person_reads(fit, chains):
    info = fit(jm.Laplace()).info
    assert info.method == "Laplace"
    assert info.solver == "trust-region Newton (chosen for full batches and 6 parameters)"
    assert info.target == "Gaussian at the mode of the log joint density"
    assert info.seconds > 0
    assert info.num_gradients > fit(jm.MAP()).info.num_gradients
    assert set(info.versions) >= {"jaxmap", "jax", "numpyro"}
    np.testing.assert_allclose(info.log_joint, info.log_likelihood + info.log_prior)
    assert chains.info.certificate is None
    assert chains.info.method == "NUTS(chains=3, warmup=60, draws=50)"
    assert {"divergences", "accept_prob", "rhat_max", "ess_min"} <= set(chains.info.diagnostics)


@pytest.mark.slow
def test_chains_without_curvature_at_the_start_say_so():
    """The fourth power has no curvature at its mode: Laplace refuses, NUTS goes on without."""
    model = jm.from_log_density(lambda w: -(w**4), init=0.0)
    draws = jm.fit(KEY, model, None, jm.NUTS(start=jm.Laplace(), chains=2, warmup=100, draws=100))
    assert any(note.startswith("Started without curvature: ") for note in draws.info.notes)
    assert np.std(draws.draws) > 0.3


def test_interrupted_chains_keep_what_they_have(fit, chains, monkeypatch):
    def update(self, done, note=""):
        if done >= 80:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "update", update)
    stopped = fit(jm.NUTS(chains=3, warmup=60, draws=50))
    assert stopped.info.status is Status.INTERRUPTED
    assert 20 <= stopped.shape[1] <= 50
    np.testing.assert_array_equal(
        jax.tree.leaves(stopped.draws)[0], jax.tree.leaves(chains.draws)[0][:, : stopped.shape[1]]
    )


@pytest.mark.slow
def test_an_ensemble_of_chains_starts_from_its_members_modes(fit):
    mixture = fit(jm.Ensemble(jm.NUTS(chains=2, warmup=100, draws=100), members=2))
    assert [member.shape for member in mixture.members] == [(2, 100), (2, 100)]
    assert any("not the weight of a mode" in note for note in mixture.info.notes)
    drawn = np.asarray(mixture.sample(KEY, 500)["body"]["offset"])
    assert abs(drawn.mean() - CASE.exact.mean[0]) < 0.5


def test_the_best_restart_is_the_highest():
    model = jm.from_log_density(
        lambda w: jnp.logaddexp(-((w - 4) ** 2), 1.0 - (w + 4) ** 2),
        init=lambda key: jax.random.uniform(key, (), minval=-8.0, maxval=8.0),
    )
    best = jm.fit(KEY, model, None, jm.MAP(restarts=8), precision="float64")
    np.testing.assert_allclose(best.mode, -4.0, atol=1e-6)
    assert len(best.info.members) == 8
