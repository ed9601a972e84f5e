"""Point estimates: MLE, MAP."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.curvature import examples_at_a_time
from jaxmap.data import num_examples
from jaxmap.infer.another_way import climbed_another_way
from jaxmap.infer.climb_journal import ClimbJournal
from jaxmap.infer.diverged import failure
from jaxmap.infer.held_out import by_held_out
from jaxmap.infer.judged import ENDS, Climbs, judge, tell_apart
from jaxmap.infer.posteriors import Point
from jaxmap.infer.problem import Problem, Stopwatch, library_versions, multiply
from jaxmap.infer.seen import by_objective
from jaxmap.model import Density
from jaxmap.optimize import (
    Budget,
    FirstOrder,
    Monitor,
    Solver,
    Task,
    choose_solver,
    decay_of,
    maximize,
    recipe_of,
)
from jaxmap.optimize.slope import likelihood_slope
from jaxmap.trees import named_leaves, settled, take
from jaxmap.types import Seeds, Status


@dataclass(frozen=True)
class MAP:
    """The maximum a posteriori estimate: argmax of log_joint.

    Args:
        solver: None (chosen by the problem, and said in `info.solver`), an optax transformation, `jm.LBFGS()` or
            `jm.Newton()`. Solvers work on unconstrained coordinates and minimise -log_joint / N.
        restarts: independent starts in one program; the best is returned.
        space: "constrained", the mode of the density the user wrote, or "unconstrained", the mode after the bijector
            with its log-Jacobian, which is where a Laplace approximation stands.
        steps: the largest number of steps; None: the solver's own, 5000 for optax. A step sees one batch. Under
            `optax.MultiSteps(solver, k)` k steps make one update, and a schedule inside it counts updates.
        batch_size: examples per step, for optax transformations; None: all.
        allow_decay: accept a solver that decays weights (AdamW) beside a prior; its fixed point is no MAP.
        monitor: a `jm.Monitor` of held-out data, that chooses the best parameters so far and may stop early.
    """

    solver: Any = None
    restarts: int = 1
    space: str = "constrained"
    steps: int | None = None
    batch_size: int | None = None
    allow_decay: bool = False
    monitor: Monitor | None = None

    trains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.space not in ("constrained", "unconstrained"):
            raise ValueError(f"Expected space='constrained' or 'unconstrained'; got {self.space!r}.")
        check_counts(restarts=self.restarts, steps=self.steps, batch_size=self.batch_size)
        if self.monitor is not None and not isinstance(self.monitor, Monitor):
            raise TypeError(f"Expected monitor=jm.Monitor((x, y)); got {type(self.monitor).__name__}.")

    def density(self, problem: Problem) -> Density:
        """What is maximised."""
        return Density(problem.model, jacobian=self.space == "unconstrained" and not problem.model.space.is_real)

    def seen(self, problem: Problem, found: Any, z: Any) -> np.ndarray:
        """What its solvers minimise, as in `infer/seen.py`."""
        return by_objective(self.density(problem), problem, z)

    def run(self, problem: Problem, seeds: Seeds) -> "Climbs":
        """Climb from every start of every seed in one program."""
        watch = Stopwatch()
        density = self.density(problem)
        solver, description = choose_solver(self.solver, self.task(problem, density, seeds.count))
        decay = _decay(solver, problem)
        if decay is not None:
            description += self.decayed(decay, problem)
        monitor = None if self.monitor is None else self.monitor.beside(problem.sample, problem.dtype)
        starts = multiply(seeds, self.restarts)
        budget = Budget(solver.steps, self.batch_size, problem.progress)
        z = problem.starts(starts)
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(starts.keys, DATA_ORDER)
        journal = None if problem.folder is None else self.journal(problem, seeds, solver)
        ascent = maximize(density, problem.data, z, keys, solver, budget, type(self).__name__, journal, monitor)
        seconds = watch.seconds + (0.0 if journal is None else journal.before)
        return Climbs(ascent, keys, z, solver, description, seconds / seeds.count)

    def journal(self, problem: Problem, seeds: Seeds, solver: Solver) -> ClimbJournal:
        """The journal in the problem's folder; more steps may be asked of a climb later."""
        key = np.asarray(jax.random.key_data(seeds.keys)).tobytes().hex()
        same = {"method": describe(replace(self, steps=None)), "solver": recipe_of(solver), "key": key}
        versions = {name: library_versions()[name] for name in ("jax", "jaxlib", "optax")}
        return ClimbJournal(cast(Any, problem.folder), problem.identity() | same | versions, steps=solver.steps)

    def task(self, problem: Problem, density: Density, seeds: int = 1) -> Task:
        """What the solver is chosen for."""
        return Task(
            num_params=problem.num_params,
            num_examples=problem.num_examples,
            members=seeds * self.restarts,
            kinked=density.kinks(problem.model.start_unconstrained(problem.dtype)) is not None,
            batch_size=self.batch_size,
            steps=self.steps,
            noisy=problem.model.train is not None,
        )

    def decayed(self, decay: float, problem: Problem) -> str:
        """Refuse a solver that decays weights beside a prior; label it where there is none.

        Raises:
            ValueError: with the prior that was probably meant.
        """
        if problem.model.has_prior and not self.allow_decay:
            meant = f"jm.weight_decay({decay:.3g}, per='mean', num_examples={problem.num_examples})"
            raise ValueError(
                "Expected a solver without weight decay beside a prior; got one that decays weights by "
                f"{decay:.3g} x rate per step, which is the MAP of no Gaussian prior. Use optax.adam(...) with the "
                f"prior that you mean, {meant}, or MLE(), or allow_decay=True."
            )
        return f", decaying weights by {decay:.3g} x rate per step: not a MAP estimate"

    def finish(self, problem: Problem, runs: "Climbs", index: int) -> Point:
        """Certify the restarts of one seed and return the best.

        Raises:
            FitError: every restart diverged.
        """
        watch = Stopwatch()
        density = self.density(problem)
        rows = range(index * self.restarts, (index + 1) * self.restarts)
        found = {
            row: judge(density, problem, runs, row) for row in rows if runs.ascent.codes[row] != Status.DIVERGED.code
        }
        if self.monitor is None and not any(ended.info.status in ENDS for ended in found.values()):
            runs, found = climbed_another_way(self, problem, density, runs, rows, found)
        if not found:
            raise failure(describe(self), problem, density, runs, rows[0], self.batch_size)
        watched = runs.ascent.watched
        if watched is None:
            best = max(found, key=lambda row: (found[row].info.status in ENDS, found[row].value))
            diagnostics, notes = tell_apart(density, problem, runs, found, rows)
        else:
            best = min(found, key=lambda row: watched.lowest[row])
            diagnostics, notes = by_held_out(watched, best, found, rows)
        z, history = take(runs.ascent.z, best), runs.ascent.history[best]
        info = replace(
            found[best].info,
            method=describe(self),
            solver=runs.description,
            num_gradients=float(runs.ascent.gradients[list(rows)].sum()) + found[best].info.num_gradients,
            history=history[~np.isnan(history)],
            held_out=found[best].info.held_out if watched is None else watched.history(best),
            members=tuple(found[row].info.status if row in found else Status.DIVERGED for row in rows),
            notes=(*found[best].info.notes, *notes),
            diagnostics=diagnostics,
            seconds=runs.seconds + watch.seconds,
        )
        mode = settled(problem.model.space.constrain(z))
        return Point(
            mode, info, settled(z), density.prior, density.jacobian, problem=None if problem.streamed else problem
        )


