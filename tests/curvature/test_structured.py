"""From factors, diagonals and eigenpairs to precisions: against the dense sum of likelihood and prior."""

import numpy as np
import pytest

from jaxmap.curvature import (
    LayeredNetwork,
    SingularCurvatureError,
    diagonal_precision,
    kronecker_precision,
    low_rank_precision,
)
from jaxmap.curvature.layer import Layer
from jaxmap.curvature.layered import Factors

RNG = np.random.default_rng(12)
NAMES = ("bias", "kernel", "other")
LAYER = Layer(kernel=1, axes=(0, 1), inputs=1, shape=(3, 2), bias=0)
"""Of leaves bias (2,), kernel (3, 2) and other (3,), in ravel order: positions 0-1, 2-7, 8-10."""

NETWORK = LayeredNetwork(None, (LAYER,), (2,), (LAYER.places(np.array([0, 2, 8])),), np.arange(8, 11))


def names(positions):
    return tuple(dict.fromkeys(NAMES[np.searchsorted([2, 8, 11], k, side="right")] for k in positions))


def _positive(size, rank=None):
    root = RNG.normal(size=(size, rank or size))
    return root @ root.T


def _expected(inputs, outputs, rest, prior):
    """A x G on the layer's entries (bias last), the rest on the diagonal, plus the prior."""
    matrix, places = np.diag(prior).copy(), NETWORK.positions[0].ravel()
    matrix[np.ix_(places, places)] += np.kron(inputs, outputs)
    matrix[8:, 8:] += np.diag(rest)
    return matrix


def _dense(precision):
    return np.linalg.inv(precision.solve(np.eye(precision.size)))


def test_the_layer_lies_where_it_should():
    np.testing.assert_array_equal(NETWORK.positions[0], [[2, 3], [4, 5], [6, 7], [0, 1]])


PRIORS = {
    "one scale": np.full(11, 0.7),
    "kernel and bias apart": np.array([0.01, 0.01, *[4.0] * 6, 1.0, 2.0, 3.0]),
    "flat bias": np.array([0.0, 0.0, *[4.0] * 6, 1.0, 2.0, 3.0]),
    "flat kernel": np.array([1.0, 1.0, *[0.0] * 6, 1.0, 2.0, 3.0]),
    "flat": np.zeros(11),
    "a scale per input": np.array([1.0, 1.0, 2.0, 2.0, 30.0, 30.0, 0.1, 0.1, 1.0, 1.0, 1.0]),
    "badly scaled": np.array([1e-6, 1e-6, *[1e6] * 6, 1.0, 1.0, 1.0]),
}


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_kronecker_factors_plus_the_prior_are_exact(prior):
    inputs, outputs, rest = _positive(4), _positive(2), np.exp(RNG.normal(size=3))
    precision, remark = kronecker_precision(NETWORK, [Factors(inputs, outputs)], rest, prior, names)
    expected = _expected(inputs, outputs, rest, prior)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(_dense(precision) / scale, expected / scale, atol=1e-8)
    np.testing.assert_allclose(precision.log_det, np.linalg.slogdet(expected)[1], rtol=1e-9)
    assert remark == ""


def test_singular_factors_are_made_good_by_the_prior():
    """An input that is always zero, and logits whose sum does not matter."""
    inputs, outputs = _positive(4, 2), np.array([[1.0, -1.0], [-1.0, 1.0]])
    inputs[1] = inputs[:, 1] = 0.0
    precision, _ = kronecker_precision(NETWORK, [Factors(inputs, outputs)], np.zeros(3), np.ones(11), names)
    np.testing.assert_allclose(_dense(precision), _expected(inputs, outputs, np.zeros(3), np.ones(11)), atol=1e-10)


def test_a_layer_that_the_data_do_not_touch_is_its_prior():
    prior = PRIORS["a scale per input"]
    found = kronecker_precision(NETWORK, [Factors(np.zeros((4, 4)), np.zeros((2, 2)))], np.zeros(3), prior, names)
    np.testing.assert_allclose(_dense(found[0]), np.diag(prior), rtol=1e-10, atol=1e-12)


def test_a_prior_that_differs_between_outputs_is_averaged_and_said():
    inputs, outputs, prior = _positive(4), _positive(2), np.exp(RNG.normal(size=11))
    precision, remark = kronecker_precision(NETWORK, [Factors(inputs, outputs)], np.ones(3), prior, names)
    mean = prior.copy()
    places = NETWORK.positions[0]
    mean[places] = prior[places].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(_dense(precision), _expected(inputs, outputs, np.ones(3), mean), rtol=1e-8, atol=1e-8)
    assert "averaged over the outputs" in remark


