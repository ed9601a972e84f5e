"""Walking along L-BFGS paths: the Gaussian that the last steps tell of, and the best one so far."""

import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from jaxmap.curvature import LowRank
from jaxmap.data import num_examples
from jaxmap.infer.grade import DRAWS_AT_A_TIME
from jaxmap.model import Density
from jaxmap.optimize import LBFGS, Objective, Progress, SolverState, objective_of, scaled_gradient
from jaxmap.optimize.maximize import SECONDS_PER_CHUNK
from jaxmap.optimize.solver import tolerance_for
from jaxmap.trees import all_finite, shaper
from jaxmap.types import Data, Key

STRAIGHT = 1e-12
"""A pair tells of a curvature where s'z > 1e-12 |z|^2, as in Stan; other pairs are left out."""


class Pairs(NamedTuple):
    """What the last steps tell of the curvature of -f: C = A + [A Z, S] G [A Z, S]', A diagonal.

    The rows of S and Z are steps and changes of the gradient, oldest first, each pair divided by sqrt(s'z), zero where
    there is none yet; G follows from them (Zhang, Carpenter, Gelman and Vehtari, 2022, algorithm 4; Byrd, Nocedal and
    Schnabel, 1994).

    Attributes:
        diagonal: of A, (p,).
        moves: S, (m, p).
        bends: Z, (m, p).
    """

    diagonal: Any
    moves: Any
    bends: Any


class Candidate(NamedTuple):
    """A Gaussian of the path: a point, the gradient of -f there, what gives C; the mean is point - C gradient."""

    bound: Any
    step: Any
    point: Any
    slope: Any
    pairs: Pairs


class Walk(NamedTuple):
    """Where one path is.

    Attributes:
        state: of the solver.
        slope: the gradient of -f there, (p,).
        pairs: the last ones.
        best: the Gaussian of the highest bound; -inf where there is none yet.
        distance: sqrt(g' C g) at the last point, what the path has still to go in posterior standard deviations.
        failed: True where a step led to what is not a number.
        taken: steps.
        barred: steps whose Gaussian had no finite bound.
        losses: one per step taken, NaN after the last.
    """

    state: SolverState
    slope: Any
    pairs: Pairs
    best: Candidate
    distance: Any
    failed: Any
    taken: Any
    barred: Any
    losses: Any

    @property
    def small(self) -> Any:
        """True where the gradient is as small as the solver wants it."""
        return self.state.inner[1]

    @property
    def ended(self) -> Any:
        """True where another step would not help."""
        return self.failed | LBFGS().done(self.state)


