"""Point estimates: MLE, MAP, Given."""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.infer.posteriors import Point
from jaxmap.infer.problem import Problem, Stopwatch, library_versions, multiply
from jaxmap.model import Density
from jaxmap.optimize import (
    Ascent,
    Budget,
    FirstOrder,
    Solver,
    certify,
    choose_solver,
    decay_of,
    describe_failure,
    maximize,
    totals,
)
from jaxmap.optimize.maximize import failing_batch
from jaxmap.trees import cast_floats, in_double, named_leaves, settled, take
from jaxmap.types import FitError, Info, Seeds, Status


@dataclass(frozen=True)
class MAP:
    """The maximum a posteriori estimate: argmax of log_joint.

    Args:
        solver: None (chosen by the problem, and said in `info.solver`), an optax transformation, `jm.LBFGS()` or
            `jm.Newton()`. Solvers work on unconstrained coordinates and minimise -log_joint / N.
        restarts: independent starts in one program; the best is returned.
        space: "constrained", the mode of the density the user wrote, or "unconstrained", the mode after the bijector
            with its log-Jacobian, which is where a Laplace approximation stands.
        steps: the largest number of steps; None: the solver's own, 5000 for optax.
        batch_size: examples per step, for optax transformations; None: all.
        allow_decay: accept a solver that decays weights (AdamW) beside a prior; its fixed point is no MAP.
    """

    solver: Any = None
    restarts: int = 1
    space: str = "constrained"
    steps: int | None = None
    batch_size: int | None = None
    allow_decay: bool = False

    def __post_init__(self) -> None:
        if self.space not in ("constrained", "unconstrained"):
            raise ValueError(f"Expected space='constrained' or 'unconstrained'; got {self.space!r}.")
        check_counts(restarts=self.restarts, steps=self.steps, batch_size=self.batch_size)

    def density(self, problem: Problem) -> Density:
        """What is maximised."""
        return Density(problem.model, jacobian=self.space == "unconstrained" and not problem.model.space.is_real)

    def run(self, problem: Problem, seeds: Seeds) -> "Climbs":
        """Climb from every start of every seed in one program."""
        watch = Stopwatch()
        solver, description = choose_solver(self.solver, problem.num_params, self.batch_size, self.steps)
        decay = decay_of(solver.transformation) if isinstance(solver, FirstOrder) else None
        if decay is not None:
            description += self.decayed(decay, problem)
        density = self.density(problem)
        starts = multiply(seeds, self.restarts)
        budget = Budget(solver.steps, self.batch_size, problem.progress)
        z = problem.starts(starts)
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(starts.keys, DATA_ORDER)
        ascent = maximize(density, problem.data, z, keys, solver, budget, type(self).__name__)
        return Climbs(ascent, keys, solver, description, watch.seconds / seeds.count)

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
        alive = [row for row in rows if runs.ascent.codes[row] != Status.DIVERGED.code]
        if not alive:
            raise failure(self, problem, density, runs, rows[0])
        found = {row: judge(density, problem, take(runs.ascent.z, row), int(runs.ascent.codes[row])) for row in alive}
        best = max(alive, key=lambda row: found[row].value)
        lost = self.restarts - len(alive)
        info = replace(
            found[best].info,
            method=describe(self),
            solver=runs.description,
            num_gradients=float(runs.ascent.gradients[list(rows)].sum()) + found[best].info.num_gradients,
            history=runs.ascent.history[best][~np.isnan(runs.ascent.history[best])],
            members=tuple(found[row].info.status if row in found else Status.DIVERGED for row in rows),
            notes=(f"{lost} of {self.restarts} restarts diverged and were left out.",) if lost else (),
            seconds=runs.seconds + watch.seconds,
        )
        z = take(runs.ascent.z, best)
        mode = settled(problem.model.space.constrain(z))
        return Point(mode, info, settled(z), density.prior, density.jacobian)


