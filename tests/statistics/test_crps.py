"""CRPS of draws and of normal mixtures: closed forms, integrals, loops, and what a proper score must do."""

from itertools import combinations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from jaxmap.statistics import crps, crps_draws, crps_normal_mixture


def mixture(components: int, n: int, spread: float, log_scale_sd: float, seed: int = 0):
    rng = np.random.default_rng([seed, components, n])
    loc = spread * rng.normal(size=(components, n))
    scale = np.exp(log_scale_sd * rng.normal(size=(components, n)))
    return rng.normal(size=n), loc, scale, rng.uniform(0.1, 1.0, size=components)


def slow_crps(y, loc, scale, weights) -> float:
    """The integral of (F(t) - 1{y <= t})^2 over t, by adaptive quadrature on either side of y."""

    def distribution(t):
        return np.average(norm.cdf(t, loc, scale), weights=weights)

    low, high = (loc - 12 * scale).min(), (loc + 12 * scale).max()
    options = {"limit": 500, "epsabs": 1e-12, "epsrel": 1e-12, "points": np.clip(np.sort(loc), low, high)}
    below, _ = quad(lambda t: distribution(t) ** 2, min(low, y), y, **{**options, "points": None})
    above, _ = quad(lambda t: (1 - distribution(t)) ** 2, y, max(high, y), **{**options, "points": None})
    return below + above


def slow_crps_draws(y, draws) -> float:
    size = len(draws)
    pairs = sum(abs(a - b) for a in draws for b in draws)
    return sum(abs(a - y) for a in draws) / size - pairs / (2 * size * (size - 1))


def test_one_normal_has_the_textbook_score():
    y, loc, scale = np.array([-1.0, 0.0, 0.3, 40.0]), np.array([[0.5, 0, 1, 2]]), np.array([[1.0, 2, 0.5, 3]])
    z = (y - loc[0]) / scale[0]
    expected = scale[0] * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    np.testing.assert_allclose(crps_normal_mixture(y, loc, scale, np.ones(1)), expected, rtol=1e-13)


@pytest.mark.parametrize("components", [2, 5, 120])
def test_mixture_equals_the_integral(components):
    y, loc, scale, weights = mixture(components, 3, spread=2.0, log_scale_sd=0.3)
    expected = [slow_crps(y[i], loc[:, i], scale[:, i], weights) for i in range(3)]
    np.testing.assert_allclose(crps_normal_mixture(y, loc, scale, weights), expected, rtol=1e-8)


def test_mixture_equals_the_double_loop():
    y, loc, scale, weights = mixture(6, 4, spread=1.0, log_scale_sd=0.7)
    w = weights / weights.sum()

    def mean_absolute(m, s):
        return 2 * s * norm.pdf(m / s) + m * (2 * norm.cdf(m / s) - 1)

    for i in range(4):
        m, s = loc[:, i], scale[:, i]
        expected = sum(w[a] * mean_absolute(y[i] - m[a], s[a]) for a in range(6))
        for a in range(6):
            for b in range(6):
                expected -= w[a] * w[b] * mean_absolute(m[a] - m[b], np.hypot(s[a], s[b])) / 2
        np.testing.assert_allclose(crps_normal_mixture(y, loc, scale, weights)[i], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("spread", "log_scale_sd"),
    [(0.0, 0.0), (0.1, 0.0), (1.0, 0.0), (30.0, 0.0), (1.0, 0.3), (0.1, 1.0), (3.0, 1.0)],
)
def test_quadrature_equals_all_pairs(monkeypatch, spread, log_scale_sd):
    y, loc, scale, weights = mixture(400, 5, spread, log_scale_sd)
    used = [crps._by_quadrature(loc[:, i], scale[:, i], weights / weights.sum()) for i in range(5)]
    assert np.isfinite(used).all()  # the quadrature is what is tested here, not its fallback
    fast = crps_normal_mixture(y, loc, scale, weights)
    monkeypatch.setattr(crps, "_FEW_COMPONENTS", 10**9)
    exact = crps_normal_mixture(y, loc, scale, weights)
    w = weights / weights.sum()
    sd = np.sqrt(w @ (loc**2 + scale**2) - (w @ loc) ** 2)
    assert np.abs(fast - exact).max() < 1e-9 * sd.min()


