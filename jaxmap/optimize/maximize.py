"""maximize(): one loop for every solver, on the device in chunks.

Between chunks the host looks: it moves the bar, catches an interrupt, tests for numbers that are not finite, and keeps
what a later run needs to go on.
Inside a chunk nothing of that costs anything. When a chunk ends badly it is run again, carefully, to find the step.
"""

import contextlib
import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.data import Stream
from jaxmap.model import Density
from jaxmap.optimize.feed import Feed, Layout, feed_of
from jaxmap.optimize.objective import objective_of
from jaxmap.optimize.progress import Progress
from jaxmap.optimize.solver import Solver, SolverState
from jaxmap.trees import all_finite, take
from jaxmap.types import Data, Key, Status

SECONDS_PER_CHUNK = 0.25


@dataclass(frozen=True)
class Budget:
    """What a climb may use.

    Attributes:
        steps: the largest number of steps.
        batch_size: examples per step; None for all.
        progress: as in `Progress`.
    """

    steps: int
    batch_size: int | None = None
    progress: bool | None = None


class Ascent(NamedTuple):
    """What came of one climb per member, stacked.

    Attributes:
        z: last finite coordinates.
        codes: `Status` codes; STEPS_EXHAUSTED stands for "not judged yet".
        steps: steps taken, the failing one excluded.
        gradients: gradient evaluations, a minibatch counted as its share of the data.
        history: (members, steps) minimised loss, NaN after the end.
    """

    z: Any
    codes: np.ndarray
    steps: np.ndarray
    gradients: np.ndarray
    history: np.ndarray


class Standing(NamedTuple):
    """Where a climb stands between two calls: all that it needs to go on, bit for bit.

    Attributes:
        state: of the solver; of members that diverged the last finite one.
        step: steps called for so far, and with them the position in the data.
        taken: steps of each member.
        codes: `Status` codes of each member.
        losses: (members, count) of each call; more than `step` columns where a call was cut short.
    """

    state: SolverState
    step: int
    taken: np.ndarray
    codes: np.ndarray
    losses: list[np.ndarray]

    @property
    def history(self) -> np.ndarray:
        """The loss of each step, (members, step), NaN after the end of a member."""
        empty = np.zeros((len(self.codes), 0))
        return np.concatenate(self.losses, axis=1)[:, : self.step] if self.losses else empty

    @property
    def lost(self) -> np.ndarray:
        """True for members that diverged."""
        return self.codes == Status.DIVERGED.code


@runtime_checkable
class Keeper(Protocol):
    """What keeps the standing of a climb, to take it up again."""

    def read(self, begun: Standing) -> Standing:
        """The standing that was kept last, in the structure of one that has just begun, or that one."""
        ...

    def write(self, standing: Standing, last: bool = False) -> None:
        """Keep a standing, if it is time to or if it is the last one."""
        ...


def maximize(
    density: Density,
    data: Data | Stream,
    starts: Any,
    keys: Key,
    solver: Solver,
    budget: Budget,
    label: str = "fit",
    keeper: Keeper | None = None,
) -> Ascent:
    """Climb the density from every start at once.

    Args:
        density: what to maximise.
        data: all examples, or a stream of them.
        starts: unconstrained coordinates with a leading axis of members.
        keys: one per member, for the order of the minibatches.
        solver: what moves.
        budget: steps and batches.
        label: for the progress bar.
        keeper: takes up a climb that was stopped, and keeps this one.

    Returns:
        ascent: one entry per member; never raises for numerical reasons.
    """
    members = len(jax.tree.leaves(keys)[0]) if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) else len(keys)
    feed = feed_of(data, keys, budget.batch_size)
    climb = _Climb(density, solver, feed.layout, members)
    standing = climb.begin(starts, feed.data)
    standing = standing if keeper is None else keeper.read(standing)
    interrupted, count = False, 16
    with Progress(label, budget.steps, budget.progress) as bar, contextlib.closing(feed):
        try:
            while standing.step < budget.steps and not climb.finished(standing):
                began = time.perf_counter()
                count = min(count, climb.room(standing.step), budget.steps - standing.step)
                standing = climb.advance(feed, standing, count)
                bar.update(standing.step, f"loss {standing.losses[-1][:, -1].min():.4g}" if bar.enabled else "")
                if keeper is not None and not standing.lost.all():
                    keeper.write(standing)
                count = _next_count(count, time.perf_counter() - began)
        except KeyboardInterrupt:
            interrupted = True
    if keeper is not None and not standing.lost.all():
        keeper.write(standing, last=True)
    return climb.ended(standing, interrupted)


