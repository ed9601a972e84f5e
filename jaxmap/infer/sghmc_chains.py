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


class Stretch(NamedTuple):
    """Where on a stretch of the way chains are.

    Attributes:
        first: steps made of it before.
        each: one over all of its steps.
        wide: one where steps begin twice as long and shrink to h, by half a cosine; else zero.
    """

    first: Any
    each: Any
    wide: Any

    def widening(self, made: Any) -> Any:
        """What h is multiplied by; a function of the number of the step alone, however the steps come in chunks."""
        return 1.0 + self.wide * 0.5 * (1.0 + jnp.cos(jnp.pi * (self.each * (self.first + made))))


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

    def begin(self, positions: Any, keys: Key) -> MovingState:
        """At rest, at positions (seeds, chains, P)."""
        here = jnp.asarray(positions, self.problem.dtype)
        return MovingState(here, jnp.zeros_like(here), keys, jnp.zeros(keys.shape, jnp.int32))

    def states_like(self, seeds: int, chains: int) -> MovingState:
        """Shapes of the states, in their structure."""
        positions = jax.ShapeDtypeStruct((seeds, chains, self.problem.num_params), self.problem.dtype)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (seeds, chains)))
        return jax.eval_shape(self.begin, positions, keys)

    def advance(
        self,
        state: MovingState,
        frames: Frame,
        tuning: Tuning,
        count: int,
        thin: int,
        look: Callable[[MovingState, Passed], None],
        *,
        done: int = 0,
        wide: bool = False,
    ) -> MovingState:
        """Keep `count` positions, each after `thin` steps, but for those `done` before; `look` sees each chunk.

        Where `wide`, the steps begin twice as long and shrink to h over the count, by half a cosine.
        """
        size, dtype = 1, self.problem.dtype
        each, bent = jnp.asarray(1 / (count * thin), dtype), jnp.asarray(float(wide), dtype)
        while done < count:
            watch, size = Stopwatch(), min(size, count - done, CHUNK)
            stretch = Stretch(jnp.asarray(done * thin, jnp.int32), each, bent)
            with jax.numpy_rank_promotion("allow"):
                state, seen = self._advance(state, frames, tuning, self.problem.data, stretch, size, thin)
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
        self, state: MovingState, frames: Frame, tuning: Tuning, data: Any, stretch: Stretch, count: Any, thin: Any
    ) -> Any:
        def of_seed(state: MovingState, tuning: Tuning, frame: Frame) -> Any:
            return over_chains(lambda s: self.travel(s, tuning, frame, data, stretch, count, thin))(state)

        return over_chains(of_seed)(state, tuning, frames)

    def travel(
        self, state: MovingState, tuning: Tuning, frame: Frame, data: Any, stretch: Stretch, count: Any, thin: Any
    ) -> Any:
        """One chain; what is kept is where it is before the last step, at which the gradient was taken."""
        zero, like = jnp.zeros((), state.position.dtype), state.position
        nothing = Passed(like, jnp.zeros_like(like), zero, zero)

        def keep(i: Any, carry: Any) -> Any:
            def move(j: Any, carry: Any) -> Any:
                state, seen = carry
                new, g, kinetic, failed = self.step(state, frame, tuning, data, stretch.widening(i * thin + j))
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
