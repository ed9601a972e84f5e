"""Gaussian posteriors, in unconstrained coordinates."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxmap.curvature import Conditional, Full, Precision, leaves_that_move, moving_size, unpack_precision
from jaxmap.infer.delta_method import carry
from jaxmap.infer.grade import Grade
from jaxmap.infer.posteriors import Particles, equal_weights, line_of
from jaxmap.infer.storage import (
    Saved,
    pack_info,
    pack_tree,
    space_of,
    unpack_info,
    unpack_tree,
    write_saved,
)
from jaxmap.infer.summary import Summary, estimate_columns, fit_header, notes, status_note, summarize, title_of
from jaxmap.model import Space
from jaxmap.trees import check_key, float_dtype, precision_scope, settled
from jaxmap.types import Info, Key, Params


@dataclass(frozen=True, eq=False)
class Covariance:
    """C = H^-1 as an operator; `dense()` writes it out."""

    precision: Precision

    @property
    def shape(self) -> tuple[int, int]:
        """(p, p)."""
        return self.precision.size, self.precision.size

    def dense(self) -> np.ndarray:
        """The matrix, (p, p)."""
        if isinstance(self.precision, Full):
            return self.precision.root @ self.precision.root.T
        return self @ np.eye(self.shape[0])

    def diagonal(self) -> np.ndarray:
        """The variances, (p,)."""
        return np.asarray(self.precision.variances(), np.float64)

    def block(self, begin: int, end: int) -> np.ndarray:
        """C[begin:end, begin:end]."""
        units = np.zeros((self.shape[0], end - begin))
        units[begin:end] = np.eye(end - begin)
        return (self @ units)[begin:end]

    def __matmul__(self, vectors: np.ndarray) -> np.ndarray:
        columns = np.asarray(vectors)
        found = self.precision.solve(columns[:, None] if columns.ndim == 1 else columns)
        return found[:, 0] if columns.ndim == 1 else found


@dataclass(frozen=True, eq=False)
class GaussianPosterior:
    """N(mean, covariance) in unconstrained coordinates.

    Attributes:
        mean: unconstrained coordinates, a tree.
        precision: H, in ravel order of `mean`, in the structure that was asked for.
        space: the way back to the user's parameters.
        info: how it was found.
        log_evidence: log of the integral of the joint density, in nats: by Laplace's formula, or the bound that a
            variational fit reached. Where only some leaves move, of the density of these given the others.
        linearised: True where the curvature is that of the linearised network, which then predicts best.
        prior: False where it is the Gaussian of a likelihood alone, around an MLE.
        grade: how good the approximation is; None where it was not graded.
    """

    mean: Any
    precision: Precision
    space: Space = field(repr=False)
    info: Info
    log_evidence: float
    linearised: bool = False
    prior: bool = True
    grade: Grade | None = None

    @cached_property
    def dtype(self) -> Any:
        """The dtype of the parameters."""
        return float_dtype(self.mean)

    @property
    def mode(self) -> Params:
        """The image of the mean in the user's space."""
        with precision_scope(self.dtype):
            return settled(self.space.constrain(self.mean))

    @property
    def covariance(self) -> "Covariance":
        """The covariance over the unconstrained dimensions, as an operator."""
        return Covariance(self.precision)

    @property
    def moving(self) -> tuple[int, ...] | None:
        """The numbers, in flattening order, of the leaves that have a variance; None for all."""
        return leaves_that_move(self.precision, [int(np.size(leaf)) for leaf in jax.tree.leaves(self.mean)])

    def distance(self, z: Any) -> float:
        """|W'(z - mean)|: how far coordinates are from the mean, in posterior standard deviations.

        Infinite where only some leaves move and another one differs from the mean.
        """
        move = self._move(z)
        return np.inf if move is None else float(np.linalg.norm(self.precision.whiten(move[:, None])))

    def _move(self, z: Any) -> np.ndarray | None:
        """From the mean to z; None where a coordinate differs that has no variance."""
        leaves = ([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(t)] for t in (z, self.mean))
        flat, mean = map(np.concatenate, leaves)
        if isinstance(self.precision, Conditional):
            held = np.delete(np.arange(len(mean)), self.precision.positions)
            if np.any(np.abs(flat - mean)[held] > 1e-6 * np.maximum(1.0, np.abs(mean[held]))):
                return None
        return flat - mean

    def sample_unconstrained(self, key: Key, n: int) -> Any:
        """Draw n coordinate trees, stacked."""
        with precision_scope(self.dtype):
            flat, unravel = ravel_pytree(self.mean)
            noise = np.asarray(jax.random.normal(key, (n, flat.size), self.dtype))
            z = np.asarray(flat)[None] + self.precision.color(noise.T).T
            return settled(jax.vmap(unravel)(jnp.asarray(z, self.dtype)))

    def sample(self, key: Key, n: int) -> Params:
        """Draw n parameter trees, stacked on a leading axis."""
        with precision_scope(self.dtype):
            z = jax.tree.map(jnp.asarray, self.sample_unconstrained(key, n))
            return settled(jax.vmap(self.space.constrain)(z))

    def particles(self, key: Key, draws: int | None) -> Particles:
        """256 equally weighted draws, or as many as are asked for."""
        count = 256 if draws is None else draws
        return Particles(self.sample(key, count), equal_weights(count))

    def log_prob(self, params: Params) -> float:
        """Log density of the approximation at params, in the user's space (Jacobian included).

        Where only some leaves move it is that of these, and -inf where another one differs from the mode.
        """
        with jax.enable_x64(True):
            z = self.space.unconstrain(jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), params))
            move = self._move(z)
            if move is None:
                return -np.inf
            size, white = moving_size(self.precision), self.precision.whiten(move[:, None])
            log_normal = 0.5 * self.precision.log_det - 0.5 * size * np.log(2 * np.pi) - 0.5 * np.sum(white**2)
            return float(log_normal - self.space.log_jacobian(z))

    def summary(self, level: float = 0.95) -> Summary:
        """Tabulate estimates, posterior standard deviations and intervals by path, in the user's space.

        By the delta method, as in `Point.summary`. The Gaussian of a likelihood alone, of `Laplace(MLE())`, has
        standard errors and Wald tests instead: with `hessian="exact"` those of `MLE`'s own summary.
        """
        covariance = self.covariance
        spread = carry(self.space, self.mean, covariance.diagonal(), covariance.block, level)
        columns = estimate_columns(self.mode, spread, level, posterior=self.prior)
        header = fit_header(self.info, moving_size(self.precision), None, self.prior)
        evidence = f"log evidence {self.log_evidence:.4f}." if self.prior else ""
        said = notes([status_note(self.info), evidence, *self.info.notes])
        return summarize(title_of(self.info), columns, said, header)

    def to_arviz(self, key: Key, draws: int = 1000, *, model: Any = None, data: Any = None) -> Any:
        """Draw from it, and hand the draws over to ArviZ as one chain; see `Draws.to_arviz`."""
        from jaxmap.interop import inference_data

        params = self.sample(check_key(key, "to_arviz"), draws)
        chain = jax.tree.map(lambda leaf: np.asarray(leaf)[None], params)
        return inference_data(chain, self.info, model=model, data=data)

    def packed(self) -> Saved:
        """As plain values and arrays."""
        arrays: dict[str, np.ndarray] = {}
        header: dict[str, Any] = {"kind": "GaussianPosterior", "precision": self.precision.packed(arrays, "precision")}
        header |= {"log_evidence": self.log_evidence, "linearised": self.linearised, "prior": self.prior}
        header |= {"info": pack_info(self.info, arrays), "mean": pack_tree(self.mean, "mean", arrays)}
        header |= {"grade": None if self.grade is None else pack_grade(self.grade, arrays)}
        return Saved(header | {"space": self.space.to_plain()}, arrays)

    @classmethod
    def from_saved(cls, saved: Saved, model: Any = None) -> "GaussianPosterior":
        """The inverse of `packed`.

        Raises:
            ValueError: saved by a version whose Gaussians had another form.
        """
        if "precision" not in saved.header:
            raise ValueError("Expected a Gaussian saved by this version; got one of an earlier one. Fit it again.")
        header, arrays, start = saved.header, saved.arrays, None if model is None else model.start
        mean = unpack_tree(header["mean"], "mean", arrays, start)
        precision = unpack_precision(header["precision"], arrays, "precision")
        info = unpack_info(header["info"], arrays)
        grade = None if header["grade"] is None else unpack_grade(header["grade"], arrays, start)
        flags = (header["linearised"], header["prior"], grade)
        return cls(mean, precision, space_of(header, mean, model), info, header["log_evidence"], *flags)

    def save(self, folder: str | Path) -> Path:
        """Write to a folder, atomically; `jm.load` reads it."""
        return write_saved(folder, self.packed())

    def __repr__(self) -> str:
        return f"GaussianPosterior({line_of(self.info)})"


def pack_grade(grade: Grade, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """A grade as plain values; its trees go to the arrays."""
    numbers = {name: getattr(grade, name) for name in ("k_hat", "draws", "ess", "log_evidence")}
    return numbers | {name: pack_tree(getattr(grade, name), f"grade/{name}", arrays) for name in ("mean", "sd")}


def unpack_grade(plain: dict[str, Any], arrays: dict[str, np.ndarray], template: Any) -> Grade:
    """The inverse of `pack_grade`."""
    trees = {name: unpack_tree(plain[name], f"grade/{name}", arrays, template) for name in ("mean", "sd")}
    return Grade(**plain | trees)
