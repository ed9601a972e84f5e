"""Climbing the evidence lower bound: compiled windows of steps, and the rule that decides between two of them."""

import time
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmap.data import BatchRows
from jaxmap.infer.variational_bound import Bound
from jaxmap.infer.variational_families import Frame, Numbers, narrowed
from jaxmap.optimize import Progress
from jaxmap.optimize.maximize import SECONDS_PER_CHUNK
from jaxmap.types import Data, Key, Status

WINDOW = 50
"""Steps whose mean bound the rule compares with the last one's."""

RATE = 0.1
"""The first step length: a tenth of a standard deviation of the start."""

CUT = 4.0
LEVELS = 4
"""How often the rate is divided by `CUT` before the climb may end."""

FLOOR = 1e-3
"""Nats that are not worth a window."""

SMALL = 0.1
"""A gradient (per standard deviation) below which steps shrink with it, as in gradient ascent; above, as in Adam."""

ATTEMPTS = 8
"""Windows that may fail for one member before it is given up."""


class Walk(NamedTuple):
    """What one window hands to the next.

    Attributes:
        numbers: of the family.
        moments: Adam's.
        spread: running variances of the bound's terms without and with the control variate, (2,).
        total: the sum of the numbers over this window.
        values: the bound at the steps of this window.
    """

    numbers: Numbers
    moments: Any
    spread: Any
    total: Numbers
    values: Any


class Climbed(NamedTuple):
    """What came of a climb, stacked over members.

    Attributes:
        numbers: the average over the last window that was kept.
        codes: `Status` codes.
        steps: steps taken.
        history: (members, steps) the bound, NaN where a member rested.
    """

    numbers: Numbers
    codes: np.ndarray
    steps: np.ndarray
    history: np.ndarray


class Rule:
    """When to go on, to go back, to take shorter steps and to stop: one per member.

    A window whose mean bound does not exceed the best so far by its standard error cuts the rate by four, and the
    fourth such window ends the climb. One that lost twice as much, or was not finite, is taken back.
    """

    def __init__(self) -> None:
        self.rate, self.level, self.failures = RATE, 0, 0
        self.best, self.error = -np.inf, 0.0
        self.status: Status | None = None

    @property
    def begun(self) -> bool:
        """True once a window was finite."""
        return self.best > -np.inf

    def accepts(self, values: np.ndarray) -> bool:
        """Look at the bounds of one window's steps; False to take the window back."""
        if not np.all(np.isfinite(values)):
            self.failures += 1
            self.rate /= CUT
            if self.failures >= ATTEMPTS:
                self.status = Status.STEPS_EXHAUSTED if self.begun else Status.DIVERGED
            return False
        mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
        gain = mean - self.best
        rounding = 8 * float(np.finfo(values.dtype).eps) * abs(mean)
        tolerance = max(float(np.hypot(error, self.error)), FLOOR, rounding)
        if gain <= tolerance:
            self.rate, self.level = self.rate / CUT, self.level + 1
            self.status = Status.CONVERGED if self.level >= LEVELS else None
        if gain > 0:
            self.best, self.error = mean, error
        return gain >= -2 * tolerance


def climb_bound(
    bound: Bound, begun: Numbers, frames: Frame, keys: Key, data: Data, steps: int, progress: bool | None
) -> Climbed:
    """Climb from every beginning at once.

    Args:
        bound: what to climb.
        begun: first numbers, stacked.
        frames: stacked.
        keys: one per member.
        data: all examples.
        steps: the largest number of steps.
        progress: as in `Progress`.

    Returns:
        climbed: one entry per member; never raises for numerical reasons.
    """
    begin, advance = _programs(bound)
    walk, rules = begin(begun), [Rule() for _ in keys]
    kept, taken, history, done = walk.numbers, np.zeros(len(rules), int), [], 0
    with Progress("VI", steps, progress) as bar:
        try:
            while done < steps and any(rule.status is None for rule in rules):
                active = np.array([rule.status is None for rule in rules])
                rates = np.array([rule.rate for rule in rules])
                new = _window(advance, walk, (frames, keys, data, rates), done, bar)
                done, values = done + WINDOW, np.asarray(new.values)
                fine = np.array([bool(a) and r.accepts(v) for r, a, v in zip(rules, active, values, strict=True)])
                unborn = active & ~fine & np.array([not rule.begun for rule in rules])
                walk = _narrowed(_chosen(fine, new, walk), unborn)
                kept = _chosen(fine, jax.tree.map(lambda leaf: leaf / WINDOW, new.total), kept)
                history.append(np.where(active[:, None], values, np.nan))
                taken += WINDOW * active
        except KeyboardInterrupt:
            for rule in rules:
                rule.status = rule.status or Status.INTERRUPTED
    for rule in rules:
        rule.status = rule.status or (Status.STEPS_EXHAUSTED if rule.begun else Status.DIVERGED)
    codes = np.array([rule.status.code for rule in rules if rule.status])
    seen = np.concatenate(history, axis=1) if history else np.zeros((len(rules), 0))
    return Climbed(jax.tree.map(np.asarray, kept), codes, taken, seen)


