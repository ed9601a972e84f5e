"""Stochastic-gradient chains: right on closed forms, with all examples or a few; honest where steps are too long."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import stats

import jaxmap as jm
from jaxmap.infer import sghmc_run as module
from jaxmap.infer.sghmc_diagnosis import fallen
from jaxmap.model.tabular import Perceptron
from jaxmap.optimize import Progress
from jaxmap.types import Status
from tests.cases import LINEAR, as_vectors, check_draws

BY_NAME = {case.name: case for case in LINEAR}
SEVERAL = ("matrix", "nested", "standardized")
KEY = jax.random.key(3)
WHOLE = jm.SGHMC(draws=500)
BIAS = 0.08
"""Relative, of standard deviations under minibatches of a third of the examples."""


def fit(model, data, method, **options):
    return jm.fit(KEY, model, data, method, **{"precision": "float64", **options})


check_estimated = partial(check_draws, bias=BIAS)


# Closed forms.


@pytest.mark.parametrize("name", ["off-centre", *(pytest.param(n, marks=pytest.mark.slow) for n in SEVERAL)])
def test_full_gradients_draw_from_the_posterior(name):
    """Of a Gaussian, whatever the step."""
    case = BY_NAME[name]
    posterior = fit(case.supervised(), case.data, WHOLE)
    check_draws(as_vectors(posterior.draws, 2), case.exact.mean, np.sqrt(np.diag(case.exact.covariance)))
    found = posterior.info.diagnostics
    assert abs(found["kinetic_temperature"] - 1) < 0.05
    assert abs(found["configurational_temperature"] - 1) < 0.15


@pytest.mark.parametrize(
    "name", ["standardized", *(pytest.param(n, marks=pytest.mark.slow) for n in ("matrix", "nested", "vector"))]
)
def test_minibatches_draw_from_nearly_the_same(name):
    """The standardised case fits closely: the gradients' noise grows fast away from where it is first measured."""
    case = BY_NAME[name]
    posterior = fit(case.supervised(), case.data, jm.SGHMC(draws=600, batch_size=8))
    check_estimated(as_vectors(posterior.draws, 2), case.exact.mean, np.sqrt(np.diag(case.exact.covariance)))
    assert any("bias that falls with the step" in note for note in posterior.info.notes)


@pytest.mark.slow
def test_long_steps_leave_gaussians_as_they_are():
    """A step of 1.8 widths, where 2 is unstable; a leapfrog without its refusals would widen the posterior."""
    case = BY_NAME["scalar"]
    posterior = fit(case.supervised(), case.data, jm.SGHMC(draws=1000, step_size=1.8, thin=5))
    check_draws(as_vectors(posterior.draws, 2), case.exact.mean, np.sqrt(np.diag(case.exact.covariance)))


@pytest.mark.slow
def test_the_temperature_scales_variances():
    case, spread = BY_NAME["off-centre"], np.sqrt(np.diag(BY_NAME["off-centre"].exact.covariance))
    posterior = fit(case.supervised(), case.data, jm.SGHMC(draws=500, temperature=0.25))
    check_draws(as_vectors(posterior.draws, 2), case.exact.mean, 0.5 * spread)
    assert "temperature 0.25" in posterior.info.target


def test_gradients_that_are_noisier_than_known_are_seen(monkeypatch):
    """Without its measure of the gradients' noise the chain is too warm, and says so."""

    def deaf(*arguments):
        scales = measure(*arguments)
        return scales._replace(tuning=scales.tuning._replace(noise=0.0 * scales.tuning.noise))

    measure = module.measure
    monkeypatch.setattr(module, "measure", deaf)
    case = BY_NAME["scalar"]
    posterior = fit(case.supervised(), case.data, jm.SGHMC(draws=400, batch_size=4, step_size=0.15))
    found = posterior.info.diagnostics
    assert found["kinetic_temperature"] > 1.1
    assert found["configurational_temperature"] > 1.1
    assert posterior.info.status is Status.STEPS_EXHAUSTED
    with pytest.raises(AssertionError):
        check_draws(as_vectors(posterior.draws, 2), case.exact.mean, np.sqrt(np.diag(case.exact.covariance)))


def test_the_checks_fail_for_a_flipped_sign():
    case = BY_NAME["off-centre"]
    right = case.by_hand()
    wrong = jm.Model(
        log_likelihood=lambda params, batch: -right.log_likelihood(params, batch),
        log_prior=right.log_prior,
        init=right.init,
    )
    posterior = fit(wrong, case.data, jm.SGHMC(start=jm.Given(case.begin()), draws=300, warmup=500, thin=20))
    with pytest.raises(AssertionError):
        check_draws(as_vectors(posterior.draws, 2), case.exact.mean, np.sqrt(np.diag(case.exact.covariance)))