def test_a_prior_that_bends_the_wrong_way_is_said():
    """Student priors do beyond their scale."""
    prior = np.full(11, 1.0)
    prior[8] = -3.0
    precision, remark = kronecker_precision(NETWORK, [Factors(_positive(4), _positive(2))], np.ones(3), prior, names)
    np.testing.assert_allclose(precision.diagonal, [2.0, 2.0, 2.0])
    assert "turned positive" in remark
    prior = np.full(11, -1e3)
    prior[8:] = 1.0
    precision, remark = kronecker_precision(NETWORK, [Factors(_positive(4), _positive(2))], np.ones(3), prior, names)
    assert np.all(precision.variances() > 0)
    assert "turned positive" in remark


SINGULAR = {
    "an input twice": (np.ones((4, 1)) @ np.ones((1, 4)) + np.diag([0.0, 0.0, 1.0, 1.0]), np.eye(2)),
    "fewer examples than inputs": (_positive(4, 3), np.eye(2)),
    "an input that is always zero": (np.diag([1.0, 0.0, 1.0, 1.0]), np.eye(2)),
    "logits whose sum does not matter": (_positive(4), np.array([[1.0, -1.0], [-1.0, 1.0]])),
    "nothing": (np.zeros((4, 4)), np.zeros((2, 2))),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("factors", SINGULAR.values(), ids=SINGULAR)
def test_flat_directions_without_a_prior_are_refused_also_where_rounding_hides_them(factors, dtype):
    """The sums are rounded in the precision in which they were made."""
    rounded = Factors(*(np.asarray(f * 1.1, dtype) for f in factors))
    prior = np.array([*[0.0] * 8, 1.0, 1.0, 1.0])
    with pytest.raises(SingularCurvatureError, match=r"flat direction\(s\) along (bias, kernel|kernel, bias)\."):
        kronecker_precision(NETWORK, [rounded], np.ones(3, dtype), prior, names)


def test_a_flat_leaf_outside_the_layers_is_named():
    rest, prior = np.array([1.0, 0.0, 1.0]), np.zeros(11)
    with pytest.raises(SingularCurvatureError, match=r"1 flat direction\(s\) along other\."):
        kronecker_precision(NETWORK, [Factors(_positive(4), _positive(2))], rest, prior, names)


# Diagonals.


def test_a_diagonal_is_itself():
    precision, added = diagonal_precision(np.arange(1.0, 12.0), names)
    np.testing.assert_array_equal(_dense(precision), np.diag(np.arange(1.0, 12.0)))
    assert added == 0.0


def test_a_negative_entry_is_refused_or_turned_positive():
    values = np.ones(11)
    values[8] = -3.0
    with pytest.raises(SingularCurvatureError, match=r"1 direction\(s\) of negative curvature along other\.") as caught:
        diagonal_precision(values, names)
    assert caught.value.negative
    precision, added = diagonal_precision(values, names, clip=True)
    assert (precision.diagonal[8], added) == (3.0, 6.0)


@pytest.mark.parametrize(("bad", "text"), [(0.0, r"1 flat direction\(s\) along kernel\."), (np.nan, "of kernel"),
                                           (np.inf, "NaN or infinity")])  # fmt: skip
def test_an_entry_that_is_no_curvature_is_refused(bad, text):
    values = np.ones(11)
    values[3] = bad
    for clip in (False, True):
        with pytest.raises(SingularCurvatureError, match=text) as caught:
            diagonal_precision(values, names, clip=clip)
        assert not caught.value.negative


# Low rank.


def test_low_rank_plus_the_prior():
    basis, scales = np.linalg.qr(RNG.normal(size=(5, 2)))[0], np.exp(RNG.normal(size=5))
    precision, added = low_rank_precision(basis, np.array([7.0, -0.5]), scales, clip=False)
    inner = np.eye(5) + basis @ np.diag([7.0, -0.5]) @ basis.T
    np.testing.assert_allclose(_dense(precision), np.outer(scales, scales) * inner, rtol=1e-9, atol=1e-12)
    assert added == 0.0


def test_low_rank_of_negative_curvature_is_refused_or_turned_positive():
    basis, values = np.eye(3)[:, :2], np.array([7.0, -4.0])
    with pytest.raises(SingularCurvatureError, match=r"1 direction\(s\) of negative curvature") as caught:
        low_rank_precision(basis, values, np.ones(3), clip=False)
    assert caught.value.negative
    precision, added = low_rank_precision(basis, values, np.ones(3), clip=True)
    np.testing.assert_allclose(_dense(precision), np.diag([8.0, 3.0, 1.0]), rtol=1e-12)
    assert added == 6.0


def test_low_rank_that_cancels_the_prior_is_flat():
    with pytest.raises(SingularCurvatureError, match="flat"):
        low_rank_precision(np.eye(3)[:, :1], np.array([-1.0]), np.ones(3), clip=True)
