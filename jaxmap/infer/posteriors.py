"""What fits return: a point, a Gaussian, draws, a mixture."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.special import logsumexp
from scipy.stats import norm

from jaxmap.curvature import Factor
from jaxmap.infer.summary import Summary, host, summarize
from jaxmap.model import Density, Space
from jaxmap.statistics import ess_bulk, mcse_mean, rhat
from jaxmap.trees import float_dtype, precision_scope, take
from jaxmap.types import Info, Key, Params, Posterior

SAME_MODE = 0.1
"""Modes closer than this, in posterior standard deviations, are one mode."""


class Particles(NamedTuple):
    """A posterior as weighted parameter trees, stacked on a leading axis; weights sum to one."""

    params: Params
    log_weights: np.ndarray


def equal_weights(count: int) -> np.ndarray:
    """log(1/count), count times."""
    return np.full(count, -np.log(count))


@dataclass(frozen=True, eq=False)
class Point:
    """All mass at one parameter tree: an MLE, a MAP estimate, or the user's own.

    Attributes:
        mode: the parameters, in the user's space.
        info: how it was found.
        z: the same in unconstrained coordinates.
        density: what it is a mode of.
        moved: False where the parameters were given and not optimised.
    """

    mode: Params
    info: Info
    z: Any = field(repr=False)
    density: Density = field(repr=False)
    moved: bool = True

    def sample(self, key: Key, n: int) -> Params:
        """Repeat the point n times."""
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (n, *leaf.shape)), self.mode)

    def particles(self, key: Key, draws: int | None) -> Particles:
        """The point itself."""
        return Particles(jax.tree.map(lambda leaf: leaf[None], self.mode), equal_weights(1))

    def summary(self) -> Summary:
        """Estimates by path."""
        return summarize(_title(self.info), {"estimate": self.mode}, self.info.status.value)

    def __repr__(self) -> str:
        return f"Point({_line(self.info)})"


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
    """

    mean: Any
    factor: Factor
    space: Space = field(repr=False)
    info: Info
    log_evidence: float
    linearised: bool = False

    @property
    def dtype(self) -> Any:
        """The dtype of the parameters."""
        return float_dtype(self.mean)

    @property
    def mode(self) -> Params:
        """The image of the mean in the user's space."""
        with precision_scope(self.dtype):
            return self.space.constrain(self.mean)

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
            return jax.vmap(unravel)(jnp.asarray(z, self.dtype))

    def sample(self, key: Key, n: int) -> Params:
        """Draw n parameter trees, stacked on a leading axis."""
        with precision_scope(self.dtype):
            return jax.vmap(self.space.constrain)(self.sample_unconstrained(key, n))

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
        """Estimate, standard error by the delta method, and interval, in the user's space.

        The interval is the image of the symmetric one in unconstrained coordinates where the map is monotone.
        """
        flat, unravel = ravel_pytree(host(self.mean))
        spread = np.sqrt(self.covariance.diagonal())
        half = norm.ppf(0.5 + level / 2) * spread
        with jax.enable_x64(True):
            ends = [host(self.space.constrain(unravel(jnp.asarray(flat + s * half)))) for s in (-1.0, 1.0)]
        columns = {"estimate": self.mode, "std err": self._delta_errors()}
        columns |= {f"{(1 - level) / 2:.3g}": ends[0], f"{(1 + level) / 2:.3g}": ends[1]}
        return summarize(_title(self.info), columns, f"log evidence {self.log_evidence:.4f}. {self.info.status.value}")

    def _delta_errors(self) -> Params:
        """Sqrt of the diagonal of J C J', J the Jacobian of the map to the user's space."""
        with jax.enable_x64(True):
            mean = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), self.mean)
            flat, unravel = ravel_pytree(mean)
            shape = self.space.constrain(mean)
            if self.space.is_real:
                errors = jnp.sqrt(jnp.asarray(self.covariance.diagonal()))
            else:
                jacobian = np.asarray(jax.jacfwd(lambda v: ravel_pytree(self.space.constrain(unravel(v)))[0])(flat))
                errors = jnp.sqrt(
                    jnp.sum(jnp.asarray(jacobian @ self.factor.whiten_inverse(np.eye(flat.size))) ** 2, 1)
                )
            return ravel_pytree(shape)[1](errors)

    def __repr__(self) -> str:
        return f"GaussianPosterior({_line(self.info)})"


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
        from scipy.linalg import cho_solve

        return cho_solve((self.factor.chol_prec, True), vectors)


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws by Markov chain Monte Carlo.

    Attributes:
        draws: parameters in the user's space; arrays lead with (chain, draw).
        info: how they were made; `diagnostics` has divergences, acceptance, R-hat.
        log_joint: the log joint density of each draw, (chain, draw), in unconstrained coordinates.
    """

    draws: Params
    info: Info
    log_joint: np.ndarray = field(repr=False)
    mode: None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(chains, draws)."""
        return jax.tree.leaves(self.draws)[0].shape[:2]

    def pooled(self) -> Params:
        """All draws on one leading axis, chain after chain."""
        chains, draws = self.shape
        return jax.tree.map(lambda leaf: jnp.reshape(leaf, (chains * draws, *leaf.shape[2:])), self.draws)

    def sample(self, key: Key, n: int) -> Params:
        """Pick n draws at random, with replacement."""
        rows = jax.random.randint(key, (n,), 0, self.shape[0] * self.shape[1])
        return take(self.pooled(), rows)

    def thinned(self, most: int = 1000) -> Params:
        """All draws, or every k-th of each chain so that at most `most` remain; arrays lead with (chain, draw)."""
        chains, draws = self.shape
        every = -(-chains * draws // most)
        return jax.tree.map(lambda leaf: leaf[:, every - 1 :: every], self.draws)

    def particles(self, key: Key, draws: int | None) -> Particles:
        """The draws, thinned to 1000 (or `draws`), equally weighted."""
        thin = self.thinned(1000 if draws is None else draws)
        flat = jax.tree.map(lambda leaf: jnp.reshape(leaf, (-1, *leaf.shape[2:])), thin)
        return Particles(flat, equal_weights(len(jax.tree.leaves(flat)[0])))

    def summary(self, level: float = 0.95) -> Summary:
        """Mean, sd, interval, Monte Carlo error, bulk ESS and rank-normalised R-hat by path."""
        draws = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), self.draws)
        low, high = (1 - level) / 2, (1 + level) / 2
        columns = {
            "mean": jax.tree.map(lambda v: v.mean((0, 1)), draws),
            "sd": jax.tree.map(lambda v: v.std((0, 1), ddof=1), draws),
            f"{low:.3g}": jax.tree.map(lambda v: np.quantile(v, low, (0, 1)), draws),
            f"{high:.3g}": jax.tree.map(lambda v: np.quantile(v, high, (0, 1)), draws),
            "mcse": jax.tree.map(mcse_mean, draws),
            "ess": jax.tree.map(ess_bulk, draws),
            "rhat": jax.tree.map(rhat, draws),
        }
        return summarize(_title(self.info), columns, self.info.status.value)

    def __repr__(self) -> str:
        return f"Draws({self.shape[0]} chains x {self.shape[1]} draws; {_line(self.info)})"


