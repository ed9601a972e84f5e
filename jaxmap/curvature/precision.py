"""Precisions: what a Gaussian's H can be made of, each with the algebra that its structure makes cheap."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

from jaxmap.curvature.kronecker import Kronecker

Vectors = Float[np.ndarray, "p n"]


@runtime_checkable
class Precision(Protocol):
    """The precision H of a Gaussian over p unconstrained coordinates in ravel order, and C = H^-1.

    `whiten` is W' v and `color` W'^-1 v for one W with H = W W': standard normals colored are draws around zero, and
    |W' v|^2 = v' H v. Vectors are columns, (p, n), and keep their dtype where the structure's own allows.
    """

    @property
    def size(self) -> int:
        """How many coordinates."""
        ...

    @property
    def log_det(self) -> float:
        """Log det H."""
        ...

    def whiten(self, vectors: Vectors) -> Vectors:
        """W' v."""
        ...

    def color(self, vectors: Vectors) -> Vectors:
        """W'^-1 v."""
        ...

    def solve(self, vectors: Vectors) -> Vectors:
        """C v."""
        ...

    def variances(self) -> Float[np.ndarray, " p"]:
        """The diagonal of C."""
        ...

    def packed(self, arrays: dict[str, np.ndarray], name: str) -> dict[str, Any]:
        """As plain values; the arrays go to `arrays` under names that begin with `name`."""
        ...


@dataclass(frozen=True, eq=False)
class Full:
    """H = L L'.

    Attributes:
        chol_prec: L, lower triangular, (p, p) float64.
    """

    chol_prec: Float[np.ndarray, "p p"]

    @property
    def size(self) -> int:  # noqa: D102
        return len(self.chol_prec)

    @property
    def log_det(self) -> float:  # noqa: D102
        return 2.0 * float(np.sum(np.log(np.diag(self.chol_prec))))

    def whiten(self, vectors: Vectors) -> Vectors:  # noqa: D102
        return self.chol_prec.T @ vectors

    def color(self, vectors: Vectors) -> Vectors:  # noqa: D102
        return scipy.linalg.solve_triangular(self.chol_prec, vectors, lower=True, trans=1)

    def solve(self, vectors: Vectors) -> Vectors:  # noqa: D102
        return scipy.linalg.cho_solve((self.chol_prec, True), vectors)

    @cached_property
    def root(self) -> Float[np.ndarray, "p p"]:
        """L'^-1, a root of the covariance."""
        (trtri,) = scipy.linalg.get_lapack_funcs(("trtri",), (self.chol_prec,))
        return trtri(self.chol_prec, lower=1)[0].T

    def variances(self) -> Float[np.ndarray, " p"]:  # noqa: D102
        return np.sum(self.root**2, axis=1)

    def packed(self, arrays: dict[str, np.ndarray], name: str) -> dict[str, Any]:  # noqa: D102
        arrays[f"{name}/chol_prec"] = self.chol_prec
        return {"structure": "full"}

    @classmethod
    def from_packed(cls, header: dict[str, Any], arrays: dict[str, np.ndarray], name: str) -> "Full":
        """The inverse of `packed`."""
        return cls(arrays[f"{name}/chol_prec"])


@dataclass(frozen=True, eq=False)
class Diagonal:
    """H = diag(h).

    Attributes:
        diagonal: h, positive.
    """

    diagonal: Float[np.ndarray, " p"]

    @property
    def size(self) -> int:  # noqa: D102
        return len(self.diagonal)

    @property
    def log_det(self) -> float:  # noqa: D102
        return float(np.sum(np.log(np.asarray(self.diagonal, np.float64))))

    def whiten(self, vectors: Vectors) -> Vectors:  # noqa: D102
        return np.sqrt(self.diagonal)[:, None] * vectors

    def color(self, vectors: Vectors) -> Vectors:  # noqa: D102
        return vectors / np.sqrt(self.diagonal)[:, None]

    def solve(self, vectors: Vectors) -> Vectors:  # noqa: D102
        return vectors / self.diagonal[:, None]

    def variances(self) -> Float[np.ndarray, " p"]:  # noqa: D102
        return 1.0 / self.diagonal

    def packed(self, arrays: dict[str, np.ndarray], name: str) -> dict[str, Any]:  # noqa: D102
        arrays[f"{name}/diagonal"] = self.diagonal
        return {"structure": "diagonal"}

    @classmethod
    def from_packed(cls, header: dict[str, Any], arrays: dict[str, np.ndarray], name: str) -> "Diagonal":
        """The inverse of `packed`."""
        return cls(arrays[f"{name}/diagonal"])


