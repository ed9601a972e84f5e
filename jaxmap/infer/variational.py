"""Variational inference: the Gaussian of a family that is closest to the posterior, in unconstrained coordinates."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.curvature import Precision
from jaxmap.data import BatchPlan
from jaxmap.infer.gaussian import GaussianPosterior
from jaxmap.infer.grade import DRAWS, DRAWS_AT_A_TIME, GRADED_UP_TO, Grade, grade
from jaxmap.infer.ladder import FULL_UP_TO
from jaxmap.infer.point import MAP, check_counts, describe
from jaxmap.infer.posteriors import is_posterior
from jaxmap.infer.problem import Problem, Stopwatch, check_method, library_versions
from jaxmap.infer.variational_climb import Bound, Climbed, climb_bound
from jaxmap.infer.variational_families import Family, Frame, FullFamily, LowRankFamily, MeanField, frame_of
from jaxmap.infer.variational_start import Start, start_at
from jaxmap.model import Density
from jaxmap.optimize import slope_at
from jaxmap.trees import in_double, settled, shaper, stack, take
from jaxmap.types import Data, FitError, Info, Key, Method, Posterior, Seeds, Status

FAMILIES = ("mean_field", "low_rank", "full")

STEPS = 5000

MANY_DRAWS = 100
"""Draws for the final bound where there are too many parameters for a grade."""

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
    draws: int = 16
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
        density, family = Density(problem.model), self._family()
        plan = None if self.batch_size is None else BatchPlan(problem.num_examples, self.batch_size)
        found = problem.solve(self.start, seeds)
        starts, frames, begun = [], [], []
        for k, result in enumerate(found):
            seed, key = Seeds(seeds.keys[k : k + 1], seeds.ranks[k : k + 1]), jax.random.fold_in(seeds.keys[k], PROBE)
            starts.append(start_at(result, density, problem, seed, key))
            frame, inside = frame_of(starts[k].center, starts[k].curvature, family)
            frames.append(frame)
            begun.append(family.begin(problem.num_params, inside, key))
        watch = Stopwatch()
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(seeds.keys, CLIMB)
        here = jax.tree.map(lambda leaf: jnp.asarray(leaf, problem.dtype), (stack(begun), stack(frames)))
        bound = Bound(density, family, self.draws, plan)
        climbed = climb_bound(bound, *here, keys, problem.data, self.steps or STEPS, problem.progress)
        return Bounds(bound, climbed, starts, frames, seeds.keys, watch.seconds / seeds.count)

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
        bound, start, frame = runs.bound, runs.starts[index], runs.frames[index]
        status = Status.from_code(runs.climbed.codes[index])
        if status is Status.DIVERGED:
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
        count = DRAWS if problem.num_params <= GRADED_UP_TO else MANY_DRAWS
        key, again = jax.random.split(jax.random.fold_in(runs.keys[index], FINAL))
        found = bound_at(key, bound.density, problem, mean, precision, count)
        graded = self._graded(again, bound.density, problem, mean, precision)
        said = [*start.notes, _ending(status, int(runs.climbed.steps[index])), *([graded.note] if graded else [])]
        if graded is None:
            said.append("Not graded: too many parameters for importance weights; grade=1000 asks for it anyway.")
        slope, history = slope_at(bound.density, mean, problem.data), runs.climbed.history[index]
        info = Info(
            status=status,
            method=describe(self),
            solver=f"Adam on the ELBO, {self.draws} draws per step",
            target=f"Gaussian closest to the {bound.density.target}",
            log_likelihood=float(slope.log_likelihood),
            log_prior=float(slope.log_prior),
            log_joint=float(slope.log_likelihood + slope.log_prior),
            num_gradients=start.gradients
            + runs.climbed.steps[index] * self.draws * bound.share
            + (count + (graded.draws if graded else 0)) / 3,
            seconds=start.seconds + runs.seconds + watch.seconds,
            history=-history[~np.isnan(history)] / problem.num_examples,
            notes=tuple(said),
            diagnostics={"elbo": found.value, "elbo_se": found.error} | (graded.diagnostics if graded else {}),
            versions=library_versions(),
        )
        return GaussianPosterior(mean, precision, problem.model.space, info, found.value, grade=graded or None)

    def _graded(
        self, key: Key, density: Density, problem: Problem, mean: Any, precision: Precision
    ) -> Grade | bool | None:
        """The grade; False where none was wanted, None where there are too many parameters for one."""
        if self.grade == 0:
            return False
        if self.grade is None and problem.num_params > GRADED_UP_TO:
            return None
        return grade(key, density, problem, mean, precision, self.grade or DRAWS)


class Bounds(NamedTuple):
    """What `run` leaves for `finish`."""

    bound: Bound
    climbed: Climbed
    starts: list[Start]
    frames: list[Frame]
    keys: Any
    seconds: float


class Estimate(NamedTuple):
    """A Monte Carlo mean and its standard error."""

    value: float
    error: float


def bound_at(key: Key, density: Density, problem: Problem, mean: Any, precision: Precision, draws: int) -> Estimate:
    """The evidence lower bound of N(mean, H^-1), in float64, from pairs of opposite draws.

    Args:
        key: for the draws.
        density: what is approximated.
        problem: its model and data.
        mean: coordinates.
        precision: H.
        draws: how many, even.
    """
    flat = np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(mean)])
    half = np.asarray(jax.random.normal(key, (draws // 2, precision.size)), np.float64)
    noise = np.concatenate([half, -half])
    shaped = shaper(mean)

    def values(z: Any, data: Data) -> Any:
        return jax.lax.map(lambda v: density(shaped(v), data), z, batch_size=min(len(z), DRAWS_AT_A_TIME))

    program = problem.model.programs.setdefault(("density of pairs", density), jax.jit(values))
    found = np.asarray(in_double(program, flat[None] + precision.color(noise.T).T, problem.data), np.float64)
    log_q = 0.5 * precision.log_det - 0.5 * precision.size * np.log(2 * np.pi) - 0.5 * np.sum(noise**2, axis=1)
    pairs = (found - log_q).reshape(2, -1).mean(axis=0)
    return Estimate(float(pairs.mean()), float(pairs.std(ddof=1) / np.sqrt(len(pairs))))


def _ending(status: Status, steps: int) -> str:
    if status is Status.CONVERGED:
        return f"Stopped after {steps} steps: the ELBO gained no more than its standard error."
    if status is Status.INTERRUPTED:
        return f"Interrupted after {steps} steps."
    return f"The {steps} steps were used up while the ELBO still rose; give more by steps=..."
