"""Pathfinder: the best of the Gaussians that L-BFGS passes on its way to a mode."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.curvature import Precision
from jaxmap.infer.gaussian import GaussianPosterior
from jaxmap.infer.grade import DRAWS, GRADED_UP_TO, Grade, grade
from jaxmap.infer.pathfinder_walk import Walk, Walker, settled_gaussian
from jaxmap.infer.point import check_counts, describe
from jaxmap.infer.problem import Problem, Stopwatch, library_versions, multiply
from jaxmap.infer.seen import by_objective
from jaxmap.infer.variational_bound import bound_at
from jaxmap.model import Density
from jaxmap.optimize import slope_at
from jaxmap.trees import in_double, settled, shaper, take
from jaxmap.types import FitError, Info, Key, Seeds, Status

STEPS = 1000
BOUND_DRAWS = 32

FEW_DRAWS = 100
"""Draws for the bound of the result where there are too many parameters for a grade."""

NEAR = 1e-3
"""Posterior standard deviations from the end of a path to the mode, by its own curvature, that are none."""


@dataclass(frozen=True)
class Pathfinder:
    """The best of the Gaussians that L-BFGS passes on its way to a mode, in unconstrained coordinates.

    Every step of a path has a Gaussian q: its covariance C is the inverse Hessian that the last steps tell of, its mean
    z + C grad f(z), f the log joint density with the log-Jacobian. That of the highest evidence lower bound
    ELBO = E_q[f(z) - log q(z)] <= log evidence is taken, over all steps of all paths, and its bound estimated anew
    (Zhang, Carpenter, Gelman and Vehtari, 2022, algorithms 1 to 4). It needs no mode: a density without one has good
    Gaussians before the path runs away. C is a diagonal plus the rank of the pairs, so that in many dimensions it is
    coarser than `jm.Laplace()`. Paths are walked in float64, for C comes from differences of gradients.

    Args:
        paths: independent paths in one program, the first from the model's start.
        draws: for the bound at each step, even; each costs about a third of a gradient; None: 32.
        steps: the largest number of steps of a path; None: 1000.
        memory: how many of the last steps tell of the curvature.
        grade: draws that grade the result against the true density (about a third of a gradient each), 0 for none;
            None: 1000 for up to 2000 parameters.
    """

    paths: int = 4
    draws: int | None = None
    steps: int | None = None
    memory: int = 20
    grade: int | None = None

    def __post_init__(self) -> None:
        check_counts(paths=self.paths, draws=self.draws, steps=self.steps, memory=self.memory)
        if self.draws is not None and self.draws % 2:
            raise ValueError(f"Expected an even number of draws, which come in pairs; got {self.draws}.")
        if self.grade is not None and (not isinstance(self.grade, int) or self.grade < 0 or 0 < self.grade < 25):
            raise ValueError(f"Expected grade to be 0 or at least 25 draws; got {self.grade!r}.")

    def density(self, problem: Problem) -> Density:
        """What the paths climb."""
        return Density(problem.model)

    def seen(self, problem: Problem, found: Any, z: Any) -> np.ndarray:
        """What its paths climb, as in `infer/seen.py`."""
        return by_objective(self.density(problem), problem, z)

    def run(self, problem: Problem, seeds: Seeds) -> "Paths":
        """Walk all paths of all seeds in one program."""
        watch = Stopwatch()
        density = self.density(problem)
        walker = Walker(density, self.draws or BOUND_DRAWS, self.steps or STEPS, self.memory)
        begins = multiply(seeds, self.paths)
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(begins.keys, WALK)

        def walk(starts: Any, data: Any) -> tuple[Walk, bool]:
            return walker.walk(starts, keys, data, problem.progress)

        walked, interrupted = in_double(walk, problem.starts(begins), problem.data)
        return Paths(density, walked, interrupted, seeds.keys, watch.seconds / seeds.count)

    def finish(self, problem: Problem, runs: "Paths", index: int) -> GaussianPosterior:
        """The best Gaussian of one seed's paths, its bound and its grade.

        Raises:
            FitError: no path has a Gaussian with a finite bound.
        """
        watch = Stopwatch()
        rows = np.arange(index * self.paths, (index + 1) * self.paths)
        best = int(rows[np.argmax(runs.walked.best.bound[rows])])
        if np.isneginf(runs.walked.best.bound[best]):
            raise self._failure(problem, runs, best)
        flat, precision = settled_gaussian(take(runs.walked.best, best))
        shaped = shaper(problem.model.start_unconstrained(problem.dtype))
        mean = settled(jax.tree.map(lambda leaf: jnp.asarray(leaf, problem.dtype), shaped(flat)))
        count = DRAWS if problem.num_params <= GRADED_UP_TO else FEW_DRAWS
        key, again = jax.random.split(jax.random.fold_in(runs.keys[index], FINAL))
        found = bound_at(key, runs.density, problem, mean, precision, count)
        graded, said = self._graded(again, runs.density, problem, mean, precision)
        info = self._info(problem, runs, rows, best, mean)
        info = replace(
            info,
            num_gradients=info.num_gradients + (count + (graded.draws if graded else 0)) / 3,
            seconds=info.seconds + watch.seconds,
            notes=(*info.notes, *said),
            diagnostics={"elbo": found.value, "elbo_se": found.error} | (graded.diagnostics if graded else {}),
        )
        return GaussianPosterior(mean, precision, problem.model.space, info, found.value, grade=graded)

    def _info(self, problem: Problem, runs: "Paths", rows: np.ndarray, best: int, mean: Any) -> Info:
        """What is known of one seed's paths, but for the last draws."""
        walked, statuses = runs.walked, tuple(runs.status(row) for row in rows)
        slope, chosen = slope_at(runs.density, mean, problem.data), runs.status(best)
        taken, losses = walked.taken[rows], walked.losses[best]
        searched, bounds = walked.state.gradients[rows].sum(), taken.sum() * (self.draws or BOUND_DRAWS) / 3
        return Info(
            status=chosen,
            method=describe(self),
            solver=f"L-BFGS, {self.paths} path(s)",
            target=f"Gaussian of the highest ELBO (a lower bound of the log evidence) for the {runs.density.target}",
            log_likelihood=float(slope.log_likelihood),
            log_prior=float(slope.log_prior),
            log_joint=float(slope.log_likelihood + slope.log_prior),
            num_gradients=float(searched + bounds) + self.paths + 1.0,
            seconds=runs.seconds,
            history=np.asarray(losses[~np.isnan(losses)]),
            members=statuses,
            notes=self._notes(runs, rows, best),
            versions=library_versions(),
        )

    def _notes(self, runs: "Paths", rows: np.ndarray, best: int) -> tuple[str, ...]:
        """Which Gaussian was taken, how its path ended, and what was left out."""
        walked, lost = runs.walked, [runs.status(row) for row in rows].count(Status.DIVERGED)
        barred, taken = int(walked.barred[rows].sum()), int(walked.taken[rows].sum())
        where = f"step {walked.best.step[best]} of {walked.taken[best]} of path {best - rows[0] + 1} of {self.paths}"
        said = [f"Took the Gaussian at {where}; the log evidence is its ELBO, a lower bound."]
        if lost:
            said.append(f"{lost} of {self.paths} paths met no Gaussian with a finite ELBO and were left out.")
        if barred:
            said.append(
                f"{barred} of {taken} steps had no finite ELBO: the density, or C to rounding, is unsound there."
            )
        return (*said, *ENDINGS.get(runs.status(best), ()))

    def _graded(
        self, key: Key, density: Density, problem: Problem, mean: Any, precision: Precision
    ) -> tuple[Grade | None, tuple[str, ...]]:
        """The grade, and what a reader must know of it."""
        if self.grade == 0:
            return None, ()
        if self.grade is None and problem.num_params > GRADED_UP_TO:
            return None, ("Not graded: too many parameters for importance weights; grade=1000 asks for it anyway.",)
        graded = grade(key, density, problem, mean, precision, self.grade or DRAWS)
        return graded, (graded.note,)

    def _failure(self, problem: Problem, runs: "Paths", row: int) -> FitError:
        z = jax.tree.map(lambda leaf: jnp.asarray(leaf, problem.dtype), take(runs.walked.state.z, row))
        return FitError(
            f"{describe(self)} failed: none of its {self.paths} path(s) met a Gaussian with a finite ELBO. The density "
            "is not finite around the starts, or has no curvature along the paths. Declare the support of the "
            "parameters, give another init, or sample with jm.NUTS().",
            last=settled(problem.model.space.constrain(z)),
            step=int(runs.walked.taken[row]),
        )


WALK, FINAL = 9, 10
"""Tags folded into a key for the draws along a path, and for the last draws."""

ENDINGS = {
    Status.STEPS_EXHAUSTED: ("The steps were used up before that path reached a mode; give more by steps=...",),
    Status.NOT_A_MAXIMUM: (
        "That path ended without a mode: the density grows without bound, or has a kink or an edge.",
    ),
    Status.INTERRUPTED: ("Interrupted before that path reached a mode.",),
}


class Paths(NamedTuple):
    """What `run` leaves for `finish`: walks of all paths, those of one seed together, and one key per seed."""

    density: Density
    walked: Walk
    interrupted: bool
    keys: Any
    seconds: float

    def status(self, row: Any) -> Status:
        """How one path ended; converged where its end is a mode, by gradient or by its distance from one."""
        walked = take(self.walked, row)
        if np.isneginf(walked.best.bound):
            return Status.DIVERGED
        if not walked.failed and (walked.small or (walked.ended and walked.distance < NEAR)):
            return Status.CONVERGED
        if walked.ended:
            return Status.NOT_A_MAXIMUM
        return Status.INTERRUPTED if self.interrupted else Status.STEPS_EXHAUSTED
