"""maximize(): one loop for every solver, on the device in chunks.

Between chunks the host looks: it moves the bar, catches an interrupt, and tests for numbers that are not finite.
Inside a chunk nothing of that costs anything. When a chunk ends badly it is run again, carefully, to find the step.
"""

import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.data import BatchPlan, BatchRows, num_examples, take_examples
from jaxmap.model import Density
from jaxmap.optimize.objective import objective_of
from jaxmap.optimize.progress import Progress
from jaxmap.optimize.solver import Solver, SolverState
from jaxmap.trees import all_finite, take
from jaxmap.types import Data, Key, Status

CHUNK = 8192
"""Steps that one compiled call can take at most (an epoch if that is longer)."""

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


def maximize(
    density: Density, data: Data, starts: Any, keys: Key, solver: Solver, budget: Budget, label: str = "fit"
) -> Ascent:
    """Climb the density from every start at once.

    Args:
        density: what to maximise.
        data: all examples.
        starts: unconstrained coordinates with a leading axis of members.
        keys: one per member, for the order of the minibatches.
        solver: what moves.
        budget: steps and batches.
        label: for the progress bar.

    Returns:
        ascent: one entry per member; never raises for numerical reasons.
    """
    members = len(jax.tree.leaves(keys)[0]) if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) else len(keys)
    plan = None if budget.batch_size is None else BatchPlan(num_examples(data), budget.batch_size)
    climb = _Climb(density, solver, plan, members)
    state = climb.begin(starts, data)
    done = np.zeros(members, int)
    codes = np.full(members, Status.STEPS_EXHAUSTED.code)
    losses: list[np.ndarray] = []
    last_finite: dict[int, Any] = {}
    first, count = 0, 16
    with Progress(label, budget.steps, budget.progress) as bar:
        try:
            while first < budget.steps and not climb.finished(state, codes):
                began = time.perf_counter()
                count = min(count, climb.room(first), budget.steps - first)
                dealt = climb.deal(keys, first)
                new, taken, values = climb.run(state, data, dealt, first, count)
                sound = np.isfinite(_filled_after(values, taken)).all(axis=1)
                failed = ~(climb.finite(new) & sound) & (codes != Status.DIVERGED.code)
                if failed.any():
                    careful = climb.run(state, data, dealt, first, count, careful=True)
                    new, taken, values = climb.merged(failed, careful, (new, taken, values))
                    lost = failed & (taken < count)
                    codes[lost] = Status.DIVERGED.code
                    last_finite |= {int(m): climb.coordinates(new, int(m)) for m in np.flatnonzero(lost)}
                taken = np.where((codes == Status.DIVERGED.code) & ~failed, 0, taken)
                state, first, done = new, first + count, done + taken
                losses.append(_blank_after(values, taken))
                bar.update(first, f"loss {values[:, -1].min():.4g}" if bar.enabled else "")
                count = _next_count(count, time.perf_counter() - began)
        except KeyboardInterrupt:
            codes[codes != Status.DIVERGED.code] = Status.INTERRUPTED.code
    share = 1.0 if plan is None else plan.size / plan.num_examples
    spent = done * share if state.gradients is None else np.atleast_1d(np.asarray(state.gradients))
    history = np.concatenate(losses, axis=1) if losses else np.zeros((members, 0))
    z = state.z if members > 1 else jax.tree.map(lambda leaf: leaf[None], state.z)
    for member, coordinates in last_finite.items():
        z = jax.tree.map(lambda leaf, last, m=member: leaf.at[m].set(last), z, coordinates)
    return Ascent(z, codes, done, spent, history[:, : int(done.max(initial=0))])


