"""The sampler: frames learned from Gaussians, trials and fallbacks, runs that go on bit for bit, what it says."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import jaxmap as jm
from jaxmap import Status
from jaxmap.infer import journal, nuts_start
from jaxmap.infer.nuts_diagnosis import apart, bfmi
from jaxmap.infer.nuts_frame import Frame, learn_frame
from jaxmap.infer.nuts_run import windows_of
from jaxmap.optimize import Progress

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def gaussian(covariance, mean=0.0):
    """The log density of a normal distribution, in a model with one leaf."""
    precision = jnp.asarray(np.linalg.inv(covariance), jnp.float32)
    return jm.from_log_density(lambda t: -0.5 * (t - mean) @ precision @ (t - mean), init=np.zeros(len(covariance)))


def scaled(size, condition, rng=RNG):
    """A covariance with sds over some decades and correlations."""
    root = rng.normal(size=(size, size)) * np.geomspace(1.0, condition, size)[:, None]
    return root @ root.T


# Frames.


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("dense", [False, True])
def test_a_frame_and_its_inverse(size, dense):
    root = RNG.normal(size=(size, size)) + 3 * np.eye(size) if dense else RNG.uniform(0.1, 2, size)
    frame = Frame(RNG.normal(size=size), root)
    x = RNG.normal(size=(5, size))
    z = np.stack([frame.place(v) for v in x])
    np.testing.assert_allclose(frame.positions(z), x, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose([frame.as_matrix().place(v) for v in x], z, rtol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 6])
def test_the_covariance_of_a_gaussian_is_learned_exactly_from_any_draws(size):
    """Draws that are not its own, in a frame that is not the unit one: the gradients tell."""
    rng = np.random.default_rng(size)
    covariance, mean = scaled(size, 30.0, rng), rng.normal(size=size)
    frame = Frame(rng.normal(size=size), 0.3 * rng.normal(size=(size, size)) + 2 * np.eye(size))
    x = rng.exponential(size=(5 * size + 3, size))
    z = frame.mean + x @ frame.root.T
    slopes = -np.linalg.solve(covariance, (z - mean).T).T @ frame.root
    found = learn_frame(frame, x, slopes)
    np.testing.assert_allclose(found.root @ found.root.T, covariance, rtol=1e-3, atol=1e-3 * np.abs(covariance).min())
    np.testing.assert_allclose(found.mean, z.mean(axis=0))


def test_from_few_draws_only_the_diagonal_is_learned():
    scales = np.array([0.01, 1.0, 30.0, 5.0])
    frame = Frame(np.zeros(4), np.ones(4))
    z = RNG.normal(size=(10, 4))
    found = learn_frame(frame, z, -z / scales**2)
    np.testing.assert_allclose(found.root, scales)


def test_draws_that_do_not_move_teach_nothing():
    frame = Frame(np.zeros(2), np.ones(2))
    assert learn_frame(frame, np.zeros((20, 2)), np.ones((20, 2))) is frame
    assert learn_frame(frame, np.full((20, 2), np.nan), np.ones((20, 2))) is frame


@pytest.mark.parametrize("warmup", [1, 2, 7, 20, 60, 100, 120, 400, 800, 1000, 5000])
def test_windows_double_and_add_up(warmup):
    windows = windows_of(warmup)
    assert sum(windows) == warmup
    assert all(length > 0 for length in windows)
    assert all(a <= b for a, b in itertools.pairwise(windows[:-1]))


# What chains say of themselves.


def test_bfmi_of_independent_energies_is_two_and_of_a_walk_small():
    energy = RNG.normal(size=(3, 20_000))
    np.testing.assert_allclose(bfmi(energy), 2.0, atol=0.05)
    assert np.all(bfmi(energy.cumsum(axis=1)) < 0.01)


def test_chains_that_do_not_overlap_are_told_apart():
    values = RNG.normal(size=(4, 200, 3))
    assert apart(values) == ""
    values[[1, 3], :, 2] += 10.0
    assert "2 places that do not overlap (0 2; 1 3)" in apart(values)


def funnel():
    """Six effects as they are, with a log-normal spread that wants small steps where it is small."""

    def log_prior(p):
        effects = dist.Normal(0.0, jnp.exp(p["log_tau"])).log_prob(p["effect"])
        return jnp.sum(effects) + dist.Normal(1.0, 1.0).log_prob(p["log_tau"])

    return jm.Model(
        log_likelihood=lambda p, y: dist.Normal(p["effect"], 5.0).log_prob(y),
        log_prior=log_prior,
        init={"log_tau": np.array(1.0), "effect": np.zeros(6)},
    )


@pytest.mark.slow
def test_a_neck_that_turns_the_chains_away_is_named():
    found = jm.fit(KEY, funnel(), RNG.normal(size=6), jm.NUTS(draws=400))
    assert found.info.status is Status.STEPS_EXHAUSTED
    assert any("log_tau is lowest" in note or "diverged" in note for note in found.info.notes)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_no_end_of_a_gaussian_is_shunned(seed):
    found = jm.fit(jax.random.key(seed), gaussian(scaled(4, 10.0)), None, jm.NUTS(draws=400))
    assert found.info.diagnostics["refused_in_tail"] < 2.0


def test_chains_in_two_modes_say_so():
    model = jm.from_log_density(lambda t: jnp.logaddexp(-0.5 * (t - 20) ** 2, -0.5 * (t + 20) ** 2), init=np.array(1.0))
    start = jm.MixturePosterior(
        tuple(jm.fit(KEY, model, None, jm.Given(np.array(at))) for at in (20.0, -20.0)),
        np.log([0.5, 0.5]),
        jm.Info(Status.CONVERGED),
    )
    found = jm.fit(KEY, model, None, jm.NUTS(start=start, warmup=50, draws=50))
    assert found.info.status is Status.STEPS_EXHAUSTED
    assert any("2 places that do not overlap (0 2; 1 3)" in note for note in found.info.notes)


# The hand-off.


def test_a_gaussian_of_all_scales_needs_a_short_warm_up():
    covariance = scaled(4, 1e4)
    found = jm.fit(KEY, gaussian(covariance), None, jm.NUTS(draws=500))
    info = found.info
    assert info.status is Status.CONVERGED
    assert info.diagnostics["warmup"] == nuts_start.SHORT
    assert info.diagnostics["gradients_per_draw"] < 8
    assert any("whitened" in note for note in info.notes)
    z = np.asarray(found.draws, np.float64).reshape(-1, 4)
    unit = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    np.testing.assert_allclose(np.cov(z.T) / unit, covariance / unit, atol=0.2)


@pytest.mark.slow
def test_a_wrong_gaussian_is_given_up():
    """A covariance too large by six decades: the chains could not move in it, and begin without."""
    right = gaussian(np.eye(3))
    wrong = jm.fit(KEY, gaussian(1e12 * np.eye(3)), None, jm.Laplace(grade=0))
    found = jm.fit(KEY, right, None, jm.NUTS(start=wrong, warmup=200, draws=300))
    assert any("could hardly move" in note or "falls otherwise" in note for note in found.info.notes)
    z = np.asarray(found.draws, np.float64).reshape(-1, 3)
    np.testing.assert_allclose(z.std(axis=0), 1.0, atol=0.2)
    assert found.info.diagnostics["rhat_max"] < 1.05


@pytest.mark.slow
def test_an_axis_along_which_the_density_bends_is_measured():
    """exp(-|t|^6): the curvature at the mode says 0 along one axis (a weak Gaussian makes it 100 sds wide)."""
    model = jm.from_log_density(
        lambda t: -0.5 * t[0] ** 2 - t[1] ** 6 - 0.5 * (t[1] / 100) ** 2, init=np.array([0.5, 0.5])
    )
    found = jm.fit(KEY, model, None, jm.NUTS(draws=400))
    assert any("Along 1 of 2 axes" in note for note in found.info.notes)
    assert any("whitened" in note and "hardly" not in note for note in found.info.notes)
    z = np.asarray(found.draws, np.float64).reshape(-1, 2)
    np.testing.assert_allclose(z[:, 0].std(), 1.0, atol=0.15)
    np.testing.assert_allclose(z[:, 1].std(), 0.5779, atol=0.05)  # sqrt(Gamma(1/2) / Gamma(1/6))


@pytest.mark.slow
def test_where_there_is_no_mode_the_chains_begin_without():
    model = jm.from_log_density(
        lambda t: (
            dist.Normal(0.0, jnp.exp(t[0])).log_prob(t[1:]).sum() + dist.Normal(0.0, 1.0).log_prob(t[0]) - 2 * t[0]
        ),
        init=np.array([0.0, 0.1, 0.1]),
    )
    found = jm.fit(KEY, model, None, jm.NUTS(warmup=100, draws=50))
    assert found.shape == (4, 50)


@pytest.mark.slow
@pytest.mark.parametrize(
    "start", [jm.MAP(), jm.Laplace(), jm.VI(), jm.Ensemble(members=2), jm.Ensemble(jm.Laplace(), members=2)]
)
def test_any_method_may_be_the_start(start):
    found = jm.fit(KEY, gaussian(np.array([[2.0, 0.5], [0.5, 1.0]])), None, jm.NUTS(start=start, warmup=100, draws=100))
    z = np.asarray(found.draws, np.float64).reshape(-1, 2)
    np.testing.assert_allclose(z.std(axis=0), np.sqrt([2.0, 1.0]), atol=0.35)
    assert found.info.num_gradients > found.info.diagnostics["gradients_per_draw"] * 400


@pytest.mark.slow
def test_a_network_is_sampled_from_its_usual_starts():
    network = (
        lambda key: {"a": jax.random.normal(key, (2, 2)), "b": jnp.ones(2)},
        lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"],
    )
    model = jm.supervised(network, jm.Gaussian(0.5), jm.Prior(dist.Normal(0.0, 1.0)))
    x = RNG.normal(size=(10, 2)).astype(np.float32)
    found = jm.fit(KEY, model, (x, x[:, 0]), jm.NUTS(warmup=50, draws=20, max_tree_depth=5))
    assert found.info.notes[:1] != ("The chains began whitened by the Gaussian.",)
    assert "function_rhat_median" in found.info.diagnostics


# Thinning, and runs that go on.


@pytest.fixture(scope="module")
def model():
    return jm.from_log_density(
        lambda t: -0.5 * jnp.sum((t * jnp.arange(1.0, 4.0)) ** 2) - 0.1 * jnp.sum(t**4), init=np.ones(3)
    )


SAMPLER = {"warmup": 60, "draws": 40}


@pytest.fixture(scope="module")
def whole(model):
    return jm.fit(KEY, model, None, jm.NUTS(**SAMPLER))


def test_thinned_draws_are_every_second_one(model, whole):
    thinned = jm.fit(KEY, model, None, jm.NUTS(warmup=60, draws=20, thin=2))
    np.testing.assert_array_equal(thinned.draws, np.asarray(whole.draws)[:, 1::2])
    assert thinned.info.num_gradients == whole.info.num_gradients
    assert thinned.log_joint.shape == (4, 20)


@pytest.mark.parametrize("stop", [10, 30, 59, 61, 75])
def test_an_interrupted_run_goes_on_bit_for_bit(model, whole, monkeypatch, tmp_path, stop):
    monkeypatch.setattr(journal, "SECONDS", 0.0)
    monkeypatch.setattr(journal, "SHARE", np.inf)
    with pytest.MonkeyPatch.context() as patch:

        def update(self, done, note=""):
            if done >= stop:
                raise KeyboardInterrupt

        patch.setattr(Progress, "update", update)
        if stop <= 60:
            with pytest.raises(jm.FitError, match="interrupted"):
                jm.fit(KEY, model, None, jm.NUTS(**SAMPLER), folder=tmp_path)
        else:
            assert jm.fit(KEY, model, None, jm.NUTS(**SAMPLER), folder=tmp_path).info.status is Status.INTERRUPTED
    again = jm.fit(KEY, model, None, jm.NUTS(**SAMPLER), folder=tmp_path)
    np.testing.assert_array_equal(again.draws, whole.draws)
    np.testing.assert_array_equal(again.log_joint, whole.log_joint)
    assert again.info.num_gradients == whole.info.num_gradients
    assert again.info.notes == whole.info.notes
    assert again.info.diagnostics == whole.info.diagnostics


def test_a_finished_run_is_read_and_may_go_on(model, whole, tmp_path):
    first = jm.fit(KEY, model, None, jm.NUTS(**SAMPLER), folder=tmp_path)
    read = jm.fit(KEY, model, None, jm.NUTS(**SAMPLER), folder=tmp_path)
    for found in (first, read):
        np.testing.assert_array_equal(found.draws, whole.draws)
    more = jm.fit(KEY, model, None, jm.NUTS(warmup=60, draws=70), folder=tmp_path)
    np.testing.assert_array_equal(more.draws, jm.fit(KEY, model, None, jm.NUTS(warmup=60, draws=70)).draws)
    fewer = jm.fit(KEY, model, None, jm.NUTS(**SAMPLER), folder=tmp_path)
    np.testing.assert_array_equal(fewer.draws, whole.draws)


@pytest.mark.slow
def test_a_run_in_an_ensemble_goes_on(model, tmp_path):
    method = jm.Ensemble(jm.NUTS(chains=2, warmup=40, draws=20), members=2)
    first = jm.fit(KEY, model, None, method, folder=tmp_path)
    again = jm.fit(KEY, model, None, method, folder=tmp_path)
    for one, other in zip(first.members, again.members, strict=True):
        np.testing.assert_array_equal(one.draws, other.draws)


def test_the_run_of_another_model_key_or_method_is_refused(model, tmp_path):
    jm.fit(KEY, model, None, jm.NUTS(**SAMPLER), folder=tmp_path)
    other = jm.from_log_density(lambda t: -jnp.sum(t**2), init=np.ones(3))
    for key, what, method, word in (
        (KEY, other, jm.NUTS(**SAMPLER), "model was"),
        (jax.random.key(1), model, jm.NUTS(**SAMPLER), "key was"),
        (KEY, model, jm.NUTS(warmup=61, draws=40), "method was"),
    ):
        with pytest.raises(ValueError, match=rf"Expected the run that began in .*{word}.*Name another folder"):
            jm.fit(key, what, None, method, folder=tmp_path)


def test_a_run_with_missing_draws_is_refused(model, tmp_path):
    jm.fit(KEY, model, None, jm.NUTS(**SAMPLER), folder=tmp_path)
    for part in tmp_path.glob("draws-*.safetensors"):
        part.unlink()
    with pytest.raises(ValueError, match="missing or cannot be read"):
        jm.fit(KEY, model, None, jm.NUTS(**SAMPLER), folder=tmp_path)


def test_a_saved_posterior_is_no_run(model, tmp_path):
    jm.fit(KEY, model, None, jm.MAP()).save(tmp_path)
    with pytest.raises(ValueError, match="got a saved Point"):
        jm.fit(KEY, model, None, jm.NUTS(**SAMPLER), folder=tmp_path)


def test_a_folder_that_nobody_would_write_to_is_refused(model, tmp_path):
    for method in (jm.Laplace(), jm.Bootstrap(), jm.Given(np.zeros(3))):
        with pytest.raises(ValueError, match=r"Expected jm\.MLE\(\), jm\.MAP\(\), jm\.NUTS\(\).*keeps nothing"):
            jm.fit(KEY, model, None, method, folder=tmp_path)


def test_the_table_of_draws(whole):
    table = whole.summary()
    assert {"mean", "sd", "mcse", "ess", "ess tail", "rhat"} <= table.rows[0].keys()
