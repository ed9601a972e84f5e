"""The course of a run: frames on trial, a warm-up in windows, draws; after each chunk it can be left and taken up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.data import on_host
from jaxmap.infer.nuts_chains import Chains, ChainStates, Seen, step_sizes
from jaxmap.infer.nuts_frame import Frame, learn_frame
from jaxmap.infer.nuts_start import Beginning, Candidate
from jaxmap.optimize import Progress
from jaxmap.trees import stack
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


@dataclass
class Course:
    """Where a run stands.

    Attributes:
        states: of the chains.
        frames: one per seed, stacked.
        chosen: the number of the candidate that each seed moves in.
        windows: lengths of the warm-up's windows.
        phase: the window, len(windows) while drawing.
        done: transitions in this phase.
        spent: gradients of each seed, those of draws excluded.
        learned: positions and slopes of this window, in parts.
        drawn: draws, in parts.
    """

    states: ChainStates
    frames: Frame
    chosen: list[int]
    windows: tuple[int, ...]
    spent: np.ndarray
    phase: int = 0
    done: int = 0
    learned: list[Seen] = field(default_factory=list)
    drawn: list[Drawn] = field(default_factory=list)

    @property
    def drawing(self) -> bool:
        """The warm-up is over."""
        return self.phase == len(self.windows)


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


class Run:
    """The run of all chains of all seeds.

    Args:
        chains: the compiled program.
        beginnings: of each seed.
        keys: of each seed's transitions, one per chain, (seeds, chains).
        plan: how long it is.
        save: is given the course after each chunk.
        progress: as in `Progress`.
    """

    def __init__(
        self,
        chains: Chains,
        beginnings: Sequence[Beginning],
        keys: Key,
        plan: "Plan",
        save: Callable[[Course], None],
        progress: bool | None,
    ):
        self.chains, self.beginnings, self.keys, self.plan = chains, beginnings, keys, plan
        self.save, self.progress = save, progress
        self.size = chains.problem.num_params

    def start(self) -> Course:
        """All chains at their first positions, in the first candidate of each seed."""
        chosen = [0] * len(self.beginnings)
        return self._placed(chosen, np.zeros(len(chosen)))

    def go(self, course: Course) -> bool:
        """Move on to the end; False where the user interrupted it."""
        total = sum(course.windows) + self.plan.transitions
        with Progress("NUTS", total, self.progress) as bar:
            try:
                while not course.drawing:
                    self._window(course, bar)
                self._draw(course, bar)
            except KeyboardInterrupt:
                return False
        return True

    def _window(self, course: Course, bar: Progress) -> None:
        """The rest of one window, and what is learned from it."""

        def look(states: ChainStates, seen: Seen) -> None:
            course.states, course.done = states, course.done + seen.steps.shape[2]
            course.spent = course.spent + seen.steps.sum(axis=(1, 2))
            course.learned.append(seen)
            bar.update(sum(course.windows[: course.phase]) + course.done, "warm-up")
            self.save(course)

        left = course.windows[course.phase] - course.done
        if left:
            self.chains.advance(course.states, course.frames, left, True, look)
        self._finish_window(course)

    def _finish_window(self, course: Course) -> None:
        seen = Seen(*(np.concatenate(parts, axis=2) for parts in zip(*course.learned, strict=True)))
        course.learned, course.done = [], 0
        if course.phase == 0:
            failed = [self._fails(seen, course, k) for k in range(len(course.chosen))]
            again = [
                min(c + f, len(b.candidates) - 1)
                for c, f, b in zip(course.chosen, failed, self.beginnings, strict=True)
            ]
            if again != course.chosen:
                vars(course).update(vars(self._placed(again, course.spent)))
                return
        if course.phase < len(course.windows) - 1:
            self._learn(course, seen)
        course.phase += 1

    def _fails(self, seen: Seen, course: Course, seed: int) -> bool:
        """True where the chains of a seed can hardly move in their frame."""
        deepest = np.mean(seen.steps[seed] >= 2**self.chains.sampler.depth - 1)
        tiny = step_sizes(course.states)[seed] < TINY_STEP * self.size**-0.25
        return bool(np.mean(seen.diverging[seed]) > MANY or deepest > MANY or tiny)

    def _learn(self, course: Course, seen: Seen) -> None:
        """Frames from the draws and gradients of a window; the chains go on in them where they are."""
        skip = seen.steps.shape[2] // TRANSIENT
        frames = []
        z = self._unconstrained(course.frames, on_host(course.states.hmc.z))
        for k, frame in enumerate(self._frames(course)):
            x, g = (v[k, :, skip:].reshape(-1, self.size) for v in (seen.position, seen.slope))
            frames.append(learn_frame(frame, x, g))
        positions = np.stack([frame.positions(z[k]) for k, frame in enumerate(frames)])
        keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, 1)))(course.states.hmc.rng_key)
        course.frames = self._on_device(frames)
        course.states = self._begun(positions, course.frames, keys, course.states.tuning.target)
        course.spent = course.spent + positions.shape[1]

    def _placed(self, chosen: list[int], spent: np.ndarray) -> Course:
        """A course that begins with these candidates."""
        picked: list[Candidate] = [b.candidates[c] for b, c in zip(self.beginnings, chosen, strict=True)]
        warmup = self.plan.warmup or max(candidate.warmup for candidate in picked)
        frames = [
            c.frame if c.frame.root.ndim == 1 + self.chains.sampler.dense else c.frame.as_matrix() for c in picked
        ]
        positions = np.stack([f.positions(c.z) for f, c in zip(frames, picked, strict=True)])
        stacked = self._on_device(frames)
        targets = [self.plan.target or candidate.target for candidate in picked]
        states = self._begun(positions, stacked, self.keys, targets)
        return Course(states, stacked, chosen, windows_of(warmup), spent + positions.shape[1])

    def _begun(self, positions: np.ndarray, frames: Frame, keys: Key, target: Any) -> ChainStates:
        dtype = self.chains.problem.dtype
        step = np.full(len(positions), self.size**-0.25)
        return self.chains.begin(jnp.asarray(positions, dtype), frames, keys, step, target)

    def _on_device(self, frames: Sequence[Frame]) -> Frame:
        dtype = self.chains.problem.dtype
        return stack([Frame(jnp.asarray(f.mean, dtype), jnp.asarray(f.root, dtype)) for f in frames])

    def _frames(self, course: Course) -> list[Frame]:
        mean, root = (np.asarray(leaf, np.float64) for leaf in course.frames)
        return [Frame(m, r) for m, r in zip(mean, root, strict=True)]

    def _unconstrained(self, frames: Frame, positions: np.ndarray) -> np.ndarray:
        """Positions (seeds, chains, ..., P) as unconstrained vectors in float64."""
        mean, root = (np.asarray(leaf, np.float64) for leaf in frames)
        x = np.asarray(positions, np.float64).reshape(len(mean), -1, self.size)
        z = mean[:, None] + (x * root[:, None] if root.ndim == 2 else x @ root.swapaxes(1, 2))
        return z.reshape(positions.shape)

    def _draw(self, course: Course, bar: Progress) -> None:
        """The rest of the draws."""
        begun = sum(course.windows)

        def look(states: ChainStates, seen: Seen) -> None:
            course.drawn.append(self._kept(course, seen))
            course.states, course.done = states, course.done + seen.steps.shape[2]
            bar.update(begun + course.done, "drawing")
            self.save(course)

        left = self.plan.transitions - course.done
        if left > 0:
            self.chains.advance(course.states, course.frames, left, False, look)

    def _kept(self, course: Course, seen: Seen) -> Drawn:
        """All transitions of a chunk; what thinning leaves out is dropped when the run is gathered."""
        z = self._unconstrained(course.frames, seen.position).astype(self.chains.problem.dtype)
        return Drawn(z, seen.potential, seen.steps, seen.diverging, seen.accept, seen.energy)


def gather(drawn: Sequence[Drawn], thin: int, most: int) -> Drawn:
    """The first `most` draws as one: every `thin`-th z, potential and energy, sums of steps and divergences between."""
    joined = Drawn(*(np.concatenate(parts, axis=2)[:, :, : most * thin] for parts in zip(*drawn, strict=True)))
    if thin == 1:
        return joined
    count = joined.steps.shape[2] // thin
    within = [v[:, :, : count * thin].reshape(*v.shape[:2], count, thin, *v.shape[3:]) for v in joined]
    z, potential, steps, diverging, accept, energy = within
    return Drawn(z[:, :, :, -1], potential[..., -1], steps.sum(-1), diverging.sum(-1), accept.mean(-1), energy[..., -1])
