"""The program of a path: all strengths of a prior in one scan, each climb from where the last one ended."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.curvature import negative_hessian
from jaxmap.data import num_examples
from jaxmap.infer.family import traced
from jaxmap.infer.problem import Problem
from jaxmap.model import Density, Model, weighted_sum
from jaxmap.optimize import Evidence, climb, examine, objective_of
from jaxmap.types import Data, Key


class Stop(NamedTuple):
    """One strength's fit, as the program returns it; stacked over strengths."""

    z: Any
    steps: Any
    gradients: Any
    diagonal: Any
    held_out: Any


class Seen(NamedTuple):
    """What was seen at the end of each strength's fit, in float64."""

    evidence: Evidence
    log_det: Any


@dataclass(frozen=True)
class Walk:
    """The program of a path: a scan over strengths, the state of the solver handed on."""

    build: Callable[[], Callable[[Any], Model]]  # weak, so that cached programs do not keep the user's data
    density: Density
    solver: Any
    evidence: bool

    def program(self, problem: Problem) -> Any:
        """Compile once per model, solver and kind of selection."""
        key = ("path", self.density, self.solver, self.evidence)
        return problem.model.programs.jitted(key, self.run)

    def at(self, strength: Any) -> Density:
        """The density of one strength.

        Raises:
            TypeError: a `build` that jax cannot trace.
        """
        return replace(self.density, model=traced(self.build(), strength))

    def run(self, start: Any, strengths: Any, data: Data, weights: Any, held_out: Any) -> Stop:
        """Fit all strengths; weights and held_out count examples for the fit and for the score."""

        def stop(density: Density, objective: Any, state: Any) -> tuple[Any, Stop]:
            state, steps = climb(objective, self.solver, state)
            matrix = getattr(state.inner, "matrix", None)
            diagonal = jnp.zeros(()) if matrix is None else num_examples(data) * jnp.diagonal(matrix)
            score = jnp.zeros(())
            if held_out is not None:
                score = weighted_sum(held_out, density.log_likelihoods(state.z, data)) / jnp.sum(held_out)
            return state, Stop(state.z, steps, state.gradients, diagonal, score)

        def objective_at(strength: Any) -> tuple[Density, Any]:
            density = self.at(strength)
            total = None if weights is None else jnp.sum(weights)
            return density, objective_of(density, data, weights, total)

        density, first = objective_at(strengths[0])
        state, begun = stop(density, first, self.solver.init(first, start))

        def onward(carry: Any, strength: Any) -> Any:
            state, last = carry
            density, objective = objective_at(strength)
            if hasattr(self.solver, "resume"):
                state = self.solver.resume(objective, objective_at(last)[1], state)
            else:
                state = self.solver.init(objective, state.z)
            state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), state)
            state, made = stop(density, objective, state)
            return (state, strength), made

        _, rest = jax.lax.scan(onward, (state, strengths[0]), strengths[1:])
        return jax.tree.map(lambda one, more: jnp.concatenate([jnp.asarray(one)[None], more]), begun, rest)

    def inspector(self, problem: Problem) -> Any:
        """The program of `inspect`, compiled as `program` is."""
        key = ("path seen", self.density, self.evidence)
        return problem.model.programs.jitted(key, self.inspect)

    def inspect(self, z: Any, diagonals: Any, strengths: Any, data: Data) -> Seen:
        """Look at every end."""

        def one(end: Any) -> Seen:
            z, diagonal, strength = end
            density = self.at(strength)
            evidence = examine(density, z, data, None, diagonal if diagonal.ndim else None)
            if not self.evidence:
                return Seen(evidence, jnp.zeros(()))
            return Seen(evidence, jnp.linalg.slogdet(negative_hessian(density, z, data))[1])

        return jax.lax.map(one, (z, diagonals, strengths))


def scores_of(
    key: Key, walk: Walk, problem: Problem, start: Any, strengths: Any, seen: Seen, select: str | None, folds: int
) -> tuple[Any, Any]:
    """Scores in the order of the walk, and their standard errors."""
    if select is None:
        return None, None
    if select == "evidence":
        return seen.evidence.value + 0.5 * problem.num_params * np.log(2 * np.pi) - 0.5 * seen.log_det, None
    n = problem.num_examples
    part = np.empty(n, int)
    part[np.asarray(jax.random.permutation(key, n))] = np.arange(n) % folds
    program = walk.program(problem)
    results = []
    for k in range(folds):
        out = jnp.asarray(part == k, problem.dtype)
        results.append(np.asarray(program(start, strengths, problem.data, 1.0 - out, out).held_out))
    table, counts = np.stack(results), np.bincount(part, minlength=folds)
    mean = np.average(table, axis=0, weights=counts)
    return mean, np.sqrt(np.average((table - mean) ** 2, axis=0, weights=counts) / (folds - 1))
