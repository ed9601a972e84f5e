"""The course of microcanonical chains: a warm-up that learns frames and step sizes, and draws."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.infer.mclmc_chains import ChainStates, MicrocanonicalChains, Pace, Seen
from jaxmap.infer.nuts_frame import DENSE_LEARNED_UP_TO, Frame, learn_frame
from jaxmap.infer.nuts_start import Candidate
from jaxmap.optimize import Progress
from jaxmap.trees import stack
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

    def factors(self, seen: Seen) -> np.ndarray:
        """What to multiply step sizes by after a round, (seeds, chains)."""
        if self.energy_error is None:
            away = np.nan_to_num(seen.accept.mean(axis=2), nan=0.0) - self.accept
            return np.exp(np.clip(2.0 * away, -0.7, 0.7))
        error = np.asarray(seen.error, np.float64).mean(axis=2)
        return np.clip((self.energy_error / np.maximum(error, 1e-30)) ** (1 / ORDER), 1 / FASTEST, FASTEST)


class Kept(NamedTuple):
    """Draws, (seeds, chains, draws, ...); z is unconstrained, the rest as in `Seen`."""

    z: np.ndarray
    log_density: np.ndarray
    error: np.ndarray
    steps: np.ndarray
    accept: np.ndarray
    failed: np.ndarray


@dataclass
class Stand:
    """Where a run stands.

    Attributes:
        states: of the chains.
        frames: one per seed, float64.
        steps: step sizes (seeds, chains).
        spent: gradients of each seed before the draws.
        kept: draws, in parts.
    """

    states: ChainStates
    frames: list[Frame]
    steps: np.ndarray
    spent: np.ndarray
    kept: list[Kept] = field(default_factory=list)


class MicrocanonicalRun:
    """The run of all chains of all seeds.

    Args:
        chains: the compiled program.
        aim: what is tuned for, and how long.
        begun: where each seed's chains begin.
        keys: of each seed's transitions, one per chain, (seeds, chains).
        progress: as in `Progress`.
    """

    def __init__(
        self, chains: MicrocanonicalChains, aim: Aim, begun: Sequence[Candidate], keys: Key, progress: bool | None
    ):
        self.chains, self.aim, self.keys, self.progress = chains, aim, keys, progress
        self.size, self.dtype = chains.problem.num_params, chains.problem.dtype
        frames = [candidate.frame for candidate in begun]
        if self.size <= DENSE_LEARNED_UP_TO or any(frame.root.ndim == 2 for frame in frames):
            frames = [frame.as_matrix() for frame in frames]
        z = np.stack([candidate.z for candidate in begun])
        first = [CAREFUL_STEP if _is_plain(candidate.frame) else FIRST_STEP for candidate in begun]
        steps = np.sqrt(self.size) * np.array(first)[:, None] * np.ones(z.shape[:2])
        states = self._begun(z, frames, keys)
        self.stand = Stand(states, frames, steps, np.full(len(z), float(z.shape[1])))

    def go(self) -> bool:
        """Move on to the end; False where the user interrupted it."""
        total = self.aim.warmup + self.aim.draws * self.aim.thin
        with Progress("MCLMC", total, self.progress) as bar:
            try:
                done = 0
                for k, share in enumerate(PHASES):
                    length = self.aim.warmup - done if k == len(PHASES) - 1 else round(share * self.aim.warmup)
                    self._phase(length, done, k < len(PHASES) - 1, bar)
                    done += length
                self._draw(bar)
            except KeyboardInterrupt:
                return False
        return True

    def _phase(self, length: int, begun: int, learns: bool, bar: Progress) -> None:
        """One phase of the warm-up, in rounds that each correct the step sizes."""
        stand, seen, logs = self.stand, [], []
        for done in range(0, length, ROUND):
            count = min(ROUND, length - done)
            this = self._round(count, bar, begun + done)
            seen.append(this)
            factors = self.aim.factors(this) ** (1.0 if learns else 0.5)
            stand.steps = np.maximum(stand.steps * factors, 1e-12)
            logs.append(np.log(stand.steps))
        if learns and length >= 2 * ROUND:
            self._learn(Seen(*(np.concatenate(parts, axis=2) for parts in zip(*seen, strict=True))))
        elif logs:
            stand.steps = np.exp(np.mean(logs[len(logs) // 3 :], axis=0))

    def _round(self, count: int, bar: Progress, begun: int) -> Seen:
        """Some transitions, all of them seen."""
        stand, parts = self.stand, []

        def look(states: ChainStates, seen: Seen) -> None:
            stand.states, stand.spent = states, stand.spent + seen.steps.sum(axis=(1, 2))
            parts.append(seen)
            bar.update(begun + sum(part.steps.shape[2] for part in parts), "warm-up")

        self.chains.advance(stand.states, self._frames(), self._pace(), count, 1, look)
        return Seen(*(np.concatenate(leaves, axis=2) for leaves in zip(*parts, strict=True)))

    def _learn(self, seen: Seen) -> None:
        """Learn frames from the second half of a phase; the chains go on where they are.

        Each chain is looked at around its own mean: chains at different modes say nothing of the width of one.
        """
        stand, half = self.stand, seen.steps.shape[2] // 2
        positions = np.asarray(stand.states.inner.position, np.float64)
        z = np.stack([frame.vectors(x) for frame, x in zip(stand.frames, positions, strict=True)])
        for k, frame in enumerate(stand.frames):
            x, g = (np.asarray(v[k, :, half:], np.float64) for v in (seen.position, seen.slope))
            middle = x.mean(axis=(0, 1))
            x, g = (v - v.mean(axis=1, keepdims=True) for v in (x, g))
            learned = learn_frame(frame, (x + middle).reshape(-1, self.size), g.reshape(-1, self.size))
            stand.steps[k] *= 0.7 * np.exp(_log_scale(frame) - _log_scale(learned))
            stand.frames[k] = learned
        keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, 1)))(stand.states.keys)
        stand.states = self._begun(z, stand.frames, keys)
        stand.spent = stand.spent + z.shape[1]

    def _draw(self, bar: Progress) -> None:
        stand, thin = self.stand, self.aim.thin

        def look(states: ChainStates, seen: Seen) -> None:
            z = np.stack([f.vectors(x) for f, x in zip(stand.frames, seen.position, strict=True)])
            stand.states = states
            stand.kept.append(Kept(z.astype(self.dtype), *seen[2:]))
            bar.update(self.aim.warmup + thin * sum(part.z.shape[2] for part in stand.kept), "drawing")

        self.chains.advance(stand.states, self._frames(), self._pace(), self.aim.draws, thin, look)

    def _begun(self, z: np.ndarray, frames: Sequence[Frame], keys: Key) -> ChainStates:
        positions = np.stack([frame.positions(v) for frame, v in zip(frames, z, strict=True)])
        return self.chains.begin(positions, self._on_device(frames), keys)

    def _frames(self) -> Frame:
        return self._on_device(self.stand.frames)

    def _on_device(self, frames: Sequence[Frame]) -> Frame:
        return stack([Frame(jnp.asarray(f.mean, self.dtype), jnp.asarray(f.root, self.dtype)) for f in frames])

    def _pace(self) -> Pace:
        """Direction is forgotten over L; a step is no longer than that."""
        length = np.full(self.stand.steps.shape, self.aim.length * np.sqrt(self.size))
        shortest = length / MOST_STEPS if self.aim.energy_error is None else 0.0
        return Pace(length, np.clip(self.stand.steps, shortest, length))


def _is_plain(frame: Frame) -> bool:
    """True where nothing is known of the scales."""
    return frame.root.ndim == 1 and bool(np.all(frame.root == 1.0))


def _log_scale(frame: Frame) -> float:
    """The mean log of a frame's stretches."""
    root = np.asarray(frame.root, np.float64)
    return float(np.mean(np.log(np.abs(root)))) if root.ndim == 1 else float(np.linalg.slogdet(root)[1] / len(root))
