"""Chains of blackjax's microcanonical samplers, all in one compiled program that is driven from the host in chunks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.infer.nuts_frame import Frame
from jaxmap.infer.problem import Problem, Stopwatch
from jaxmap.model import Density
from jaxmap.optimize.maximize import SECONDS_PER_CHUNK
from jaxmap.trees import shaper
from jaxmap.types import Key

CHUNK = 50
"""Positions that one compiled call keeps at most."""

GRADIENTS_PER_STEP = 2.0
"""Of McLachlan's integrator, the second of which the next step begins with."""


class Seen(NamedTuple):
    """What chains saw since the position kept before: arrays (seeds, chains, positions, ...).

    Attributes:
        position: in the frame.
        slope: the gradient of the log density in the frame.
        log_density: there.
        error: mean squared energy error of a transition, over P.
        steps: gradients.
        accept: mean acceptance probability; one where nothing is refused.
        failed: transitions that were taken back: not finite, or of an energy error beyond the limit.
    """

    position: np.ndarray
    slope: np.ndarray
    log_density: np.ndarray
    error: np.ndarray
    steps: np.ndarray
    accept: np.ndarray
    failed: np.ndarray


class ChainStates(NamedTuple):
    """What the next transition needs: blackjax's states, keys and the number of transitions made, (seeds, chains)."""

    inner: Any
    keys: Key
    made: Any


class Pace(NamedTuple):
    """How far chains go, (seeds, chains): the length L after which a direction is forgotten, and the step size."""

    length: Any
    step: Any


class Move(NamedTuple):
    """What one transition was like."""

    error: Any
    steps: Any
    accept: Any
    failed: Any


@dataclass(frozen=True)
class Mover:
    """What a program is compiled for; data, frames and paces are its arguments.

    Attributes:
        adjusted: with a Metropolis test.
        most: the largest energy error of an unadjusted step, in units of sqrt(P); a larger one is taken back.
    """

    adjusted: bool
    most: float