def test_distant_and_sharp_components_are_not_missed():
    # A spike of half the mass, a million times sharper than the rest and at the end of the support.
    loc = np.concatenate([np.zeros(150), np.full(150, 20.0)])[:, None]
    scale = np.concatenate([np.ones(150), np.full(150, 1e-6)])[:, None]
    few = crps_normal_mixture(np.array([3.0]), loc[[0, -1]], scale[[0, -1]], np.ones(2))
    many = crps_normal_mixture(np.array([3.0]), loc, scale, np.ones(300))
    np.testing.assert_allclose(many, few, rtol=1e-9)


def test_scales_too_different_for_panels_fall_back_to_pairs():
    y, loc, scale, weights = mixture(120, 2, spread=1.0, log_scale_sd=4.0)
    assert np.isnan(crps._by_quadrature(loc[:, 0], scale[:, 0], weights / weights.sum()))
    doubled = crps_normal_mixture(y, np.tile(loc, (2, 1)), np.tile(scale, (2, 1)), np.tile(weights, 2))
    np.testing.assert_allclose(crps_normal_mixture(y, loc, scale, weights), doubled, rtol=1e-10)


@pytest.mark.parametrize("components", [3, 200])
def test_mixture_moves_and_stretches_with_its_unit(components):
    y, loc, scale, weights = mixture(components, 4, spread=1.0, log_scale_sd=0.2)
    base = crps_normal_mixture(y, loc, scale, weights)
    np.testing.assert_allclose(crps_normal_mixture(y + 1e6, loc + 1e6, scale, weights), base, rtol=1e-8)
    np.testing.assert_allclose(crps_normal_mixture(-3 * y, -3 * loc, 3 * scale, weights), 3 * base, rtol=1e-9)
    order = np.random.default_rng(1).permutation(components)
    shuffled = crps_normal_mixture(y, loc[order], scale[order], 7 * weights[order])
    np.testing.assert_allclose(shuffled, base, rtol=1e-9)


@pytest.mark.parametrize("components", [3, 200])
def test_points_without_width_give_the_score_of_the_empirical_distribution(components):
    rng = np.random.default_rng(2)
    y, loc = rng.normal(size=3), rng.normal(size=(components, 3))
    loc[1], y[0] = loc[0], loc[2, 0]  # two points meet, and one of them the outcome
    result = crps_normal_mixture(y, loc, np.zeros_like(loc), np.ones(components))
    pairs = np.abs(loc[:, None] - loc[None]).mean(axis=(0, 1)) / 2
    np.testing.assert_allclose(result, np.abs(loc - y).mean(axis=0) - pairs, rtol=1e-12)


def test_a_component_of_weight_zero_does_not_count_but_its_nan_does():
    y, loc, scale, weights = mixture(4, 3, spread=1.0, log_scale_sd=0.2)
    weights[2] = 0.0
    kept = [0, 1, 3]
    expected = crps_normal_mixture(y, loc[kept], scale[kept], weights[kept])
    np.testing.assert_allclose(crps_normal_mixture(y, loc, scale, weights), expected, rtol=1e-13)
    loc[2, 1] = np.nan
    np.testing.assert_array_equal(np.isnan(crps_normal_mixture(y, loc, scale, weights)), [False, True, False])


@pytest.mark.parametrize("components", [3, 200])
def test_nan_stays_where_it_is(components):
    y, loc, scale, weights = mixture(components, 5, spread=1.0, log_scale_sd=0.2)
    y[0], loc[1, 1], scale[2, 2], loc[0, 3] = np.nan, np.nan, np.nan, np.inf
    np.testing.assert_array_equal(np.isnan(crps_normal_mixture(y, loc, scale, weights)), [True] * 4 + [False])
    weights[0] = np.nan
    assert np.isnan(crps_normal_mixture(y, loc, scale, weights)).all()


def average_score(mean: float, scale: float) -> float:
    """The score of N(mean, scale^2) averaged over y ~ N(0, 1)."""
    y = norm.ppf((np.arange(2000) + 0.5) / 2000)
    shape = (1, y.size)
    return float(crps_normal_mixture(y, np.full(shape, mean), np.full(shape, scale), np.ones(1)).mean())


