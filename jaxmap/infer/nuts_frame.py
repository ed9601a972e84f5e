"""Frames: affine coordinates in which a sampler moves, and how they are learned from draws and gradients."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

DENSE_LEARNED_UP_TO = 200
"""Parameters for which a full matrix is learned."""

DRAWS_PER_PARAMETER = 5
"""Draws per parameter from which a full matrix is learned; from fewer, a diagonal one."""

RIDGE = 1e-13
"""Added to both moment matrices, in units where they have unit diagonals."""


class Frame(NamedTuple):
    """The map position -> unconstrained vector, mean + root @ position; a root of one axis is a diagonal.

    Attributes:
        mean: (P,).
        root: (P, P), or (P,).
    """

    mean: Any
    root: Any

    def place(self, position: Any) -> Any:
        """The unconstrained vector of a position."""
        return self.mean + (self.root * position if self.root.ndim == 1 else self.root @ position)

    def positions(self, z: np.ndarray) -> np.ndarray:
        """The positions of unconstrained vectors, (n, P), in float64."""
        moves = np.asarray(z, np.float64) - np.asarray(self.mean, np.float64)
        root = np.asarray(self.root, np.float64)
        return moves / root if root.ndim == 1 else np.linalg.solve(root, moves.T).T

    def vectors(self, positions: Any) -> np.ndarray:
        """The unconstrained vectors of positions (..., P), in float64: the inverse of `positions`."""
        x, root = np.asarray(positions, np.float64), np.asarray(self.root, np.float64)
        return np.asarray(self.mean, np.float64) + (x * root if root.ndim == 1 else x @ root.T)

    def as_matrix(self) -> "Frame":
        """The same map with a root of two axes."""
        return self if np.ndim(self.root) == 2 else Frame(self.mean, np.diag(np.asarray(self.root)))


def learn_frame(frame: Frame, positions: np.ndarray, slopes: np.ndarray) -> Frame:
    """The frame in which draws and gradients of the log density have the same covariance.

    In coordinates x with gradients g that is x = S^(1/2) x', S the geometric mean of Cov(x) and Cov(g)^-1, the only
    positive matrix with S Cov(g) S = Cov(x). It minimises the Fisher divergence from N(mean, S) (Seyboldt, Carlson
    and Carpenter, 2024), and for a Gaussian density it is the covariance itself, exactly, from any P + 1 draws. From
    few draws only the diagonal is learned, S_ii = sqrt(Var x_i / Var g_i).

    Args:
        frame: the coordinates of the draws.
        positions: draws in it, (n, P).
        slopes: gradients of the log density in it, (n, P).

    Returns:
        frame: the old one where the draws do not move or are not finite.
    """
    x, g = np.asarray(positions, np.float64), np.asarray(slopes, np.float64)
    with np.errstate(all="ignore"):
        scales = (x.var(axis=0) / g.var(axis=0)) ** 0.25
    if not (np.all(np.isfinite(scales)) and np.all(scales > 0)):
        return frame
    mean, root = np.asarray(frame.mean, np.float64), np.asarray(frame.root, np.float64)
    center = mean + (root * x.mean(axis=0) if root.ndim == 1 else root @ x.mean(axis=0))
    count, size = x.shape
    if size > DENSE_LEARNED_UP_TO or count < DRAWS_PER_PARAMETER * size:
        return Frame(center, root * scales)  # of a matrix, its columns
    stretch = scales[:, None] * _root_of_mean(np.cov((x / scales).T), np.cov((g * scales).T))
    return Frame(center, root[:, None] * stretch if root.ndim == 1 else root @ stretch)


def _root_of_mean(of_draws: np.ndarray, of_slopes: np.ndarray) -> np.ndarray:
    """The symmetric root of the geometric mean of A and B^-1: B^(-1/2) (B^(1/2) A B^(1/2))^(1/2) B^(-1/2)."""
    a, b = np.atleast_2d(of_draws), np.atleast_2d(of_slopes)
    ridge = RIDGE * np.eye(len(a))
    root = _power(b + ridge * np.trace(b) / len(b), 0.5)
    inverse = _power(root, -1.0)
    middle = _power(root @ (a + ridge * np.trace(a) / len(a)) @ root, 0.5)
    return _power(inverse @ middle @ inverse, 0.5)


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    return (vectors * np.maximum(values, np.finfo(float).tiny) ** exponent) @ vectors.T


def stacked(frames: Sequence[Frame]) -> Frame:
    """The frames of several seeds as one, on a leading axis, in float64."""
    return Frame(*(np.stack([np.asarray(v, np.float64) for v in leaves]) for leaves in zip(*frames, strict=True)))


def each_of(frames: Frame) -> list[Frame]:
    """The inverse of `stacked`."""
    mean, root = (np.asarray(leaf, np.float64) for leaf in frames)
    return [Frame(m, r) for m, r in zip(mean, root, strict=True)]


def to_device(frame: Frame, dtype: Any) -> Frame:
    """The frame, or several that are stacked, in the computing dtype."""
    return Frame(jnp.asarray(frame.mean, dtype), jnp.asarray(frame.root, dtype))
