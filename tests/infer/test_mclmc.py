"""Microcanonical chains: exact on closed forms, adjusted; within their stated bias, unadjusted."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import stats

import jaxmap as jm
from jaxmap.model.tabular import Perceptron
from jaxmap.optimize import Progress
from jaxmap.types import Status
from tests.cases import LINEAR, as_vectors, check_draws

pytest.importorskip("blackjax")

BY_NAME = {case.name: case for case in LINEAR}
SEVERAL = ("matrix", "nested", "shifted", "standardized")
KEY = jax.random.key(3)
ADJUSTED = jm.MCLMC(adjusted=True, warmup=300, draws=800)
UNADJUSTED = jm.MCLMC(warmup=400, draws=600)
BIAS = 0.05
"""Relative, of standard deviations at the default energy error: what is stated as a few per cent of variances."""


def fit(model, data, method, **options):
    return jm.fit(KEY, model, data, method, **{"precision": "float64", **options})


check_unadjusted = partial(check_draws, bias=BIAS)


# Closed forms.


@pytest.mark.parametrize("name", ["off-centre", *(pytest.param(n, marks=pytest.mark.slow) for n in SEVERAL)])
def test_adjusted_chains_have_the_moments_of_the_posterior(name):
    case = BY_NAME[name]
    posterior = fit(case.supervised(), case.data, ADJUSTED)
    check_draws(as_vectors(posterior.draws, 2), case.exact.mean, np.sqrt(np.diag(case.exact.covariance)))
    assert posterior.info.diagnostics["divergences"] == 0
    assert posterior.info.diagnostics["accept_prob"] > 0.8


@pytest.mark.parametrize("name", ["off-centre", *(pytest.param(n, marks=pytest.mark.slow) for n in SEVERAL)])
def test_unadjusted_chains_are_within_their_bias(name):
    case = BY_NAME[name]
    posterior = fit(case.supervised(), case.data, UNADJUSTED)
    check_unadjusted(as_vectors(posterior.draws, 2), case.exact.mean, np.sqrt(np.diag(case.exact.covariance)))
    assert posterior.info.diagnostics["energy_error"] < 3 * 5e-4
    assert any("energy error per dimension" in note for note in posterior.info.notes)


@pytest.mark.parametrize("adjusted", [True, False])
def test_the_checks_fail_for_a_flipped_sign(adjusted):
    """Of the likelihood; unadjusted, of its gradient alone, which a Metropolis test would make good."""
    case = BY_NAME["off-centre"]

    @jax.custom_jvp
    def flip(v):
        return v

    flip.defjvp(lambda primals, tangents: (primals[0], -tangents[0]))
    right = case.by_hand()

    def log_likelihood(params, batch):
        return -right.log_likelihood(params, batch) if adjusted else right.log_likelihood(flipped(params), batch)

    def flipped(params):
        return jax.tree.map(flip, params)

    wrong = jm.Model(log_likelihood=log_likelihood, log_prior=right.log_prior, init=right.init)
    method = jm.MCLMC(start=jm.Given(case.begin()), adjusted=adjusted, warmup=200, draws=300)
    posterior = fit(wrong, case.data, method)
    check = check_draws if adjusted else check_unadjusted
    with pytest.raises(AssertionError):
        check(as_vectors(posterior.draws, 2), case.exact.mean, np.sqrt(np.diag(case.exact.covariance)))


@pytest.mark.parametrize("method", [ADJUSTED, UNADJUSTED], ids=["adjusted", "unadjusted"])
def test_positive_parameters_are_sampled_with_their_jacobian(method):
    """Two independent Gamma variables; without the Jacobian their shapes would be one less."""
    shapes = np.array([2.0, 5.0])
    model = jm.from_log_density(
        lambda r: jnp.sum((jnp.asarray(shapes, r.dtype) - 1) * jnp.log(r) - r),
        init=np.ones(2),
        support=constraints.positive,
    )
    draws = np.asarray(fit(model, None, method).draws)
    assert np.all(draws > 0)
    check = check_draws if method.adjusted else check_unadjusted
    check(draws, shapes, np.sqrt(shapes))
    check(np.log(draws), *(f(stats.loggamma(shapes)) for f in (lambda d: d.mean(), lambda d: d.std())))


# Networks, in single precision.

ROWS = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
TARGETS = (np.sin(2 * ROWS[:, 0]) + 0.1 * ROWS[:, 1]).astype(np.float32)
SHORT = jm.MCLMC(chains=2, warmup=150, draws=30, thin=3)


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
    kernels = np.asarray(jax.tree.leaves(sampled.draws)[1]).reshape(2, 30, -1)
    assert np.max(np.abs(kernels[0].mean(0) - kernels[1].mean(0))) > 0.3
    assert {"energy_error", "function_rhat_median", "gradients_per_draw"} <= set(sampled.info.diagnostics)
    assert not {"accept_prob", "bfmi_min", "deepest_trees"} & set(sampled.info.diagnostics)


def test_gradients_count_the_start_the_warm_up_and_the_draws(sampled):
    assert sampled.info.diagnostics["gradients_per_draw"] == 2 * 3
    chains = 2 * 2 * (150 + 30 * 3)
    # Two chains begin at the start, and in each learned frame; the modes are certified at the cost of a few more.
    assert chains + 2 <= sampled.info.num_gradients - 2 * 2000 <= chains + 4 * 2 + 500


def test_it_is_compiled_once_for_equal_shapes(network, sampled, monkeypatch):
    from jaxmap.infer import mclmc_chains

    monkeypatch.setattr(mclmc_chains, "_programs", None)
    again = jm.fit(KEY, network, (ROWS, TARGETS), SHORT)
    np.testing.assert_array_equal(*(jax.tree.leaves(p.draws)[0] for p in (again, sampled)))
    other = jm.fit(jax.random.key(4), network, (ROWS[::-1].copy(), TARGETS[::-1].copy()), SHORT)
    assert np.any(jax.tree.leaves(other.draws)[0] != jax.tree.leaves(sampled.draws)[0])


def test_it_predicts_and_is_saved(network, sampled, tmp_path):
    scores = jm.score(jm.predict(KEY, network, sampled, ROWS), TARGETS)
    assert scores["rmse"] < 0.6
    loaded = jm.load(sampled.save(tmp_path / "draws"))
    np.testing.assert_array_equal(*(jax.tree.leaves(p.draws)[0] for p in (loaded, sampled)))
    assert loaded.info.diagnostics == sampled.info.diagnostics


def test_an_ensemble_of_chains_is_a_bayesian_deep_ensemble(network):
    member = jm.MCLMC(chains=1, warmup=60, draws=20, thin=2)
    mixture = jm.fit(KEY, network, (ROWS, TARGETS), jm.Ensemble(member, members=3))
    assert [m.shape for m in mixture.members] == [(1, 20)] * 3
    assert any("not the weight of a mode" in note for note in mixture.info.notes)
    assert len({np.asarray(jax.tree.leaves(m.draws)[1]).tobytes() for m in mixture.members}) == 3


@pytest.mark.slow
def test_it_is_compared(network):
    methods = {"MAP": jm.MAP(), "MCLMC": SHORT}
    table = jm.compare(KEY, network, ((ROWS[:40], TARGETS[:40]), (ROWS[40:], TARGETS[40:])), methods)
    assert {row["method"] for row in table.rows} == {"MAP", "MCLMC"}


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


# Bad options, in words.

BAD = {
    "no chains": (lambda: jm.MCLMC(chains=0), "chains .*got 0"),
    "half a draw": (lambda: jm.MCLMC(thin=0.5), "thin .*got 0.5"),
    "a negative length": (lambda: jm.MCLMC(length=-1.0), "length to be a positive number; got -1"),
    "text for an error": (lambda: jm.MCLMC(energy_error="small"), "positive number; got 'small'"),
    "an error that nobody uses": (lambda: jm.MCLMC(adjusted=True, energy_error=1e-3), "Use target_accept_prob"),
    "a probability that nobody uses": (lambda: jm.MCLMC(target_accept_prob=0.9), "with adjusted=True"),
    "per cent": (lambda: jm.MCLMC(adjusted=True, target_accept_prob=90), "between 0 and 1; got 90"),
    "text for a switch": (lambda: jm.MCLMC(adjusted="yes"), "True or False; got 'yes'"),
    "a class": (lambda: jm.MCLMC(start=jm.MAP), "Write jm.MAP()"),
    "a bootstrap": (lambda: jm.MCLMC(start=jm.Bootstrap()), "got a bootstrap"),
    "one parameter": (lambda: fit(jm.from_log_density(lambda w: -(w**2), init=0.0), None, ADJUSTED), "Use jm.NUTS"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("act", "words"), BAD.values(), ids=BAD)
def test_bad_options_are_refused_in_words(act, words):
    with pytest.raises((TypeError, ValueError), match=words):
        act()


def test_without_blackjax_the_extra_is_named(network, monkeypatch):
    monkeypatch.setattr("jaxmap.infer.mclmc.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"jaxmap\[blackjax\]"):
        jm.fit(KEY, network, (ROWS, TARGETS), SHORT)
