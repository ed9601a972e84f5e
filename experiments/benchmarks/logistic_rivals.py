"""What scikit-learn and glum do on the jobs: every solver, at the loosest tolerance and best threads that serve."""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from glum import GeneralizedLinearRegressor
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from experiments.benchmarks.logistic_jobs import GOOD, Job
from experiments.benchmarks.timing import measure

TOLERANCES = tuple(float(f"{a}e{-k}") for k in range(1, 11) for a in (3, 1))
HOPELESS = 10.0
"""A solver that spends this many times the seconds of the fastest so far is not tried on."""


@dataclass(frozen=True)
class Rival:
    """One way to do a job.

    Attributes:
        name: package, solver, variant.
        fits: tolerance -> the coefficients of one problem after another.
        tolerance, threads: as tuned.
        seconds: of the faster of two runs when tuned.
    """

    name: str
    fits: Callable[[float], Iterator[np.ndarray]]
    tolerance: float = 0.0
    threads: int = 1
    seconds: float = np.inf

    def run(self) -> np.ndarray:
        """Do the whole job."""
        with threadpool_limits(self.threads), config_context(assume_finite=True, skip_parameter_validation=True):
            return np.array(list(self.fits(self.tolerance)))


def scikit(job: Job, solver: str, *, warm: bool = False, resample: bool = False) -> Rival:
    """scikit-learn, one fit after another."""

    def fits(tolerance: float) -> Iterator[np.ndarray]:
        options: dict[str, Any] = dict(solver=solver, tol=tolerance, fit_intercept=False, max_iter=100_000)
        model = LogisticRegression(l1_ratio=float(job.l1), warm_start=warm, random_state=0, **options)
        for i, strength in enumerate(job.strengths):
            model.C = 1 / strength
            if job.weights is None:
                model.fit(job.x, job.y)
            elif resample:
                rows = np.repeat(np.arange(len(job.y)), job.weights[i].astype(int))
                model.fit(job.x[rows], job.y[rows])
            else:
                model.fit(job.x, job.y, sample_weight=job.weights[i])
            yield model.coef_[0].copy()

    variant = ", warm" * warm + (", resampled" if resample else ", weighted" if job.weights is not None else "")
    return Rival(f"scikit-learn {solver}{variant}", fits)


def glum(job: Job, solver: str, *, warm: bool = False) -> Rival:
    """Glum, one fit after another; its columns lie one after another, as it prefers."""
    x, n = np.asfortranarray(job.x), len(job.y)

    def fits(tolerance: float) -> Iterator[np.ndarray]:
        options: dict[str, Any] = dict(solver=solver, gradient_tol=tolerance, fit_intercept=False, max_iter=10_000)
        model = GeneralizedLinearRegressor(
            family="binomial", l1_ratio=0.0, warm_start=warm, check_input=False, **options
        )
        for i, strength in enumerate(job.strengths):
            model.alpha = strength / n
            model.fit(x, job.y, sample_weight=None if job.weights is None else job.weights[i])
            yield np.array(model.coef_)

    variant = ", warm" * warm + (", weighted" if job.weights is not None else "")
    return Rival(f"glum {solver}{variant}", fits)


def glum_search(job: Job) -> Rival:
    """Glum's own regularisation path."""
    x, n = np.asfortranarray(job.x), len(job.y)

    def fits(tolerance: float) -> Iterator[np.ndarray]:
        options: dict[str, Any] = dict(gradient_tol=tolerance, fit_intercept=False, max_iter=10_000)
        model = GeneralizedLinearRegressor(
            family="binomial", l1_ratio=float(job.l1), alpha_search=True, alpha=list(job.strengths / n), **options
        )
        yield from model.fit(x, job.y).coef_path_

    return Rival("glum alpha_search", fits)


def rivals_for(job: Job) -> list[Rival]:
    """All that can do the job."""
    if job.l1:
        return [glum_search(job), scikit(job, "liblinear"), scikit(job, "saga", warm=True), scikit(job, "saga")]
    solvers = ("lbfgs", "newton-cg", "newton-cholesky", "liblinear", "sag", "saga")
    cold = [scikit(job, solver) for solver in solvers] + [glum(job, solver) for solver in ("irls-ls", "lbfgs")]
    if job.name == "single":
        return cold
    if job.name == "bootstrap":
        return cold + [scikit(job, solver, resample=True) for solver in solvers]
    warm = [scikit(job, solver, warm=True) for solver in solvers if solver != "liblinear"]
    searches = [glum_search(job), *(glum(job, solver, warm=True) for solver in ("irls-ls", "lbfgs"))]
    return warm + searches + cold


def tuned(rival: Rival, job: Job, fastest: float) -> Rival:
    """Find the loosest tolerance that serves, then the better number of threads.

    Args:
        rival: as it comes.
        job: what to do.
        fastest: seconds of the fastest so far.

    Returns:
        rival: its `seconds` are infinite where it is hopelessly slow or never good enough.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for tolerance in TOLERANCES:
            candidate = replace(rival, tolerance=tolerance)
            verdict = _serves(candidate, job, HOPELESS * fastest)
            if verdict is None:
                return candidate
            if verdict:
                return min((_timed(replace(candidate, threads=t)) for t in (1, 2)), key=lambda r: r.seconds)
    return rival


def _serves(rival: Rival, job: Job, limit: float) -> bool | None:
    """Is every answer good? Stops at the first that is not; None: too slow to go on."""
    with threadpool_limits(1):
        spent, began = 0.0, time.process_time()
        for i, b in enumerate(rival.fits(rival.tolerance)):
            spent += time.process_time() - began
            if job.excess(i, b) > GOOD:
                return False
            if spent > limit:
                return None
            began = time.process_time()
    return True


def _timed(rival: Rival) -> Rival:
    return replace(rival, seconds=min(measure(rival.run).wall for _ in range(2)))
