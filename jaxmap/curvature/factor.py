"""From a curvature matrix to a Gaussian: the ladder, declared and never silent."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.linalg import get_lapack_funcs

from jaxmap.curvature.precision import Full

FLAT = 1e-11
"""A curvature below this, after scaling to a unit diagonal, is flat in float64."""


class SingularCurvatureError(ValueError):
    """The curvature is flat or negative in some direction, so there is no Gaussian; the message names the parameters.

    Attributes:
        negative: True where it is negative.
    """

    def __init__(self, message: str, *, negative: bool = False):
        super().__init__(message)
        self.negative = negative


def scaled_spectrum(matrix: Float[np.ndarray, "p p"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues and vectors after scaling to a unit diagonal, and the scales sqrt|diag|.

    Raises:
        SingularCurvatureError: entries that are not finite.
    """
    scaled, scales = _scaled(matrix)
    values, vectors = np.linalg.eigh(scaled)
    return values, vectors, scales


def scaled_eigenvalues(matrix: Float[np.ndarray, "p p"]) -> np.ndarray:
    """The eigenvalues of `scaled_spectrum` alone."""
    return np.linalg.eigvalsh(_scaled(matrix)[0])


def _scaled(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not np.all(np.isfinite(matrix)):
        raise SingularCurvatureError(
            "Expected a finite curvature; got NaN or infinity in the second derivatives. "
            "Look for a square root, a norm or a clip at its corner."
        )
    diagonal = np.abs(np.diag(matrix))
    scales = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    return matrix / np.outer(scales, scales), scales


def flat_paths(vectors: np.ndarray, names: list[str]) -> tuple[str, ...]:
    """Name the parameters that carry a set of directions (columns), largest share first, at most eight."""
    share = np.sum(vectors**2, axis=1)
    order = np.argsort(-share)
    least = min(0.05, 0.5 * share.max(initial=0.0))  # a direction may be spread over many
    return tuple(dict.fromkeys(names[i] for i in order if share[i] > least))[:8]


def factorize(
    matrix: Float[np.ndarray, "p p"], names: Callable[[], list[str]], *, clip: bool = False
) -> tuple[Full, float]:
    """Factor a negative Hessian, judged after scaling to a unit diagonal.

    Args:
        matrix: H, symmetric.
        names: gives the path of each row, for messages.
        clip: raise negative eigenvalues to their absolute value instead of refusing them.

    Returns:
        precision: H, or the clipped H.
        added: the largest amount added to an eigenvalue of the scaled matrix; zero where nothing was.

    Raises:
        SingularCurvatureError: a flat direction, or a negative one without `clip`; `negative` tells which.
    """
    sound = _well_conditioned(matrix)
    if sound is not None:
        return Full(sound), 0.0
    values, vectors, scales = scaled_spectrum(matrix)
    flat = np.abs(values) <= FLAT
    if flat.any():
        raise SingularCurvatureError(
            f"Expected curvature in every direction; got {int(flat.sum())} flat direction(s) along "
            f"{', '.join(flat_paths(vectors[:, flat], names()))}. Give these parameters a prior, or drop one of them."
        )
    if values[0] > 0:
        return Full(np.linalg.cholesky(matrix)), 0.0
    if not clip:
        raise SingularCurvatureError(
            f"Expected a maximum; got {int((values < 0).sum())} direction(s) of negative curvature along "
            f"{', '.join(flat_paths(vectors[:, values < 0], names()))}.",
            negative=True,
        )
    root = (vectors * np.sqrt(np.abs(values))).T * scales
    lower = np.asarray(np.linalg.qr(root, mode="r")).T
    return Full(lower * np.sign(np.diag(lower))), float(np.max(np.abs(values) - values))


def _well_conditioned(matrix: Float[np.ndarray, "p p"]) -> np.ndarray | None:
    """L of H = L L' where the scaled H is far from singular, by its condition number: cheaper than a spectrum."""
    diagonal = np.diag(matrix)
    if not (np.all(np.isfinite(matrix)) and np.all(diagonal > 0)):
        return None
    scales = np.sqrt(diagonal)
    scaled = matrix / scales
    scaled /= scales[:, None]
    norm = np.abs(scaled).sum(axis=1).max()
    potrf, pocon = get_lapack_funcs(("potrf", "pocon"), (scaled,))
    lower, failed = potrf(scaled.T, lower=1, clean=1, overwrite_a=1)  # the transpose is equal, and in LAPACK's order
    # 1 / |H^-1| is within a factor of ten of what LAPACK estimates, and bounds the smallest eigenvalue from below.
    if failed or pocon(lower, norm, uplo="L")[0] * norm < 100 * FLAT:
        return None
    return lower * scales[:, None]
