"""Another way up, where Newton's steps led to no maximum."""

from dataclasses import replace
from typing import Any

import numpy as np

from jaxmap.curvature import has_outputs
from jaxmap.infer.judged import ENDS, Climbs, Judged, judge, with_rows
from jaxmap.infer.problem import Problem
from jaxmap.model import Density
from jaxmap.optimize import LBFGS, Budget, Newton, Solver, maximize
from jaxmap.trees import take
from jaxmap.types import Status

VANISHED = 1e-9
"""A scaled gradient above this, beside a Hessian of zeros, belongs to a density of straight pieces."""


def climbed_another_way(
    method: Any, problem: Problem, density: Density, runs: Climbs, rows: range, found: dict[int, Judged]
) -> tuple[Climbs, dict[int, Judged]]:
    """Climb from the same starts by another way, and keep it where it is better.

    Args:
        method: the point method that climbed.
        problem: model and data.
        density: what is maximised.
        runs: all climbs.
        rows: those of one seed.
        found: how they ended.
    """
    tried = runs.solver
    stopped = any(ended.info.status is Status.INTERRUPTED for ended in found.values())
    solver = None if stopped or not isinstance(tried, Newton) else _second(method.solver, tried, problem, found)
    if solver is None:
        return runs, found
    here = np.asarray(rows)
    starts, keys = take(runs.starts, here), runs.keys[here]
    budget = Budget(solver.steps, None, problem.progress)
    ascent = maximize(density, problem.data, starts, keys, solver, budget, type(method).__name__)
    ascent = ascent._replace(gradients=ascent.gradients + runs.ascent.gradients[here])
    second = runs._replace(ascent=ascent, description=f"{solver.name}, after {tried.name}")
    alive = [k for k in range(len(rows)) if ascent.codes[k] != Status.DIVERGED.code]
    ends = {k: judge(density, problem, second, k) for k in alive}
    if not _better(ends, found):
        return runs, found
    merged = with_rows(runs.ascent, here, ascent)
    return second._replace(ascent=merged), {rows[k]: ended for k, ended in ends.items()}


def _better(ends: dict[int, Judged], found: dict[int, Judged]) -> bool:
    """True where an end is higher, or as high and a maximum where there was none."""
    before = max((ended.value for ended in found.values()), default=-np.inf)
    flat = all(ended.info.status is Status.NOT_A_MAXIMUM for ended in found.values())
    return any(
        ended.value > before + 0.5 or (flat and ended.info.status in ENDS and ended.value > before - 1e-3)
        for ended in ends.values()
    )


def _second(asked: Any, tried: Newton, problem: Problem, found: dict[int, Judged]) -> Solver | None:
    """The other way: Gauss-Newton where there are outputs, L-BFGS where the Hessian vanishes, else none."""
    if asked is not None and tried.curvature is not None:
        return None
    if has_outputs(problem.model, problem.sample):
        return replace(tried, curvature="ggn", lazy=False) if tried.curvature is None else None
    ends = [ended.info.certificate for ended in found.values() if ended.info.certificate is not None]
    vanished = [end.decrement == 0.0 and end.gradient > VANISHED for end in ends]
    return LBFGS() if any(vanished) else None
