"""The search for scales: along the criterion's total derivative, or along the evidence while a network trains."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

from jaxmap.curvature import LayeredNetwork, View
from jaxmap.data import BatchPlan, num_examples, take_examples
from jaxmap.infer.evidence import curvature_matrix, log_evidence
from jaxmap.infer.family import Build, traced
from jaxmap.infer.problem import Problem, seeds_of
from jaxmap.model import Density, weighted_sum
from jaxmap.optimize import Progress, climb, objective_of
from jaxmap.trees import in_double, named_leaves, settled, shaper, take
from jaxmap.types import Data, Key, Status

WIDEST = np.log(1e6)
"""How far a scale may move from its start."""

ROUND = 10
"""Full-batch steps of an optax transformation between two moves of the scales."""

BURN_IN = 0.1
"""The share of the training before the scales begin to move: the evidence of an untrained network says little."""


class Criterion(NamedTuple):
    """What is maximised over the scales."""

    by: str
    curvature: str
    kind: str
    held_out: float


class Found(NamedTuple):
    """Where a search ended."""

    scales: Any
    z: Any
    value: float
    gradients: float
    history: list[dict[str, float]]
    status: Status
    outer: str


@dataclass(frozen=True)
class Search:
    """The two ways to search, and the programs that they compile."""

    build: Callable[[], Build]
    density: Density
    solver: Any
    problem: Problem
    start: Any
    criterion: Criterion

    def implicit(self, key: Key, steps: int) -> Found:
        """L-BFGS-B on the log scales, the mode a function of them."""
        problem, n = self.problem, self.problem.num_examples
        flat, z = self._flat(), take(problem.starts(seeds_of(key)), 0)
        held = None
        if self.criterion.by == "validation":
            count = max(1, round(self.criterion.held_out * n))
            order = jax.random.permutation(jax.random.fold_in(key, 1), n)
            held = jnp.zeros(n).at[order[:count]].set(1.0)
        program = self._program("tune", self._evaluate)
        best: dict[str, Any] = {"value": -np.inf, "scales": flat, "z": z, "gradients": 0.0}
        history: list[dict[str, float]] = []
        last, per = [z], float(n) if held is None else 1.0  # so that the first step is about one

        def negative(log_scales: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope, z, gradients = in_double(program, log_scales, last[0], problem.data, held)
            value, slope = float(value), np.asarray(slope, np.float64)
            best["gradients"] += float(gradients)
            history.append(self._row(log_scales, value))
            bar.update(len(history), f"{self.criterion.by} {value:.5g}")
            if not (np.isfinite(value) and np.all(np.isfinite(slope))):
                return 1e10, np.zeros_like(slope)
            last[0] = z
            if value > best["value"]:
                best.update(value=value, scales=np.array(log_scales), z=z)
            return -value / per, -slope / per

        bounds = [(v - WIDEST, v + WIDEST) for v in flat]
        status, tolerance = Status.INTERRUPTED, 1e-9 if problem.dtype == np.float64 else 1e-6
        with Progress("tune", steps, problem.progress) as bar:
            try:
                options = {"maxfun": steps, "ftol": tolerance, "gtol": 1e-6}
                ended = minimize(negative, flat, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
                status = Status.CONVERGED if ended.success else Status.STEPS_EXHAUSTED
            except KeyboardInterrupt:
                pass
        scales = self._scales(best["scales"])
        return Found(
            scales, settled(best["z"]), best["value"], best["gradients"], history, status, "L-BFGS-B on scales"
        )

    def online(self, key: Key, batch_size: int | None) -> Found:
        """Train, and let the scales follow the evidence."""
        problem = self.problem
        plan = None if batch_size is None else BatchPlan(problem.num_examples, batch_size)
        length = ROUND if plan is None else plan.batches
        rounds = -(-self.solver.steps // length)
        log_scales = jnp.asarray(self._flat(), problem.dtype)
        z = take(problem.starts(seeds_of(key)), 0)
        begin = self._program("tune begin", lambda z, s, data: self.solver.init(objective_of(self._at(s), data), z))
        cycle = self._program(("tune cycle", plan, length), self._cycle_of(plan, length))
        state, moves = (
            begin(z, log_scales, problem.data),
            (jnp.full(log_scales.shape, 0.1), jnp.zeros(log_scales.shape)),
        )
        history: list[dict[str, float]] = []
        status = Status.STEPS_EXHAUSTED
        with Progress("tune", rounds, problem.progress) as bar:
            try:
                for i in range(rounds):
                    old = np.asarray(log_scales)
                    still = i < BURN_IN * rounds
                    state, log_scales, moves, value = cycle(state, log_scales, moves, problem.data, key, i, still)
                    history.append(self._row(old, float(value)))
                    bar.update(i + 1, f"evidence {float(value):.5g}")
            except KeyboardInterrupt:
                status = Status.INTERRUPTED
        if not history or not np.isfinite(history[-1]["log evidence"]):
            raise ValueError(
                "Expected a finite evidence while the scales follow it; got none. Train longer before, use another "
                "curvature, or begin at other scales."
            )
        share = 1.0 if plan is None else plan.size / plan.num_examples
        spent = len(history) * (length * share + 4.0)
        scales = self._scales(np.asarray(log_scales, np.float64))
        outer = f"the scales move every {length} steps"
        return Found(scales, settled(state.z), history[-1]["log evidence"], spent, history, status, outer)

    def _evaluate(self, log_scales: Any, z: Any, data: Data, held: Any) -> Any:
        """Climb to the mode; the criterion there, its total derivative, the mode and the gradients spent."""
        density, kind = self._at(log_scales), self.criterion.kind
        weights = None if held is None else 1.0 - held
        total = None if weights is None else jnp.sum(weights)
        objective = objective_of(density, data, weights, total)
        state, _ = climb(objective, self.solver, self.solver.init(objective, z))
        mode = jax.lax.stop_gradient(state.z)
        value, (direct, through) = jax.value_and_grad(self._score, (0, 1))(log_scales, mode, data, held)
        if self.criterion.curvature == "full":
            matrix = curvature_matrix(density, mode, data, kind, weights)
            flat, unravel = ravel_pytree(mode)
            used = jnp.ones(num_examples(data), flat.dtype) if weights is None else weights.astype(flat.dtype)
            moved = unravel(jnp.linalg.solve(matrix, ravel_pytree(through)[0]).astype(flat.dtype))

            def along(log_scales: Any) -> Any:
                own = self._at(log_scales)

                def counted(v: Any) -> Any:
                    return own.smooth_log_prior(v) + weighted_sum(used, own.log_likelihoods(v, data))

                return jax.jvp(counted, (mode,), (moved,))[1]

            direct = direct + jax.grad(along)(log_scales)
        return value, direct, mode, state.gradients + 8.0

    def _score(self, log_scales: Any, z: Any, data: Data, held: Any) -> Any:
        density = self._at(log_scales)
        if held is not None:
            return weighted_sum(held, density.log_likelihoods(z, data)) / jnp.sum(held)
        return log_evidence(density, z, data, self.criterion.curvature, self.criterion.kind, self._network(z))

    def _cycle_of(self, plan: BatchPlan | None, length: int) -> Callable[..., Any]:
        """One round: train, then move each log scale along the sign of the evidence's derivative."""

        def cycle(state: Any, log_scales: Any, moves: Any, data: Data, key: Key, epoch: Any, still: Any) -> Any:
            density = self._at(log_scales)
            dealt = None if plan is None else plan.epoch(key, epoch)

            def step(i: Any, state: Any) -> Any:
                if dealt is None:
                    return self.solver.step(objective_of(density, data), state)
                batch = take_examples(data, dealt.rows[i])
                return self.solver.step(objective_of(density, batch, dealt.weights[i], num_examples(data)), state)

            state = jax.lax.fori_loop(0, length, step, state)
            value, slope = jax.value_and_grad(self._score)(log_scales, jax.lax.stop_gradient(state.z), data, None)
            sizes, before = moves
            turned = jnp.sign(slope) * before
            sizes = jnp.clip(sizes * jnp.where(turned > 0, 1.2, jnp.where(turned < 0, 0.5, 1.0)), 1e-4, 0.5)
            sign = jnp.where((turned < 0) | still, 0.0, jnp.sign(slope))
            return state, log_scales + sizes * sign, (sizes, sign), value

        return cycle

    def _at(self, log_scales: Any) -> Density:
        return replace(self.density, model=traced(self.build(), shaper(self.start)(jnp.exp(log_scales))))

    def _network(self, z: Any) -> LayeredNetwork | None:
        if self.criterion.curvature == "full":
            return None
        view = View(self.density)
        shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in view.of(z)]
        return LayeredNetwork.of(view.outputs(z), shapes, self.problem.data[0])

    def _program(self, name: Any, function: Any) -> Any:
        """Compiled once per build, density, solver and criterion."""
        key = (name, self.density, self.solver, self.criterion)
        return self.problem.model.programs.jitted(key, function)

    def _flat(self) -> np.ndarray:
        return np.log(np.concatenate([np.ravel(np.asarray(v, np.float64)) for v in jax.tree.leaves(self.start)]))

    def _scales(self, log_scales: np.ndarray) -> Any:
        return jax.tree.map(lambda v: v if np.ndim(v) else float(v), shaper(self.start)(np.exp(log_scales)))

    def _row(self, log_scales: np.ndarray, value: float) -> dict[str, float]:
        named = named_leaves(self._scales(np.asarray(log_scales, np.float64)))
        entries = [(p or "scale", i, v) for p, v in named for i in np.ndindex(np.shape(v))]
        scales = {f"{p}{list(i) if i else ''}": float(np.asarray(v)[i]) for p, i, v in entries}
        return scales | {"log evidence" if self.criterion.by == "evidence" else "held-out lppd": value}
