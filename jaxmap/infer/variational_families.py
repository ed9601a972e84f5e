"""Families of Gaussians for variational inference, in coordinates u that the curvature at the start makes plain."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmap.curvature import Diagonal, Full, LowRank, Precision
from jaxmap.types import Key

Numbers = dict[str, Any]
"""What a climb moves: arrays by name, `mean` and `log_scale` among them."""

Rows = Float[Array, "m p"] | Float[np.ndarray, "m p"]

FIRST_FACTOR = 0.1
"""The length of each random column of a low-rank factor, where no curvature tells where to begin."""


class Frame(NamedTuple):
    """The affine map z = center + root u, in which a Gaussian at the start has about unit curvature.

    Attributes:
        center: of z, (p,).
        root: (p, p), or (p,) where it is diagonal.
        turn: a root of the whole inverse curvature in u, (p, p): steps of the mean along its columns are Newton steps,
            whatever the family; None: the identity.
        coupling: the curvature at the start in u without its diagonal, (p, p); None: unknown.
        log_volume: log |det root|, ().
    """

    center: Any
    root: Any
    turn: Any
    coupling: Any
    log_volume: Any

    def place(self, u: Rows) -> Rows:
        """The rows of u as rows of z."""
        moved = u * self.root[None] if self.root.ndim == 1 else u @ self.root.T
        return self.center[None] + moved

    def pull(self, slopes: Float[Array, "m p"]) -> Float[Array, "m p"]:
        """Gradients with respect to the rows of u, from those with respect to z."""
        return slopes * self.root[None] if self.root.ndim == 1 else slopes @ self.root

    def inward(self, numbers: Numbers, slope: Numbers) -> Numbers:
        """The gradient in units of the present scale, the mean's along the columns of `turn`."""
        found = {name: _scaled(numbers, name, part) for name, part in slope.items()}
        return found if self.turn is None else found | {"mean": self.turn.T @ found["mean"]}

    def outward(self, numbers: Numbers, step: Numbers) -> Numbers:
        """A step of the numbers, from one in these units."""
        turned = step if self.turn is None else step | {"mean": self.turn @ step["mean"]}
        return {name: _scaled(numbers, name, part) for name, part in turned.items()}


@runtime_checkable
class Family(Protocol):
    """A set of Gaussians in u; their numbers: the mean, the log of a scale and, row by row, what is of that scale."""

    def width(self, size: int) -> int:
        """How many standard normals a draw takes."""
        ...

    def begin(self, size: int, curvature: Any, key: Key) -> Numbers:
        """The first numbers, in float64, from the curvature in u, (p, p) or None."""
        ...

    def moves(self, numbers: Numbers, noise: Float[Array, "m w"]) -> Float[Array, "m p"]:
        """Draws around zero in u, from standard normals."""
        ...

    def log_prob(self, numbers: Numbers, moves: Float[Array, "m p"]) -> Float[Array, " m"]:
        """Log density of draws around zero in u."""
        ...

    def precision(self, numbers: Numbers, frame: Frame) -> Precision:
        """H in z, in float64."""
        ...


@dataclass(frozen=True)
class MeanField:
    """C = diag(s^2) in z."""

    def width(self, size: int) -> int:  # noqa: D102
        return size

    def begin(self, size: int, curvature: Any, key: Key) -> Numbers:  # noqa: D102
        return {"mean": np.zeros(size), "log_scale": np.zeros(size)}

    def moves(self, numbers: Numbers, noise: Float[Array, "m w"]) -> Float[Array, "m p"]:  # noqa: D102
        return noise * jnp.exp(numbers["log_scale"])[None]

    def log_prob(self, numbers: Numbers, moves: Float[Array, "m p"]) -> Float[Array, " m"]:  # noqa: D102
        white = moves * jnp.exp(-numbers["log_scale"])[None]
        return _log_normal(jnp.sum(white**2, axis=1), jnp.sum(numbers["log_scale"]), moves.shape[1])

    def precision(self, numbers: Numbers, frame: Frame) -> Diagonal:  # noqa: D102
        return Diagonal((frame.root * np.exp(numbers["log_scale"])) ** -2.0)