@dataclass(frozen=True)
class MLE(MAP):
    """The maximum-likelihood estimate: the MAP path with a zero prior.

    Args:
        solver, restarts, steps, batch_size: as for `MAP`. The estimate does not depend on the coordinates.
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


@dataclass(frozen=True, eq=False)
class Given:
    """The user's own trained parameters, certified but not moved.

    Args:
        params: a tree like the model's.
    """

    params: Any

    def run(self, problem: Problem, seeds: Seeds) -> Any:
        """Check the parameters.

        Raises:
            TypeError, ValueError: another structure, not finite, outside the support.
        """
        params = cast_floats(self.params, problem.dtype)
        problem.model.space.check(params, name="params")
        for (path, leaf), (_, own) in zip(named_leaves(params), named_leaves(problem.model.start), strict=True):
            if jnp.shape(leaf) != jnp.shape(own):
                raise ValueError(f"Expected {path!r} of shape {jnp.shape(own)}; got {jnp.shape(leaf)}.")
        return params

    def finish(self, problem: Problem, runs: Any, index: int) -> Point:
        """Certify them."""
        watch = Stopwatch()
        density = Density(problem.model, jacobian=False)
        z = problem.model.space.unconstrain(runs)
        found = judge(density, problem, z, Status.STEPS_EXHAUSTED.code)
        info = replace(found.info, method="Given", solver="none: the parameters were given", seconds=watch.seconds)
        return Point(settled(runs), info, settled(z), moved=False)


DATA_ORDER = 1
"""The tag folded into a key for the order of minibatches."""


class Climbs(NamedTuple):
    """What `run` of a point method leaves for `finish`."""

    ascent: Ascent
    keys: Any
    solver: Solver
    description: str
    seconds: float


class Judged(NamedTuple):
    """A certified end point."""

    value: float
    info: Info


def judge(density: Density, problem: Problem, z: Any, code: int) -> Judged:
    """Certify an end point and total its density."""
    resolution = float(jnp.finfo(problem.dtype).eps)
    certificate, status = certify(density, z, problem.data, resolution=resolution)
    if code == Status.INTERRUPTED.code:
        status = Status.INTERRUPTED
    parts = totals(density, z, problem.data)
    spent = 1.0 if certificate.decrement is None else 1.0 + 3.0 * problem.num_params
    info = Info(
        status=status,
        target=f"mode of the {density.target}",
        certificate=certificate,
        log_likelihood=parts.log_likelihood,
        log_prior=parts.log_prior,
        log_joint=parts.log_likelihood + parts.log_prior,
        num_gradients=spent,
        versions=library_versions(),
    )
    prior = problem.model.programs.setdefault(("prior", density), jax.jit(density.log_prior))
    value = parts.log_likelihood + float(in_double(prior, z))
    return Judged(value if np.isfinite(value) else -np.inf, info)


def failure(method: MAP, problem: Problem, density: Density, runs: Climbs, row: int) -> FitError:
    """Explain a divergence: step, term, leaf; carries the last finite parameters."""
    z, step = take(runs.ascent.z, row), int(runs.ascent.steps[row])
    batch = failing_batch(problem.data, take(runs.keys, row), step, method.batch_size)
    reason = describe_failure(density, z, batch)
    return FitError(
        f"{describe(method)} diverged at step {step + 1}: {reason}. The last finite parameters are in `error.last`.",
        last=settled(problem.model.space.constrain(z)),
        step=step,
    )


def prior_only(problem: Problem, density: Density) -> list[str]:
    """Leaves along which the likelihood has no slope at all, at a random point near the start."""

    def slope(z: Any, data: Any) -> Any:
        return jax.grad(lambda v: jnp.sum(density.log_likelihoods(v, data)))(z)

    rng = np.random.default_rng(0)
    start = problem.model.start_unconstrained(problem.dtype)
    moved = jax.tree.map(lambda v: v + jnp.asarray(rng.uniform(-0.1, 0.1, v.shape), v.dtype), start)
    program = problem.model.programs.setdefault(("likelihood slope", density), jax.jit(slope))
    found = program(moved, problem.data)
    return [path for path, leaf in named_leaves(found) if not np.any(np.asarray(leaf))]


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
            value = choose_solver(value, 0, None, None)[1]
        elif hasattr(value, "run"):
            value = describe(value)
        elif hasattr(value, "particles"):
            value = f"fitted {value.info.method}"
        parts.append(f"{f.name}={value}")
    return f"{type(method).__name__}({', '.join(parts)})" if parts else type(method).__name__