@dataclass(frozen=True, eq=False)
class MixturePosterior:
    """A weighted mixture of posteriors: an ensemble.

    Attributes:
        members: the posteriors.
        log_weights: summing to one in exp.
        info: of the whole; `members` has each one's status.
    """

    members: tuple[Any, ...]
    log_weights: np.ndarray
    info: Info

    mode: None = None

    @property
    def log_evidence(self) -> float | None:
        """Log of the sum of the members' evidences, members at the same mode counted once; None for points."""
        if not all(isinstance(member, GaussianPosterior) for member in self.members):
            return None
        distinct: list[GaussianPosterior] = []
        for member in self.members:
            if not any(_distance(member, other) < SAME_MODE for other in distinct):
                distinct.append(member)
        return float(logsumexp([member.log_evidence for member in distinct]))

    def sample(self, key: Key, n: int) -> Params:
        """Draw n parameter trees: first the member, then from it."""
        choose, within = jax.random.split(key)
        picks = np.asarray(jax.random.categorical(choose, jnp.asarray(self.log_weights), shape=(n,)))
        keys = jax.random.split(within, len(self.members))
        drawn = [member.sample(k, n) for member, k in zip(self.members, keys, strict=True)]
        rows = np.arange(n)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves)[picks, rows], *drawn)

    def particles(self, key: Key, draws: int | None) -> Particles:
        """Every member's particles, weighted; a Gaussian member gets its share of 256 draws."""
        share = max(1, (256 if draws is None else draws) // len(self.members))
        keys = jax.random.split(key, len(self.members))
        parts = [member.particles(k, share) for member, k in zip(self.members, keys, strict=True)]
        params = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(p.params for p in parts))
        return Particles(
            params, np.concatenate([p.log_weights + w for p, w in zip(parts, self.log_weights, strict=True)])
        )

    def summary(self) -> Summary:
        """Mean and sd between the members' modes by path, and the members' statuses."""
        modes = [member.mode for member in self.members if member.mode is not None]
        weights = np.exp(self.log_weights)
        if len(modes) < len(self.members):
            return Summary(_title(self.info), (), "")

        def mean(*leaves: Any) -> Any:
            return np.tensordot(weights, np.stack([np.asarray(v, np.float64) for v in leaves]), 1)

        center = jax.tree.map(mean, *modes)
        square = jax.tree.map(mean, *(jax.tree.map(lambda v, c: (np.asarray(v) - c) ** 2, m, center) for m in modes))
        return summarize(_title(self.info), {"mean": center, "sd": jax.tree.map(np.sqrt, square)})

    def __repr__(self) -> str:
        return f"MixturePosterior({len(self.members)} members; {_line(self.info)})"


def _distance(a: GaussianPosterior, b: GaussianPosterior) -> float:
    """Between two means, in the posterior standard deviations of the second."""
    flat = [np.asarray(ravel_pytree(host(p.mean))[0], np.float64) for p in (a, b)]
    return float(np.linalg.norm(b.factor.chol_prec.T @ (flat[0] - flat[1])) / np.sqrt(len(flat[0])))


def _title(info: Info) -> str:
    return f"{info.method}: {info.target}" if info.target else info.method


def _line(info: Info) -> str:
    return f"{info.method}, {info.status.name}"


def is_posterior(value: Any) -> bool:
    """True for anything fitted."""
    return isinstance(value, Posterior) and hasattr(value, "particles")