@dataclass(frozen=True)
class MLE(MAP):
    """The maximum-likelihood estimate: the MAP path with a zero prior.

    Args:
        solver, restarts, steps, batch_size, monitor: as for `MAP`. The estimate does not depend on the coordinates.
    """

    space: str = field(default="constrained", init=False, repr=False)

    def decayed(self, decay: float, problem: Problem) -> str:
        """Label an estimate that the optimizer regularised."""
        return f", decaying weights by {decay:.3g} x rate per step: regularised by the optimizer, not an MLE"

    def density(self, problem: Problem) -> Density:
        """The likelihood alone."""
        return Density(problem.model, prior=False, jacobian=False)

    def run(self, problem: Problem, seeds: Seeds) -> "Climbs":
        """Refuse parameters that only the prior touches, then climb.

        Raises:
            ValueError: naming them; the likelihood is flat along them.
        """
        untouched = prior_only(problem, self.density(problem))
        if untouched:
            raise ValueError(
                f"Expected a likelihood that depends on every parameter; {', '.join(untouched)} only appear in the "
                "prior, so that no maximum-likelihood estimate exists. Use jm.MAP()."
            )
        return super().run(problem, seeds)


def continued(method: MAP, problem: Problem, z: Any) -> Point:
    """Climb on from coordinates z, on full batches."""
    watch = Stopwatch()
    density = method.density(problem)
    solver, description = choose_solver(method.solver, method.task(problem, density))
    starts = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], z)
    keys = jax.random.split(jax.random.key(0), 1)  # full batches: no order to draw
    ascent = maximize(density, problem.data, starts, keys, solver, Budget(solver.steps, None, problem.progress), "MAP")
    return method.finish(problem, Climbs(ascent, keys, starts, solver, description, watch.seconds), 0)