class MicrocanonicalChains:
    """Chains of one problem: `begin` them in frames, then `advance` them chunk by chunk.

    Args:
        mover: how they move.
        problem: what they sample.
    """

    def __init__(self, mover: Mover, problem: Problem):
        self.mover, self.problem = mover, problem
        name = ("mclmc", mover, problem.dtype)
        self._begin, self._advance = problem.model.programs.made(name, lambda: _programs(mover, problem))

    def begin(self, positions: np.ndarray, frames: Frame, keys: Key) -> ChainStates:
        """States at positions (seeds, chains, P), in random directions; a gradient each."""
        with jax.numpy_rank_promotion("allow"):
            return self._begin(jnp.asarray(positions, self.problem.dtype), frames, keys, self.problem.data)

    def states_like(self, seeds: int, chains: int) -> ChainStates:
        """Shapes of the states, in their structure."""
        size, dtype = self.problem.num_params, self.problem.dtype
        plain = jax.ShapeDtypeStruct((seeds, size), dtype)
        positions = jax.ShapeDtypeStruct((seeds, chains, size), dtype)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (seeds, chains)))
        with jax.numpy_rank_promotion("allow"):
            return jax.eval_shape(self._begin, positions, Frame(plain, plain), keys, self.problem.data)

    def advance(
        self,
        states: ChainStates,
        frames: Frame,
        pace: Pace,
        count: int,
        thin: int,
        look: Callable[[ChainStates, Seen], None],
    ) -> ChainStates:
        """Keep `count` positions, each after `thin` transitions; `look` sees each chunk, and may raise."""
        pace = Pace(*(jnp.asarray(leaf, self.problem.dtype) for leaf in pace))
        done, size = 0, min(CHUNK, max(1, CHUNK // thin))
        while done < count:
            watch, size = Stopwatch(), min(size, count - done)
            with jax.numpy_rank_promotion("allow"):
                states, seen = self._advance(states, frames, pace, self.problem.data, size, thin)
            kept = Seen(*(np.asarray(leaf[:, :, :size]) for leaf in seen))
            done += size
            look(states, kept)
            size = int(np.clip(size * min(4.0, SECONDS_PER_CHUNK / max(watch.seconds, 1e-6)), 1, CHUNK))
        return states


def over_chains(function: Callable[..., Any]) -> Callable[..., Any]:
    """Vectorise over a leading axis; on a CPU one after the other, in the same program.

    There, the matrices of one network stay in the cache, and no chain waits for the longest trajectory of another.
    """
    if jax.default_backend() != "cpu":
        return jax.vmap(function)
    return lambda *arguments: jax.lax.map(lambda one: function(*one), arguments)


def _programs(mover: Mover, problem: Problem) -> tuple[Any, Any]:
    target = Density(problem.model)
    shaped = shaper(jax.eval_shape(problem.model.space.unconstrain, problem.model.start))
    begin_one, move = _adjusted() if mover.adjusted else _unadjusted(mover, problem.num_params)

    def density(frame: Frame, data: Any) -> Callable[[Any], Any]:
        return lambda position: target(shaped(frame.place(position)), data)

    def begin(positions: Any, frames: Frame, keys: Key, data: Any) -> ChainStates:
        def of_seed(positions: Any, frame: Frame, keys: Key) -> Any:
            return over_chains(lambda z, key: begin_one(z, density(frame, data), key))(positions, keys)

        inner = over_chains(of_seed)(positions, frames, keys)
        return ChainStates(inner, keys, jnp.zeros(keys.shape, jnp.int32))

    def travel(states: ChainStates, pace: Pace, frame: Frame, data: Any, count: Any, thin: Any) -> Any:
        """One chain."""
        here, zero = density(frame, data), jnp.zeros((), problem.dtype)

        def transit(_: Any, carry: Any) -> Any:
            (inner, key, made), total = carry
            inner, one = move(jax.random.fold_in(key, made), inner, here, pace)
            return ChainStates(inner, key, made + 1), jax.tree.map(jnp.add, total, one)

        def keep(i: Any, carry: Any) -> Any:
            states, kept = carry
            states, total = jax.lax.fori_loop(0, thin, transit, (states, Move(zero, zero, zero, zero)))
            seen = _seen(states.inner, total, thin)
            return states, jax.tree.map(lambda buffer, value: buffer.at[i].set(value), kept, seen)

        like = _seen(states.inner, Move(zero, zero, zero, zero), 1)
        blank = jax.tree.map(lambda v: jnp.zeros((CHUNK, *v.shape), v.dtype), like)
        return jax.lax.fori_loop(0, count, keep, (states, blank))

    def advance(states: ChainStates, frames: Frame, pace: Pace, data: Any, count: Any, thin: Any) -> Any:
        def of_seed(states: ChainStates, pace: Pace, frame: Frame) -> Any:
            return over_chains(lambda s, p: travel(s, p, frame, data, count, thin))(states, pace)

        return over_chains(of_seed)(states, pace, frames)

    return jax.jit(begin), jax.jit(advance)


def _seen(inner: Any, total: Move, thin: Any) -> Seen:
    error, accept = total.error / thin, total.accept / thin
    return Seen(inner.position, inner.logdensity_grad, inner.logdensity, error, total.steps, accept, total.failed)


def _unadjusted(mover: Mover, size: int) -> tuple[Any, Any]:
    """Langevin dynamics on the sphere of directions; each transition is one step of the integrator."""
    from blackjax.mcmc import mclmc

    kernel = mclmc.build_kernel(desired_energy_var=mover.most**2, desired_energy_var_max_ratio=1.0)

    def begin(position: Any, density: Any, key: Key) -> Any:
        return mclmc.init(position, density, key)

    def move(key: Key, state: Any, density: Any, pace: Pace) -> Any:
        stepped: Any = kernel(key, state, density, 1.0, pace.length, pace.step)
        new, info = stepped
        failed = ~info.nonans | jnp.all(new.position == state.position)
        error = jnp.where(failed, mover.most**2, jnp.square(info.energy_change) / size)
        one, dtype = jnp.ones_like(new.logdensity), new.logdensity.dtype
        return new, Move(error.astype(dtype), GRADIENTS_PER_STEP * one, one, failed.astype(dtype))

    return begin, move


def _adjusted() -> tuple[Any, Any]:
    """Trajectories of random length from random directions, each accepted or refused by its energy error."""
    from blackjax.mcmc import adjusted_mclmc_dynamic as sampler

    steps_of = sampler.make_random_trajectory_length_fn(True)
    kernel = sampler.build_kernel(integration_steps_fn=steps_of)

    def begin(position: Any, density: Any, key: Key) -> Any:
        return sampler.init(position, density, key)

    def move(key: Key, state: Any, density: Any, pace: Pace) -> Any:
        moved: Any = kernel(key, state, density, pace.step, integration_steps_params=(pace.length / pace.step,))
        new, info = moved
        zero, dtype = jnp.zeros_like(new.logdensity), new.logdensity.dtype
        steps = GRADIENTS_PER_STEP * info.num_integration_steps.astype(dtype)
        return new, Move(zero, steps, info.acceptance_rate.astype(dtype), info.is_divergent.astype(dtype))

    return begin, move