@dataclass(frozen=True)
class Walker:
    """Walks from stacked starts, all in one program.

    Attributes:
        density: f.
        draws: for each bound, even.
        steps: the largest number of steps.
        memory: m, how many pairs a Gaussian is made of.
    """

    density: Density
    draws: int
    steps: int
    memory: int

    def walk(self, starts: Any, keys: Key, data: Data, progress: bool | None) -> tuple[Walk, bool]:
        """Walk until every path has ended.

        Args:
            starts: stacked unconstrained coordinates.
            keys: one per path.
            data: all examples.
            progress: as in `Progress`.

        Returns:
            walk: stacked; never raises for numerical reasons.
            interrupted: True where the user stopped it.
        """
        begin, advance = self._programs()
        walk, count = begin(starts, keys, data), 1
        done, interrupted = 0, False
        with Progress("Pathfinder", self.steps, progress) as bar:
            try:
                while done < self.steps and not bool(np.all(walk.ended)):
                    began = time.perf_counter()
                    count = min(count, self.steps - done)
                    walk = jax.block_until_ready(advance(walk, keys, data, done + count))
                    done += count
                    bar.update(done, f"ELBO {float(np.max(walk.best.bound)):.5g}" if bar.enabled else "")
                    count = int(max(1, count * min(4.0, SECONDS_PER_CHUNK / max(time.perf_counter() - began, 1e-6))))
            except KeyboardInterrupt:
                interrupted = True
        return jax.tree.map(np.asarray, walk), interrupted

    def _programs(self) -> tuple[Any, Any]:
        """The beginning and the steps, compiled once: starts, keys, data and numbers of steps are arguments."""

        def build() -> tuple[Any, Any]:
            vmapped = jax.vmap(self._begin, (0, 0, None)), jax.vmap(self._advance, (0, 0, None, None))
            return jax.jit(vmapped[0]), jax.jit(vmapped[1])

        return self.density.model.programs.made(self, build)

    def _objective(self, data: Data) -> Objective:
        """The loss with the kinks of L1 priors in it: a path may cross them, a Gaussian does not see them."""
        whole = lambda z: self.density.mean_loss(z, data)  # noqa: E731
        return replace(objective_of(self.density, data), smooth=whole, kinks=None)

    def _begin(self, start: Any, key: Key, data: Data) -> Walk:
        """Begin at the start; where that is a mode, a step away from it, or no step would tell of the curvature."""
        objective, solver = self._objective(data), LBFGS(self.steps)
        flat, unravel = ravel_pytree(start)

        def of_vector(v: Float[Array, " p"]) -> Float[Array, ""]:
            return objective.smooth(unravel(v))

        value, gradient = jax.value_and_grad(of_vector)(flat)
        still = scaled_gradient(gradient, flat, value) <= tolerance_for(None, flat.dtype, 1e-9)
        away = jax.random.uniform(jax.random.fold_in(key, AWAY), flat.shape, flat.dtype, -1.0, 1.0)
        flat = jnp.where(still, flat + away, flat)
        slope = jnp.where(still, jax.grad(of_vector)(flat), gradient) * num_examples(data)
        state = solver.init(objective, unravel(flat))
        state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), state)  # strong types, as steps'
        rows = jnp.zeros((self.memory, flat.size), flat.dtype)
        pairs = Pairs(jnp.ones_like(flat), rows, rows)
        nothing = Candidate(jnp.asarray(-jnp.inf, flat.dtype), jnp.asarray(0), flat, slope, pairs)
        far, losses = jnp.asarray(jnp.inf, flat.dtype), jnp.full(self.steps, jnp.nan, flat.dtype)
        failed = ~all_finite((state.value, slope))
        return Walk(state, slope, pairs, nothing, far, failed, jnp.asarray(0), jnp.asarray(0), losses)

    def _advance(self, walk: Walk, key: Key, data: Data, until: Any) -> Walk:
        """Step until so many steps are taken or the path ends."""
        objective, solver, n = self._objective(data), LBFGS(self.steps), num_examples(data)
        noise = even_noise(key, self.draws, walk.slope.size, walk.slope.dtype)  # one for all steps, to compare bounds

        def step(walk: Walk) -> Walk:
            state = solver.step(objective, walk.state)
            point, slope = ravel_pytree(state.z)[0], n * optax.tree.get(state.inner[0], "grad")
            pairs, told = joined(walk.pairs, point - ravel_pytree(walk.state.z)[0], slope - walk.slope)
            gaussian = Gaussian.of(point, slope, pairs)
            bound = self._bound(gaussian, noise, data)
            found = Candidate(bound, walk.taken + 1, point, slope, pairs)
            sound = jnp.isfinite(bound)
            better = told & sound & (bound > walk.best.bound)
            best = jax.tree.map(lambda a, b: jnp.where(better, a, b), found, walk.best)
            losses, barred = walk.losses.at[walk.taken].set(state.value), walk.barred + ~sound
            new = Walk(state, slope, pairs, best, gaussian.distance, walk.failed, walk.taken + 1, barred, losses)
            fine = all_finite((state.z, state.value, slope))
            return jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, walk._replace(failed=jnp.asarray(True)))

        return jax.lax.while_loop(lambda walk: ~walk.ended & (walk.taken < until), step, walk)

    def _bound(self, gaussian: "Gaussian", noise: Float[Array, "k p"], data: Data) -> Float[Array, ""]:
        """The mean of f - log q over draws of q; not finite where f is not at one of them."""
        shaped = shaper(self.density.model.start_unconstrained(noise.dtype))
        z, log_q = gaussian.draw(noise)
        batch = min(self.draws, DRAWS_AT_A_TIME)
        return jnp.mean(jax.lax.map(lambda v: self.density(shaped(v), data), z, batch_size=batch) - log_q)


AWAY = 1
"""The tag folded into a path's key for the step away from a start that is a mode."""


