"""Chains of numpyro's NUTS, all in one compiled program that is driven from the host in chunks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from numpyro.infer.hmc import hmc

from jaxmap.data import MEMBER, agreed, mean_of_shares, on_host, shares, width
from jaxmap.infer.nuts_frame import Frame
from jaxmap.infer.problem import Problem, Stopwatch
from jaxmap.model import Density
from jaxmap.optimize.maximize import SECONDS_PER_CHUNK
from jaxmap.trees import shaper
from jaxmap.types import Key

CHUNK = 64
"""Transitions that one compiled call makes at most."""


class Seen(NamedTuple):
    """What chains saw: arrays (seeds, chains, transitions, ...).

    Attributes:
        position: in the frame.
        slope: the gradient of the log density in the frame.
        potential: minus the log density.
        steps: gradients of a transition.
        diverging: it ended because the energy error was above 1000.
        accept: mean acceptance probability.
        energy: of the accepted state.
    """

    position: np.ndarray
    slope: np.ndarray
    potential: np.ndarray
    steps: np.ndarray
    diverging: np.ndarray
    accept: np.ndarray
    energy: np.ndarray


class ChainStates(NamedTuple):
    """What the next transition needs: numpyro's states (seeds, chains) and the tuning of a step size per seed."""

    hmc: Any
    tuning: "Tuning"


@dataclass(frozen=True)
class Sampler:
    """What a program is compiled for; data, frames and step sizes are its arguments.

    Attributes:
        depth: of a tree, at most.
        dense: frames have matrices.
        replicated: each seed has data of its own, on their leading axis.
    """

    depth: int
    dense: bool
    replicated: bool = False


class Chains:
    """Chains of one problem: `begin` them in frames, then `advance` them chunk by chunk.

    Step sizes are tuned by stochastic approximation, one for the chains of a seed, from the mean of their acceptance
    probabilities: it has less noise than that of one chain, so that the average step size has the acceptance that was
    asked for (that of dual averaging, which swings more, has a higher one, and costs more gradients). Metrics are
    frames: numpyro's own stays the identity.

    Args:
        sampler: how they move.
        problem: what they sample.
    """

    def __init__(self, sampler: Sampler, problem: Problem):
        self.sampler, self.problem = sampler, problem
        name = ("nuts", sampler, problem.dtype)
        self._begin, self._advance = problem.model.programs.made(name, lambda: _programs(sampler, problem))

    def begin(self, positions: Any, frames: Frame, keys: Key, step: Any, target: Any) -> ChainStates:
        """States at positions (seeds, chains, P); a gradient each.

        `step` is the first step size of each seed, `target` the acceptance probability that it is to reach.
        """
        step, target = (jnp.asarray(v, self.problem.dtype) for v in (step, target))
        return self._begin(positions, frames, keys, step, target, self.problem.data)

    def states_like(self, seeds: int, chains: int) -> ChainStates:
        """Shapes of the states, in their structure."""
        size, dtype = self.problem.num_params, self.problem.dtype
        root = (seeds, size, size) if self.sampler.dense else (seeds, size)
        frames = Frame(jax.ShapeDtypeStruct((seeds, size), dtype), jax.ShapeDtypeStruct(root, dtype))
        positions = jax.ShapeDtypeStruct((seeds, chains, size), dtype)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (seeds, chains)))
        step = jax.ShapeDtypeStruct((seeds,), dtype)
        return jax.eval_shape(self._begin, positions, frames, keys, step, step, self.problem.data)

    def advance(
        self, states: ChainStates, frames: Frame, count: int, adapt: bool, look: Callable[[ChainStates, Seen], None]
    ) -> ChainStates:
        """Make `count` transitions; `look` sees the states and what happened after each chunk, and may raise."""
        done, size = 0, 1
        while done < count:
            watch, size = Stopwatch(), min(size, count - done)
            states, seen = self._advance(states, frames, self.problem.data, size, adapt)
            kept = Seen(*(leaf[:, :, :size] for leaf in on_host(seen)))
            done += size
            look(states, kept)
            size = agreed(int(np.clip(size * min(4.0, SECONDS_PER_CHUNK / max(watch.seconds, 1e-6)), 1, CHUNK)))
        return states


def step_sizes(states: ChainStates) -> np.ndarray:
    """The averaged step size of each seed."""
    return np.exp(on_host(states.tuning.log_average).astype(np.float64))


class Tuning(NamedTuple):
    """A step size on its way: log step, its average weighted by time, the time, and the acceptance to reach."""

    log_step: Any
    log_average: Any
    time: Any
    target: Any


GAIN = 2.0
"""Of the first correction of a log step size; the later ones fall with the square root of time."""