def failing_batch(data: Data, key: Key, step: int, batch_size: int | None) -> Data:
    """The examples that a step saw, to explain a failure."""
    if batch_size is None:
        return data
    plan = BatchPlan(num_examples(data), batch_size)
    dealt = plan.epoch(key, jnp.asarray(step // plan.batches))
    used = np.asarray(dealt.weights[step % plan.batches]) > 0
    return take_examples(data, np.asarray(dealt.rows[step % plan.batches])[used])


@dataclass
class _Climb:
    """The compiled programs of one climb; a single member is not batched, so that it costs what a loop costs."""

    density: Density
    solver: Solver
    plan: BatchPlan | None
    members: int
    _dealt: tuple[int, BatchRows | None] = (-1, None)

    @property
    def epochs(self) -> int:
        """Epochs dealt per call."""
        return 1 if self.plan is None else max(1, CHUNK // self.plan.batches)

    @property
    def length(self) -> int:
        """Steps per call at most."""
        return CHUNK if self.plan is None else self.epochs * self.plan.batches

    def room(self, first: int) -> int:
        """How many steps may follow `first` within one call."""
        return self.length if self.plan is None else self.length - first % self.length

    def begin(self, starts: Any, data: Data) -> SolverState:
        def init(z: Any, data: Data) -> SolverState:
            # Strong types, as every step returns them: otherwise the first chunk would be compiled for itself.
            state = self.solver.init(objective_of(self.density, data), z)
            return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), state)

        program = self._program("init", jax.vmap(init, in_axes=(0, None)) if self.members > 1 else init)
        return program(starts if self.members > 1 else take(starts, 0), data)

    def deal(self, keys: Key, first: int) -> BatchRows | None:
        """The rows of the block of epochs that holds step `first`, dealt once per block; None for full batches."""
        plan = self.plan
        if plan is None:
            return None
        block = first // self.length
        if block != self._dealt[0]:

            def deal(key: Key, epoch: Any) -> BatchRows:
                dealt = jax.vmap(lambda e: plan.epoch(key, e))(epoch + jnp.arange(self.epochs))
                return jax.tree.map(lambda leaf: leaf.reshape(self.length, plan.size), dealt)

            program = self._program("deal", jax.vmap(deal, in_axes=(0, None)) if self.members > 1 else deal)
            self._dealt = (block, program(keys if self.members > 1 else keys[0], block * self.epochs))
        return self._dealt[1]

    def run(
        self, state: SolverState, data: Data, dealt: BatchRows | None, first: int, count: int, careful: bool = False
    ) -> tuple[SolverState, np.ndarray, np.ndarray]:
        """Take `count` steps; returns the state, the steps taken per member, and their losses."""

        def chunk(state: SolverState, data: Data, dealt: BatchRows | None, offset: Any, count: Any) -> Any:
            return self._chunk(state, data, dealt, offset, count, careful)

        batched = jax.vmap(chunk, in_axes=(0, None, 0, None, None))
        program = self._program("careful" if careful else "chunk", batched if self.members > 1 else chunk)
        state, taken, values = program(state, data, dealt, first % self.length, count)
        return state, np.atleast_1d(np.asarray(taken)), np.atleast_2d(np.asarray(values[..., :count]))

    def merged(self, chosen: np.ndarray, a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
        """The chosen members from a, the others, untouched by what failed, from b."""
        if self.members == 1:
            return a

        def pick(left: Any, right: Any) -> Any:
            return jnp.where(chosen.reshape(-1, *(1,) * (jnp.ndim(left) - 1)), left, right)

        taken, values = (np.asarray(pick(x, y)) for x, y in zip(a[1:], b[1:], strict=True))
        return jax.tree.map(pick, a[0], b[0]), taken, values

    def coordinates(self, state: SolverState, member: int) -> Any:
        """Where one member is."""
        return take(state.z, member) if self.members > 1 else state.z

    def finite(self, state: SolverState) -> Any:
        """Per member: are coordinates and loss finite?"""

        def test(state: SolverState) -> Any:
            return all_finite((state.z, state.value))

        program = self._program("finite", jax.vmap(test) if self.members > 1 else test)
        return np.atleast_1d(np.asarray(program(state)))

    def finished(self, state: SolverState, codes: np.ndarray) -> bool:
        """True where no member would move."""
        program = self._program("done", lambda state: jnp.asarray(self.solver.done(state)))
        done = np.atleast_1d(np.asarray(program(state)))
        return bool(np.all(done | (codes == Status.DIVERGED.code)))

    def _chunk(
        self, state: SolverState, data: Data, dealt: BatchRows | None, offset: Any, count: Any, careful: bool
    ) -> Any:
        losses_of = self._losses(data, dealt, offset)

        def going(carry: Any) -> Any:
            i, state, failed, _ = carry
            return (i < count) & ~failed & ~jnp.asarray(self.solver.done(state))

        def step(carry: Any) -> Any:
            i, state, failed, values = carry
            new = self.solver.step(losses_of(i), state)
            values = values.at[i].set(new.value)
            if careful:
                fine = all_finite((new.z, new.value))
                new = jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, state)
                return jnp.where(fine, i + 1, i), new, ~fine, values
            return i + 1, new, failed, values

        values = jnp.zeros(self.length, state.value.dtype)
        i, state, _, values = jax.lax.while_loop(going, step, (jnp.asarray(0), state, jnp.asarray(False), values))
        return state, i, values

    def _losses(self, data: Data, dealt: BatchRows | None, offset: Any) -> Any:
        """The loss of step i of this call, as a function of i."""
        plan = self.plan
        if plan is None or dealt is None:
            whole = objective_of(self.density, data)
            return lambda i: whole

        def losses_of(i: Any) -> Any:
            batch = take_examples(data, dealt.rows[offset + i])
            used = dealt.weights[offset + i] if plan.ragged else None
            return objective_of(self.density, batch, used, plan.num_examples)

        return losses_of

    def _program(self, name: str, function: Any) -> Any:
        """Compile once per model, solver and plan: data, keys and the numbers of steps are arguments."""
        key = (name, self.density, replace(cast(Any, self.solver), steps=1), self.plan, self.members > 1)
        return self.density.model.programs.setdefault(key, jax.jit(function))


def _blank_after(values: np.ndarray, taken: np.ndarray) -> np.ndarray:
    return np.where(np.arange(values.shape[1])[None] < taken[:, None], values, np.nan)


def _filled_after(values: np.ndarray, taken: np.ndarray) -> np.ndarray:
    return np.where(np.arange(values.shape[1])[None] < taken[:, None], values, 0.0)


def _next_count(count: int, seconds: float) -> int:
    """Let a call last about a quarter of a second, growing at most fourfold at a time."""
    return max(1, int(count * min(4.0, SECONDS_PER_CHUNK / max(seconds, 1e-6))))
