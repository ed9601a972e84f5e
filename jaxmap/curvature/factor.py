"""From a curvature matrix to a Gaussian: the ladder, declared and never silent."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float

FLAT = 1e-11
"""A curvature below this, after scaling to a unit diagonal, is flat in float64."""


class SingularCurvatureError(ValueError):
    """The curvature is flat in some direction, so there is no Gaussian; the message names the parameters."""


@dataclass(frozen=True, eq=False)
class Factor:
    """A Gaussian's precision H = L L' and how it came about.

    Attributes:
        chol_prec: L, lower triangular, (p, p) float64.
        rung: "as it is" or "eigenvalues clipped".
        added: the largest amount added to an eigenvalue of the scaled matrix; zero where nothing was.
    """

    chol_prec: np.ndarray
    rung: str = "as it is"
    added: float = 0.0

    @property
    def log_det(self) -> float:
        """Log det H."""
        return 2.0 * float(np.sum(np.log(np.diag(self.chol_prec))))

    def whiten_inverse(self, vectors: np.ndarray) -> np.ndarray:
        """L'^-1 v for columns v of shape (p, n): standard normals become draws around zero."""
        return scipy.linalg.solve_triangular(self.chol_prec, vectors, lower=True, trans=1)

    def covariance(self) -> np.ndarray:
        """H^-1, (p, p)."""
        inverse = scipy.linalg.solve_triangular(self.chol_prec, np.eye(len(self.chol_prec)), lower=True)
        return inverse.T @ inverse


def scaled_spectrum(matrix: Float[np.ndarray, "p p"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues and vectors after scaling to a unit diagonal, and the scales sqrt|diag|.

    Raises:
        SingularCurvatureError: entries that are not finite.
    """
    if not np.all(np.isfinite(matrix)):
        raise SingularCurvatureError(
            "Expected a finite curvature; got NaN or infinity in the second derivatives. "
            "Look for a square root, a norm or a clip at its corner."
        )
    diagonal = np.abs(np.diag(matrix))
    scales = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    values, vectors = np.linalg.eigh(matrix / np.outer(scales, scales))
    return values, vectors, scales


def flat_paths(vectors: np.ndarray, names: list[str]) -> tuple[str, ...]:
    """Name the parameters that carry a set of directions (columns), largest share first, at most eight."""
    share = np.sum(vectors**2, axis=1)
    order = np.argsort(-share)
    return tuple(dict.fromkeys(names[i] for i in order if share[i] > 0.05))[:8]


def factorize(matrix: Float[np.ndarray, "p p"], names: list[str], *, clip: bool = False) -> Factor:
    """Factor a negative Hessian, judged after scaling to a unit diagonal.

    Args:
        matrix: H, symmetric.
        names: the path of each row, for messages.
        clip: raise negative eigenvalues to their absolute value instead of refusing them.

    Returns:
        factor: of H, or of the clipped H.

    Raises:
        SingularCurvatureError: a flat direction, or a negative one without `clip`; `negative` tells which.
    """
    values, vectors, scales = scaled_spectrum(matrix)
    flat = np.abs(values) <= FLAT
    if flat.any():
        raise SingularCurvatureError(
            f"Expected curvature in every direction; got {int(flat.sum())} flat direction(s) along "
            f"{', '.join(flat_paths(vectors[:, flat], names))}. Give these parameters a prior, or drop one of them."
        )
    if values[0] > 0:
        return Factor(np.linalg.cholesky(matrix))
    if not clip:
        raise SingularCurvatureError(
            f"Expected a maximum; got {int((values < 0).sum())} direction(s) of negative curvature along "
            f"{', '.join(flat_paths(vectors[:, values < 0], names))}."
        )
    root = (vectors * np.sqrt(np.abs(values))).T * scales
    lower = np.asarray(np.linalg.qr(root, mode="r")).T
    return Factor(lower * np.sign(np.diag(lower)), "eigenvalues clipped", float(np.max(np.abs(values) - values)))