def tuned(tuning: Tuning, accept: Any) -> Tuning:
    """Move a log step size by its gain times the excess of the acceptance over its target (Robbins and Monro, 1951)."""
    log_step = tuning.log_step + GAIN / jnp.sqrt(tuning.time + 1) * (accept - tuning.target)
    average = tuning.log_average + 2 / (tuning.time + 2) * (log_step - tuning.log_average)
    return Tuning(log_step, average, tuning.time + 1, tuning.target)


def _tuning(step: Any, target: Any) -> Tuning:
    return Tuning(jnp.log(step), jnp.log(step), jnp.zeros_like(step), target)


def _programs(sampler: Sampler, problem: Problem) -> tuple[Any, Any]:
    density = Density(problem.model)
    shaped = shaper(jax.eval_shape(problem.model.space.unconstrain, problem.model.start))

    def potential(frame: Frame, data: Any) -> Any:
        return lambda position: -density(shaped(frame.place(position)), data)

    of_data = 0 if sampler.replicated else None
    init, sample = hmc(potential_fn_gen=potential, algo="NUTS")

    def begin_one(position: Any, frame: Frame, key: Key, data: Any) -> Any:
        return init(
            position,
            num_warmup=0,
            max_tree_depth=sampler.depth,
            trajectory_length=None,  # type: ignore[arg-type]
            model_args=(frame, data),
            rng_key=key,
        )

    def begin(positions: Any, frames: Frame, keys: Key, step: Any, target: Any, data: Any) -> ChainStates:
        of_seed = jax.vmap(begin_one, in_axes=(0, None, 0, None))
        return ChainStates(
            jax.vmap(of_seed, in_axes=(0, 0, 0, of_data))(positions, frames, keys, data),
            jax.vmap(_tuning)(step, target),
        )

    def transit(states: ChainStates, frame: Frame, data: Any, adapt: Any, apart: bool) -> ChainStates:
        """All chains of a seed."""
        step = jnp.exp(jnp.where(adapt, states.tuning.log_step, states.tuning.log_average))
        sized = states.hmc.adapt_state._replace(step_size=jnp.full(states.hmc.i.shape, step, step.dtype))
        new = jax.vmap(lambda state: sample(state, (frame, data)))(states.hmc._replace(adapt_state=sized))

        def moved() -> Tuning:
            accept = jnp.mean(new.accept_prob)
            return tuned(states.tuning, mean_of_shares(accept) if apart else accept)

        return ChainStates(new, jax.lax.cond(adapt, moved, lambda: states.tuning))

    def look(states: ChainStates) -> Seen:
        s = states.hmc
        return Seen(s.z, -s.z_grad, s.potential_energy, s.num_steps, s.diverging, s.accept_prob, s.energy)

    def advance(states: ChainStates, frames: Frame, data: Any, count: Any, adapt: Any, apart: bool) -> Any:
        def move(i: Any, carry: Any) -> Any:
            states, seen = carry
            of_seeds = jax.vmap(partial(transit, apart=apart), in_axes=(0, 0, of_data, None))
            states = of_seeds(states, frames, data, adapt)
            return states, jax.tree.map(lambda buffer, value: buffer.at[:, :, i].set(value), seen, look(states))

        blank = jax.tree.map(lambda v: jnp.zeros((*v.shape[:2], CHUNK, *v.shape[2:]), v.dtype), look(states))
        return jax.lax.fori_loop(0, count, move, (states, blank))

    return _shared_out(begin, advance, of_data)


def _shared_out(begin: Any, advance: Any, of_data: int | None) -> tuple[Any, Any]:
    """Both programs, each device of the axis `member` with its share of the chains; `of_data` as for jax.vmap."""

    def begun(positions: Any, *more: Any) -> ChainStates:
        count, chain, seed = _layout(*positions.shape[:2])
        data = PartitionSpec() if of_data is None else seed
        return shares(begin, count, (chain, seed, chain, seed, seed, data), ChainStates(chain, seed))(positions, *more)  # type: ignore[arg-type]

    def advanced(states: ChainStates, *more: Any) -> Any:
        count, chain, seed = _layout(*states.hmc.i.shape)
        lie: Any = ChainStates(chain, seed)  # type: ignore[arg-type]
        data = PartitionSpec() if of_data is None else seed
        specs = lie, seed, data, PartitionSpec(), PartitionSpec()
        return shares(partial(advance, apart=chain != seed), count, specs, (lie, chain))(states, *more)

    return jax.jit(begun), jax.jit(advanced)


def _layout(seeds: int, chains: int) -> tuple[int, PartitionSpec, PartitionSpec]:
    """How many are shared out, and on which axes chains lie, and what the chains of a seed have in common.

    Chains are shared out where they divide evenly: those of a seed share the tuning of their step size while they warm
    up. Else seeds are.
    """
    devices = width(MEMBER)
    if chains % devices and seeds % devices == 0:
        return seeds, PartitionSpec(MEMBER), PartitionSpec(MEMBER)
    return chains, PartitionSpec(None, MEMBER), PartitionSpec()
