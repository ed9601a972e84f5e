"""The entry checks: what passes unchanged, what is refused, and with which remedy."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmap.statistics.arrays import (
    require_float64,
    require_labels,
    require_probabilities,
    require_real,
    require_weights,
)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint64, np.float16, np.float32, np.float64, jnp.bfloat16])
def test_real_numbers_become_float64(dtype):
    values = np.array([[0, 1, 1]]).astype(dtype)
    result = require_float64("x", values, 1, "n")
    assert result.dtype == np.float64
    np.testing.assert_array_equal(result, [[0.0, 1.0, 1.0]])
    assert not np.shares_memory(result, values)


@pytest.mark.parametrize("dtype", [complex, str, object, "M8[s]"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match=r"Expected x with real numbers; got dtype .*\. Convert it to floats\."):
        require_real("x", np.zeros(3).astype(dtype))


@pytest.mark.parametrize(
    ("got", "want", "message"),
    [
        ((5, 1), ("n",), r"shape \(n,\); got \(5, 1\)\. Squeeze x\."),
        ((3, 5), (5, 3), r"shape \(5, 3\); got \(3, 5\)\. Transpose x\."),
        ((0, 3), ("n", 3), r"got \(0, 3\)\. Pass at least one example\."),
        ((4,), ("n", "classes"), r"shape \(n, classes\); got \(4,\)\. Check which axis is which\."),
        ((2,), (), r"shape \(\); got \(2,\)\."),
    ],
)
def test_other_shapes_are_refused(got, want, message):
    with pytest.raises(ValueError, match=f"Expected x with .*{message}"):
        require_float64("x", np.ones(got), *want)


def test_probabilities_pass_with_rounding_and_nan_but_not_as_logits():
    probs = np.array([[0.3334, 0.3333, 0.3333], [np.nan, 0.5, 0.5]])
    np.testing.assert_array_equal(require_probabilities("p", probs, "n", "classes"), probs)
    for wrong in ([[0.2, 0.2]], [[1.5, -0.5]], [[-1.0, -2.0]], [[np.inf, 0.0]]):
        with pytest.raises(ValueError, match=r"Expected p with rows .* got row 0 .*Apply a softmax"):
            require_probabilities("p", np.array(wrong), "n", "classes")


def test_labels_of_any_integer_type_pass():
    for dtype in (np.int8, np.uint8, np.int64):
        result = require_labels("y", np.array([2, 0], dtype=dtype), 2, 3)
        assert result.dtype == np.int64
    with pytest.raises(ValueError, match=r"labels from 0 to 2; got -1 to 1\."):
        require_labels("y", np.array([-1, 1]), 2, 3)


def test_weights_are_scaled_to_one():
    np.testing.assert_allclose(require_weights("w", np.array([1.0, 0.0, 3.0]), 3), [0.25, 0.0, 0.75])
    assert np.isnan(require_weights("w", np.array([1.0, np.nan]), 2)).all()
    with pytest.raises(ValueError, match=r"Expected w with shape \(2,\); got \(3,\)\."):
        require_weights("w", np.ones(3), 2)
