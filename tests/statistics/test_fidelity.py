"""Agreement, total variation and Wasserstein distance between predictives."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm, wasserstein_distance

from jaxmap.statistics import agreement, fidelity, total_variation, wasserstein1


def probabilities(n: int, classes: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(classes), size=n)


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_class_distances_by_loops(classes):
    p, q = probabilities(30, classes, 0), probabilities(30, classes, 1)
    pairs = list(zip(p, q, strict=True))
    assert agreement(p, q) == sum(int(np.argmax(a)) == int(np.argmax(b)) for a, b in pairs) / 30
    # Total variation is also the largest difference over events: the classes where p exceeds q.
    expected = np.mean([sum(max(x - z, 0) for x, z in zip(a, b, strict=True)) for a, b in pairs])
    assert np.isclose(total_variation(p, q), expected, rtol=1e-12, atol=1e-15)


def test_class_distances_at_the_ends_of_the_scale():
    p = probabilities(20, 4, 2)
    assert agreement(p, p) == 1.0
    assert total_variation(p, p) == 0.0
    eye = np.eye(3)
    assert agreement(eye, eye[[1, 2, 0]]) == 0.0
    assert total_variation(eye, eye[[1, 2, 0]]) == 1.0  # a forgotten half would give 2


def test_class_distances_are_symmetric_and_class_names_do_not_matter():
    p, q = probabilities(20, 4, 3), probabilities(20, 4, 4)
    order = [2, 0, 3, 1]
    for distance in (agreement, total_variation):
        assert np.isclose(distance(p, q), distance(q, p))
        assert np.isclose(distance(p[:, order], q[:, order]), distance(p, q))


def test_class_distances_keep_nan():
    p, bad = probabilities(5, 3, 5), probabilities(5, 3, 6)
    bad[2, 1] = np.nan
    for distance in (agreement, total_variation):
        assert np.isnan(distance(p, bad))
        assert np.isnan(distance(bad, p))


@pytest.mark.parametrize(("size_a", "size_b"), [(1, 1), (1, 5), (8, 8), (7, 5), (12, 8), (100, 33)])
@pytest.mark.parametrize("n", [1, 6])
def test_wasserstein1_equals_scipy(size_a, size_b, n):
    rng = np.random.default_rng([size_a, size_b, n])
    a, b = rng.normal(size=(size_a, n)), 2 * rng.normal(size=(size_b, n)).round(1) + 0.3
    expected = np.mean([wasserstein_distance(a[:, i], b[:, i]) for i in range(n)])
    np.testing.assert_allclose(wasserstein1(a, b), expected, rtol=1e-12)


def test_wasserstein1_of_equal_sizes_pairs_sorted_draws():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 4)), rng.normal(size=(50, 4))
    expected = np.mean(np.abs(np.sort(a, axis=0) - np.sort(b, axis=0)))
    assert np.isclose(wasserstein1(a, b), expected, rtol=1e-12)
    unsorted = np.mean(np.abs(a - b))  # the mutant that forgets to sort
    assert unsorted > 2 * wasserstein1(a, b)


def test_wasserstein1_is_a_metric_in_the_unit_of_the_draws():
    rng = np.random.default_rng(1)
    a, b, c = rng.normal(size=(40, 3)), rng.normal(size=(25, 3)), rng.normal(size=(31, 3))
    assert wasserstein1(a, a[::-1]) == 0.0
    assert np.isclose(wasserstein1(a, np.repeat(a, 3, axis=0)), 0.0, atol=1e-15)
    assert np.isclose(wasserstein1(a, a - 5), 5.0)
    assert np.isclose(wasserstein1(a, b), wasserstein1(b, a))
    assert np.isclose(wasserstein1(-3 * a + 7, -3 * b + 7), 3 * wasserstein1(a, b))
    assert wasserstein1(a, c) <= wasserstein1(a, b) + wasserstein1(b, c)


def test_wasserstein1_of_normals_is_their_shift():
    grid = norm.ppf((np.arange(2000) + 0.5) / 2000)[:, None]
    assert np.isclose(wasserstein1(grid, grid[::2] * 1.0 + 0.5), 0.5, atol=2e-3)
    # Another width: E|Z| times the difference of the standard deviations.
    assert np.isclose(wasserstein1(grid, 3 * grid), 2 * np.sqrt(2 / np.pi), rtol=1e-3)


def test_wasserstein1_blocks_change_nothing_and_nan_stays(monkeypatch):
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(9, 11)), rng.normal(size=(7, 11))
    whole = wasserstein1(a, b)
    monkeypatch.setattr(fidelity, "_BLOCK_TERMS", 40)
    assert np.isclose(wasserstein1(a, b), whole, rtol=1e-14)
    for bad in (np.nan, np.inf):
        a[3, 4] = bad
        assert np.isnan(wasserstein1(a, b))


def test_jax_arrays_are_taken():
    p, q = probabilities(6, 3, 7).astype(np.float32), probabilities(6, 3, 8).astype(np.float32)
    for distance in (agreement, total_variation, wasserstein1):
        assert distance(jnp.asarray(p), jnp.asarray(q)) == distance(p, q)
        assert type(distance(p, q)) is float


@pytest.mark.usefixtures("unchecked")
def test_errors_name_the_remedy():
    p = probabilities(5, 3, 9)
    with pytest.raises(ValueError, match=r"Expected q with shape \(5, 3\); got \(3, 5\)\. Transpose q\."):
        agreement(p, p.T)
    with pytest.raises(ValueError, match=r"Expected p with shape \(n, classes\); got \(5,\)\."):
        total_variation(p[:, 0], p[:, 0])
    with pytest.raises(ValueError, match=r"Expected q with rows of probabilities .* Apply a softmax"):
        total_variation(p, np.log(p))
    with pytest.raises(ValueError, match=r"Expected b with shape \(T, 3\); got \(4, 2\)\."):
        wasserstein1(p, np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"got \(0, 3\)\. Pass at least one example\."):
        wasserstein1(p[:0], p)