def test_positive_parameters_are_sampled_with_their_jacobian():
    """The rate of a Poisson with a Gamma prior: Gamma(2 + sum y, 1 + n); without the Jacobian its shape is one less."""
    y = np.array([1.0, 0.0, 2.0, 1.0])
    model = jm.Model(
        log_likelihood=lambda r, y: dist.Poisson(r).log_prob(y),
        log_prior=lambda r: dist.Gamma(2.0, 1.0).log_prob(r),
        init=1.0,
        support=constraints.positive,
    )
    draws = np.asarray(fit(model, y, jm.SGHMC(draws=2000, step_size=0.3)).draws)
    exact = stats.gamma(2 + y.sum(), scale=1 / (1 + len(y)))
    check_draws(draws[..., None], np.array([exact.mean()]), np.array([exact.std()]))


# Networks, in single precision.

ROWS = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
TARGETS = (np.sin(2 * ROWS[:, 0]) + 0.1 * ROWS[:, 1]).astype(np.float32)
SHORT = jm.SGHMC(chains=2, warmup=150, draws=30, thin=3, batch_size=20)


@pytest.fixture(scope="module")
def network():
    return jm.supervised(
        lambda rngs: Perceptron((2, 5, 2), rngs), jm.HeteroscedasticGaussian(), jm.Prior(dist.Normal(0.0, 1.0))
    )


@pytest.fixture(scope="module")
def sampled(network):
    return jm.fit(KEY, network, (ROWS, TARGETS), SHORT)


def test_chains_of_a_network_begin_at_modes_of_their_own(network, sampled):
    assert sampled.shape == (2, 30)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(sampled.draws))
    assert "Each chain began at a mode of its own." in sampled.info.notes
    assert {"kinetic_temperature", "function_rhat_median", "step_size"} <= set(sampled.info.diagnostics)
    assert not {"accept_prob", "bfmi_min", "deepest_trees"} & set(sampled.info.diagnostics)
    params = jax.tree.map(lambda leaf: leaf[1, -1], sampled.draws)
    np.testing.assert_allclose(sampled.log_joint[1, -1], network.log_joint(params, (ROWS, TARGETS)), rtol=1e-4)


def test_gradients_count_as_their_share_of_the_examples(sampled):
    """Two climbs of 2000 steps, 2 chains of 150 + 30 * 3 steps, and what measures scales twice, a third each."""
    steps = 2 * 2000 / 3 + 2 * (150 + 90) / 3
    scales = 2 * 2 * (16 / 3 + 3 * 12)
    assert steps + scales <= sampled.info.num_gradients <= steps + scales + 200
    assert sampled.info.diagnostics["gradients_per_draw"] == pytest.approx(1.0)


def test_it_is_compiled_once_for_equal_shapes(network, sampled):
    before = len(network.programs)
    again = jm.fit(KEY, network, (ROWS, TARGETS), SHORT)
    np.testing.assert_array_equal(*(jax.tree.leaves(p.draws)[0] for p in (again, sampled)))
    jm.fit(jax.random.key(4), network, (ROWS[::-1].copy(), TARGETS[::-1].copy()), SHORT)
    assert len(network.programs) == before


def test_chains_that_leave_their_modes_say_how_far(network, sampled):
    """By steps ten times as long as those that were chosen; not where they stay."""
    assert not any("left the modes" in note for note in sampled.info.notes)
    step = 10 * sampled.info.diagnostics["step_size"]
    thrown = jm.fit(KEY, network, (ROWS, TARGETS), replace(SHORT, step_size=step))
    (said,) = (note for note in thrown.info.notes if "left the modes" in note)
    params = sum(leaf.size for leaf in jax.tree.leaves(network.start))
    assert f"{params / 2:,.0f} are usual around a mode of {params} parameters" in said
    assert thrown.info.status is Status.STEPS_EXHAUSTED


def test_far_is_twice_what_a_gaussian_posterior_has():
    """100 parameters at temperature 1/2: draws lie 25 nats below the mode; 55 are the limit."""
    levels = np.array([[-24.0, -26.0], [-54.0, -55.0], [-56.0, -57.0]])
    (said,) = fallen(0.0, levels, 100, 0.5)
    assert said.startswith("1 of the 3 chains left the modes they began at: their draws lie 56 nats")
    assert fallen(0.0, levels[:2], 100, 0.5) == []
    assert fallen(0.0, levels, 100, 1.0) == []
    assert fallen(None, levels, 100, 0.5) == []


