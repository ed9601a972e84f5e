"""The ends of climbs, certified: what a point method leaves to be judged."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.data import Stream
from jaxmap.infer.problem import Problem, library_versions
from jaxmap.model import Density
from jaxmap.optimize import (
    Ascent,
    FirstOrder,
    Solver,
    certify,
    slope_at,
)
from jaxmap.optimize.certificate import DENSE_UP_TO, within_reach
from jaxmap.trees import take
from jaxmap.types import Certificate, Info, Status

ENDS = (Status.CONVERGED, Status.AT_BOUNDARY)
"""How a climb ends that found a maximum."""


UNCERTIFIED = "The data are a stream: its gradient was looked at, its curvature was not."

LOOK = " Fit jm.Given(point.mode) to have it looked at."

IN_TRAINING = (
    "Trained in training mode (active dropout, batch statistics of each batch): what was minimised is no "
    "log-probability of the parameters alone. Log densities and gradient are those of evaluation mode; no maximum is "
    "claimed."
)

AUGMENTED = (
    "The stream shows its examples in random forms: each counts once, by the mean over its forms. Log densities and "
    "gradient are those of the forms in epoch 0; no maximum is claimed."
)

NOT_FINITE = "The log-likelihood of all examples is not finite; some that were not trained on may be missing numbers."


class Climbs(NamedTuple):
    """What `run` of a point method leaves for `finish`."""

    ascent: Ascent
    keys: Any
    starts: Any
    solver: Solver
    description: str
    seconds: float


class Judged(NamedTuple):
    """A certified end point."""

    value: float
    info: Info


def judge(density: Density, problem: Problem, runs: Climbs, row: int) -> Judged:
    """Certify the end of one climb."""
    # products with a Hessian of the whole data can cost far more than a network's training
    worth = float(runs.ascent.gradients[row]) if isinstance(runs.solver, FirstOrder) else np.inf
    found = judge_at(density, problem, take(runs.ascent.z, row), int(runs.ascent.codes[row]), worth)
    if problem.model.train is None:
        return found
    return found._replace(info=replace(found.info, notes=(*found.info.notes, IN_TRAINING)))


def judge_at(density: Density, problem: Problem, z: Any, code: int, worth: float = np.inf) -> Judged:
    """Certify a point and total its density; `worth` gradients may be spent on Hessian-vector products.

    Where no certificate is within reach, as of a network after a few epochs, a pass in float64 could cost more than the
    training did: then the totals are those of the fit's own precision.
    """
    resolution = float(jnp.finfo(problem.dtype).eps)
    within = within_reach(problem.num_params, worth) or density.kinks(z) is not None  # kinks may hold most of them
    slope = slope_at(density, z, problem.data, double=within)
    augmented = isinstance(problem.data, Stream) and problem.data.augmented
    if problem.model.train is None and not augmented:
        certificate, status = certify(density, z, problem.data, resolution=resolution, slope=slope, worth=worth)
    else:  # what was minimised is not this density
        certificate, status = Certificate(float(slope.relative)), Status.STEPS_EXHAUSTED
    unseen = problem.streamed and certificate.decrement is None and status is Status.STEPS_EXHAUSTED and not augmented
    if code == Status.INTERRUPTED.code:
        status = Status.INTERRUPTED
    likelihood, prior, value = (float(v) for v in (slope.log_likelihood, slope.log_prior, slope.value))
    info = Info(
        status=status,
        target=f"mode of the {density.target}",
        certificate=certificate,
        log_likelihood=likelihood,
        log_prior=prior,
        log_joint=likelihood + prior,
        num_gradients=1.0
        if certificate.decrement is None
        else 3.0 + 3.0 * (certificate.products or problem.num_params),
        notes=(
            *([UNCERTIFIED + LOOK * (problem.num_params <= DENSE_UP_TO)] if unseen else []),
            *([AUGMENTED] if augmented else []),
            *([] if np.isfinite(likelihood) else [NOT_FINITE]),
        ),
        versions=library_versions(),
    )
    return Judged(value if np.isfinite(value) else -np.inf, info)


def with_rows(ascent: Ascent, rows: np.ndarray, part: Ascent) -> Ascent:
    """Put the climbs of `part` in their rows."""
    width = max(ascent.history.shape[1], part.history.shape[1])
    history = np.full((len(ascent.codes), width), np.nan)
    history[:, : ascent.history.shape[1]] = ascent.history
    history[rows] = np.nan
    history[rows, : part.history.shape[1]] = part.history
    codes, steps, gradients = ascent.codes.copy(), ascent.steps.copy(), np.array(ascent.gradients, float)
    codes[rows], steps[rows], gradients[rows] = part.codes, part.steps, part.gradients
    z = jax.tree.map(lambda old, new: old.at[rows].set(new), ascent.z, part.z)
    return ascent._replace(z=z, history=history, codes=codes, steps=steps, gradients=gradients)


def tell_apart(
    density: Density, problem: Problem, runs: Climbs, found: dict[int, Judged], rows: range
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Count the distinct maxima among restarts, by what they say about each example.

    Two ends are one maximum where the per-example log-likelihoods differ by less than 0.01 nats in the root mean
    square: symmetric copies of a network count once.
    """
    if len(rows) == 1:
        return {}, ()
    lost = len(rows) - len(found)
    notes = [f"{lost} of {len(rows)} restarts diverged and were left out."] if lost else []
    program = problem.model.programs.jitted(("likelihoods", density), density.log_likelihoods)
    kinds: list[tuple[np.ndarray, int]] = []
    ends = sorted(found, key=lambda row: -found[row].value)
    sure = [row for row in ends if found[row].info.status in ENDS] or ends
    for row in sure:
        values = np.asarray(program(take(runs.ascent.z, row), problem.sample), np.float64)
        same = [k for k, (seen, _) in enumerate(kinds) if np.sqrt(np.mean((seen - values) ** 2)) < SAME]
        if same:
            kinds[same[0]] = (kinds[same[0]][0], kinds[same[0]][1] + 1)
        else:
            kinds.append((values, 1))
    certified = found[sure[0]].info.status in ENDS
    what = ("maximum" if len(kinds) == 1 else "maxima") if certified else "end point" + "s" * (len(kinds) > 1)
    notes.append(f"{len(kinds)} distinct {what} among {len(sure)} restarts; the best was reached by {kinds[0][1]}.")
    return {"distinct_maxima": float(len(kinds)), "reached_best": float(kinds[0][1])}, tuple(notes)


SAME = 1e-2
"""Nats per example within which two ends are one maximum."""
