"""Chains that move by gradients of minibatches, all in one compiled program that is driven from the host in chunks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.data import take_examples
from jaxmap.infer.mclmc_chains import CHUNK, over_chains
from jaxmap.infer.nuts_frame import Frame
from jaxmap.infer.problem import Problem, Stopwatch
from jaxmap.model import Density
from jaxmap.optimize.maximize import SECONDS_PER_CHUNK
from jaxmap.trees import as_configured, shaper
from jaxmap.types import Key

FAR = 1e8
"""Beyond this position, in the frame, a step is taken back like one that is not finite."""

ROWS, NOISE = 0, 1
"""Tags folded into the key of a step."""


class Tuning(NamedTuple):
    """How the chains of one seed move.

    Attributes:
        step: h, in coordinates of the frame.
        memory: c, what is left of a momentum after a step.
        noise: variance of the gradient's estimate in the frame, (P,).
    """

    step: Any
    memory: Any
    noise: Any


class MovingState(NamedTuple):
    """Positions and momenta in the frame, keys and the number of steps made, (seeds, chains, ...)."""

    position: Any
    momentum: Any
    keys: Key
    made: Any


class Passed(NamedTuple):
    """What chains saw since the position kept before: arrays (seeds, chains, positions, ...).

    Attributes:
        position: in the frame.
        slope: the estimated gradient of the log density there, in the frame.
        kinetic: mean squared momentum over coordinates and steps, over the temperature; one in equilibrium.
        failed: steps that were taken back, since they ended nowhere.
    """

    position: Any
    slope: Any
    kinetic: Any
    failed: Any


@dataclass(frozen=True)
class Minibatches:
    """What a program is compiled for.

    Attributes:
        size: examples per step, drawn afresh with replacement; None: all of them.
        temperature: T, of a target exp(f / T).
    """

    size: int | None
    temperature: float


class StochasticChains:
    """Chains of one problem, moved by `advance`.

    One step in the frame, where U = -f, g an unbiased estimate of its gradient and T the temperature:

        m <- m - h g(x),    x <- x + h/2 m,    m <- c m + sqrt(q) xi,    x <- x + h/2 m,
        q = (1 - c^2) T - c^2 h^2 Var g, at least 0.

    It is the splitting "BAOA", conjugate to BAOAB (Leimkuhler and Matthews, 2013): of a Gaussian target the positions,
    and the momenta before the kick, have the right variances at any stable h. The gradients' own noise stands in for
    a part of the injected one.

    Args:
        minibatches: what is compiled for.
        problem: what they sample.
    """

    def __init__(self, minibatches: Minibatches, problem: Problem):
        self.problem = problem
        walk = _Walk(Estimator.of(problem), minibatches)
        program = problem.model.programs.jitted(("sghmc", minibatches, problem.dtype), walk.advance)
        self._advance = program if minibatches.size is None else as_configured(program)

    def begin(self, positions: np.ndarray, keys: Key) -> MovingState:
        """At rest, at positions (seeds, chains, P)."""
        here = jnp.asarray(positions, self.problem.dtype)
        return MovingState(here, jnp.zeros_like(here), keys, jnp.zeros(keys.shape, jnp.int32))

    def advance(
        self,
        state: MovingState,
        frames: Frame,
        tuning: Tuning,
        count: int,
        thin: int,
        look: Callable[[MovingState, Passed], None],
        *,
        wide: bool = False,
    ) -> MovingState:
        """Keep `count` positions, each after `thin` steps; `look` sees each chunk, and may raise.

        Where `wide`, the steps begin twice as long and shrink to h over the call, by half a cosine.
        """
        done, size = 0, 1
        total = float(count * thin)
        while done < count:
            watch, size = Stopwatch(), min(size, count - done, CHUNK)
            share = jnp.asarray([done * thin / total, 1 / total, float(wide)], self.problem.dtype)
            with jax.numpy_rank_promotion("allow"):
                state, seen = self._advance(state, frames, tuning, self.problem.data, share, size, thin)
            kept = Passed(*(np.asarray(leaf[:, :, :size]) for leaf in seen))
            done += size
            look(state, kept)
            size = int(np.clip(size * min(4.0, SECONDS_PER_CHUNK / max(watch.seconds, 1e-6)), 1, CHUNK))
        return state


@dataclass(frozen=True)
class Estimator:
    """Unbiased estimates of a log density f from minibatches.

    Attributes:
        density: f, whose model is known by identity.
        num_examples: N.
        dtype: of the coordinates.
    """

    density: Density
    num_examples: int
    dtype: Any

    @classmethod
    def of(cls, problem: Problem) -> "Estimator":
        """For a problem."""
        return cls(Density(problem.model), problem.num_examples, problem.dtype)

    def __call__(self, z: Any, data: Any, rows: Any = None) -> Any:
        """Estimate f at an unconstrained vector from some rows, or from all."""
        here = shaper(self.density.model.start_unconstrained(self.dtype))(z)
        if rows is None:
            return self.density(here, data)
        batch = take_examples(data, rows)
        return -self.num_examples * self.density.mean_loss(here, batch, total=self.num_examples)

    def rows(self, key: Key, size: int) -> Any:
        """Rows drawn with replacement."""
        return jax.random.randint(key, (size,), 0, self.num_examples)


@dataclass(frozen=True)
class _Walk:
    """What is compiled: the steps of one chain, and of all."""

    estimator: Estimator
    minibatches: Minibatches

    def advance(
        self, state: MovingState, frames: Frame, tuning: Tuning, data: Any, share: Any, count: Any, thin: Any
    ) -> Any:
        def of_seed(state: MovingState, tuning: Tuning, frame: Frame) -> Any:
            return over_chains(lambda s: self.travel(s, tuning, frame, data, share, count, thin))(state)

        return over_chains(of_seed)(state, tuning, frames)

    def travel(
        self, state: MovingState, tuning: Tuning, frame: Frame, data: Any, share: Any, count: Any, thin: Any
    ) -> Any:
        """One chain; what is kept is where it is before the last step, at which the gradient was taken."""
        zero, like = jnp.zeros((), state.position.dtype), state.position
        nothing = Passed(like, jnp.zeros_like(like), zero, zero)

        def keep(i: Any, carry: Any) -> Any:
            def move(j: Any, carry: Any) -> Any:
                state, seen = carry
                widening = 1.0 + share[2] * 0.5 * (1.0 + jnp.cos(jnp.pi * (share[0] + share[1] * (i * thin + j))))
                new, g, kinetic, failed = self.step(state, frame, tuning, data, widening)
                return new, Passed(state.position, g, seen.kinetic + kinetic / thin, seen.failed + failed)

            state, kept = carry
            state, seen = jax.lax.fori_loop(0, thin, move, (state, nothing))
            return state, jax.tree.map(lambda buffer, value: buffer.at[i].set(value), kept, seen)

        blank = jax.tree.map(lambda v: jnp.zeros((CHUNK, *v.shape), v.dtype), nothing)
        return jax.lax.fori_loop(0, count, keep, (state, blank))

    def step(self, state: MovingState, frame: Frame, tuning: Tuning, data: Any, widening: Any) -> Any:
        """The new state, the gradient's estimate at the old one, the kinetic temperature, and whether it failed."""
        key, warm = jax.random.fold_in(state.keys, state.made), self.minibatches.temperature
        h, c = tuning.step * widening, tuning.memory
        size = self.minibatches.size
        rows = None if size is None else self.estimator.rows(jax.random.fold_in(key, ROWS), size)
        g = jax.grad(lambda x: self.estimator(frame.place(x), data, rows))(state.position)
        momentum = state.momentum + h * g
        middle = state.position + 0.5 * h * momentum
        injected = jnp.maximum((1 - c**2) * warm - (c * h) ** 2 * tuning.noise, 0.0)
        xi = jax.random.normal(jax.random.fold_in(key, NOISE), middle.shape, middle.dtype)
        momentum = c * momentum + jnp.sqrt(injected) * xi
        position = middle + 0.5 * h * momentum
        fine = jnp.all(jnp.abs(position) < FAR) & jnp.all(jnp.isfinite(momentum))  # false of NaN
        kinetic = jnp.where(fine, jnp.mean(state.momentum**2) / warm, 0.0)
        position, momentum = jnp.where(fine, position, state.position), jnp.where(fine, momentum, 0.0)
        new = MovingState(position, momentum, state.keys, state.made + 1)
        return new, jnp.where(fine, g, 0.0), kinetic, 1.0 - fine.astype(position.dtype)
