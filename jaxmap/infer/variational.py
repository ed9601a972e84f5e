"""Variational inference: the Gaussian of a family that is closest to the posterior, in unconstrained coordinates."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.curvature import Precision
from jaxmap.data import BatchPlan
from jaxmap.infer.gaussian import GaussianPosterior
from jaxmap.infer.grade import DRAWS, GRADED_UP_TO, Grade, grade
from jaxmap.infer.ladder import FULL_UP_TO
from jaxmap.infer.point import MAP, check_counts, describe
from jaxmap.infer.posteriors import Point, is_posterior
from jaxmap.infer.problem import Problem, Stopwatch, check_method, library_versions
from jaxmap.infer.seen import as_rows
from jaxmap.infer.variational_bound import Bound, bound_at
from jaxmap.infer.variational_climb import Climbed, climb_bound
from jaxmap.infer.variational_families import (
    Family,
    Frame,
    FullFamily,
    LowRankFamily,
    MeanField,
    Numbers,
    frame_of,
    narrowed,
)
from jaxmap.infer.variational_start import Start, own_start, start_at
from jaxmap.model import Density
from jaxmap.optimize import slope_at
from jaxmap.trees import in_double, settled, shaper, stack
from jaxmap.types import FitError, Info, Key, Method, Posterior, Seeds, Status

FAMILIES = ("mean_field", "low_rank", "full")

STEPS = 5000

FEW_DRAWS = 100
"""Draws for a bound that decides between two starts, or where there are too many parameters for a grade."""

NARROWINGS = 12
"""How often the first scale may be divided by three."""

DOUBTFUL = (Status.NOT_A_MAXIMUM, Status.AT_BOUNDARY)
"""How a point was found that may be worse than none."""

CLIMB, PROBE, FINAL = 6, 7, 8
"""Tags folded into a key for the climb, for random directions at the start, and for the last draws."""


@dataclass(frozen=True)
class VI:
    """The Gaussian q of a family that is closest to the posterior in KL(q | posterior), in unconstrained coordinates.

    It maximises the evidence lower bound ELBO = E_q[f(z) - log q(z)] <= log evidence, f the log joint density with the
    log-Jacobian. Steps are those of Adam, in units of the standard deviations of the start, along gradients through
    the draws alone (Roeder, Wu and Duvenaud, 2017), from pairs of opposite draws. Every 50 steps the mean bound is
    compared with the best so far: where it gained no more than its standard error (at least 0.001 nats) the rate, 0.1
    at first, is divided by four, and a window that lost is taken back. The fourth time the climb has converged; the
    result is the average over its last 50 steps. The bound is then estimated anew, with the draws' standard error.

    Args:
        family: of the covariance: "mean_field", diagonal; "low_rank", D (I + V V') D with D diagonal; "full".
        start: a method or a fitted posterior: of a point its coordinates, with the curvature of the density there as
            first scale; of a Gaussian (`jm.Laplace()`) its mean and covariance.
        rank: columns of V.
        steps: the largest number of steps; None: 5000.
        draws: Monte Carlo draws per step, even; each costs a gradient.
        batch_size: examples per step; None: all.
        grade: draws that grade the result against the true density (about a third of a gradient each), 0 for none;
            None: 1000 for up to 2000 parameters.
    """

    family: str = "mean_field"
    start: Method | Posterior = MAP(space="unconstrained")
    rank: int = 8
    steps: int | None = None
    draws: int = 32
    batch_size: int | None = None
    grade: int | None = None

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"Expected family to be one of {', '.join(map(repr, FAMILIES))}; got {self.family!r}.")
        check_counts(rank=self.rank, steps=self.steps, draws=self.draws, batch_size=self.batch_size)
        if self.draws % 2:
            raise ValueError(f"Expected an even number of draws, which come in pairs; got {self.draws}.")
        if self.grade is not None and (not isinstance(self.grade, int) or self.grade < 0 or 0 < self.grade < 25):
            raise ValueError(f"Expected grade to be 0 or at least 25 draws; got {self.grade!r}.")
        if not is_posterior(self.start):
            check_method(self.start, "`start`")

    def density(self, problem: Problem) -> Density:
        """What is approximated."""
        return Density(problem.model)

    def seen(self, problem: Problem, found: Any, z: Any) -> np.ndarray:
        """What its bound averages over draws, as in `infer/seen.py`."""
        bound = Bound(self.density(problem), self._family(), self.draws, None)
        program = problem.model.programs.jitted(("seen by bounds", bound), lambda z, d: bound.density_at(z, d, None)[0])
        return np.asarray(in_double(program, as_rows(z), problem.data))

    def run(self, problem: Problem, seeds: Seeds) -> "Bounds":
        """Find the starts, and climb from all of them in one program.

        Raises:
            ValueError: too many parameters for a full covariance.
        """
        if self.family == "full" and problem.num_params > FULL_UP_TO:
            raise ValueError(
                f"Expected at most {FULL_UP_TO} parameters for family='full'; got {problem.num_params}, whose matrix "
                "does not fit. Use family='low_rank' or 'mean_field'."
            )
        density, family = self.density(problem), self._family()
        plan = None if self.batch_size is None else BatchPlan(problem.num_examples, self.batch_size)
        begun = [
            self._begin(found, density, problem, Seeds(seeds.keys[k : k + 1], seeds.ranks[k : k + 1]))
            for k, found in enumerate(problem.solve(self.start, seeds))
        ]
        watch = Stopwatch()
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(seeds.keys, CLIMB)
        together = stack([(b.numbers, b.frame) for b in begun])
        numbers, frames = jax.tree.map(lambda leaf: jnp.asarray(leaf, problem.dtype), together)
        bound = Bound(density, family, self.draws, plan)
        climbed = climb_bound(bound, numbers, frames, keys, problem.data, self.steps or STEPS, problem.progress)
        return Bounds(bound, climbed, begun, seeds.keys, watch.seconds / seeds.count)

    def _begin(self, found: Any, density: Density, problem: Problem, seed: Seeds) -> "Begun":
        """Begin where the start ended; at the model's own start if that failed, or was no maximum and bounds worse."""
        key = jax.random.fold_in(seed.keys[0], PROBE)
        beginner = Beginner(density, problem, self._family(), key)
        if isinstance(found, FitError):
            said = f"Began at the model's own start: {found}"
            return beginner.begin(own_start(density, problem, seed, key)).after(0.0, 0.0, said)
        begun = beginner.begin(start_at(found, density, problem, key))
        if not (isinstance(found, Point) and found.moved and found.info.status in DOUBTFUL):
            return begun
        own = beginner.begin(own_start(density, problem, seed, key))
        if begun.bound >= own.bound:
            return begun.after(own.start.gradients, own.start.seconds)
        said = f"Began at the model's own start: {found.info.method} found no maximum, and a lower ELBO around it."
        return own.after(begun.start.gradients, begun.start.seconds, said)

    def _family(self) -> Family:
        if self.family == "low_rank":
            return LowRankFamily(self.rank)
        return MeanField() if self.family == "mean_field" else FullFamily()

    def finish(self, problem: Problem, runs: "Bounds", index: int) -> GaussianPosterior:
        """The Gaussian of one climb, its bound and its grade.

        Raises:
            FitError: no window of the climb was finite.
        """
        watch = Stopwatch()
        bound, (start, frame) = runs.bound, (runs.begun[index].start, runs.begun[index].frame)
        if runs.climbed.codes[index] == Status.DIVERGED.code:
            raise FitError(
                f"{describe(self)} diverged: the density is not finite around its start, however close. Declare the "
                "support of the parameters, or give another start.",
                last=settled(problem.model.space.constrain(start.z)),
                step=0,
            )
        numbers = jax.tree.map(lambda leaf: np.asarray(leaf[index], np.float64), runs.climbed.numbers)
        precision = bound.family.precision(numbers, frame)
        flat = np.asarray(frame.place(numbers["mean"][None])[0])
        mean = settled(jax.tree.map(lambda leaf: jnp.asarray(leaf, problem.dtype), shaper(start.z)(flat)))
        count = DRAWS if problem.num_params <= GRADED_UP_TO else FEW_DRAWS
        key, again = jax.random.split(jax.random.fold_in(runs.keys[index], FINAL))
        found = bound_at(key, bound.density, problem, mean, precision, count)
        graded, said = self._graded(again, bound.density, problem, mean, precision)
        info = self._info(problem, runs, index, mean)
        info = replace(
            info,
            num_gradients=info.num_gradients + (count + (graded.draws if graded else 0)) / 3,
            seconds=info.seconds + watch.seconds,
            notes=(*info.notes, *said),
            diagnostics={"elbo": found.value, "elbo_se": found.error} | (graded.diagnostics if graded else {}),
        )
        return GaussianPosterior(mean, precision, problem.model.space, info, found.value, grade=graded)

    def _info(self, problem: Problem, runs: "Bounds", index: int, mean: Any) -> Info:
        """What is known of one climb, but for its last draws."""
        bound, climbed, start = runs.bound, runs.climbed, runs.begun[index].start
        status, steps = Status.from_code(int(climbed.codes[index])), int(climbed.steps[index])
        slope, history = slope_at(bound.density, mean, problem.data), climbed.history[index]
        return Info(
            status=status,
            method=describe(self),
            solver=f"Adam on the ELBO, {self.draws} draws per step",
            target=f"Gaussian closest to the {bound.density.target}",
            log_likelihood=float(slope.log_likelihood),
            log_prior=float(slope.log_prior),
            log_joint=float(slope.log_likelihood + slope.log_prior),
            num_gradients=start.gradients + steps * self.draws * bound.share + 1.0,
            seconds=start.seconds + runs.seconds,
            history=-history[~np.isnan(history)] / problem.num_examples,
            notes=(*start.notes, _ending(status, steps)),
            versions=library_versions(),
        )

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


class Bounds(NamedTuple):
    """What `run` leaves for `finish`."""

    bound: Bound
    climbed: Climbed
    begun: list["Begun"]
    keys: Any
    seconds: float


@dataclass(frozen=True)
class Begun:
    """Where one climb begins: the start, its frame, the family's first numbers (float64), and the bound there."""

    start: Start
    frame: Frame
    numbers: Numbers
    bound: float

    def after(self, gradients: float, seconds: float, *said: str) -> "Begun":
        """The same, with what else was spent before and is to be said first."""
        start = self.start
        spent = {"gradients": start.gradients + gradients, "seconds": start.seconds + seconds}
        return replace(self, start=replace(start, **spent, notes=(*said, *start.notes)))


@dataclass(frozen=True)
class Beginner:
    """Makes beginnings for one density and family."""

    density: Density
    problem: Problem
    family: Family
    key: Key

    def begin(self, start: Start) -> Begun:
        """The best that the family can make of a start, narrowed threefold for as long as that raises the bound."""
        watch = Stopwatch()
        frame, inside = frame_of(start.center, start.curvature, self.family)
        numbers = self.family.begin(len(start.center), inside, self.key)
        begun, looked = Begun(start, frame, numbers, self._bound(start, frame, numbers)), 1
        while looked <= NARROWINGS:
            numbers = narrowed(begun.numbers, 3.0)
            value, looked = self._bound(start, frame, numbers), looked + 1
            if value < begun.bound:
                break
            begun = replace(begun, numbers=numbers, bound=value)
        return begun.after(looked * FEW_DRAWS / 3, watch.seconds)

    def _bound(self, start: Start, frame: Frame, numbers: Numbers) -> float:
        """The bound by a few draws, always the same ones; -inf where it is not finite."""
        precision = self.family.precision(numbers, frame)
        value = bound_at(self.key, self.density, self.problem, start.z, precision, FEW_DRAWS).value
        return value if np.isfinite(value) else -np.inf


def _ending(status: Status, steps: int) -> str:
    if status is Status.CONVERGED:
        return f"Stopped after {steps} steps: the ELBO gained no more than its standard error."
    if status is Status.INTERRUPTED:
        return f"Interrupted after {steps} steps."
    return f"The {steps} steps were used up while the ELBO still rose; give more by steps=..."