DATA_ORDER = 1
"""The tag folded into a key for the order of minibatches."""


def prior_only(problem: Problem, density: Density) -> list[str]:
    """Leaves along which the likelihood has no slope at all, at a random point near the start, in bounded memory.

    Most models show a slope along every leaf on a part of the examples; only where they do not, all are asked.
    """

    def slope(z: Any, data: Any) -> Any:
        return likelihood_slope(density, z, data)[1]

    rng = np.random.default_rng(0)
    start, data = problem.model.start_unconstrained(problem.dtype), problem.sample
    moved = jax.tree.map(lambda v: v + jnp.asarray(rng.uniform(-0.1, 0.1, v.shape), v.dtype), start)
    program = problem.model.programs.jitted(("likelihood slope", density), slope)
    part = examples_at_a_time(lambda batch: density.log_likelihoods(moved, batch), data)
    few = jax.tree.map(lambda leaf: leaf[:part], data)
    untouched: list[str] = []
    for batch in (few, data) if part < num_examples(data) else (data,):
        found = program(moved, batch)
        untouched = [path for path, leaf in named_leaves(found) if not np.any(np.asarray(leaf))]
        if not untouched:
            break
    return untouched


def check_counts(**counts: int | None) -> None:
    """Refuse counts that are not positive integers (None passes)."""
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1):
            raise ValueError(f"Expected {name} to be a positive integer; got {value!r}.")


def describe(method: Any) -> str:
    """Write a method as a reader would, only what differs from the defaults."""
    from dataclasses import MISSING, fields

    parts = []
    for f in fields(method):
        value = getattr(method, f.name)
        if f.default is not MISSING and value == f.default:
            continue
        if f.name == "solver":
            value = choose_solver(value, Task())[1]
        elif hasattr(value, "run"):
            value = describe(value)
        elif hasattr(value, "particles"):
            value = f"fitted {value.info.method}"
        parts.append(f"{f.name}={value}")
    return f"{type(method).__name__}({', '.join(parts)})" if parts else type(method).__name__


def _decay(solver: Solver, problem: Problem) -> float | None:
    """The weight decay of an optax transformation on the parameters of a problem."""
    if not isinstance(solver, FirstOrder):
        return None
    return decay_of(solver.transformation, problem.model.start_unconstrained(problem.dtype))