def even_noise(key: Key, draws: int, size: int, dtype: Any) -> Float[Array, "k p"]:
    """Standard normals in pairs of opposite sign, made orthogonal.

    With at least two draws per coordinate their second moments are exactly one, so that the bound of a Gaussian density
    is exact; with fewer they are those of a random projection.
    """
    half = jax.random.normal(key, (draws // 2, size), dtype)
    tall = half if draws // 2 >= size else half.T
    even = jnp.linalg.qr(tall)[0] * jnp.sqrt(jnp.asarray(len(tall), dtype))
    half = even if draws // 2 >= size else even.T
    return jnp.concatenate([half, -half])


def joined(pairs: Pairs, move: Float[Array, " p"], bend: Float[Array, " p"]) -> tuple[Pairs, Bool[Array, ""]]:
    """The pairs with a new one, where it tells of a curvature, and whether it does.

    The diagonal A follows the inverse Hessian along the path (Gilbert and Lemarechal, 1989; Zhang et al., algorithm 3).
    """
    a = pairs.diagonal
    b, c, d = move @ bend, jnp.sum(bend**2 * a), jnp.sum(move**2 / a)
    diagonal = 1.0 / (c / (b * a) + bend**2 / b - c * (move / a) ** 2 / (b * d))
    told = (b > STRAIGHT * (bend @ bend)) & jnp.all(jnp.isfinite(diagonal) & (diagonal > 0))
    root = jnp.sqrt(jnp.where(told, b, 1.0))
    moves = jnp.concatenate([pairs.moves[1:], (move / root)[None]])
    bends = jnp.concatenate([pairs.bends[1:], (bend / root)[None]])
    return jax.tree.map(lambda new, old: jnp.where(told, new, old), Pairs(diagonal, moves, bends), pairs), told


class Gaussian(NamedTuple):
    """N(mean, C) with C = D (I + Q M Q') D, D the root of the diagonal A, Q orthonormal, I + M = L L'.

    Attributes:
        mean: of the Gaussian.
        scales: the diagonal of D.
        basis: Q.
        lower: L.
        distance: sqrt(g' C g).
    """

    mean: Any
    scales: Any
    basis: Any
    lower: Any
    distance: Any

    @classmethod
    def of(cls, point: Float[Array, " p"], slope: Float[Array, " p"], pairs: Pairs) -> "Gaussian":
        """The Gaussian that the pairs tell of; not a number where C is not positive to rounding."""
        scales, basis, inner = factors(pairs, jnp)
        white = scales * slope
        inside = basis.T @ white
        newton = scales * (white + basis @ (inner @ inside))
        lower = jnp.linalg.cholesky(jnp.eye(len(inner), dtype=inner.dtype) + inner)
        return cls(point - newton, scales, basis, lower, jnp.sqrt(slope @ newton))

    def draw(self, noise: Float[Array, "k p"]) -> tuple[Float[Array, "k p"], Float[Array, " k"]]:
        """Draws from standard normals, and their log densities."""
        stretch = self.lower - jnp.eye(len(self.lower), dtype=self.lower.dtype)
        moves = self.scales[None] * (noise + ((noise @ self.basis) @ stretch.T) @ self.basis.T)
        log_root = jnp.sum(jnp.log(self.scales)) + jnp.sum(jnp.log(jnp.diagonal(self.lower)))
        log_q = -0.5 * jnp.sum(noise**2, axis=1) - log_root - 0.5 * noise.shape[1] * jnp.log(2 * jnp.pi)
        return self.mean[None] + moves, log_q


def factors(pairs: Pairs, np_: Any) -> tuple[Any, Any, Any]:
    """D (its diagonal), Q and M of C = D (I + Q M Q') D, by numpy or by jax.numpy."""
    scales = np_.sqrt(pairs.diagonal)
    moves, bends = pairs.moves / scales[None], pairs.bends * scales[None]
    size = len(moves)
    eye = np_.eye(size, dtype=moves.dtype)
    inverse = np_.linalg.inv(np_.triu(moves @ bends.T, 1) + eye)
    corner = inverse.T @ (eye + bends @ bends.T) @ inverse
    middle = np_.block([[np_.zeros_like(eye), -inverse], [-inverse.T, corner]])
    basis, upper = np_.linalg.qr(np_.concatenate([bends, moves]).T)
    inner = upper @ middle @ upper.T
    return scales, basis, (inner + inner.T) / 2


def settled_gaussian(found: Candidate) -> tuple[np.ndarray, LowRank]:
    """Mean and precision of a Gaussian of a path, in float64: D^-1 (I + Q ((I + M)^-1 - I) Q') D^-1."""
    pairs = Pairs(*(np.asarray(part, np.float64) for part in found.pairs))
    scales, basis, inner = factors(pairs, np)
    values, vectors = np.linalg.eigh(inner)
    precision = LowRank(1.0 / scales, basis @ vectors, -values / (1.0 + values))
    mean = np.asarray(found.point, np.float64) - precision.solve(np.asarray(found.slope, np.float64)[:, None])[:, 0]
    return mean, precision