@dataclass
class _Climb:
    """The compiled programs of one climb; a single member is not batched, so that it costs what a loop costs."""

    density: Density
    solver: Solver
    layout: Layout
    members: int

    def room(self, step: int) -> int:
        """How many steps may be taken from `step` on within one block."""
        return self.layout.length - step % self.layout.length

    def begin(self, starts: Any, data: Data) -> Standing:
        def init(z: Any, data: Data) -> SolverState:
            # Strong types, as every step returns them: otherwise the first chunk would be compiled for itself.
            state = self.solver.init(objective_of(self.density, data), z)
            return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), state)

        program = self._program("init", jax.vmap(init, in_axes=(0, None)) if self.members > 1 else init)
        state = program(starts if self.members > 1 else take(starts, 0), data)
        codes = np.full(self.members, Status.STEPS_EXHAUSTED.code)
        return Standing(state, 0, np.zeros(self.members, int), codes, [])

    def advance(self, feed: Feed, at: Standing, count: int) -> Standing:
        """Take `count` steps; a member whose numbers stop being finite stays where they last were."""
        number, offset = divmod(at.step, self.layout.length)
        arguments = (at.state, feed.data, feed.block(number), offset, count)
        new, moved, values = self.run(*arguments)
        sound = np.isfinite(_filled_after(values, moved)).all(axis=1)
        failed = ~(self.finite(new) & sound) & ~at.lost
        codes = at.codes
        if failed.any():
            careful = self.run(*arguments, careful=True)
            new, moved, values = self.merged(failed, careful, (new, moved, values))
            codes = np.where(failed & (moved < count), Status.DIVERGED.code, codes)
        if at.lost.any():
            new, moved, values = self.merged(at.lost, (at.state, 0 * moved, values), (new, moved, values))
        at.losses.append(_blank_after(values, moved))
        return Standing(new, at.step + count, at.taken + moved, codes, at.losses)

    def ended(self, at: Standing, interrupted: bool) -> Ascent:
        """What came of it."""
        codes = np.where(at.lost | (not interrupted), at.codes, Status.INTERRUPTED.code)
        counted = at.state.gradients
        spent = at.taken * self.layout.share if counted is None else np.atleast_1d(np.asarray(counted))
        z = at.state.z if self.members > 1 else jax.tree.map(lambda leaf: leaf[None], at.state.z)
        return Ascent(z, codes, at.taken, spent, at.history[:, : int(at.taken.max(initial=0))])

    def run(
        self, state: SolverState, data: Data, block: Any, offset: int, count: int, careful: bool = False
    ) -> tuple[SolverState, np.ndarray, np.ndarray]:
        """Take `count` steps; returns the state, the steps taken per member, and their losses."""

        def chunk(state: SolverState, data: Data, block: Any, offset: Any, count: Any) -> Any:
            return self._chunk(state, data, block, offset, count, careful)

        batched = jax.vmap(chunk, in_axes=(0, None, 0 if self.layout.each else None, None, None))
        program = self._program("careful" if careful else "chunk", batched if self.members > 1 else chunk)
        state, taken, values = program(state, data, block, offset, count)
        return (
            state,
            np.atleast_1d(np.asarray(taken)),
            np.atleast_2d(np.asarray(values)[..., :count]),
        )  # cut here: on the device each count compiles

    def merged(self, chosen: np.ndarray, a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
        """The chosen members from a, the others, untouched by what failed, from b."""
        if self.members == 1:
            return a

        def pick(left: Any, right: Any) -> Any:
            return jnp.where(chosen.reshape(-1, *(1,) * (jnp.ndim(left) - 1)), left, right)

        taken, values = (np.asarray(pick(x, y)) for x, y in zip(a[1:], b[1:], strict=True))
        return jax.tree.map(pick, a[0], b[0]), taken, values

    def finite(self, state: SolverState) -> Any:
        """Per member: are coordinates and loss finite?"""

        def test(state: SolverState) -> Any:
            return all_finite((state.z, state.value))

        program = self._program("finite", jax.vmap(test) if self.members > 1 else test)
        return np.atleast_1d(np.asarray(program(state)))

    def finished(self, at: Standing) -> bool:
        """True where no member would move."""
        program = self._program("done", lambda state: jnp.asarray(self.solver.done(state)))
        done = np.atleast_1d(np.asarray(program(at.state)))
        return bool(np.all(done | at.lost))

    def _chunk(self, state: SolverState, data: Data, block: Any, offset: Any, count: Any, careful: bool) -> Any:
        def going(carry: Any) -> Any:
            i, state, failed, _ = carry
            return (i < count) & ~failed & ~jnp.asarray(self.solver.done(state))

        def step(carry: Any) -> Any:
            i, state, failed, values = carry
            objective = self.layout.objective(self.density, data, block, offset + i)
            new = self.solver.step(objective, state)
            values = values.at[i].set(new.value)
            if careful:
                fine = all_finite((new.z, new.value))
                new = jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, state)
                return jnp.where(fine, i + 1, i), new, ~fine, values
            return i + 1, new, failed, values

        values = jnp.zeros(self.layout.length, state.value.dtype)
        i, state, _, values = jax.lax.while_loop(going, step, (jnp.asarray(0), state, jnp.asarray(False), values))
        return state, i, values

    def _program(self, name: str, function: Any) -> Any:
        """Compile once per model, solver and plan: data, keys and the numbers of steps are arguments."""
        key = (name, self.density, replace(cast(Any, self.solver), steps=1), self.layout, self.members > 1)
        return self.density.model.programs.jitted(key, function)


def _blank_after(values: np.ndarray, taken: np.ndarray) -> np.ndarray:
    return np.where(np.arange(values.shape[1])[None] < taken[:, None], values, np.nan)


def _filled_after(values: np.ndarray, taken: np.ndarray) -> np.ndarray:
    return np.where(np.arange(values.shape[1])[None] < taken[:, None], values, 0.0)


def _next_count(count: int, seconds: float) -> int:
    """Let a call last about a quarter of a second, growing at most fourfold at a time."""
    return max(1, int(count * min(4.0, SECONDS_PER_CHUNK / max(seconds, 1e-6))))