@dataclass(frozen=True, eq=False)
class LowRank:
    """H = S (I + Q diag(l) Q') S: low rank plus diagonal.

    Attributes:
        scales: the diagonal of S, positive, (p,).
        basis: Q, orthonormal columns, (p, r).
        values: l, each above -1, (r,).
    """

    scales: Float[np.ndarray, " p"]
    basis: Float[np.ndarray, "p r"]
    values: Float[np.ndarray, " r"]

    @property
    def size(self) -> int:  # noqa: D102
        return len(self.scales)

    @property
    def log_det(self) -> float:  # noqa: D102
        scales = np.asarray(self.scales, np.float64)
        return float(2.0 * np.sum(np.log(scales)) + np.sum(np.log1p(np.asarray(self.values, np.float64))))

    def _power(self, vectors: Vectors, power: float) -> Vectors:
        """(I + Q diag(l) Q')^power v."""
        stretch = np.expm1(power * np.log1p(self.values))
        return vectors + self.basis @ (stretch[:, None] * (self.basis.T @ vectors))

    def whiten(self, vectors: Vectors) -> Vectors:  # noqa: D102
        return self._power(self.scales[:, None] * vectors, 0.5)

    def color(self, vectors: Vectors) -> Vectors:  # noqa: D102
        return self._power(vectors, -0.5) / self.scales[:, None]

    def solve(self, vectors: Vectors) -> Vectors:  # noqa: D102
        return self._power(vectors / self.scales[:, None], -1.0) / self.scales[:, None]

    def variances(self) -> Float[np.ndarray, " p"]:  # noqa: D102
        shrink = self.values / (1.0 + self.values)
        return (1.0 - np.einsum("pr,r,pr->p", self.basis, shrink, self.basis)) / self.scales**2

    def packed(self, arrays: dict[str, np.ndarray], name: str) -> dict[str, Any]:  # noqa: D102
        arrays |= {f"{name}/{part}": getattr(self, part) for part in ("scales", "basis", "values")}
        return {"structure": "low_rank"}

    @classmethod
    def from_packed(cls, header: dict[str, Any], arrays: dict[str, np.ndarray], name: str) -> "LowRank":
        """The inverse of `packed`."""
        return cls(*(arrays[f"{name}/{part}"] for part in ("scales", "basis", "values")))


@dataclass(frozen=True, eq=False)
class Conditional:
    """The Gaussian of some coordinates given the others, which stay where they are: their variance is zero.

    `log_det` and `whiten` are those of the moving coordinates alone.

    Attributes:
        positions: of the moving coordinates, in ravel order.
        inner: their precision.
        size: of all coordinates.
    """

    positions: Int[np.ndarray, " m"]
    inner: Precision
    size: int

    @property
    def log_det(self) -> float:  # noqa: D102
        return self.inner.log_det

    def whiten(self, vectors: Vectors) -> Vectors:
        """W' of what moves, zero elsewhere."""
        return self._within(self.inner.whiten, vectors)

    def color(self, vectors: Vectors) -> Vectors:  # noqa: D102
        return self._within(self.inner.color, vectors)

    def solve(self, vectors: Vectors) -> Vectors:  # noqa: D102
        return self._within(self.inner.solve, vectors)

    def variances(self) -> Float[np.ndarray, " p"]:  # noqa: D102
        inner = self.inner.variances()
        found = np.zeros(self.size, inner.dtype)
        found[self.positions] = inner
        return found

    def _within(self, part: Any, vectors: Vectors) -> Vectors:
        found = np.zeros_like(vectors)
        found[self.positions] = part(vectors[self.positions])
        return found

    def packed(self, arrays: dict[str, np.ndarray], name: str) -> dict[str, Any]:  # noqa: D102
        arrays[f"{name}/positions"] = self.positions
        return {"structure": "conditional", "size": self.size, "inner": self.inner.packed(arrays, f"{name}/inner")}

    @classmethod
    def from_packed(cls, header: dict[str, Any], arrays: dict[str, np.ndarray], name: str) -> "Conditional":
        """The inverse of `packed`."""
        inner = unpack_precision(header["inner"], arrays, f"{name}/inner")
        return cls(arrays[f"{name}/positions"], inner, header["size"])


STRUCTURES: dict[str, Any] = {
    "full": Full,
    "diagonal": Diagonal,
    "low_rank": LowRank,
    "kronecker": Kronecker,
    "conditional": Conditional,
}


def unpack_precision(header: dict[str, Any], arrays: dict[str, np.ndarray], name: str) -> Precision:
    """The inverse of any precision's `packed`."""
    return STRUCTURES[header["structure"]].from_packed(header, arrays, name)


def moving_size(precision: Precision) -> int:
    """How many coordinates have a variance."""
    return len(precision.positions) if isinstance(precision, Conditional) else precision.size


def leaves_that_move(precision: Precision, sizes: Sequence[int]) -> tuple[int, ...] | None:
    """The numbers, in flattening order, of the leaves that have a variance; None for all.

    Args:
        precision: over all coordinates.
        sizes: of the leaves.
    """
    if not isinstance(precision, Conditional):
        return None
    begins = np.cumsum([0, *sizes])[:-1]
    return tuple(int(k) for k in np.flatnonzero(np.isin(begins, precision.positions)))
