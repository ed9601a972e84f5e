"""From the parts of a structured curvature and the prior's diagonal to a precision."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from jaxmap.curvature.factor import FLAT, SingularCurvatureError, scaled_eigenvalues
from jaxmap.curvature.kronecker import Kronecker, KroneckerBlock
from jaxmap.curvature.layered import Factors, LayeredNetwork
from jaxmap.curvature.precision import Diagonal, LowRank

Names = Callable[[np.ndarray], tuple[str, ...]]
"""Flat positions -> the paths of the leaves that they belong to."""


def diagonal_precision(
    diagonal: Float[np.ndarray, " p"], names: Names, *, clip: bool = False
) -> tuple[Diagonal, float]:
    """A diagonal curvature as a precision.

    Args:
        diagonal: of H.
        names: of positions, for messages.
        clip: raise negative entries to their absolute value instead of refusing them.

    Returns:
        precision: diag(H).
        added: the largest amount added to an entry.

    Raises:
        SingularCurvatureError: entries that are zero, not finite, or negative without `clip`.
    """
    wide = np.asarray(diagonal, np.float64)
    if not np.all(np.isfinite(wide)):
        raise SingularCurvatureError(_not_finite(names(np.flatnonzero(~np.isfinite(wide)))))
    flat = wide == 0
    if flat.any():
        raise SingularCurvatureError(_flat(int(flat.sum()), names(np.flatnonzero(flat))))
    negative = wide < 0
    if negative.any() and not clip:
        raise SingularCurvatureError(_negative(int(negative.sum()), names(np.flatnonzero(negative))), negative=True)
    return Diagonal(np.abs(diagonal)), float(2 * np.max(-wide, initial=0.0))


def low_rank_precision(
    basis: Float[np.ndarray, "p r"], values: Float[np.ndarray, " r"], scales: Float[np.ndarray, " p"], *, clip: bool
) -> tuple[LowRank, float]:
    """S (I + Q diag(l) Q') S as a precision.

    Args:
        basis: Q, of the likelihood's curvature in coordinates where the prior's is one.
        values: l.
        scales: the diagonal of S, the root of the prior's curvature.
        clip: raise negative eigenvalues to their absolute value instead of refusing them.

    Raises:
        SingularCurvatureError: an eigenvalue 1 + l that is zero, or negative without `clip`.
    """
    whole = 1.0 + np.asarray(values, np.float64)
    if np.any(np.abs(whole) <= FLAT * np.max(np.abs(whole))):
        raise SingularCurvatureError("Expected curvature in every direction; got a flat one. Use a stronger prior.")
    if np.any(whole < 0) and not clip:
        raise SingularCurvatureError(
            f"Expected a maximum; got {int((whole < 0).sum())} direction(s) of negative curvature.", negative=True
        )
    clipped = (np.abs(whole) - 1.0).astype(basis.dtype)
    return LowRank(scales, basis, clipped), float(np.max(np.abs(whole) - whole))


def kronecker_precision(
    network: LayeredNetwork,
    factors: list[Factors],
    rest: Float[np.ndarray, " m"],
    prior: Float[np.ndarray, " p"],
    names: Names,
) -> tuple[Kronecker, str]:
    """Kronecker factors plus the prior's diagonal as a precision.

    For a layer with factors A, G and prior precisions r per input, H = A x G + diag(r) x I is diagonal in the axes
    B, U with B'AB = diag(a), B'diag(r)B = diag(b), G = U diag(g) U': there it is a g' + b. Where the prior differs
    between the outputs of one input, its mean over them is taken.

    Args:
        network: the layers that the factors belong to.
        factors: A and G of each layer.
        rest: the diagonal of the likelihood's curvature in the rest.
        prior: the diagonal of the prior's curvature, in ravel order.
        names: of positions, for messages.

    Returns:
        precision: H.
        remark: what was averaged or clipped, empty where nothing was.

    Raises:
        SingularCurvatureError: a flat direction; names the layer.
    """
    blocks, averaged, clipped = [], False, False
    for places, (of_inputs, of_outputs) in zip(network.positions, factors, strict=True):
        own = np.asarray(prior, np.float64)[places]
        per_input = own.mean(axis=1)
        averaged |= bool(np.any(np.abs(own - per_input[:, None]) > 1e-6 * np.abs(own).max(initial=0.0)))
        axes, a, b = _common_axes(np.asarray(of_inputs), per_input, places, names)
        g, turned = np.linalg.eigh(np.asarray(of_outputs, np.float64))
        bent, most = a[:, None] * np.maximum(g, 0.0), a[:, None] * max(g[-1], 0.0)
        found = bent + b[:, None]
        flat = np.abs(found) <= FLAT * (most + np.abs(b)[:, None])
        flat |= (bent <= _rounding(np.asarray(of_outputs)) * most) & (np.abs(b)[:, None] <= FLAT * most)
        if flat.any():
            raise SingularCurvatureError(_flat(int(flat.sum()), names(places.ravel())))
        clipped |= bool(np.any(found < 0))
        parts = (part.astype(rest.dtype) for part in (axes, turned, np.abs(found)))
        blocks.append(KroneckerBlock(places, *parts))
    outside = network.rest_positions
    diagonal, added = diagonal_precision(rest + np.asarray(prior)[outside], lambda k: names(outside[k]), clip=True)
    remarks = ["the prior averaged over the outputs of a layer"] * averaged
    remarks += ["negative curvature of the prior turned positive"] * (clipped or added > 0)
    return Kronecker(blocks, outside, diagonal.diagonal), ", ".join(remarks)


def _common_axes(
    matrix: np.ndarray, prior: np.ndarray, places: np.ndarray, names: Names
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B, a, b with B' matrix B = diag(a) >= 0 and, for a prior that nowhere is negative, B' diag(prior) B = diag(b)."""
    wide = np.asarray(matrix, np.float64)
    if prior.min() > 0 and np.ptp(prior) == 0:  # as of one Gaussian: any axes are the prior's, so those of the matrix
        a, axes = np.linalg.eigh(wide)
        return axes, np.maximum(a, 0.0), prior
    scale = np.trace(wide) / len(wide) or 1.0
    other = np.mean(np.abs(prior)) or 1.0
    both = wide / scale + np.diag(np.abs(prior)) / other
    flat = scaled_eigenvalues(both) <= (_rounding(matrix) if np.any(prior == 0) else FLAT)
    if flat.any():
        raise SingularCurvatureError(_flat(int(flat.sum()), names(places.ravel())))
    inverse = np.linalg.inv(np.linalg.cholesky(both))
    a, turned = np.linalg.eigh(inverse @ wide @ inverse.T)
    axes = inverse.T @ turned
    return axes, np.maximum(a, 0.0), np.einsum("ij,i,ij->j", axes, prior, axes)


def _rounding(matrix: np.ndarray) -> float:
    """Below this, relative to its scale, a matrix summed in its dtype says nothing."""
    return max(FLAT, len(matrix) * float(np.finfo(np.asarray(matrix).dtype).eps))


def _flat(count: int, paths: tuple[str, ...]) -> str:
    return (
        f"Expected curvature in every direction; got {count} flat direction(s) along {', '.join(paths[:8])}. "
        "Give these parameters a prior, or drop one of them."
    )


def _negative(count: int, paths: tuple[str, ...]) -> str:
    return f"Expected a maximum; got {count} direction(s) of negative curvature along {', '.join(paths[:8])}."


def _not_finite(paths: tuple[str, ...]) -> str:
    return (
        f"Expected a finite curvature; got NaN or infinity in the second derivatives of {', '.join(paths[:8])}. "
        "Look for a square root, a norm or a clip at its corner."
    )
