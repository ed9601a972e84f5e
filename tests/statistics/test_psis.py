"""Pareto-smoothed importance sampling: against ArviZ, known tails, and what must hold."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import genpareto, norm

from jaxmap.statistics import ess_of_weights, pareto_smooth, psis

KINDS = {
    "light": lambda rng, size: 0.3 * rng.normal(size=size),
    "lognormal": lambda rng, size: 2.0 * rng.normal(size=size) + 700,
    "pareto": lambda rng, size: -0.9 * np.log(rng.uniform(size=size)) - 2000,
    "bounded": lambda rng, size: np.log(rng.uniform(size=size)),
    "heavy": lambda rng, size: 200 * rng.normal(size=size),
    "outside": lambda rng, size: np.where(rng.uniform(size=size) < 0.5, -np.inf, rng.normal(size=size)),
    "tied": lambda rng, size: rng.normal(size=size).round(1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 20, 21, 26, 100, 225, 1000])
def test_equals_arviz(arviz, kind, size):
    if not hasattr(arviz, "psislw"):
        pytest.skip("ArviZ from 1.0 on has no psislw of its own, and that of arviz-stats wants more draws")
    log_ratios = KINDS[kind](np.random.default_rng(size), size)
    if not np.isfinite(log_ratios).any():
        log_ratios[0] = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, k_hat = arviz.psislw(log_ratios[None])
    ours = pareto_smooth(log_ratios)
    np.testing.assert_allclose(ours.k_hat, k_hat.item(), rtol=1e-10)
    if kind == "tied":  # which of two equal ratios gets the larger quantile is the sort's choice
        np.testing.assert_allclose(np.sort(ours.log_weights), np.sort(expected[0]), rtol=1e-10)
    else:
        np.testing.assert_allclose(ours.log_weights, expected[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [-0.3, 0.2, 0.5, 0.9])
def test_finds_the_shape_of_a_known_tail(shape):
    quantiles = genpareto.ppf((np.arange(20_000) + 0.5) / 20_000, shape, scale=2.0)
    k_hat = pareto_smooth(np.log(quantiles)).k_hat
    assert abs(k_hat - shape) < 0.06
    # The mutant with the other sign of the shape is far away.
    assert abs(-k_hat - shape) > 0.3


def test_fit_recovers_shape_and_scale_before_the_prior_draws_it_in():
    excesses = genpareto.ppf((np.arange(4000) + 0.5) / 4000, 0.4, scale=3.0)
    fit = psis._fit_tail(excesses)
    assert abs(fit.scale / 3.0 - 1) < 0.02
    assert abs((fit.shape * 4010 - 5) / 4000 - 0.4) < 0.01
    few = psis._fit_tail(genpareto.ppf((np.arange(10) + 0.5) / 10, -0.5))
    assert few.shape > -0.1  # half way from -0.5 to 0.5


@pytest.mark.parametrize("kind", ["light", "lognormal", "pareto", "bounded", "outside"])
def test_weights_are_normalised_ordered_and_truncated(kind):
    log_ratios = KINDS[kind](np.random.default_rng(3), 400)
    log_weights, k_hat = pareto_smooth(log_ratios)
    assert np.isclose(np.exp(log_weights).sum(), 1.0, rtol=1e-12)
    order = np.argsort(log_ratios)
    finite = np.isfinite(log_ratios[order])
    assert (np.diff(log_weights[order][finite]) >= -1e-12).all()
    assert (np.isneginf(log_weights) == np.isneginf(log_ratios)).all()
    # The body keeps its ratios to each other; the largest stays at most as far above it as it was.
    body = order[finite][: finite.sum() // 2]
    kept = log_weights[body] - log_ratios[body]
    np.testing.assert_allclose(kept, kept[0], rtol=1e-10)
    assert log_weights.max() - kept[0] <= log_ratios.max() + 1e-9
    assert type(k_hat) is float


def test_shift_and_order_do_not_matter():
    log_ratios = KINDS["pareto"](np.random.default_rng(4), 300)
    base = pareto_smooth(log_ratios)
    shifted = pareto_smooth(log_ratios + 1e4)
    np.testing.assert_allclose(shifted.log_weights, base.log_weights, rtol=1e-8)
    np.testing.assert_allclose(shifted.k_hat, base.k_hat, rtol=1e-8)
    order = np.random.default_rng(5).permutation(300)
    np.testing.assert_allclose(pareto_smooth(log_ratios[order]).log_weights, base.log_weights[order], rtol=1e-12)


def test_input_is_not_changed():
    log_ratios = np.random.default_rng(6).normal(size=100)
    before = log_ratios.copy()
    pareto_smooth(log_ratios)
    np.testing.assert_array_equal(log_ratios, before)


def test_corrects_a_mean_where_raw_weights_are_noisy():
    # Target N(0, 1), proposal N(0, 0.8^2): k is 0.36, the variance of the weights is finite but large.
    rng = np.random.default_rng(7)
    estimates = []
    for _ in range(200):
        x = 0.8 * rng.normal(size=500)
        log_weights, _ = pareto_smooth(norm.logpdf(x) - norm.logpdf(x, scale=0.8))
        estimates.append([np.exp(log_weights) @ x**2, np.mean(x**2)])
    smoothed, ignored = np.mean(estimates, axis=0)
    assert abs(smoothed - 1) < 0.05
    assert ignored < 0.7


def test_too_few_or_equal_ratios_have_no_fit():
    for log_ratios in (np.zeros(1), np.zeros(500), np.random.default_rng(8).normal(size=20)):
        log_weights, k_hat = pareto_smooth(log_ratios)
        assert k_hat == np.inf
        np.testing.assert_allclose(np.exp(log_weights), np.exp(log_ratios) / np.exp(log_ratios).sum())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_ratios_that_are_no_numbers_give_nan(bad):
    log_ratios = np.random.default_rng(9).normal(size=50)
    log_ratios[7] = bad
    log_weights, k_hat = pareto_smooth(log_ratios)
    assert np.isnan(log_weights).all()
    assert np.isnan(k_hat)
    assert np.isnan(ess_of_weights(log_ratios))


def test_nothing_inside_the_support_gives_nan():
    assert np.isnan(pareto_smooth(np.full(50, -np.inf)).k_hat)
    assert np.isnan(ess_of_weights(np.full(50, -np.inf)))


def test_ess_of_weights():
    assert np.isclose(ess_of_weights(np.full(40, -3.0)), 40.0)
    assert ess_of_weights(np.array([0.0, -np.inf, -np.inf])) == 1.0
    log_weights = pareto_smooth(np.random.default_rng(10).normal(size=200)).log_weights
    assert np.isclose(ess_of_weights(log_weights), 1 / np.sum(np.exp(log_weights) ** 2), rtol=1e-12)
    assert np.isclose(ess_of_weights(log_weights - 5000), ess_of_weights(log_weights), rtol=1e-9)


def test_jax_arrays_are_taken():
    log_ratios = np.random.default_rng(11).normal(size=100).astype(np.float32)
    ours = pareto_smooth(jnp.asarray(log_ratios))
    np.testing.assert_array_equal(ours.log_weights, pareto_smooth(log_ratios).log_weights)
    assert ours.log_weights.dtype == np.float64


@pytest.mark.usefixtures("unchecked")
def test_errors_name_the_remedy():
    for function, name in ((pareto_smooth, "log_ratios"), (ess_of_weights, "log_weights")):
        with pytest.raises(ValueError, match=rf"Expected {name} with shape \(S,\); got \(9, 1\)\. Squeeze {name}\."):
            function(np.zeros((9, 1)))
        with pytest.raises(ValueError, match=r"got \(0,\)\. Pass at least one example\."):
            function(np.zeros(0))
