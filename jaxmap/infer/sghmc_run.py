"""The run of chains on minibatches: half of a warm-up, scales anew, the other half to hear the noise, draws."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.infer.beginning import Beginning
from jaxmap.infer.chain_run import DRAWING, MOVING_ON, WARM_UP, Course, Kinds, Leg, joined
from jaxmap.infer.nuts_frame import Frame, each_of, stacked, to_device
from jaxmap.infer.problem import Problem
from jaxmap.infer.sghmc_chains import MovingState, Passed, StochasticChains, Tuning
from jaxmap.infer.sghmc_diagnosis import Kept
from jaxmap.infer.sghmc_scales import Scales, measure
from jaxmap.types import Key, Seeds

SCALES = 4
"""The tag folded into a key for the batches that scales are measured on."""

PARTS, AT_A_TIME = 5, 5
"""Parts of the second half of the warm-up, and steps of it between two looks."""

LONGEST = 1000
"""The most steps between draws where the number is chosen."""


@dataclass(frozen=True)
class Itinerary:
    """How the chains go, as in `SGHMC`.

    Attributes:
        warmup: steps; None: chosen.
        draws: positions that are kept.
        thin: steps per draw; None: chosen.
        cycles: groups of draws.
        batch_size: examples per step; None: all.
        step_size: h; None: chosen.
        momentum: c.
        temperature: T.
    """

    warmup: int | None
    draws: int
    thin: int | None
    cycles: int
    batch_size: int | None
    step_size: float | None
    momentum: float
    temperature: float


class Known(NamedTuple):
    """What a run has learned, in float64.

    Attributes:
        mean: of frames, (seeds, P).
        root: of frames, (seeds, P).
        step: h of each seed.
        noise: variance of the gradients' estimates in the frames, (seeds, P).
        z: places of the chains in the warm-up, unconstrained, (seeds, chains, P).
        spent: gradients of each seed that scales were measured with.
        moved: steps of each chain from which nothing is kept, ().
        thin: steps per draw, ().
        warmup: steps, ().
    """

    mean: np.ndarray
    root: np.ndarray
    step: np.ndarray
    noise: np.ndarray
    z: np.ndarray
    spent: np.ndarray
    moved: np.ndarray
    thin: np.ndarray
    warmup: np.ndarray

    @property
    def frames(self) -> Frame:
        """One per seed, stacked."""
        return Frame(self.mean, self.root)


class Warmth(NamedTuple):
    """Kinetic temperatures, as in `Passed`."""

    kinetic: np.ndarray


@dataclass(frozen=True, kw_only=True)
class RunUp(Leg):
    """A leg of the warm-up.

    Attributes:
        ends: something is learned at its end.
        gain: as in `Scales.heard`; None: scales are measured again.
    """

    ends: bool
    gain: float | None


def run_up(steps: int, gain: float | None) -> list[RunUp]:
    """Legs of so many steps together, of which a few lie between two looks."""
    whole, rest = divmod(steps, AT_A_TIME)
    parts = [(count, thin) for count, thin in ((whole, AT_A_TIME), (1, rest)) if count and thin]
    return [RunUp(count=c, thin=t, ends=k == len(parts) - 1, gain=gain) for k, (c, t) in enumerate(parts)]


class StochasticRun:
    """The run of all chains of all seeds, as a `Run`.

    Args:
        chains: the compiled program.
        itinerary: how they go.
        seeds: whose keys the scales are measured with.
        keys: of each seed's steps, one per chain, (seeds, chains).
    """

    label = "SGHMC"
    kinds = Kinds(Known, Warmth, Kept)
    on_trial = 0

    def __init__(self, chains: StochasticChains, itinerary: Itinerary, seeds: Seeds, keys: Key):
        self.chains, self.itinerary, self.seeds, self.keys = chains, itinerary, seeds, keys
        self.problem: Problem = chains.problem

    def start(self, begun: Sequence[Beginning]) -> Course:
        """All chains at rest where they begin, with scales measured there."""
        z = np.stack([beginning.candidates[0].z for beginning in begun])
        course = self._measured(z, 0)
        return course if course.known.warmup > 1 else self._measured(z, 1, course)

    def states_like(self) -> MovingState:
        """Shapes of the states."""
        return self.chains.states_like(*self.keys.shape)

    def legs(self, course: Course) -> list[Leg]:
        """Both halves of the warm-up, and the groups of draws with what lies between them."""
        thin, warmup = int(course.known.thin), int(course.known.warmup)
        half, way = warmup // 2, self.itinerary
        legs: list[Leg] = [*run_up(half, None)]
        for k, part in enumerate(np.array_split(np.arange(warmup - half), min(PARTS, warmup - half))):
            legs += run_up(len(part), 1 / (k + 1))
        for k, group in enumerate(len(part) for part in np.array_split(np.arange(way.draws), way.cycles)):
            legs += [Leg(max(1, group // 2), thin, MOVING_ON)] if k else []
            legs += [Leg(group, thin, DRAWING)]
        return legs

    def advance(self, course: Course, leg: Leg, look: Callable[[MovingState, Passed], None]) -> None:
        """The rest of a leg."""
        known, dtype = course.known, self.problem.dtype
        memory = np.full(known.step.shape, self.itinerary.momentum)
        tuning = Tuning(*(jnp.asarray(leaf, dtype) for leaf in (known.step, memory, known.noise)))
        frames, wide = to_device(known.frames, dtype), leg.doing == MOVING_ON
        self.chains.advance(course.states, frames, tuning, leg.count, leg.thin, look, done=course.done, wide=wide)

    def noticed(self, course: Course, leg: Leg, seen: Passed) -> Course:
        """What a chunk saw; the momenta's warmth in the warm-up, nothing while the chains move on."""
        known = course.known
        z = np.stack([f.vectors(x) for f, x in zip(each_of(known.frames), seen.position, strict=True)])
        if leg.doing == DRAWING:
            return replace(course, drawn=(*course.drawn, Kept(z.astype(self.problem.dtype), *seen)))
        known = known._replace(moved=known.moved + leg.thin * z.shape[2], z=z[:, :, -1])
        warmth = (Warmth(seen.kinetic),) if leg.doing == WARM_UP else ()
        return replace(course, known=known, seen=(*course.seen, *warmth))

    def learned(self, course: Course, leg: Leg) -> Course:
        """Scales at the new places, or how much the gradients' noise warms the momenta."""
        if not isinstance(leg, RunUp) or not leg.ends:
            return course.after(course.known, course.seen)
        if leg.gain is None:
            course = self._measured(course.known.z, 1, course)
            return course.after(course.known)
        return course.after(self._heard(course, leg.gain))

    def _heard(self, course: Course, gain: float) -> Known:
        """The noise corrected by how warm the momenta were, those of the first steps left out."""
        kinetic, way = joined(course.seen).kinetic, self.itinerary
        warmth = kinetic[:, :, kinetic.shape[2] // 4 :].mean(axis=(1, 2), dtype=np.float64)
        scales = [
            s.heard(float(warm), way.temperature, gain, fixed=way.step_size is not None)
            for s, warm in zip(self.scales(course.known), warmth, strict=True)
        ]
        step, noise = np.array([s.tuning.step for s in scales]), np.stack([s.tuning.noise for s in scales])
        return course.known._replace(step=step, noise=noise)

    def _measured(self, z: np.ndarray, number: int, course: Course | None = None) -> Course:
        """Scales at places (seeds, chains, P), at which the chains begin at rest; what the course before has spent."""
        way = self.itinerary
        options = way.batch_size, way.temperature, way.momentum, way.step_size
        keys = [jax.random.fold_in(jax.random.fold_in(key, SCALES), number) for key in self.seeds.keys]
        scales: list[Scales] = [measure(key, self.problem, at, *options) for key, at in zip(keys, z, strict=True)]
        frames = [s.frame for s in scales]
        positions = np.stack([frame.positions(at) for frame, at in zip(frames, z, strict=True)])
        states = self.chains.begin(
            positions, jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, number)))(self.keys)
        )
        tuned = np.array([s.tuning.step for s in scales]), np.stack([s.tuning.noise for s in scales])
        spent = np.array([s.gradients for s in scales])
        if course is not None:
            old = course.known
            known = Known(*stacked(frames), *tuned, z, old.spent + spent, old.moved, old.thin, old.warmup)
            return replace(course, states=states, known=known)
        thin = way.thin or min(max(s.forgetting for s in scales), LONGEST)
        counts = np.array(0), np.array(thin), np.array(way.warmup or max(500, 20 * thin))
        return Course(states, Known(*stacked(frames), *tuned, z, spent, *counts))

    def scales(self, known: Known) -> list[Scales]:
        """The scales of each seed."""
        rows = zip(each_of(known.frames), known.step, known.noise, strict=True)
        return [Scales(frame, Tuning(float(h), self.itinerary.momentum, noise), 0.0) for frame, h, noise in rows]
