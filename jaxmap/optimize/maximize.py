"""maximize(): one loop for every solver, on the device in chunks.

Between chunks the host looks: it moves the bar, catches an interrupt, tests for numbers that are not finite, and keeps
what a later run needs to go on.
Inside a chunk nothing of that costs anything. When a chunk ends badly it is run again, carefully, to find the step.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.data import Stream, agreed, everywhere, gathered, on_host, over_members, spanning
from jaxmap.model import Density
from jaxmap.optimize.feed import Feed, Layout, feed_of
from jaxmap.optimize.first_order import FirstOrder
from jaxmap.optimize.monitor import Monitor, Watch
from jaxmap.optimize.objective import objective_of
from jaxmap.optimize.progress import Progress
from jaxmap.optimize.recipe import program_key
from jaxmap.optimize.solver import Solver, SolverState
from jaxmap.optimize.standing import Ascent, Budget, Keeper, Standing
from jaxmap.trees import all_finite, as_configured, members_of, take
from jaxmap.types import Data, Key, Status

SECONDS_PER_CHUNK = 1.0
"""Each call copies the state in and out, which for a Transformer of 800,000 parameters costs a quarter of a step."""

NOISE = 2
"""The tag folded into a member's key for the random numbers of networks in training mode."""


def maximize(
    density: Density,
    data: Data | Stream,
    starts: Any,
    keys: Key,
    solver: Solver,
    budget: Budget,
    label: str = "fit",
    keeper: Keeper | None = None,
    monitor: Monitor | None = None,
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
        monitor: held-out data, checked, that choose the best so far and may stop a member.

    Returns:
        ascent: one entry per member; never raises for numerical reasons.
    """
    members = len(jax.tree.leaves(keys)[0]) if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) else len(keys)
    feed = feed_of(data, keys, budget.batch_size)
    watch = None if monitor is None else Watch(density, monitor, members, feed.layout.epoch)
    climb = _Climb(density, solver, feed.layout, members, watch, keys)
    standing = climb.begin(starts, feed.data)
    standing = standing if keeper is None else keeper.read(standing)
    interrupted, count = False, 16
    with Progress(label, budget.steps, budget.progress) as bar, contextlib.closing(feed):
        try:
            standing = climb.look(standing)
            while standing.step < budget.steps and not climb.finished(standing):
                began, now = time.perf_counter(), min(count, climb.room(standing.step), budget.steps - standing.step)
                standing = climb.advance(feed, standing, now)
                count = agreed(_next_count(count, now, time.perf_counter() - began))
                standing = climb.look(standing)
                bar.update(standing.step, climb.note(standing) if bar.enabled else "")
                if keeper is not None and not standing.lost.all():
                    keeper.write(standing)
        except KeyboardInterrupt:
            if spanning():  # not all processes hear of it at the same step
                raise
            interrupted = True
    if keeper is not None and not standing.lost.all():
        keeper.write(standing, last=True)
    return climb.ended(climb.look(standing, last=True), interrupted)


@dataclass
class _Climb:
    """The compiled programs of one climb; a single member is not batched, so that it costs what a loop costs."""

    density: Density
    solver: Solver
    layout: Layout
    members: int
    watch: Watch | None = None
    keys: Key | None = None
    sound: tuple[bool, ...] = ()
    programs: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def solver_key(self) -> Any:
        """What the programs are kept by."""
        return program_key(self.solver)

    def room(self, step: int) -> int:
        """How many steps may be taken from `step` on within one block, and before the next look."""
        room = self.layout.length - step % self.layout.length
        return room if self.watch is None else min(room, self.watch.every - step % self.watch.every)

    def begin(self, starts: Any, data: Data) -> Standing:
        def init(z: Any, data: Data) -> SolverState:
            # Strong types, as every step returns them: otherwise the first chunk would be compiled for itself.
            state = self.solver.init(objective_of(self.density, data), z)
            return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), state)

        program = self._moving("init", init, (0, None))
        state = program(starts if self.members > 1 else take(starts, 0), data)
        if isinstance(self.solver, FirstOrder):
            self.programs, self.sound = {}, tuple(_is_finite(leaf) for leaf in jax.tree.leaves(state.inner))
        codes = np.full(self.members, Status.STEPS_EXHAUSTED.code)
        watched = None if self.watch is None else self.watch.begin(state.z)
        return Standing(state, 0, np.zeros(self.members, int), codes, [], watched)

    def advance(self, feed: Feed, at: Standing, count: int) -> Standing:
        """Take `count` steps; a member whose numbers stop being finite stays where they last were."""
        number, offset = divmod(at.step, self.layout.length)
        arguments = (at.state, feed.data, feed.block(number), offset, count, self.noise(at.step))
        new, moved, values = self.run(*arguments)
        sound = np.isfinite(_filled_after(values, moved)).all(axis=1)
        failed = ~(self.finite(new) & sound) & ~at.resting
        codes = at.codes
        if failed.any():
            careful = self.run(*arguments, careful=True)
            new, moved, values = self.merged(failed, careful, (new, moved, values))
            codes = np.where(failed & (moved < count), Status.DIVERGED.code, codes)
        if at.resting.any():
            new, moved, values = self.merged(at.resting, (at.state, 0 * moved, values), (new, moved, values))
        at.losses.append(_blank_after(values, moved))
        return at._replace(state=new, step=at.step + count, taken=at.taken + moved, codes=codes)

    def noise(self, step: int) -> Any:
        """The keys of the members and the step, where networks in training mode draw random numbers; else nothing."""
        if self.density.model.train is None or self.keys is None:
            return None
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(self.keys, NOISE)
        return keys if self.members > 1 else keys[0], step

    def look(self, at: Standing, last: bool = False) -> Standing:
        """Look at the held-out data where it is time to; at the end wherever it was not done yet."""
        if self.watch is None or at.watched is None or not self.watch.due(at.watched, at.step, last):
            return at
        return at._replace(watched=self.watch.look(at.watched, at.state.z, at.step, at.resting))

    def note(self, at: Standing) -> str:
        """A word for the progress bar."""
        said = f"loss {at.losses[-1][:, -1].min():.4g}"
        return said if at.watched is None else f"{said}, held out {at.watched.lowest.min():.4g}"

    def ended(self, at: Standing, interrupted: bool) -> Ascent:
        """What came of it."""
        codes = np.where(at.lost | (not interrupted), at.codes, Status.INTERRUPTED.code)
        counted = at.state.gradients
        spent = at.taken * self.layout.share if counted is None else np.atleast_1d(on_host(counted))
        z = at.state.z if at.watched is None else members_of(~at.lost, at.watched.best, at.state.z)
        z = z if self.members > 1 else jax.tree.map(lambda leaf: leaf[None], z)
        return Ascent(gathered(z), codes, at.taken, spent, at.history[:, : int(at.taken.max(initial=0))], at.watched)

    def run(
        self, state: SolverState, data: Data, block: Any, offset: int, count: int, noise: Any, careful: bool = False
    ) -> tuple[SolverState, np.ndarray, np.ndarray]:
        """Take `count` steps; returns the state, the steps taken per member, and their losses."""

        def chunk(state: SolverState, data: Data, block: Any, offset: Any, count: Any, noise: Any) -> Any:
            return self._chunk(state, data, block, offset, count, noise, careful)

        each = None if noise is None else (0, None)
        axes = (0, None, 0 if self.layout.each else None, None, None, each)
        program = self._moving("careful" if careful else "chunk", chunk, axes)
        state, taken, values = program(state, data, block, offset, count, noise)
        return (
            state,
            np.atleast_1d(on_host(taken)),
            np.atleast_2d(on_host(values)[..., :count]),
        )  # cut here: on the device each count compiles

    def merged(self, chosen: np.ndarray, a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
        """The chosen members from a, the others, untouched by what failed, from b."""
        taken, values = np.where(chosen, a[1], b[1]), np.where(chosen[:, None], a[2], b[2])
        return members_of(chosen, a[0], b[0]), taken, values

    def finite(self, state: SolverState) -> Any:
        """Per member: are coordinates, loss and memory finite?"""
        program = self._program("finite", jax.vmap(self._sound) if self.members > 1 else self._sound)
        return np.atleast_1d(np.asarray(program(state)))

    def finished(self, at: Standing) -> bool:
        """True where no member would move."""
        program = self._program("done", lambda state: jnp.asarray(self.solver.done(state)))
        done = np.atleast_1d(np.asarray(program(at.state)))
        return bool(np.all(done | at.resting))

    def _sound(self, state: SolverState) -> Any:
        """True where coordinates and loss are finite, and of an optax state what was so at the beginning.

        Accumulated gradients may have lost a number long before the coordinates do.
        """
        kept = [leaf for leaf, sound in zip(jax.tree.leaves(state.inner), self.sound, strict=False) if sound]
        return all_finite((state.z, state.value, kept))

    def _chunk(
        self, state: SolverState, data: Data, block: Any, offset: Any, count: Any, noise: Any, careful: bool
    ) -> Any:
        def going(carry: Any) -> Any:
            i, state, failed, _ = carry
            return (i < count) & ~failed & ~jnp.asarray(self.solver.done(state))

        def step(carry: Any) -> Any:
            i, state, failed, values = carry
            objective = self.layout.objective(self.density, data, block, offset + i)
            if noise is not None:
                objective = replace(objective, key=jax.random.fold_in(noise[0], noise[1] + i))
            new = self.solver.step(objective, state)
            values = values.at[i].set(new.value)
            if careful:
                fine = self._sound(new)
                new = jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, state)
                return jnp.where(fine, i + 1, i), new, ~fine, values
            return i + 1, new, failed, values

        values = jnp.zeros(self.layout.length, state.value.dtype)
        i, state, _, values = jax.lax.while_loop(going, step, (jnp.asarray(0), state, jnp.asarray(False), values))
        return state, i, values

    def _moving(self, name: str, function: Any, axes: tuple[Any, ...]) -> Any:
        """Compile a function of one member, for all of them; what it returns stays where its members are.

        Adam and its like live with the noise of fast products, which costs others their last digits.
        """
        several, noisy = self.members > 1, isinstance(self.solver, FirstOrder)

        def build() -> Any:
            program = jax.jit(over_members(function, axes) if several else everywhere(function))
            return as_configured(program) if noisy else program

        return self._made(name, build)

    def _program(self, name: str, function: Any) -> Any:
        """Compile a function of the states of all members, whose results every process has."""
        return self._made(name, lambda: jax.jit(everywhere(function)))

    def _made(self, name: str, build: Callable[[], Any]) -> Any:
        """Compile once per model, solver and plan: data, keys and the numbers of steps are arguments."""
        if name not in self.programs:
            key = (name, self.density, self.solver_key, self.layout, self.members > 1, self.sound)
            self.programs[name] = self.density.model.programs.made(key, build)
        return self.programs[name]


def _is_finite(leaf: Any) -> bool:
    """True for real numbers that are all finite; keys and counts are not asked."""
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating) and jnp.all(jnp.isfinite(leaf)))


def _blank_after(values: np.ndarray, taken: np.ndarray) -> np.ndarray:
    return np.where(np.arange(values.shape[1])[None] < taken[:, None], values, np.nan)


def _filled_after(values: np.ndarray, taken: np.ndarray) -> np.ndarray:
    return np.where(np.arange(values.shape[1])[None] < taken[:, None], values, 0.0)


def _next_count(count: int, now: int, seconds: float) -> int:
    """Let a call last about a second, growing at most fourfold at a time.

    A call that was cut short, at the end of a block or at a look, says nothing unless it was too long already.
    """
    if now < count and seconds < SECONDS_PER_CHUNK:
        return count
    return max(1, int(now * min(4.0, SECONDS_PER_CHUNK / max(seconds, 1e-6))))
