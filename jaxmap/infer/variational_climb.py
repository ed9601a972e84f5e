"""Climbing the evidence lower bound: one compiled window of steps, and the rule that decides between two of them."""

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxmap.data import BatchPlan, BatchRows, num_examples, take_examples
from jaxmap.infer.variational_families import Family, Frame, Numbers
from jaxmap.model import Density
from jaxmap.optimize import Progress
from jaxmap.optimize.maximize import SECONDS_PER_CHUNK
from jaxmap.trees import shaper
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

LEVEL_GROUND = 0.1
"""A gradient (per standard deviation) below which steps shrink with it, as in gradient ascent; above, as in Adam."""

ATTEMPTS = 8
"""Windows that may fail for one member before it is given up."""

EXAMPLES_AT_A_TIME = 65_536
"""Examples times draws whose gradients are held at a time."""


@dataclass(frozen=True)
class Bound:
    """The evidence lower bound of a density under a family, and how it is estimated.

    ELBO = E_q[f(z) - log q(z)] <= log integral of exp f

    Its gradient goes through the draws alone (Roeder, Wu and Duvenaud, 2017), so that it has no noise where q is exact;
    draws come in pairs +e, -e. Where the curvature A at the start is known, the mean field adds e'(A - diag A)e / 2, of
    mean zero under it, which takes out the noise of a correlated Gaussian (Miller et al., 2017).

    Attributes:
        density: f.
        family: of q.
        draws: per step, even.
        plan: minibatches; None for all examples.
    """

    density: Density
    family: Family
    draws: int
    plan: BatchPlan | None

    @property
    def share(self) -> float:
        """The part of the data that a gradient sees."""
        return 1.0 if self.plan is None else self.plan.size / self.plan.num_examples

    def noise(self, key: Key, size: int, dtype: Any) -> Float[Array, "m w"]:
        """Standard normals in pairs of opposite sign."""
        half = jax.random.normal(key, (self.draws // 2, self.family.width(size)), dtype)
        return jnp.concatenate([half, -half])

    def slope(
        self, numbers: Numbers, frame: Frame, noise: Float[Array, "m w"], data: Data, dealt: Any
    ) -> tuple[Float[Array, ""], Numbers]:
        """An unbiased estimate of the bound, and of its gradient in the numbers (the mean's as `Frame.inward` has it)."""
        around, pull = jax.vjp(lambda n: self.family.moves(n, noise), numbers)
        values, slopes = self._density_at(frame.place(numbers["mean"][None] + around), data, dealt)
        log_q, away = jax.vjp(lambda m: self.family.log_prob(numbers, m), around)
        upward = frame.pull(slopes) - away(jnp.ones_like(log_q))[0]
        bound = values - log_q + frame.log_volume
        if frame.coupling is not None:
            bent = around @ frame.coupling
            bound, upward = bound + 0.5 * jnp.sum(around * bent, axis=1), upward + bent
        mean = frame.inward(numbers, jnp.mean(upward, axis=0))
        return jnp.mean(bound), pull(upward / len(noise))[0] | {"mean": mean}

    def _density_at(self, z: Float[Array, "m p"], data: Data, dealt: Any) -> Any:
        """The density and its gradient at the rows of z, a few at a time."""
        shaped = shaper(self.density.model.start_unconstrained(z.dtype))
        plan = self.plan
        if plan is None:
            examples = num_examples(data)
            total = lambda v: self.density(shaped(v), data)  # noqa: E731
        else:
            examples, batch = plan.size, take_examples(data, dealt.rows)
            count, used = plan.num_examples, dealt.weights if plan.ragged else None
            total = lambda v: -count * self.density.mean_loss(shaped(v), batch, used, count)  # noqa: E731
        together = int(np.clip(EXAMPLES_AT_A_TIME // examples, 1, len(z)))
        return jax.lax.map(jax.value_and_grad(total), z, batch_size=together)


class Walk(NamedTuple):
    """What one window hands to the next: the numbers, Adam's moments, and the window's own sums."""

    numbers: Numbers
    moments: Any
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
            self.rate /= CUT if self.begun else 1.0
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
    shift = jnp.asarray(np.where(rows, np.log(10.0), 0.0), walk.values.dtype)[:, None]
    return walk._replace(numbers=walk.numbers | {"log_scale": walk.numbers["log_scale"] - shift})


def _programs(bound: Bound) -> tuple[Any, Any]:
    """The beginning and the steps, compiled once: data, keys, frames, rates and numbers of steps are arguments."""
    known = bound.density.model.programs
    if ("bound", bound) not in known:
        known["bound", bound] = (jax.jit(jax.vmap(_begin)), _advance_of(bound))
    return known["bound", bound]


ADAM = optax.scale_by_adam(b1=0.9, b2=0.99, eps=LEVEL_GROUND)


def _begin(numbers: Numbers) -> Walk:
    blank = jax.tree.map(jnp.zeros_like, numbers)
    return Walk(numbers, ADAM.init(numbers), blank, jnp.zeros(WINDOW, numbers["mean"].dtype))


def _advance_of(bound: Bound) -> Any:
    plan = bound.plan

    def deal(key: Key, step: Any) -> BatchRows | None:
        return None if plan is None else plan.epoch(jax.random.fold_in(key, ORDER), step // plan.batches)

    def advance(
        walk: Walk, frame: Frame, key: Key, data: Data, rate: Any, first: Any, begin: Any, count: Any
    ) -> Walk:
        size, dtype = walk.numbers["mean"].shape[0], walk.values.dtype

        def step(i: Any, carry: Any) -> Any:
            walk, epoch = carry
            now = first + i
            if plan is not None:
                epoch = jax.lax.cond(now % plan.batches == 0, lambda: deal(key, now), lambda: epoch)
            batch = None if plan is None else jax.tree.map(lambda leaf: leaf[now % plan.batches], epoch)
            noise = bound.noise(jax.random.fold_in(key, now), size, dtype)
            value, slope = bound.slope(walk.numbers, frame, noise, data, batch)
            moves, moments = ADAM.update(slope, walk.moments)
            moves = moves | {"mean": frame.outward(walk.numbers, moves["mean"])}
            numbers = jax.tree.map(lambda n, m: n + rate.astype(dtype) * m, walk.numbers, moves)
            total = jax.tree.map(jnp.add, walk.total, numbers)
            return Walk(numbers, moments, total, walk.values.at[i].set(value)), epoch

        fresh = walk._replace(total=jax.tree.map(lambda t: jnp.where(begin == 0, 0.0, t), walk.total))
        carry = (fresh, deal(key, first + begin))
        return jax.lax.fori_loop(begin, begin + count, step, carry)[0]

    return jax.jit(jax.vmap(advance, in_axes=(0, 0, 0, None, 0, None, None, None)))


ORDER = 2**31 - 1
"""The tag of the key for the order of minibatches; smaller numbers are steps."""
