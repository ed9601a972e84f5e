"""The run of NUTS: frames on trial, a warm-up in windows, draws."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.data import on_host
from jaxmap.infer.beginning import Beginning, Candidate
from jaxmap.infer.chain_run import DRAWING, WARM_UP, Course, Kinds, Leg, joined
from jaxmap.infer.nuts_chains import Chains, ChainStates, Sampler, Seen, step_sizes
from jaxmap.infer.nuts_frame import DENSE_LEARNED_UP_TO, Frame, each_of, learn_frame, stacked, to_device
from jaxmap.infer.problem import Problem
from jaxmap.types import Key

FIRST_WINDOW = 20
"""Transitions of the first window, on trial; each later one is twice as long."""

FINAL_SHARE, FINAL_MOST = 6, 60
"""The last window, in which only the step size is tuned: a sixth of the warm-up, at most 60 transitions."""

TRANSIENT = 4
"""A quarter of each window is not learned from: the chains may still be on their way."""

MANY = 0.25
"""The share of transitions that may diverge, or reach the deepest tree, before a frame is given up."""

TINY_STEP = 0.05
"""The step size, in units of P^(-1/4), below which a frame is given up."""


class Drawn(NamedTuple):
    """What is kept of the draws, (seeds, chains, draws, ...).

    z is unconstrained; steps and divergences are sums, acceptance a mean, over the transitions since the draw before.
    """

    z: np.ndarray
    potential: np.ndarray
    steps: np.ndarray
    diverging: np.ndarray
    accept: np.ndarray
    energy: np.ndarray


class Known(NamedTuple):
    """What a run has learned.

    Attributes:
        mean: of frames, (seeds, P), as the device computes with them.
        root: of frames, (seeds, P) or (seeds, P, P).
        chosen: the number of the candidate that each seed moves in.
        windows: lengths of the warm-up's windows.
        spent: gradients of each seed, those of draws excluded.
    """

    mean: np.ndarray
    root: np.ndarray
    chosen: np.ndarray
    windows: np.ndarray
    spent: np.ndarray

    @property
    def frames(self) -> Frame:
        """One per seed, stacked."""
        return Frame(self.mean, self.root)


def windows_of(warmup: int) -> tuple[int, ...]:
    """Split a warm-up into windows that double, and a last one for the step size."""
    final = max(1, min(FINAL_MOST, warmup // FINAL_SHARE))
    left, length, found = warmup - final, FIRST_WINDOW, []
    while left > 0:
        found.append(left if left < 3 * length else length)
        left, length = left - found[-1], 2 * length
    return (*found, final)


@dataclass(frozen=True)
class Plan:
    """How long a run is.

    Attributes:
        warmup: transitions of the warm-up; None: what the chosen candidates need.
        transitions: after it.
        target: acceptance probability; None: what the chosen candidates ask for.
    """

    warmup: int | None
    transitions: int
    target: float | None = None


class NUTSRun:
    """The run of all chains of all seeds, as a `Run`: windows of a warm-up, the first of them on trial, and draws.

    Args:
        sampler: how chains move; matrices where frames have them.
        problem: what they sample.
        plan: how long it is.
        keys: of each seed's transitions, one per chain, (seeds, chains).
    """

    label = "NUTS"
    kinds = Kinds(Known, Seen, Drawn)
    on_trial = 1

    def __init__(self, sampler: Sampler, problem: Problem, plan: Plan, keys: Key):
        self.sampler, self.problem, self.plan, self.keys = sampler, problem, plan, keys
        self.size, self.dtype = problem.num_params, problem.dtype
        self.beginnings: Sequence[Beginning] = ()

    def start(self, begun: Sequence[Beginning]) -> Course:
        """All chains at their first positions, in the first candidate of each seed."""
        self.beginnings = begun
        return self._placed([0] * len(begun), np.zeros(len(begun)))

    def states_like(self) -> ChainStates:
        """Shapes of the states."""
        return Chains(self.sampler, self.problem).states_like(*self.keys.shape)

    def legs(self, course: Course) -> list[Leg]:
        """The windows and the draws."""
        return [*(Leg(int(length)) for length in course.known.windows), Leg(self.plan.transitions, doing=DRAWING)]

    def advance(self, course: Course, leg: Leg, look: Callable[[ChainStates, Seen], None]) -> None:
        """The rest of a window or of the draws."""
        known, tunes = course.known, leg.doing == WARM_UP
        frames = to_device(known.frames, self.dtype)
        self._chains(known).advance(course.states, frames, leg.count - course.done, tunes, look)

    def noticed(self, course: Course, leg: Leg, seen: Seen) -> Course:
        """All transitions of a chunk; what thinning leaves out is dropped when the draws are gathered."""
        known = course.known
        if leg.doing == WARM_UP:
            spent = known.spent + seen.steps.sum(axis=(1, 2))
            return replace(course, known=known._replace(spent=spent), seen=(*course.seen, seen))
        z = _unconstrained(known.frames, seen.position).astype(self.dtype)
        drawn = Drawn(z, seen.potential, seen.steps, seen.diverging, seen.accept, seen.energy)
        return replace(course, drawn=(*course.drawn, drawn))

    def learned(self, course: Course, leg: Leg) -> Course:
        """After the first window, whether the chains can move at all; after all but the last a frame."""
        seen = joined(course.seen)
        if course.leg == 0:
            chosen = course.known.chosen.tolist()
            failed = [self._fails(seen, course, k) for k in range(len(chosen))]
            again = [
                min(c + int(f), len(b.candidates) - 1) for c, f, b in zip(chosen, failed, self.beginnings, strict=True)
            ]
            if again != chosen:
                return self._placed(again, course.known.spent)
        if course.leg < len(course.known.windows) - 1:
            course = self._in_learned_frames(course, seen)
        return course.after(course.known)

    def _fails(self, seen: Seen, course: Course, seed: int) -> bool:
        """True where the chains of a seed can hardly move in their frame."""
        deepest = np.mean(seen.steps[seed] >= 2**self.sampler.depth - 1)
        tiny = step_sizes(course.states)[seed] < TINY_STEP * self.size**-0.25
        return bool(np.mean(seen.diverging[seed]) > MANY or deepest > MANY or tiny)

    def _in_learned_frames(self, course: Course, seen: Seen) -> Course:
        """Frames from the draws and gradients of a window; the chains go on in them where they are."""
        skip, known = seen.steps.shape[2] // TRANSIENT, course.known
        frames = []
        z = _unconstrained(known.frames, on_host(course.states.hmc.z))
        for k, frame in enumerate(each_of(known.frames)):
            x, g = (v[k, :, skip:].reshape(-1, self.size) for v in (seen.position, seen.slope))
            frames.append(learn_frame(frame, x, g))
        positions = np.stack([frame.positions(z[k]) for k, frame in enumerate(frames)])
        keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, 1)))(course.states.hmc.rng_key)
        mean, root = self._rounded(frames)
        known = known._replace(mean=mean, root=root, spent=known.spent + positions.shape[1])
        return replace(course, known=known, states=self._begun(positions, known, keys, course.states.tuning.target))

    def _placed(self, chosen: list[int], spent: np.ndarray) -> Course:
        """A course that begins with these candidates."""
        picked: list[Candidate] = [b.candidates[c] for b, c in zip(self.beginnings, chosen, strict=True)]
        warmup = self.plan.warmup or max(candidate.warmup for candidate in picked)
        frames = [c.frame if c.frame.root.ndim == 1 + self._is_dense() else c.frame.as_matrix() for c in picked]
        positions = np.stack([f.positions(c.z) for f, c in zip(frames, picked, strict=True)])
        targets = [self.plan.target or candidate.target for candidate in picked]
        numbers = np.array(chosen), np.array(windows_of(warmup)), spent + positions.shape[1]
        known = Known(*self._rounded(frames), *numbers)
        return Course(self._begun(positions, known, self.keys, targets), known)

    def _begun(self, positions: np.ndarray, known: Known, keys: Key, target: Any) -> ChainStates:
        step, frames = np.full(len(positions), self.size**-0.25), to_device(known.frames, self.dtype)
        return self._chains(known).begin(jnp.asarray(positions, self.dtype), frames, keys, step, target)

    def _is_dense(self) -> bool:
        """Frames need matrices: they are learned, or a start has one."""
        matrices = any(candidate.frame.root.ndim == 2 for begun in self.beginnings for candidate in begun.candidates)
        return matrices or self.size <= DENSE_LEARNED_UP_TO

    def _chains(self, known: Known) -> Chains:
        return Chains(replace(self.sampler, dense=known.root.ndim == 3), self.problem)

    def _rounded(self, frames: Sequence[Frame]) -> Frame:
        mean, root = stacked(frames)
        return Frame(mean.astype(self.dtype), root.astype(self.dtype))


def _unconstrained(frames: Frame, positions: np.ndarray) -> np.ndarray:
    """Positions (seeds, chains, ..., P) as unconstrained vectors in float64."""
    mean, root = (np.asarray(leaf, np.float64) for leaf in frames)
    x = np.asarray(positions, np.float64).reshape(len(mean), -1, mean.shape[1])
    z = mean[:, None] + (x * root[:, None] if root.ndim == 2 else x @ root.swapaxes(1, 2))
    return z.reshape(positions.shape)


def gather(drawn: Sequence[Drawn], thin: int, most: int) -> Drawn:
    """The first `most` draws as one: every `thin`-th z, potential and energy, sums of steps and divergences between."""
    whole = joined(drawn, most * thin)
    if thin == 1:
        return whole
    count = whole.steps.shape[2] // thin
    within = [v[:, :, : count * thin].reshape(*v.shape[:2], count, thin, *v.shape[3:]) for v in whole]
    z, potential, steps, diverging, accept, energy = within
    return Drawn(z[:, :, :, -1], potential[..., -1], steps.sum(-1), diverging.sum(-1), accept.mean(-1), energy[..., -1])
