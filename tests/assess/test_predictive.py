"""Predictives are mixtures: every quantity against its definition, written slowly."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import jaxmap as jm
from jaxmap.assess.emission import Emission
from jaxmap.assess.predictive import Predictive

module = importlib.import_module("jaxmap.assess.predict")  # the package has a function of that name

pytestmark = pytest.mark.usefixtures("rank_promotion")

S, N = 5, 4
RNG = np.random.default_rng(3)
LOC = RNG.normal(size=(S, N)).astype(np.float32)
SCALE = np.exp(RNG.normal(size=S) / 3).astype(np.float32)
LOG_WEIGHTS = np.log(RNG.dirichlet(np.ones(S)))
WEIGHTS = np.exp(LOG_WEIGHTS)


def mixture(make, members=(LOC, SCALE)):
    return Predictive(Emission(lambda m: make(*m)), members, LOG_WEIGHTS, jax.random.key(0))


@pytest.fixture(scope="module")
def gaussian():
    return mixture(lambda loc, scale: dist.Normal(loc, scale))


@pytest.fixture(scope="module")
def counts():
    return mixture(lambda loc, scale: dist.Poisson(jnp.exp(loc) * scale))


@pytest.fixture(scope="module")
def classes():
    logits = RNG.normal(size=(S, N, 3)).astype(np.float32)
    return mixture(lambda logits: dist.Categorical(logits=logits), (logits,)), logits


def test_log_prob_is_the_log_of_the_weighted_mean(gaussian):
    y = RNG.normal(size=N)
    slow = np.log(np.sum(WEIGHTS[:, None] * stats.norm.pdf(y[None], LOC, SCALE[:, None]), axis=0))
    np.testing.assert_allclose(gaussian.log_prob(y), slow, rtol=1e-5)


def test_variance_splits_into_epistemic_and_aleatoric(gaussian):
    mean = WEIGHTS @ LOC
    np.testing.assert_allclose(gaussian.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(gaussian.epistemic, WEIGHTS @ (LOC - mean[None]) ** 2, rtol=1e-4)
    np.testing.assert_allclose(gaussian.aleatoric, np.full(N, WEIGHTS @ SCALE**2), rtol=1e-5)
    second = WEIGHTS @ (LOC**2 + SCALE[:, None] ** 2)
    np.testing.assert_allclose(gaussian.variance, second - mean**2, rtol=1e-4)


@pytest.mark.parametrize("level", [0.01, 0.3, 0.5, 0.975])
def test_quantiles_invert_the_cdf(gaussian, level):
    found = gaussian.quantile(level)
    assert found.shape == (N,)
    slow = np.sum(WEIGHTS[:, None] * stats.norm.cdf(found[None], LOC, SCALE[:, None]), axis=0)
    np.testing.assert_allclose(slow, level, atol=2e-6)
    np.testing.assert_allclose(gaussian.cdf(found), level, atol=2e-6)


def test_several_levels_come_stacked(gaussian):
    both = gaussian.quantile(np.array([0.1, 0.9]))
    assert both.shape == (2, N)
    np.testing.assert_allclose(both[1], gaussian.quantile(0.9), rtol=1e-6)


def test_quantiles_of_counts_are_the_smallest_with_enough_mass(counts):
    found = counts.quantile(np.array([0.05, 0.5, 0.95]))
    rates = np.exp(LOC) * SCALE[:, None]
    for level, row in zip([0.05, 0.5, 0.95], found, strict=True):
        cdf = [np.sum(WEIGHTS[:, None] * stats.poisson.cdf(v[None], rates), axis=0) for v in (row, row - 1)]
        assert np.all(row == np.round(row))
        assert np.all(cdf[0] >= level - 1e-5)
        assert np.all(cdf[1] < level + 1e-5)


def test_distant_quantiles_are_found():
    far = mixture(lambda loc, scale: dist.StudentT(1.0, 1e3 * loc, scale))
    found = far.quantile(0.999)
    assert np.all(np.isfinite(found))
    np.testing.assert_allclose(far.cdf(found), 0.999, atol=1e-5)


def test_samples_have_the_moments_of_the_mixture(gaussian):
    draws = gaussian.sample(jax.random.key(1), 8000)
    assert draws.shape == (8000, N)
    error = np.sqrt(gaussian.variance / 8000)
    assert np.all(np.abs(draws.mean(0) - gaussian.mean) < 4 * error)
    np.testing.assert_allclose(draws.var(0), gaussian.variance, rtol=0.1)


def test_classes_average_probabilities(classes):
    predictive, logits = classes
    probs = np.tensordot(WEIGHTS, np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), 1)
    np.testing.assert_allclose(predictive.probs, probs, rtol=1e-5)
    np.testing.assert_allclose(
        predictive.log_prob(np.array([0, 1, 2, 1])), np.log(probs[range(N), [0, 1, 2, 1]]), rtol=1e-5
    )
    np.testing.assert_allclose(predictive.epistemic + predictive.aleatoric, probs * (1 - probs), rtol=1e-4)
    with pytest.raises(ValueError, match="over classes"):
        _ = predictive.mean


def test_halves_share_the_members(gaussian):
    first, second = gaussian.halves()
    assert (first.size, second.size) == (2, 3)
    np.testing.assert_allclose(np.exp(first.log_weights).sum(), 1.0)
    whole = np.exp(gaussian.log_weights[:2]).sum() * first.mean + np.exp(gaussian.log_weights[2:]).sum() * second.mean
    np.testing.assert_allclose(whole, gaussian.mean, rtol=1e-5)


def deep(weights, x):
    """A network whose layers are much wider than what goes in and comes out."""
    hidden = jnp.tanh(x[:, None] * weights["in"])
    return jnp.tanh(hidden @ weights["between"]) @ weights["out"]


def drawn(width, draws=6):
    rng = np.random.default_rng(0)
    shapes = {"in": (width,), "between": (width, width), "out": (width,)}
    return {name: jnp.asarray(rng.normal(size=(draws, *s)) / width**0.5) for name, s in shapes.items()}


@pytest.mark.parametrize("held", [1, 300, 1500, 4000, 2**28])
@pytest.mark.usefixtures("all_digits")
def test_draws_of_a_network_are_the_same_in_parts(monkeypatch, held):
    """One example of one draw at a time, several, one draw, several draws, all."""
    weights, x = drawn(16), jnp.linspace(-1, 1, 23)
    monkeypatch.setattr(module, "NUMBERS_AT_A_TIME", held)
    slow = np.stack([deep(jax.tree.map(lambda leaf, k=k: leaf[k], weights), x) for k in range(6)])
    np.testing.assert_allclose(jax.jit(module.over_draws(deep))(weights, x), slow, rtol=1e-5, atol=1e-6)


def test_scratch_memory_does_not_grow_with_examples_nor_draws(monkeypatch):
    monkeypatch.setattr(module, "NUMBERS_AT_A_TIME", 2**16)

    def scratch(n, draws):
        weights = drawn(64, draws)
        program = jax.jit(module.over_draws(deep)).lower(weights, jnp.zeros(n)).compile()
        own = 4 * n * draws + sum(leaf.nbytes for leaf in weights.values())  # outputs, and weights laid out anew
        return program.memory_analysis().temp_size_in_bytes - own

    assert max(scratch(8000, 2), scratch(1000, 32)) < 2 * 4 * 2**16
    monkeypatch.setattr(module, "NUMBERS_AT_A_TIME", 2**28)
    assert scratch(1000, 32) > 20 * 4 * 2**16  # what it would be


@pytest.mark.usefixtures("unchecked")
def test_bad_targets_and_levels_are_refused(gaussian, counts):
    with pytest.raises(ValueError, match=r"Expected y with shape \(4,\); got \(4, 1\). Squeeze y"):
        gaussian.log_prob(np.zeros((N, 1)))
    with pytest.raises(ValueError, match="inside the support"):
        counts.log_prob(np.array([1.0, 2.0, -1.0, 0.0]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        gaussian.quantile(1.0)


SCORES_OF_NUMBERS = {"lppd", "nll", "rmse", "mae", "crps", "coverage50", "coverage90", "coverage95"}


def test_scores_of_numbers_against_their_definitions(gaussian):
    y = RNG.normal(size=N)
    scores = jm.score(gaussian, y)
    assert set(scores) == SCORES_OF_NUMBERS
    assert scores["lppd"] == pytest.approx(gaussian.log_prob(y).mean())
    assert scores["rmse"] == pytest.approx(np.sqrt(np.mean((y - gaussian.mean) ** 2)))
    assert scores["mae"] == pytest.approx(np.mean(np.abs(y - gaussian.quantile(0.5))))
    low, high = gaussian.quantile(np.array([0.05, 0.95]))
    assert scores["coverage90"] == pytest.approx(np.mean((low <= y) & (y <= high)))
    grid = np.linspace(-15, 15, 40001)
    cdf = np.stack(
        [np.sum(WEIGHTS[:, None] * stats.norm.cdf(grid[None], LOC[:, [i]], SCALE[:, None]), 0) for i in range(N)]
    )
    slow = np.mean([np.trapezoid((cdf[i] - (grid >= y[i])) ** 2, grid) for i in range(N)])
    assert scores["crps"] == pytest.approx(slow, abs=1e-3)


def test_scores_of_classes_against_scikit_learn(classes):
    metrics = pytest.importorskip("sklearn.metrics")
    predictive, _ = classes
    y = np.array([0, 1, 2, 1])
    scores = jm.score(predictive, y)
    assert set(scores) == {"lppd", "nll", "accuracy", "brier", "ece"}
    np.testing.assert_allclose(predictive.probs.sum(axis=-1), 1.0, rtol=1e-15)
    assert scores["nll"] == pytest.approx(metrics.log_loss(y, predictive.probs, labels=[0, 1, 2]), rel=1e-5)
    assert scores["accuracy"] == metrics.accuracy_score(y, predictive.probs.argmax(1))
    slow = np.mean(np.sum((predictive.probs - np.eye(3)[y]) ** 2, axis=1))
    assert scores["brier"] == pytest.approx(slow)


def test_crps_by_draws_agrees_with_the_closed_form(gaussian):
    from jaxmap.statistics import crps_draws

    y = RNG.normal(size=N)
    draws = gaussian.sample(jax.random.key(5), 4000)
    assert np.mean(crps_draws(y, draws)) == pytest.approx(jm.score(gaussian, y)["crps"], rel=0.05)
