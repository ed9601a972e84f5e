"""Log scores, errors, coverage, Brier score and accuracy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxmap.statistics import accuracy, brier, coverage, log_mean_exp, mae, rmse, scoring


def classify(n: int, classes: int, seed: int = 0):
    rng = np.random.default_rng([seed, n, classes])
    probs = rng.dirichlet(np.ones(classes), size=n)
    return probs, rng.integers(0, classes, size=n)


def test_log_mean_exp_is_the_log_of_the_weighted_mean():
    rng = np.random.default_rng(0)
    probs, weights = rng.uniform(size=(5, 7)), rng.uniform(size=5)
    expected = [np.log(np.average(probs[:, i], weights=weights)) for i in range(7)]
    np.testing.assert_allclose(log_mean_exp(np.log(probs), np.log(weights)), expected, rtol=1e-13)
    np.testing.assert_allclose(log_mean_exp(np.log(probs)), np.log(probs.mean(axis=0)), rtol=1e-13)


def test_log_mean_exp_is_the_density_of_a_mixture():
    y = np.linspace(-4, 4, 2001)
    log_probs = norm.logpdf(y, np.array([[-1.0], [2.0]]), np.array([[0.3], [0.8]]))
    density = np.exp(log_mean_exp(log_probs, np.log([3.0, 1.0])))
    assert abs(np.trapezoid(density, y) - (0.75 + 0.25 * norm.cdf(2.5))) < 1e-6


def test_log_mean_exp_does_not_underflow_and_blocks_change_nothing(monkeypatch):
    log_probs = np.random.default_rng(1).normal(size=(3, 50))
    log_weights = np.array([-0.1, -5.0, 2.0])
    base = log_mean_exp(log_probs, log_weights)
    np.testing.assert_allclose(log_mean_exp(log_probs - 1e5, log_weights + 900), base - 1e5, rtol=1e-14)
    monkeypatch.setattr(scoring, "_BLOCK_VALUES", 20)
    np.testing.assert_array_equal(log_mean_exp(log_probs, log_weights), base)


def test_log_mean_exp_keeps_impossible_and_undefined_apart():
    log_probs = np.array([[-np.inf, -np.inf, np.nan, 0.0], [-np.inf, 0.0, 0.0, np.inf]])
    np.testing.assert_allclose(log_mean_exp(log_probs), [-np.inf, -np.log(2), np.nan, np.inf])
    # A weight of zero drops a component, but not its nan.
    np.testing.assert_allclose(log_mean_exp(log_probs, np.array([-np.inf, 0.0])), [-np.inf, 0, np.nan, np.inf])
    assert np.isnan(log_mean_exp(np.zeros((2, 1)), np.full(2, -np.inf))).all()


@pytest.mark.parametrize("shape", [(), (6,), (3, 2), (2, 1, 3)])
def test_errors_of_points_on_every_shape(shape):
    rng = np.random.default_rng(2)
    y, center = np.asarray(rng.normal(size=shape)), np.asarray(rng.normal(size=shape))
    pairs = list(zip(np.ravel(y), np.ravel(center), strict=True))
    assert np.isclose(rmse(y, center), np.sqrt(sum((a - b) ** 2 for a, b in pairs) / len(pairs)))
    assert np.isclose(mae(y, center), sum(abs(a - b) for a, b in pairs) / len(pairs))
    assert coverage(y, np.asarray(center - 1), np.asarray(center + 1)) == sum(abs(a - b) <= 1 for a, b in pairs) / len(
        pairs
    )


def test_rmse_and_mae_are_told_apart():
    y, zero = np.array([3.0, 4.0]), np.zeros(2)
    assert rmse(y, zero) == np.sqrt(12.5)
    assert mae(y, zero) == 3.5
    assert type(rmse(y, zero)) is float


def test_coverage_is_closed_and_takes_infinite_bounds():
    y = np.array([0.0, 1.0, 2.0, 3.0])
    assert coverage(y, np.full(4, 1.0), np.full(4, 2.0)) == 0.5
    assert coverage(y, np.full(4, -np.inf), np.full(4, np.inf)) == 1.0


def test_coverage_of_a_normal_is_its_level():
    n = 20_000
    y = np.random.default_rng(3).normal(size=n)
    for level in (0.5, 0.9, 0.95):
        bound = np.full(n, norm.ppf((1 + level) / 2))
        assert abs(coverage(y, -bound, bound) - level) < 4 * np.sqrt(level * (1 - level) / n)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_brier_and_accuracy_by_loops(classes):
    probs, y = classify(40, classes)
    expected = np.mean([sum((p[c] - (c == k)) ** 2 for c in range(classes)) for p, k in zip(probs, y, strict=True)])
    assert np.isclose(brier(probs, y), expected, rtol=1e-13)
    assert accuracy(probs, y) == sum(int(np.argmax(p)) == k for p, k in zip(probs, y, strict=True)) / 40


def test_brier_is_twice_the_binary_one_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    probs, y = classify(60, 2)
    assert np.isclose(brier(probs, y), 2 * metrics.brier_score_loss(y, probs[:, 1]), rtol=1e-13)
    assert accuracy(probs, y) == metrics.accuracy_score(y, probs.argmax(axis=1))


def test_brier_ends_of_the_scale():
    eye = np.eye(3)
    assert brier(eye, np.arange(3)) == 0.0
    assert brier(eye, np.array([1, 2, 0])) == 2.0
    assert np.isclose(brier(np.full((3, 3), 1 / 3), np.arange(3)), 2 / 3)


def expected_score(score, forecast: np.ndarray, truth: np.ndarray) -> float:
    return sum(truth[k] * score(forecast[None], np.array([k])) for k in range(len(truth)))


def test_brier_is_proper_and_a_mutant_is_not():
    truth, others = np.array([0.6, 0.3, 0.1]), classify(50, 3)[0]
    assert all(expected_score(brier, truth, truth) < expected_score(brier, other, truth) for other in others)

    def absolute(probs, y):  # what a forgotten square would give
        return float(np.abs(probs - np.eye(3)[y]).sum())

    sharper = np.array([1.0, 0.0, 0.0])
    assert expected_score(absolute, sharper, truth) < expected_score(absolute, truth, truth)


def test_ties_count_for_the_first_class():
    assert accuracy(np.array([[0.5, 0.5]]), np.array([0])) == 1.0
    assert accuracy(np.array([[0.5, 0.5]]), np.array([1])) == 0.0


def test_nan_is_never_summed_away():
    good, bad = np.zeros(3), np.array([0.0, np.nan, 0.0])
    for score in (rmse, mae):
        assert np.isnan(score(good, bad))
        assert np.isnan(score(bad, good))
    for arguments in ((bad, good, good), (good, bad, good), (good, good, bad)):
        assert np.isnan(coverage(*arguments))
    probs = np.array([[0.5, 0.5], [np.nan, 1.0]])
    assert np.isnan(brier(probs, np.array([0, 1])))
    assert np.isnan(accuracy(probs, np.array([0, 1])))


def test_jax_arrays_are_taken():
    probs, y = classify(30, 3)
    probs = probs.astype(np.float32)
    assert brier(jnp.asarray(probs), jnp.asarray(y)) == brier(probs, y)
    assert accuracy(jnp.asarray(probs), jnp.asarray(y)) == accuracy(probs, y)
    assert rmse(jnp.arange(3), jnp.zeros(3)) == np.sqrt(5 / 3)


@pytest.mark.usefixtures("unchecked")
def test_shape_errors_name_the_remedy():
    with pytest.raises(ValueError, match=r"Expected mean with shape \(5,\); got \(5, 1\)\. Squeeze mean\."):
        rmse(np.zeros(5), np.zeros((5, 1)))
    with pytest.raises(ValueError, match=r"Expected center with shape \(2, 3\); got \(3, 2\)\. Transpose center\."):
        mae(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"Expected y with .*got \(0,\)\. Pass at least one example\."):
        rmse(np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match=r"Expected log_weights with shape \(4,\); got \(5,\)\."):
        log_mean_exp(np.zeros((4, 5)), np.zeros(5))
    with pytest.raises(ValueError, match=r"Expected lower <= upper; got 2 intervals the other way round\."):
        coverage(np.zeros(3), np.array([1.0, 1, 0]), np.array([0.0, 0, 1]))


@pytest.mark.parametrize("score", [brier, accuracy], ids=lambda f: f.__name__)
@pytest.mark.usefixtures("unchecked")
def test_label_errors_name_the_remedy(score):
    probs, y = classify(4, 3)
    with pytest.raises(TypeError, match=r"Expected y with integer labels; got dtype float64\. Use y\.astype\(int\)\."):
        score(probs, y.astype(float))
    with pytest.raises(ValueError, match=r"Expected y with shape \(4,\); got \(4, 1\)\. Squeeze y\."):
        score(probs, y[:, None])
    with pytest.raises(ValueError, match=r"Expected y with labels from 0 to 2; got 1 to 3\. Number"):
        score(probs, np.array([1, 2, 3, 1]))
    with pytest.raises(TypeError, match="real numbers"):
        score(probs.astype(str), y)


@pytest.mark.usefixtures("unchecked")
def test_logits_are_not_probabilities():
    with pytest.raises(ValueError, match=r"Expected probs with rows .* sum to one; got row 1 .*Apply a softmax"):
        brier(np.array([[0.5, 0.5], [-2.0, 3.0]]), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"sum 1\.4"):
        brier(np.array([[0.7, 0.7]]), np.array([0]))