def test_the_truth_scores_best_and_a_flipped_sign_would_show():
    others = [(-0.1, 1.0), (0.1, 1.0), (0.0, 0.8), (0.0, 1.2)]
    assert all(average_score(0.0, 1.0) < average_score(*other) for other in others)

    def mutant(mean, scale):  # the spread term E|X - X'| / 2 = scale / sqrt(pi) added, not subtracted
        return average_score(mean, scale) + 2 * scale / np.sqrt(np.pi)

    assert mutant(0.0, 0.8) < mutant(0.0, 1.0)


def test_draws_equal_the_double_loop():
    rng = np.random.default_rng(3)
    y, draws = rng.normal(size=4), rng.normal(size=(9, 4)).round(1)  # with ties
    expected = [slow_crps_draws(y[i], draws[:, i]) for i in range(4)]
    np.testing.assert_allclose(crps_draws(y, draws), expected, rtol=1e-12)


def test_draws_are_fair_and_the_plain_estimator_is_not():
    # Without bias in S: the mean of the score of all pairs of draws is the score of all draws.
    rng = np.random.default_rng(4)
    y, draws = rng.normal(size=3), rng.normal(size=(7, 3))
    of_pairs = np.mean([crps_draws(y, draws[list(pair)]) for pair in combinations(range(7), 2)], axis=0)
    np.testing.assert_allclose(of_pairs, crps_draws(y, draws), rtol=1e-12)
    plain = crps_normal_mixture(y, draws, np.zeros_like(draws), np.ones(7))
    assert (plain > crps_draws(y, draws) + 1e-3).all()


def test_draws_of_a_normal_approach_its_score():
    rng = np.random.default_rng(5)
    y = np.array([-1.0, 0.5, 2.0])
    replicates = np.array([crps_draws(y, rng.normal(size=(20, 3))) for _ in range(2000)])
    exact = crps_normal_mixture(y, np.zeros((1, 3)), np.ones((1, 3)), np.ones(1))
    error = replicates.std(axis=0) / np.sqrt(len(replicates))
    assert (np.abs(replicates.mean(axis=0) - exact) < 4 * error).all()


def test_draws_with_nan_and_inf_give_nan_there_only():
    draws = np.random.default_rng(6).normal(size=(5, 3))
    draws[2, 0], draws[1, 1] = np.nan, np.inf
    np.testing.assert_array_equal(np.isnan(crps_draws(np.zeros(3), draws)), [True, True, False])


def test_jax_arrays_are_taken():
    y, loc, scale, weights = (a.astype(np.float32) for a in mixture(3, 4, 1.0, 0.2))
    result = crps_normal_mixture(*map(jnp.asarray, (y, loc, scale, weights)))
    np.testing.assert_array_equal(result, crps_normal_mixture(y, loc, scale, weights))
    assert crps_draws(jnp.asarray(y), jnp.asarray(loc)).dtype == np.float64


@pytest.mark.usefixtures("unchecked")
def test_errors_name_the_shape_and_the_remedy():
    y, loc, scale, weights = mixture(3, 4, 1.0, 0.2)
    score = crps_normal_mixture
    with pytest.raises(ValueError, match=r"Expected loc with shape \(S, 4\); got \(4, 3\)\. Transpose loc\."):
        score(y, loc.T, scale, weights)
    with pytest.raises(ValueError, match=r"Expected y with shape \(n,\); got \(4, 1\)\. Squeeze y\."):
        score(y[:, None], loc, scale, weights)
    with pytest.raises(ValueError, match=r"Expected scale with shape \(3, 4\); got \(3, 2\)\."):
        score(y, loc, scale[:, :2], weights)
    with pytest.raises(ValueError, match=r"Expected scale >= 0; got -.*\. Take exp of log scales\."):
        score(y, loc, -scale, weights)
    with pytest.raises(ValueError, match=r"Expected weights that are not negative.*Take exp of log weights\."):
        score(y, loc, scale, np.log(weights))
    with pytest.raises(ValueError, match="not all zero"):
        score(y, loc, scale, 0 * weights)
    with pytest.raises(ValueError, match=r"Expected draws with at least 2 rows; got 1\."):
        crps_draws(y, loc[:1])
