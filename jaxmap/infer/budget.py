"""Equal budgets: how long a method must run to spend a given number of gradients.

A gradient is one of the density of all examples, everything counted as in `Info.num_gradients`: starts, warm-up, draws,
certificates, curvatures and grades. Every method has a dial, such as steps, draws, restarts or members. It is turned,
and the method run again, until the run itself reports what it should; the last good run is kept, whole. Nothing is cut
off after the fact, so that a row is what its method gives when it is called as the row says.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import optax

from jaxmap.curvature import is_concave
from jaxmap.infer.bootstrap import Bootstrap
from jaxmap.infer.ensemble import Ensemble
from jaxmap.infer.fit import fit_problem
from jaxmap.infer.laplace import Laplace
from jaxmap.infer.mclmc import MCLMC
from jaxmap.infer.nuts import NUTS
from jaxmap.infer.nuts_start import LONG
from jaxmap.infer.pathfinder import Pathfinder
from jaxmap.infer.point import MAP, describe
from jaxmap.infer.problem import Problem
from jaxmap.infer.sghmc import SGHMC
from jaxmap.infer.variational import STEPS, VI
from jaxmap.infer.variational_climb import WINDOW
from jaxmap.optimize import FirstOrder
from jaxmap.optimize.certificate import DENSE_UP_TO
from jaxmap.types import FitError, Info, Key, Method, Status

ENOUGH, AIM = 0.85, 0.95
"""The share of a budget from which a run counts as having spent it, and the one that dials are turned towards."""

ATTEMPTS = 6
"""How often a method is run to find its dial."""

PER_TRANSITION = 10
"""Gradients of a transition of NUTS before any was made."""

SAMPLERS, THIN = (NUTS, MCLMC, SGHMC), {MCLMC: 10, SGHMC: 20}
"""Samplers, and the transitions per draw that some make unless told otherwise, or about so many."""


class Dial(NamedTuple):
    """What a method's cost depends on.

    Attributes:
        name: of the number.
        value: where it stands.
        turn: number -> method.
        least: the smallest number.
        step: numbers come in multiples of it.
    """

    name: str
    value: int
    turn: Callable[[int], Method]
    least: int = 1
    step: int = 1

    def within(self, value: int | float) -> int:
        """A number that the dial has, at most `value`."""
        return max(self.least, int(value) // self.step * self.step)


class Spent(NamedTuple):
    """What a budget bought.

    Attributes:
        posterior: of the run that is kept.
        method: as it was run.
        gradients: that this run spent.
        looking: gradients of the runs that found its dial and are thrown away.
        how: in a sentence, how the run was fitted to the budget, or why it was not.
    """

    posterior: Any
    method: Method
    gradients: float
    looking: float
    how: str


def budgeted(key: Key, problem: Problem, method: Method, budget: int | float) -> Spent:
    """Fit a problem by a method that is made to spend a budget.

    Args:
        key: as for `fit_problem`; the same for every run.
        problem: model and data.
        method: as the user wrote it.
        budget: gradients.

    Returns:
        spent: of the runs that stay within the budget the one that spends most; where none does, the cheapest, and
            `how` says so.

    Raises:
        FitError: the method as first tried has no result.
    """
    return _Search(key, problem, method, float(budget)).go()


@dataclass
class _Search:
    key: Key
    problem: Problem
    given: Method
    budget: float
    runs: list[tuple[Method, Any, float]] = field(default_factory=list)
    seen: list[tuple[str, int, float]] = field(default_factory=list)

    def go(self) -> Spent:
        """Run, look, turn, until the budget is spent or the dial ends."""
        method = opening(self.given, self.problem, self.budget)
        why = ""
        for _ in range(ATTEMPTS):
            try:
                posterior = fit_problem(self.key, self.problem, method)
            except FitError:
                if not self.runs:
                    raise
                break
            info = posterior.info
            self.runs.append((method, posterior, info.num_gradients))
            if info.status is Status.INTERRUPTED:
                return Spent(posterior, method, info.num_gradients, self._looking(len(self.runs) - 1), "interrupted")
            if ENOUGH * self.budget <= info.num_gradients <= self.budget:
                break
            dial, why = dial_of(self.given, method, self.problem, info, self.budget)
            if dial is None:
                break
            self.seen.append((dial.name, dial.value, info.num_gradients))
            value = self._next(dial)
            if any((dial.name, value) == (name, old) for name, old, _ in self.seen):
                break
            method = dial.turn(value)
        return self._kept(why)

    def _next(self, dial: Dial) -> int:
        """Where to turn: along the line through the last two runs, or in proportion to the only one."""
        points = [(value, spent) for name, value, spent in self.seen if name == dial.name]
        (value, spent), goal = points[-1], AIM * self.budget
        slope = spent / value
        if len(points) > 1 and points[-1][0] != points[-2][0]:
            steep = (points[-1][1] - points[-2][1]) / (points[-1][0] - points[-2][0])
            slope = steep if steep > 0 else slope
        wanted = value + (goal - spent) / slope
        if spent > self.budget:
            wanted = min(wanted, 0.9 * value)
        found = dial.within(min(max(wanted, value / 50), 50 * value))
        if found > value or spent > self.budget:
            return found
        more = spent + slope * dial.step <= self.budget
        return value + dial.step * more

    def _looking(self, kept: int) -> float:
        return float(sum(spent for k, (_, _, spent) in enumerate(self.runs) if k != kept))

    def _kept(self, why: str) -> Spent:
        inside = [k for k, (_, _, spent) in enumerate(self.runs) if spent <= self.budget]
        best = (
            max(inside, key=lambda k: self.runs[k][2])
            if inside
            else min(range(len(self.runs)), key=lambda k: self.runs[k][2])
        )
        method, posterior, spent = self.runs[best]
        how = "run as given" if method is self.given or method == self.given else f"run as {describe(method)}"
        if spent > self.budget:
            how += f", OVER the budget: {why or 'it cannot be made cheaper'}"
        elif spent < ENOUGH * self.budget:
            how += f", less than the budget: {why or 'the next larger run is over it'}"
        return Spent(posterior, method, spent, self._looking(best), how)


def opening(given: Any, problem: Problem, budget: float) -> Method:
    """The method as it is first tried: scaled by what is known of its cost beforehand, or cheap, to learn it."""
    guess = _guess(given, problem, budget)
    if guess is None:
        return given
    dial = dial_of(given, given, problem, None, budget)[0]
    return given if dial is None else dial.turn(dial.within(guess))


def _guess(method: Any, problem: Problem, budget: float) -> float | None:
    """The number on the dial that the first run has; None: that of the method as given."""
    if _is_stochastic(method):
        certificate = 3.0 + 3.0 * problem.num_params if problem.num_params <= DENSE_UP_TO else 1.0
        return (AIM * budget / method.restarts - certificate) / _share(method, problem)
    if isinstance(method, VI):
        return 0.8 * budget / (method.draws * _share(method, problem))
    if isinstance(method, SAMPLERS):
        each = {NUTS: PER_TRANSITION, MCLMC: 2.0}.get(type(method), _share(method, problem))
        total, warmup = 0.6 * budget / (each * method.chains), _warmup(method)
        return max(total / 2, total - warmup) / (method.thin or THIN.get(type(method), 1))
    if isinstance(method, Ensemble):
        return 1.0
    if isinstance(method, Bootstrap):
        return 10.0
    return _guess(method.at, problem, budget) if isinstance(method, Laplace) and _is_stochastic(method.at) else None


def dial_of(given: Any, now: Any, problem: Problem, info: Info | None, budget: float) -> tuple[Dial | None, str]:
    """The dial of a method; without one, why.

    Args:
        given: as the user wrote it, to which the dial goes back.
        now: as it was run last, where the dial stands.
        problem: model and data.
        info: of that run; None before any.
        budget: gradients.
    """
    over = info is not None and info.num_gradients > budget
    if isinstance(given, MAP):
        return _of_point(given, now, problem, info, over)
    if isinstance(given, Laplace) and hasattr(given.at, "run"):
        inner, why = dial_of(given.at, now.at, problem, info, budget)
        return (None, why) if inner is None else (inner._replace(turn=lambda v: replace(given, at=inner.turn(v))), "")
    if isinstance(given, Ensemble):
        if not (over and now.members == 1):
            return Dial("members", now.members, lambda v: replace(given, of=now.of, members=v)), ""
        inner, why = dial_of(given.of, now.of, problem, info, budget)
        turned = lambda v: replace(given, of=inner.turn(v), members=1)  # type: ignore[union-attr]  # noqa: E731
        return (None, why) if inner is None else (inner._replace(turn=turned), "")
    if isinstance(given, SAMPLERS):
        return Dial("draws", now.draws, lambda v: _with_draws(given, v), 2), ""
    return _simple(given, now, info, over)


def _simple(given: Any, now: Any, info: Info | None, over: bool) -> tuple[Dial | None, str]:
    """Methods with one number of their own."""
    if isinstance(given, VI):
        if info is not None and info.status is Status.CONVERGED and not over:
            return None, "its bound has converged, and it takes no more steps"
        return Dial("steps", now.steps or STEPS, lambda v: replace(given, steps=v), WINDOW, WINDOW), ""
    if isinstance(given, Pathfinder):
        return Dial("paths", now.paths, lambda v: replace(given, paths=v)), ""
    if isinstance(given, Bootstrap):
        return Dial("replicates", now.replicates, lambda v: replace(given, replicates=v), 2), ""
    return None, f"{type(given).__name__} has nothing that could be scaled"


def _of_point(given: MAP, now: MAP, problem: Problem, info: Info | None, over: bool) -> tuple[Dial | None, str]:
    """Steps of a stochastic climb; else restarts, and only where one climb is too dear its steps."""
    if _is_stochastic(given):
        return Dial("steps", now.steps or STEPS, lambda v: replace(given, steps=v)), ""
    if over and now.restarts == 1:
        taken = 0 if info is None else len(info.history)
        if taken < 2:
            return None, "one climb costs more, its certificate included"
        return Dial("steps of a climb", taken, lambda v: replace(given, restarts=1, steps=v)), ""
    if not over and is_concave(given.density(problem), problem.data):
        return None, "the density has one maximum, to which another climb would lead again"
    if not over and not problem.model.restartable:
        return None, "the network has one set of values to begin at; a factory could be restarted"
    return Dial("restarts", now.restarts, lambda v: replace(given, restarts=v, steps=now.steps)), ""


def _with_draws(given: Any, draws: int) -> Method:
    """A sampler with a number of draws, and a warm-up of no more transitions than these take."""
    warmup = draws * (given.thin or THIN.get(type(given), 1))
    return replace(given, draws=draws, warmup=given.warmup if warmup >= _warmup(given) else max(10, warmup))


def _warmup(given: Any) -> int:
    """The longest warm-up that a sampler makes as given."""
    adjusted = getattr(given, "adjusted", False)
    return given.warmup or {NUTS: LONG, MCLMC: 500 if adjusted else 2000}.get(type(given), 500)


def _is_stochastic(method: Any) -> bool:
    """True for climbs that take as many steps as they are told."""
    if not isinstance(method, MAP):
        return False
    own = isinstance(method.solver, optax.GradientTransformation | FirstOrder)
    return own or method.batch_size is not None


def _share(method: Any, problem: Problem) -> float:
    """The part of the data that a step sees."""
    size = getattr(method, "batch_size", None)
    return 1.0 if size is None else min(1.0, size / problem.num_examples)
