"""Every structure of a precision against the matrix that it stands for."""

import json
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load, save

from jaxmap.curvature import (
    Conditional,
    Diagonal,
    Full,
    Kronecker,
    LowRank,
    Precision,
    moving_size,
    unpack_precision,
)
from jaxmap.curvature.kronecker import KroneckerBlock

RNG = np.random.default_rng(11)


class Case(NamedTuple):
    """A precision and its dense matrix; `positions` are the coordinates that move."""

    precision: Precision
    matrix: np.ndarray
    positions: np.ndarray


def _whole(precision, matrix):
    return Case(precision, matrix, np.arange(len(matrix)))


def _full(size=7, stretch=1.0):
    root = RNG.normal(size=(size, size)) * np.logspace(0, np.log10(stretch), size)[:, None]
    matrix = root @ root.T
    return _whole(Full(np.linalg.cholesky(matrix)), matrix)


def _diagonal(size=7):
    values = np.exp(RNG.normal(size=size))
    return _whole(Diagonal(values), np.diag(values))


def _low_rank(rank, size=7):
    scales = np.exp(RNG.normal(size=size))
    basis = np.linalg.qr(RNG.normal(size=(size, rank)))[0]
    values = np.linspace(-0.9, 40.0, rank)  # curvature of the likelihood may be negative, the sum not
    inner = np.eye(size) + basis @ np.diag(values) @ basis.T
    return _whole(LowRank(scales, basis, values), np.diag(scales) @ inner @ np.diag(scales))


def _kronecker(shapes, outside):
    """Layers whose entries lie scattered; each block is B^-T x U diag(h) (B^-1 x U'), by np.kron."""
    size = sum(i * o for i, o in shapes) + outside
    order, blocks, matrix, begin = RNG.permutation(size), [], np.zeros((size, size)), 0
    for i, o in shapes:
        places = order[begin : begin + i * o].reshape(i, o)
        begin += i * o
        inputs, outputs = RNG.normal(size=(i, i)), np.linalg.qr(RNG.normal(size=(o, o)))[0]
        precisions = np.exp(RNG.normal(size=(i, o)))
        root = np.kron(np.linalg.inv(inputs), outputs.T)
        matrix[np.ix_(places.ravel(), places.ravel())] = root.T @ np.diag(precisions.ravel()) @ root
        blocks.append(KroneckerBlock(places, inputs, outputs, precisions))
    rest, diagonal = order[begin:], np.exp(RNG.normal(size=outside))
    matrix[rest, rest] = diagonal
    return _whole(Kronecker(blocks, rest, diagonal), matrix)


def _conditional(inner, positions, size):
    return Case(Conditional(np.asarray(positions), inner.precision, size), inner.matrix, np.asarray(positions))


CASES = {
    "full": _full(),
    "full, badly scaled": _full(stretch=1e6),
    "full, one": _full(1),
    "diagonal": _diagonal(),
    "low rank": _low_rank(3),
    "low rank, all of it": _low_rank(7),
    "low rank, none of it": _low_rank(0),
    "kronecker": _kronecker([(3, 2), (2, 4)], 3),
    "kronecker, no rest": _kronecker([(2, 3)], 0),
    "kronecker, no layer": _kronecker([], 4),
    "conditional full": _conditional(_full(3), [1, 2, 5], 6),
    "conditional kronecker": _conditional(_kronecker([(2, 2)], 1), [0, 3, 4, 6, 7], 9),
    "conditional low rank": _conditional(_low_rank(2, 4), [0, 1, 2, 8], 9),
    "conditional diagonal": _conditional(_diagonal(2), [3, 0], 4),
}
each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def _padded(case, inner):
    """A matrix over the moving coordinates, zero in the rows and columns of the others."""
    found = np.zeros((case.precision.size, case.precision.size))
    found[np.ix_(case.positions, case.positions)] = inner
    return found


def _vectors(case, columns=4):
    return np.random.default_rng(5).normal(size=(case.precision.size, columns))


@each
def test_it_is_a_precision_of_its_size(case):
    assert isinstance(case.precision, Precision)
    assert moving_size(case.precision) == len(case.matrix)


@each
def test_log_det(case):
    np.testing.assert_allclose(case.precision.log_det, np.linalg.slogdet(case.matrix)[1], rtol=1e-9, atol=1e-9)


@each
def test_whitening_measures_in_standard_deviations(case):
    """|W'v|^2 = v'Hv, and the same for every pair: (W'u)'(W'v) = u'Hv."""
    vectors = _vectors(case)
    white = case.precision.whiten(vectors)
    expected = vectors.T @ _padded(case, case.matrix) @ vectors
    np.testing.assert_allclose(white.T @ white, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@each
def test_coloring_undoes_whitening(case):
    vectors = _vectors(case)
    moving = np.zeros_like(vectors)
    moving[case.positions] = vectors[case.positions]
    np.testing.assert_allclose(case.precision.color(case.precision.whiten(vectors)), moving, atol=1e-8)
    np.testing.assert_allclose(case.precision.whiten(case.precision.color(vectors)), moving, atol=1e-8)


@each
def test_colored_units_give_the_covariance(case):
    covariance = _padded(case, np.linalg.inv(case.matrix))
    root = case.precision.color(np.eye(case.precision.size))
    scale = np.abs(covariance).max()
    np.testing.assert_allclose(root @ root.T, covariance, atol=1e-8 * scale)
    np.testing.assert_allclose(case.precision.solve(np.eye(len(covariance))), covariance, atol=1e-8 * scale)
    np.testing.assert_allclose(case.precision.variances(), np.diag(covariance), rtol=1e-7)


@each
def test_it_comes_back_from_a_file_bit_for_bit(case):
    arrays = {}
    header = json.loads(json.dumps(case.precision.packed(arrays, "precision")))
    assert all(name.startswith("precision/") for name in arrays)
    content = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    again = unpack_precision(header, load(content), "precision")
    assert type(again) is type(case.precision)
    vectors = _vectors(case)
    for function in ("whiten", "color", "solve"):
        np.testing.assert_array_equal(getattr(again, function)(vectors), getattr(case.precision, function)(vectors))
    np.testing.assert_array_equal(again.variances(), case.precision.variances())
    assert again.log_det == case.precision.log_det


@pytest.mark.parametrize("name", ["diagonal", "low rank", "kronecker"])
def test_large_structures_stay_in_single_precision(name):
    """A million parameters are kept as they came; only determinants are summed in double."""
    arrays = {}
    header = CASES[name].precision.packed(arrays, "p")
    single = {k: a.astype(np.float32) if a.dtype == np.float64 else a for k, a in arrays.items()}
    precision, wide = unpack_precision(header, single, "p"), CASES[name]
    vectors = _vectors(wide).astype(np.float32)
    for function in ("whiten", "color", "solve"):
        found, expected = (getattr(p, function)(vectors) for p in (precision, wide.precision))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert precision.variances().dtype == np.float32
    np.testing.assert_allclose(precision.log_det, wide.precision.log_det, atol=1e-4)
