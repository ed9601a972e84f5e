"""Gaussian posteriors, in unconstrained coordinates."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.linalg import cho_solve

from jaxmap.curvature import Factor
from jaxmap.infer.delta_method import carry
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
from jaxmap.trees import float_dtype, precision_scope, settled
from jaxmap.types import Info, Key, Params


@dataclass(frozen=True, eq=False)
class Covariance:
    """H^-1 as an operator; `dense()` writes it out."""

    factor: Factor

    @property
    def shape(self) -> tuple[int, int]:
        """(p, p)."""
        return self.factor.chol_prec.shape  # type: ignore[return-value]

    def dense(self) -> np.ndarray:
        """The matrix, (p, p)."""
        return self.factor.covariance()

    def diagonal(self) -> np.ndarray:
        """The variances, (p,)."""
        root = self.factor.whiten_inverse(np.eye(self.shape[0]))
        return np.sum(root**2, axis=1)

    def __matmul__(self, vectors: np.ndarray) -> np.ndarray:
        return cho_solve((self.factor.chol_prec, True), vectors)


@dataclass(frozen=True, eq=False)
class GaussianPosterior:
    """N(mean, covariance) in unconstrained coordinates.

    Attributes:
        mean: unconstrained coordinates, a tree.
        factor: of the precision, in ravel order of `mean`.
        space: the way back to the user's parameters.
        info: how it was found.
        log_evidence: log of the integral of the joint density, by Laplace's formula, in nats.
        linearised: True where the curvature is that of the linearised network, which then predicts best.
        prior: False where it is the Gaussian of a likelihood alone, around an MLE.
    """

    mean: Any
    factor: Factor
    space: Space = field(repr=False)
    info: Info
    log_evidence: float
    linearised: bool = False
    prior: bool = True

    @property
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
        return Covariance(self.factor)

    def sample_unconstrained(self, key: Key, n: int) -> Any:
        """Draw n coordinate trees, stacked."""
        with precision_scope(self.dtype):
            flat, unravel = ravel_pytree(self.mean)
            noise = np.asarray(jax.random.normal(key, (n, flat.size), self.dtype), np.float64)
            z = np.asarray(flat, np.float64)[None] + self.factor.whiten_inverse(noise.T).T
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
        """Log density of the approximation at params, in the user's space (Jacobian included)."""
        with jax.enable_x64(True):
            z = self.space.unconstrain(jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), params))
            flat, mean = (np.asarray(ravel_pytree(t)[0], np.float64) for t in (z, self.mean))
            white = self.factor.chol_prec.T @ (flat - mean)
            log_normal = 0.5 * self.factor.log_det - 0.5 * len(flat) * np.log(2 * np.pi) - 0.5 * white @ white
            return float(log_normal - self.space.log_jacobian(z))

    def summary(self, level: float = 0.95) -> Summary:
        """Tabulate estimates, posterior standard deviations and intervals by path, in the user's space.

        By the delta method, as in `Point.summary`. The Gaussian of a likelihood alone, of `Laplace(MLE())`, has
        standard errors and Wald tests instead: with `hessian="exact"` those of `MLE`'s own summary.
        """
        spread = carry(self.space, self.mean, self.covariance.dense(), level)
        columns = estimate_columns(self.mode, spread, level, posterior=self.prior)
        header = fit_header(self.info, len(self.factor.chol_prec), None, self.prior)
        evidence = f"log evidence {self.log_evidence:.4f}." if self.prior else ""
        said = notes([status_note(self.info), evidence, *self.info.notes])
        return summarize(title_of(self.info), columns, said, header)

    def packed(self) -> Saved:
        """As plain values and arrays."""
        arrays: dict[str, np.ndarray] = {"chol_prec": self.factor.chol_prec}
        header = {"kind": "GaussianPosterior", "rung": self.factor.rung, "added": self.factor.added}
        header |= {"log_evidence": self.log_evidence, "linearised": self.linearised, "prior": self.prior}
        header |= {"info": pack_info(self.info, arrays), "mean": pack_tree(self.mean, "mean", arrays)}
        return Saved(header | {"space": self.space.to_plain()}, arrays)

    @classmethod
    def from_saved(cls, saved: Saved, model: Any = None) -> "GaussianPosterior":
        """The inverse of `packed`."""
        header, arrays = saved.header, saved.arrays
        mean = unpack_tree(header["mean"], "mean", arrays, None if model is None else model.start)
        factor = Factor(arrays["chol_prec"], header["rung"], header["added"])
        info = unpack_info(header["info"], arrays)
        flags = (header["linearised"], header.get("prior", True))
        return cls(mean, factor, space_of(header, mean, model), info, header["log_evidence"], *flags)

    def save(self, folder: str | Path) -> Path:
        """Write to a folder, atomically; `jm.load` reads it."""
        return write_saved(folder, self.packed())

    def __repr__(self) -> str:
        return f"GaussianPosterior({line_of(self.info)})"