def test_it_predicts_and_is_saved(network, sampled, tmp_path):
    scores = jm.score(jm.predict(KEY, network, sampled, ROWS), TARGETS)
    assert scores["rmse"] < 0.6
    loaded = jm.load(sampled.save(tmp_path / "draws"))
    np.testing.assert_array_equal(*(jax.tree.leaves(p.draws)[0] for p in (loaded, sampled)))


def test_cycles_move_on_between_groups_of_draws(network, sampled):
    start = jm.Given(network.start)
    plain, cyclic = (
        jm.fit(KEY, network, (ROWS, TARGETS), jm.SGHMC(start=start, chains=2, warmup=60, draws=12, thin=5, cycles=c))
        for c in (1, 3)
    )
    assert plain.shape == cyclic.shape == (2, 12)
    first, second = (np.asarray(jax.tree.leaves(p.draws)[1]) for p in (plain, cyclic))
    np.testing.assert_array_equal(first[:, :4], second[:, :4])
    assert np.any(first[:, 4:] != second[:, 4:])
    assert cyclic.info.num_gradients - plain.info.num_gradients == pytest.approx(2 * 2 * 2 * 5)


@pytest.mark.slow
def test_an_ensemble_of_chains_is_a_bayesian_deep_ensemble(network):
    member = jm.SGHMC(chains=1, warmup=60, draws=20, thin=2, batch_size=20)
    mixture = jm.fit(KEY, network, (ROWS, TARGETS), jm.Ensemble(member, members=3))
    assert [m.shape for m in mixture.members] == [(1, 20)] * 3


@pytest.mark.slow
def test_it_is_compared(network):
    table = jm.compare(KEY, network, ((ROWS[:40], TARGETS[:40]), (ROWS[40:], TARGETS[40:])), {"SGHMC": SHORT})
    assert {row["method"] for row in table.rows} == {"SGHMC"}


@pytest.mark.parametrize("warmup", [1, 2, 7])
def test_the_shortest_warm_ups_run(warmup):
    case = BY_NAME["standardized"]
    method = jm.SGHMC(start=jm.MAP(), chains=2, warmup=warmup, draws=3, thin=2, batch_size=8)
    assert fit(case.supervised(), case.data, method).shape == (2, 3)


def test_an_interrupted_run_keeps_what_it_has(network, sampled, monkeypatch):
    def update(self, done, note=""):
        if note == "drawing":
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "update", update)
    stopped = jm.fit(KEY, network, (ROWS, TARGETS), SHORT)
    assert stopped.info.status is Status.INTERRUPTED
    kept = stopped.shape[1]
    assert 1 <= kept < 30
    np.testing.assert_array_equal(*(jax.tree.leaves(p.draws)[0][:, :kept] for p in (stopped, sampled)))


def test_steps_that_end_nowhere_are_taken_back_and_counted():
    """The step is far beyond the stable one: numbers overflow, the chain stays finite, the status says so."""
    case = BY_NAME["scalar"]
    posterior = fit(case.supervised(), case.data, jm.SGHMC(draws=50, warmup=1200, step_size=30.0, thin=100))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(posterior.draws))
    assert posterior.info.diagnostics["divergences"] > 0
    assert posterior.info.status is Status.STEPS_EXHAUSTED


# Bad options, in words.

BAD = {
    "no chains": (lambda: jm.SGHMC(chains=0), "chains .*got 0"),
    "half a draw": (lambda: jm.SGHMC(thin=0.5), "thin .*got 0.5"),
    "all momentum": (lambda: jm.SGHMC(momentum=1.0), "momentum between 0 and 1; got 1"),
    "absolute zero": (lambda: jm.SGHMC(temperature=0.0), "temperature to be a positive number; got 0"),
    "more cycles than draws": (lambda: jm.SGHMC(draws=3, cycles=4), "at most 3 cycles.*got 4"),
    "a class": (lambda: jm.SGHMC(start=jm.MAP), "Write jm.MAP()"),
    "a bootstrap": (lambda: jm.SGHMC(start=jm.Bootstrap()), "got a bootstrap"),
    "large batches": (lambda: fit(*_scalar(), jm.SGHMC(batch_size=999)), "at most the 24 examples; got 999"),
    "no examples": (lambda: fit(jm.from_log_density(lambda w: -(w**2), init=0.0), None, WHOLE), "Use jm.NUTS"),
}


def _scalar():
    return BY_NAME["scalar"].supervised(), BY_NAME["scalar"].data


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("act", "words"), BAD.values(), ids=BAD)
def test_bad_options_are_refused_in_words(act, words):
    with pytest.raises((TypeError, ValueError), match=words):
        act()
