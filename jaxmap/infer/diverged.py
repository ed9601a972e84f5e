"""What a fit leaves that has no result."""

import numpy as np

from jaxmap.infer.judged import Climbs
from jaxmap.infer.problem import Problem
from jaxmap.model import Density
from jaxmap.optimize import batch_of, describe_failure
from jaxmap.trees import settled, take
from jaxmap.types import FitError, Params


def failure(
    method: str, problem: Problem, density: Density, runs: Climbs, row: int, batch_size: int | None
) -> FitError:
    """Explain a divergence: step, term, leaf, rows.

    Args:
        method: in words.
        problem: model and data.
        density: what was maximised.
        runs: the climbs.
        row: the member that diverged.
        batch_size: examples per step.

    Returns:
        error: with the last finite parameters, and the best before where held-out data were watched.
    """
    z, step = take(runs.ascent.z, row), int(runs.ascent.steps[row])
    # a stream is read once for all members, in the order of the first
    batch, where = batch_of(problem.data, runs.keys[0 if problem.streamed else row], step, batch_size)
    reason = describe_failure(density, z, batch, where)
    best, said = _best(problem, runs, row), ""
    if best is not None:
        said = " Those that held-out data found best are in `error.best`."
    return FitError(
        f"{method} diverged at step {step + 1}: {reason}. The last finite parameters are in `error.last`.{said}",
        last=settled(problem.model.space.constrain(z)),
        step=step,
        best=best,
    )


def _best(problem: Problem, runs: Climbs, row: int) -> Params | None:
    """The parameters that held-out data found best."""
    watched = runs.ascent.watched
    if watched is None or not np.isfinite(watched.lowest[row]):
        return None
    z = watched.best if len(watched.lowest) == 1 else take(watched.best, row)
    return settled(problem.model.space.constrain(z))
