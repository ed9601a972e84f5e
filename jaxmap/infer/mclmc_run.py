"""The run of microcanonical chains: a warm-up that learns frames and step sizes, and draws."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import numpy as np

from jaxmap.infer.beginning import Beginning
from jaxmap.infer.chain_run import DRAWING, WARM_UP, Course, Kinds, Leg, joined
from jaxmap.infer.mclmc_chains import ChainStates, MicrocanonicalChains, Pace, Seen
from jaxmap.infer.nuts_frame import DENSE_LEARNED_UP_TO, Frame, each_of, learn_frame, stacked, to_device
from jaxmap.types import Key

ROUND = 25
"""Transitions after which step sizes are looked at."""

PHASES = (1 / 8, 1 / 8, 1 / 4, 1 / 2)
"""Shares of the warm-up. After each but the last a frame is learned; in the last only step sizes."""

FIRST_STEP, CAREFUL_STEP = 0.1, 0.002
"""The first step size, in units of sqrt(P): in coordinates that a start has stretched, and in plain ones."""

FASTEST = 2.0
"""The most by which a step size may grow or shrink in a round."""

MOST_STEPS = 200
"""The largest mean number of steps of an adjusted trajectory."""

ORDER = 6.0
"""The energy error of a step, squared, grows with this power of the step size."""


@dataclass(frozen=True)
class Aim:
    """What the warm-up tunes for, and how long the run is.

    Attributes:
        warmup: transitions.
        draws: positions that are kept.
        thin: transitions per draw.
        length: L, in units of sqrt(P) of the frame.
        energy_error: of unadjusted steps, squared, per dimension; None: adjusted.
        accept: probability, of adjusted trajectories.
    """

    warmup: int
    draws: int
    thin: int
    length: float
    energy_error: float | None
    accept: float

    def factors(self, energy_errors: np.ndarray, accepted: np.ndarray) -> np.ndarray:
        """What to multiply step sizes by after a round that saw these, (seeds, chains, transitions)."""
        if self.energy_error is None:
            away = np.nan_to_num(accepted.mean(axis=2), nan=0.0) - self.accept
            return np.exp(np.clip(2.0 * away, -0.7, 0.7))
        error = np.asarray(energy_errors, np.float64).mean(axis=2)
        return np.clip((self.energy_error / np.maximum(error, 1e-30)) ** (1 / ORDER), 1 / FASTEST, FASTEST)


class Kept(NamedTuple):
    """Draws, (seeds, chains, draws, ...); z is unconstrained, the rest as in `Seen`."""

    z: np.ndarray
    log_density: np.ndarray
    error: np.ndarray
    steps: np.ndarray
    accept: np.ndarray
    failed: np.ndarray


class Known(NamedTuple):
    """What a run has learned, in float64.

    Attributes:
        mean: of frames, (seeds, P).
        root: of frames, (seeds, P) or (seeds, P, P).
        steps: step sizes, (seeds, chains).
        logs: of the step sizes after each round of this phase, (rounds, seeds, chains).
        spent: gradients of each seed before the draws.
    """

    mean: np.ndarray
    root: np.ndarray
    steps: np.ndarray
    logs: np.ndarray
    spent: np.ndarray

    @property
    def frames(self) -> Frame:
        """One per seed, stacked."""
        return Frame(self.mean, self.root)


class Passed(NamedTuple):
    """What the warm-up learns from, as in `Seen`."""

    position: np.ndarray
    slope: np.ndarray
    error: np.ndarray
    accept: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Round(Leg):
    """A part of a phase of the warm-up, after which step sizes are corrected.

    Attributes:
        until: transitions of the phase at its end.
        length: of the phase.
        learns: the phase ends with new frames, if it is long enough.
    """

    until: int
    length: int
    learns: bool

    @property
    def remembered(self) -> bool:
        """A frame will be learned from it: from those that reach into the second half."""
        return self.learns and self.until > self.length // 2


def rounds_of(warmup: int) -> list[Round]:
    """Split a warm-up into phases, and those into rounds."""
    found, done = [], 0
    for k, share in enumerate(PHASES):
        last = k == len(PHASES) - 1
        length = warmup - done if last else round(share * warmup)
        for begun in range(0, length, ROUND):
            count = min(ROUND, length - begun)
            found.append(Round(count=count, until=begun + count, length=length, learns=not last))
        done += length
    return found


class MicrocanonicalRun:
    """The run of all chains of all seeds, as a `Run`.

    Args:
        chains: the compiled program.
        aim: what is tuned for, and how long.
        keys: of each seed's transitions, one per chain, (seeds, chains).
    """

    label = "MCLMC"
    kinds = Kinds(Known, Passed, Kept)
    on_trial = 0

    def __init__(self, chains: MicrocanonicalChains, aim: Aim, keys: Key):
        self.chains, self.aim, self.keys = chains, aim, keys
        self.size, self.dtype = chains.problem.num_params, chains.problem.dtype
        self.rounds = rounds_of(aim.warmup)

    def start(self, begun: Sequence[Beginning]) -> Course:
        """All chains at their first positions, in the first candidate of each seed."""
        candidates = [beginning.candidates[0] for beginning in begun]
        frames = [candidate.frame for candidate in candidates]
        if self.size <= DENSE_LEARNED_UP_TO or any(frame.root.ndim == 2 for frame in frames):
            frames = [frame.as_matrix() for frame in frames]
        z = np.stack([candidate.z for candidate in candidates])
        first = [CAREFUL_STEP if _is_plain(candidate.frame) else FIRST_STEP for candidate in candidates]
        steps = np.sqrt(self.size) * np.array(first)[:, None] * np.ones(z.shape[:2])
        spent = np.full(len(z), float(z.shape[1]))
        known = Known(*stacked(frames), steps, np.zeros((0, *steps.shape)), spent)
        return Course(self._begun(z, known.frames, self.keys), known)

    def states_like(self) -> ChainStates:
        """Shapes of the states."""
        return self.chains.states_like(*self.keys.shape)

    def legs(self, course: Course) -> list[Leg]:
        """The rounds and the draws."""
        return [*self.rounds, Leg(self.aim.draws, self.aim.thin, DRAWING)]

    def advance(self, course: Course, leg: Leg, look: Callable[[ChainStates, Seen], None]) -> None:
        """The rest of a round or of the draws."""
        frames, pace = to_device(course.known.frames, self.dtype), self._pace(course.known.steps)
        self.chains.advance(course.states, frames, pace, leg.count - course.done, leg.thin, look)

    def noticed(self, course: Course, leg: Leg, seen: Seen) -> Course:
        """What a chunk saw."""
        known = course.known
        if leg.doing == WARM_UP:
            spent = known.spent + seen.steps.sum(axis=(1, 2))
            passed = Passed(seen.position, seen.slope, seen.error, seen.accept)
            return replace(course, known=known._replace(spent=spent), seen=(*course.seen, passed))
        z = np.stack([f.vectors(x) for f, x in zip(each_of(known.frames), seen.position, strict=True)])
        return replace(course, drawn=(*course.drawn, Kept(z.astype(self.dtype), *seen[2:])))

    def learned(self, course: Course, leg: Leg) -> Course:
        """Step sizes after each round; at the end of a phase a frame, or the mean of the last step sizes."""
        this = self.rounds[course.leg]
        error, accept = (
            np.concatenate([getattr(part, name) for part in course.seen], axis=2)[:, :, -leg.count :]
            for name in ("error", "accept")
        )
        factors = self.aim.factors(error, accept) ** (1.0 if this.learns else 0.5)
        steps = np.maximum(course.known.steps * factors, 1e-12)
        logs = np.concatenate([course.known.logs, np.log(steps)[None]])
        known = course.known._replace(steps=steps, logs=logs)
        if this.until < this.length:
            return course.after(known, course.seen if this.remembered else ())
        if this.learns and this.length >= 2 * ROUND:
            return self._in_learned_frames(replace(course, known=known), this)
        steps = np.exp(np.mean(logs[len(logs) // 3 :], axis=0))
        return course.after(known._replace(steps=steps, logs=logs[:0]))

    def _in_learned_frames(self, course: Course, last: Round) -> Course:
        """Learn frames from the second half of a phase; the chains go on where they are.

        Each chain is looked at around its own mean: chains at different modes say nothing of the width of one.
        """
        known, seen, skip = course.known, joined(course.seen), last.length // 2 % ROUND
        positions = np.asarray(course.states.inner.position, np.float64)
        frames, steps = each_of(known.frames), known.steps.copy()
        z = np.stack([frame.vectors(x) for frame, x in zip(frames, positions, strict=True)])
        for k, frame in enumerate(frames):
            x, g = (np.asarray(v[k, :, skip:], np.float64) for v in (seen.position, seen.slope))
            middle = x.mean(axis=(0, 1))
            x, g = (v - v.mean(axis=1, keepdims=True) for v in (x, g))
            frames[k] = learn_frame(frame, (x + middle).reshape(-1, self.size), g.reshape(-1, self.size))
            steps[k] *= 0.7 * np.exp(_log_scale(frame) - _log_scale(frames[k]))
        keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, 1)))(course.states.keys)
        known = Known(*stacked(frames), steps, known.logs[:0], known.spent + z.shape[1])
        return replace(course, states=self._begun(z, known.frames, keys)).after(known)

    def _begun(self, z: np.ndarray, frames: Frame, keys: Key) -> ChainStates:
        positions = np.stack([frame.positions(v) for frame, v in zip(each_of(frames), z, strict=True)])
        return self.chains.begin(positions, to_device(frames, self.dtype), keys)

    def _pace(self, steps: np.ndarray) -> Pace:
        """Direction is forgotten over L; a step is no longer than that."""
        length = np.full(steps.shape, self.aim.length * np.sqrt(self.size))
        shortest = length / MOST_STEPS if self.aim.energy_error is None else 0.0
        return Pace(length, np.clip(steps, shortest, length))


def _is_plain(frame: Frame) -> bool:
    """True where nothing is known of the scales."""
    return frame.root.ndim == 1 and bool(np.all(frame.root == 1.0))


def _log_scale(frame: Frame) -> float:
    """The mean log of a frame's stretches."""
    root = np.asarray(frame.root, np.float64)
    return float(np.mean(np.log(np.abs(root)))) if root.ndim == 1 else float(np.linalg.slogdet(root)[1] / len(root))