def _window(advance: Any, walk: Walk, given: tuple[Any, ...], done: int, bar: Progress) -> Walk:
    """One window in a few calls, each a fraction of a second, so that the host can be interrupted."""
    begin, count = 0, 1 if done == 0 else WINDOW
    while begin < WINDOW:
        began = time.perf_counter()
        count = min(count, WINDOW - begin)
        walk = jax.block_until_ready(advance(walk, *given, done, begin, count))
        begin += count
        count = int(np.clip(count * SECONDS_PER_CHUNK / max(time.perf_counter() - began, 1e-6), 1, WINDOW))
        bar.update(done + begin, f"ELBO {float(walk.values[:, begin - 1].max()):.5g}" if bar.enabled else "")
    return walk


def _chosen(rows: np.ndarray, a: Any, b: Any) -> Any:
    """The chosen members from a, the others from b."""

    def pick(left: Any, right: Any) -> Any:
        return jnp.where(rows.reshape(-1, *(1,) * (jnp.ndim(left) - 1)), left, right)

    return jax.tree.map(pick, a, b)


def _narrowed(walk: Walk, rows: np.ndarray) -> Walk:
    """A tenth of the first scale, where the density was not finite at the first draws."""
    if not rows.any():
        return walk
    factor = np.where(rows, 10.0, 1.0).astype(walk.values.dtype)
    return walk._replace(numbers=narrowed(walk.numbers, factor))


def _programs(bound: Bound) -> tuple[Any, Any]:
    """The beginning and the steps, compiled once: data, keys, frames, rates and numbers of steps are arguments."""
    build = lambda: (jax.jit(jax.vmap(_begin)), _advance_of(bound))  # noqa: E731
    return bound.density.model.programs.made(("bound", bound), build)


MEMORY = 0.9
"""Of the running variances."""

ADAM = optax.scale_by_adam(b1=0.9, b2=0.99, eps=SMALL)


def _begin(numbers: Numbers) -> Walk:
    blank = jax.tree.map(jnp.zeros_like, numbers)
    dtype = numbers["mean"].dtype
    return Walk(numbers, ADAM.init(numbers), jnp.zeros(2, dtype), blank, jnp.zeros(WINDOW, dtype))


def _advance_of(bound: Bound) -> Any:
    """`count` steps of a window from its step `begin`; `first` steps were taken before it."""

    def deal(key: Key, step: Any) -> BatchRows | None:
        plan = bound.plan
        return None if plan is None else plan.epoch(jax.random.fold_in(key, ORDER), step // plan.batches)

    def advance(walk: Walk, frame: Frame, key: Key, data: Data, rate: Any, first: Any, begin: Any, count: Any) -> Walk:
        size, dtype = walk.numbers["mean"].shape[0], walk.values.dtype

        def step(i: Any, carry: Any) -> Any:
            walk, epoch = carry
            now, plan, batch = first + i, bound.plan, None
            if plan is not None:
                epoch = jax.lax.cond(now % plan.batches == 0, lambda: deal(key, now), lambda: epoch)
                batch = jax.tree.map(lambda leaf: leaf[now % plan.batches], epoch)
            noise = bound.noise(jax.random.fold_in(key, now), size, dtype)
            value, slope, spread = bound.slope(walk.numbers, frame, noise, data, batch, walk.spread[1] < walk.spread[0])
            moves, moments = ADAM.update(slope, walk.moments)
            moved = frame.outward(walk.numbers, cast(Numbers, moves))
            numbers = jax.tree.map(lambda n, m: n + rate.astype(dtype) * m, walk.numbers, moved)
            total = jax.tree.map(jnp.add, walk.total, numbers)
            spread = MEMORY * walk.spread + (1 - MEMORY) * spread
            return Walk(numbers, moments, spread, total, walk.values.at[i].set(value)), epoch

        fresh = walk._replace(total=jax.tree.map(lambda t: jnp.where(begin == 0, 0.0, t), walk.total))
        carry = (fresh, deal(key, first + begin))
        return jax.lax.fori_loop(begin, begin + count, step, carry)[0]

    return jax.jit(jax.vmap(advance, in_axes=(0, 0, 0, None, 0, None, None, None)))


ORDER = 2**31 - 1
"""The tag of the key for the order of minibatches; smaller numbers are steps."""
