"""Coverage and reliability curves, and the expected calibration error."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxmap.statistics import coverage, coverage_curve, expected_calibration_error, reliability_curve


def classify(n: int, classes: int, seed: int = 0):
    rng = np.random.default_rng([seed, n, classes])
    probs = rng.dirichlet(np.ones(classes), size=n)
    return probs, rng.integers(0, classes, size=n)


def test_coverage_curve_counts_what_central_intervals_hold():
    rng = np.random.default_rng(0)
    mean, sd = rng.normal(size=300), rng.uniform(0.5, 2, size=300)
    y = mean + 1.4 * sd * rng.normal(size=300)
    levels = np.array([0.0, 0.1, 0.5, 0.9, 0.95, 1.0])
    z = norm.ppf((1 + levels) / 2)
    expected = [coverage(y, mean - k * sd, mean + k * sd) for k in z]
    np.testing.assert_array_equal(coverage_curve(norm.cdf(y, mean, sd), levels), expected)


def test_uniform_pit_gives_the_diagonal():
    pit = (np.arange(1000) + 0.5) / 1000
    levels = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(coverage_curve(pit, levels), levels, atol=1e-12)


def test_coverage_curve_tells_too_narrow_from_too_wide():
    y = np.random.default_rng(1).normal(size=2000)
    levels = np.array([0.5, 0.9])
    assert (coverage_curve(norm.cdf(y, 0, 0.5), levels) < levels).all()
    assert (coverage_curve(norm.cdf(y, 0, 2.0), levels) > levels).all()


def test_coverage_curve_is_closed_and_mirrored():
    pit = np.array([0.25, 0.5, 0.75, 1.0])
    np.testing.assert_array_equal(coverage_curve(pit, np.array([0.5, 0.25, 1.0])), [0.75, 0.25, 1.0])
    np.testing.assert_array_equal(coverage_curve(1 - pit, np.array([0.5, 0.25, 1.0])), [0.75, 0.25, 1.0])


def test_coverage_curve_keeps_nan():
    assert np.isnan(coverage_curve(np.array([0.1, np.nan]), np.array([0.5, 0.9]))).all()
    np.testing.assert_array_equal(np.isnan(coverage_curve(np.array([0.1]), np.array([0.5, np.nan]))), [False, True])


@pytest.mark.parametrize("bins", [1, 4, 15])
@pytest.mark.parametrize("classes", [2, 5])
def test_reliability_curve_by_loops(bins, classes):
    probs, y = classify(200, classes)
    curve = reliability_curve(probs, y, bins)
    top, right = probs.max(axis=1), probs.argmax(axis=1) == y
    gap = 0.0
    for b in range(bins):
        inside = (top > b / bins) & (top <= (b + 1) / bins)
        assert curve.count[b] == inside.sum()
        if inside.any():
            assert np.isclose(curve.confidence[b], top[inside].mean())
            assert np.isclose(curve.accuracy[b], right[inside].mean())
            gap += inside.mean() * abs(right[inside].mean() - top[inside].mean())
        else:
            assert np.isnan(curve.confidence[b])
            assert np.isnan(curve.accuracy[b])
    assert curve.count.sum() == 200
    assert np.isclose(expected_calibration_error(probs, y, bins), gap)


def test_reliability_curve_equals_scikit_learn():
    calibration = pytest.importorskip("sklearn.calibration")
    probs, y = classify(500, 4)
    right, top = calibration.calibration_curve(probs.argmax(axis=1) == y, probs.max(axis=1), n_bins=10)
    curve = reliability_curve(probs, y, bins=10)
    np.testing.assert_allclose(curve.accuracy[curve.count > 0], right)
    np.testing.assert_allclose(curve.confidence[curve.count > 0], top)


def test_an_edge_belongs_to_the_bin_below():
    top = np.array([3 / 15, 0.6, 1.0])  # 0.6 is the edge 9 / 15
    probs = np.stack([top, *[(1 - top) / 5] * 5], axis=1)
    count = reliability_curve(probs, np.zeros(3, dtype=int)).count
    np.testing.assert_array_equal(np.flatnonzero(count), [2, 8, 14])


def test_calibration_error_of_known_classifiers():
    y = np.repeat([0, 1], [75, 25])
    says = np.tile([0.75, 0.25], (100, 1))
    assert expected_calibration_error(says, y) == 0.0
    certain = np.tile([1.0, 0.0], (100, 1))
    assert expected_calibration_error(certain, y) == 0.25
    # The mutant that averages signed gaps would see no error here: one bin too sure, one as much too unsure.
    mixed = np.concatenate([np.tile([0.95, 0.05], (100, 1)), np.tile([0.55, 0.45], (100, 1))])
    assert np.isclose(expected_calibration_error(mixed, np.tile(y, 2)), 0.2)


def test_calibration_error_of_calibrated_draws_is_small_and_order_free():
    rng = np.random.default_rng(2)
    probs = rng.dirichlet(np.ones(3), size=20_000)
    y = (rng.uniform(size=(20_000, 1)) > probs.cumsum(axis=1)).sum(axis=1)
    assert expected_calibration_error(probs, y) < 0.02
    order = rng.permutation(20_000)
    shuffled = expected_calibration_error(probs[order], y[order])
    assert np.isclose(shuffled, expected_calibration_error(probs, y), rtol=1e-12)


def test_nan_probabilities_are_not_dropped():
    probs = np.array([[0.9, 0.1], [np.nan, 0.5]])
    curve = reliability_curve(probs, np.array([0, 1]))
    assert np.isnan(curve.confidence).all()
    assert np.isnan(curve.accuracy).all()
    assert curve.count.sum() == 0
    assert np.isnan(expected_calibration_error(probs, np.array([0, 1])))


def test_jax_arrays_are_taken():
    probs, y = classify(30, 3)
    probs = probs.astype(np.float32)
    assert expected_calibration_error(jnp.asarray(probs), jnp.asarray(y)) == expected_calibration_error(probs, y)
    assert coverage_curve(jnp.linspace(0, 1, 5), jnp.array([0.5])).dtype == np.float64


@pytest.mark.usefixtures("unchecked")
def test_errors_name_the_remedy():
    probs, y = classify(4, 3)
    with pytest.raises(ValueError, match=r"Expected levels within \[0, 1\]; got 50\.0 to 95\.0\. Pass probabilities"):
        coverage_curve(np.array([0.5]), np.array([50.0, 95.0]))
    with pytest.raises(ValueError, match=r"Expected pit within \[0, 1\]; got -0\.1 to 0\.5\."):
        coverage_curve(np.array([-0.1, 0.5]), np.array([0.5]))
    with pytest.raises(TypeError, match=r"Expected bins as an integer; got 2\.5\."):
        reliability_curve(probs, y, 2.5)
    with pytest.raises(ValueError, match=r"Expected bins of at least 1; got 0\."):
        reliability_curve(probs, y, 0)
    with pytest.raises(ValueError, match="Apply a softmax"):
        expected_calibration_error(5 * probs, y)
