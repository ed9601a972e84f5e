"""tune(): scales of priors and noise, chosen by the evidence or by held-out examples, in one warm-started program."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

from jaxmap.curvature import LayeredNetwork, View
from jaxmap.data import BatchPlan, num_examples, take_examples
from jaxmap.infer.evidence import EVIDENCE_STRUCTURES, curvature_matrix, log_evidence
from jaxmap.infer.family import Build, template, traced, weak
from jaxmap.infer.laplace import Laplace
from jaxmap.infer.point import MAP, MLE, continued, describe
from jaxmap.infer.problem import Problem, Stopwatch, computing_dtype, library_versions, named_key, seeds_of
from jaxmap.infer.summary import Summary
from jaxmap.model import Density, Model, weighted_sum
from jaxmap.optimize import FirstOrder, Progress, choose_solver, climb, objective_of
from jaxmap.trees import has_tracers, in_double, named_leaves, precision_scope, settled, shaper, take
from jaxmap.types import Data, Info, Key, Status

CRITERIA = ("evidence", "validation")

WIDEST = np.log(1e6)
"""How far a scale may move from its start."""

ROUND = 10
"""Full-batch steps of an optax transformation between two moves of the scales."""


@dataclass(frozen=True, eq=False)
class Tuned:
    """Scales, the model that they make, and its fit.

    Attributes:
        scales: a tree like `start`.
        model: build(scales).
        posterior: the Laplace approximation at its mode (by evidence), or the mode itself (by validation).
        criterion: the log evidence, or the mean log-likelihood of the held-out examples, at the end.
        history: one dict per evaluation: the scales by path and the criterion.
        info: of the whole search; `num_gradients` counts everything.
    """

    scales: Any
    model: Model = field(repr=False)
    posterior: Any
    criterion: float
    history: tuple[dict[str, float], ...] = field(repr=False)
    info: Info

    def summary(self) -> Summary:
        """The last evaluations as a table."""
        rows = tuple({"step": i} | row for i, row in enumerate(self.history))
        ended = {Status.CONVERGED: "converged", Status.INTERRUPTED: "interrupted"}.get(self.info.status, "ended")
        footer = f"{ended} after {len(self.history)} evaluations, {self.info.num_gradients:,.0f} gradients in all"
        return Summary(self.info.method, rows[-20:], footer)

    def __str__(self) -> str:
        return str(self.summary())


def tune(
    key: Key,
    build: Any,
    data: Data,
    start: Any,
    *,
    by: str = "evidence",
    method: Any = MAP(space="unconstrained"),
    curvature: str = "full",
    hessian: str | None = None,
    held_out: float = 0.2,
    steps: int = 50,
    precision: str | None = None,
    progress: bool | None = None,
) -> Tuned:
    """Choose the scales of priors and noise.

    With a deterministic solver each evaluation climbs from the last mode to that of build(scales) and takes the
    gradient of the criterion in the log scales, the mode's own movement included (by the implicit function theorem,
    with the same curvature), for scipy's L-BFGS-B. With an optax transformation as the method's solver the scales
    follow the evidence while the network trains: after every epoch (10 full-batch steps) each log scale moves by its
    own step along the sign of the evidence's derivative (Rprop: Riedmiller and Braun, 1993; the scheme: Immer et al.,
    2021).

    Args:
        key: a key of jax.random.
        build: scales -> Model, traced; scales enter priors and likelihoods in any way that jax can follow.
        data: as for `fit`.
        start: a positive number, or a tree of them: one for all, one per layer, one per leaf, one for the noise.
        by: "evidence", Laplace's log evidence; "validation", the mean log-likelihood of a held-out part.
        method: `jm.MAP(...)` with one start.
        curvature: of the evidence: "full"; "diagonal" or "kronecker" for networks with many parameters (then the
            mode's own movement is left out).
        hessian: "ggn", "exact", or None: "ggn" where the model has network outputs.
        held_out: the share of examples held out, for by="validation"; in the end all are used.
        steps: evaluations at most; with an optax transformation its own number of steps counts.
        precision: as for `fit`.
        progress: as for `fit`.

    Returns:
        tuned: `tuned.scales`, `tuned.model`, `tuned.posterior`.

    Raises:
        TypeError, ValueError: bad input, in words.
    """
    key = named_key(key, "tune")
    begun = _check(build, start, data, by, method, curvature, hessian, held_out)
    watch = Stopwatch()
    model = template(build, begun)
    with precision_scope(computing_dtype(model, precision)):
        problem = Problem.of(model, data, precision=precision, progress=progress)
        density = replace(method.density(problem), model=model)
        solver, description = choose_solver(method.solver, method.task(problem, density))
        kind = hessian or ("exact" if model.outputs is None else "ggn")
        search = Search(weak(build), density, solver, problem, begun, Criterion(by, curvature, kind, held_out))
        training = isinstance(solver, FirstOrder)
        found = search.online(key, method.batch_size) if training else search.implicit(key, steps)
        best = build(found.scales)
        own = Problem.of(best, data, precision=precision, progress=progress)
        point = continued(MAP(space=method.space) if training else method, own, found.z)
        posterior: Any = point
        if by == "evidence":
            posterior = own.solve(Laplace(point, curvature, hessian), seeds_of(key))[0]
            if isinstance(posterior, Exception):
                raise posterior
    info = Info(
        status=found.status,
        method=f"scales by {by}, {describe(method)}",
        solver=f"{description}; {found.outer}",
        target=f"{'log evidence' if by == 'evidence' else 'held-out log-likelihood'} of build(scales)",
        num_gradients=found.gradients + posterior.info.num_gradients,
        seconds=watch.seconds,
        versions=library_versions(),
    )
    return Tuned(found.scales, best, posterior, found.value, tuple(found.history), info)


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
                    state, log_scales, moves, value = cycle(state, log_scales, moves, problem.data, key, i)
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

        def cycle(state: Any, log_scales: Any, moves: Any, data: Data, key: Key, epoch: Any) -> Any:
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
            sign = jnp.where(turned < 0, 0.0, jnp.sign(slope))
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
        return self.problem.model.programs.setdefault(key, jax.jit(function))

    def _flat(self) -> np.ndarray:
        return np.log(np.concatenate([np.ravel(np.asarray(v, np.float64)) for v in jax.tree.leaves(self.start)]))

    def _scales(self, log_scales: np.ndarray) -> Any:
        return jax.tree.map(lambda v: v if np.ndim(v) else float(v), shaper(self.start)(np.exp(log_scales)))

    def _row(self, log_scales: np.ndarray, value: float) -> dict[str, float]:
        named = named_leaves(self._scales(np.asarray(log_scales, np.float64)))
        entries = [(p or "scale", i, v) for p, v in named for i in np.ndindex(np.shape(v))]
        scales = {f"{p}{list(i) if i else ''}": float(np.asarray(v)[i]) for p, i, v in entries}
        return scales | {"log evidence" if self.criterion.by == "evidence" else "held-out lppd": value}


def _check(
    build: Any, start: Any, data: Data, by: str, method: Any, curvature: str, hessian: str | None, held_out: float
) -> Any:
    """Refuse what cannot be tuned; returns the start as a tree of float64 numbers."""
    if has_tracers(data, start):
        raise TypeError("Expected jm.tune to run on the host; got traced values (inside jit or vmap).")
    if isinstance(build, Model) or not callable(build):
        raise TypeError("Expected build to be a function scales -> jm.Model. Write lambda s: jm.supervised(...).")
    if by not in CRITERIA:
        raise ValueError(f"Expected by='evidence' or 'validation'; got {by!r}.")
    if not isinstance(method, MAP) or isinstance(method, MLE) or method.restarts != 1:
        raise TypeError(f"Expected jm.MAP(...) with one start as the method; got {method!r}.")
    if curvature not in EVIDENCE_STRUCTURES or hessian not in (None, "ggn", "exact"):
        raise ValueError(
            f"Expected curvature='full', 'diagonal' or 'kronecker' and hessian='ggn', 'exact' or None; got "
            f"{curvature!r} and {hessian!r}."
        )
    if curvature != "full" and hessian == "exact":
        raise ValueError("Expected hessian='ggn' beside curvature='diagonal' or 'kronecker'; got 'exact'.")
    if not 0 < held_out < 1:
        raise ValueError(f"Expected held_out between 0 and 1; got {held_out!r}.")
    leaves = jax.tree.leaves(start)
    try:
        values = [np.asarray(v, np.float64) for v in leaves]
    except (TypeError, ValueError):
        values = []
    if not values or not all(np.all(np.isfinite(v) & (v > 0)) for v in values):
        raise ValueError(f"Expected start to be a positive number or a tree of them; got {start!r}.")
    return jax.tree.map(lambda v: np.asarray(v, np.float64), start)