@dataclass(frozen=True)
class LowRankFamily:
    """C = S (D^2 + W W') S in z, S the frame's diagonal, D diagonal, W (p, rank).

    Attributes:
        rank: columns of W.
    """

    rank: int

    def width(self, size: int) -> int:  # noqa: D102
        return size + min(self.rank, size)

    def begin(self, size: int, curvature: Any, key: Key) -> Numbers:
        """The leading eigenvectors of the covariance and what they leave of its diagonal; without one, at random."""
        rank, mean = min(self.rank, size), np.zeros(size)
        if curvature is None:
            columns = np.asarray(jax.random.normal(key, (size, rank)), np.float64)
            return {"mean": mean, "log_scale": np.zeros(size), "factor": FIRST_FACTOR * columns / np.sqrt(size)}
        values, vectors = np.linalg.eigh(curvature)
        spread = 1.0 / values
        floor = 0.5 * spread.min()
        factor = vectors[:, :rank] * np.sqrt(spread[:rank] - floor)
        scales = np.sqrt((vectors**2) @ spread - np.sum(factor**2, axis=1))
        return {"mean": mean, "log_scale": np.log(scales), "factor": factor}

    def moves(self, numbers: Numbers, noise: Float[Array, "m w"]) -> Float[Array, "m p"]:  # noqa: D102
        size = len(numbers["log_scale"])
        return noise[:, :size] * jnp.exp(numbers["log_scale"])[None] + noise[:, size:] @ numbers["factor"].T

    def log_prob(self, numbers: Numbers, moves: Float[Array, "m p"]) -> Float[Array, " m"]:
        """By the Woodbury identity, (I + V V')^-1 = I - V (I + V'V)^-1 V' with V = D^-1 W."""
        inverse = jnp.exp(-numbers["log_scale"])
        white, factor = moves * inverse[None], numbers["factor"] * inverse[:, None]
        chol = jnp.linalg.cholesky(jnp.eye(factor.shape[1], dtype=factor.dtype) + factor.T @ factor)
        inner = jax.scipy.linalg.solve_triangular(chol, factor.T @ white.T, lower=True)
        log_root = jnp.sum(numbers["log_scale"]) + jnp.sum(jnp.log(jnp.diagonal(chol)))
        return _log_normal(jnp.sum(white**2, axis=1) - jnp.sum(inner**2, axis=0), log_root, moves.shape[1])

    def precision(self, numbers: Numbers, frame: Frame) -> LowRank:  # noqa: D102
        inverse = np.exp(-numbers["log_scale"])
        basis, stretch, _ = np.linalg.svd(numbers["factor"] * inverse[:, None], full_matrices=False)
        return LowRank(inverse / frame.root, basis, -(stretch**2) / (1.0 + stretch**2))


@dataclass(frozen=True)
class FullFamily:
    """C = R T T' R' in z, R the frame's root, T lower triangular."""

    def width(self, size: int) -> int:  # noqa: D102
        return size

    def begin(self, size: int, curvature: Any, key: Key) -> Numbers:  # noqa: D102
        return {"mean": np.zeros(size), "log_scale": np.zeros(size), "lower": np.zeros((size, size))}

    def moves(self, numbers: Numbers, noise: Float[Array, "m w"]) -> Float[Array, "m p"]:  # noqa: D102
        return noise @ _triangle(numbers).T

    def log_prob(self, numbers: Numbers, moves: Float[Array, "m p"]) -> Float[Array, " m"]:  # noqa: D102
        white = jax.scipy.linalg.solve_triangular(_triangle(numbers), moves.T, lower=True)
        return _log_normal(jnp.sum(white**2, axis=0), jnp.sum(numbers["log_scale"]), moves.shape[1])

    def precision(self, numbers: Numbers, frame: Frame) -> Full:
        """H = K'K with K = (R T)^-1, brought to L L' by a QR decomposition of K."""
        triangle = np.tril(numbers["lower"], -1) + np.diag(np.exp(numbers["log_scale"]))
        root = frame.root[:, None] * triangle if frame.root.ndim == 1 else frame.root @ triangle
        lower = np.asarray(np.linalg.qr(np.linalg.inv(root), mode="r")).T
        return Full(lower * np.sign(np.diag(lower)))


def frame_of(center: np.ndarray, curvature: np.ndarray, family: Family) -> tuple[Frame, Any]:
    """The frame of a start, and the curvature there in u.

    Args:
        center: z, (p,).
        curvature: H of -log density at z, positive definite (p, p); or its diagonal, (p,).
        family: what the frame is for; the full one takes a root of the whole curvature, the others its diagonal.

    Returns:
        frame: in float64.
        inside: R'HR with R the frame's root, (p, p); None where only the diagonal is known.
    """
    if curvature.ndim == 1:
        scales = curvature**-0.5
        return Frame(center, scales, None, None, np.sum(np.log(scales))), None
    scales = np.diag(curvature) ** -0.5
    scaled = curvature * np.outer(scales, scales)
    turn = np.linalg.inv(np.linalg.cholesky(scaled)).T
    if isinstance(family, FullFamily):
        volume = np.sum(np.log(scales)) + np.sum(np.log(np.diag(turn)))
        return Frame(center, scales[:, None] * turn, None, None, volume), np.eye(len(center))
    coupling = scaled - np.diag(np.diag(scaled)) if isinstance(family, MeanField) else None
    return Frame(center, scales, turn, coupling, np.sum(np.log(scales))), scaled


def narrowed(numbers: Numbers, factor: Any) -> Numbers:
    """The same Gaussians with their standard deviations divided by a factor, one per leading index or one for all."""
    parts = {name: part for name, part in numbers.items() if name not in ("mean", "log_scale")}
    smaller = {name: part / (factor[..., None, None] if np.ndim(factor) else factor) for name, part in parts.items()}
    less = np.log(factor)[..., None] if np.ndim(factor) else np.log(factor)
    return numbers | {"log_scale": numbers["log_scale"] - less} | smaller


def _triangle(numbers: Numbers) -> Float[Array, "p p"]:
    return jnp.tril(numbers["lower"], -1) + jnp.diag(jnp.exp(numbers["log_scale"]))


def _scaled(numbers: Numbers, name: str, part: Any) -> Any:
    """Row by row times the scale; the log of the scale itself is a ratio already."""
    scale = jnp.exp(numbers["log_scale"])
    return part if name == "log_scale" else part * (scale if part.ndim == 1 else scale[:, None])


def _log_normal(square: Float[Array, " m"], log_root: Float[Array, ""], size: int) -> Float[Array, " m"]:
    return -0.5 * square - log_root - 0.5 * size * jnp.log(2 * jnp.pi)
