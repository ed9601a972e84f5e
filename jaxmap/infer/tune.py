"""tune(): scales of priors and noise, chosen by the evidence or by held-out examples, in one warm-started program."""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from jaxmap.infer.evidence import EVIDENCE_STRUCTURES
from jaxmap.infer.family import template, weak
from jaxmap.infer.laplace import Laplace
from jaxmap.infer.point import MAP, MLE, continued, describe
from jaxmap.infer.problem import Problem, Stopwatch, computing_dtype, library_versions, named_key, seeds_of
from jaxmap.infer.search import Criterion, Search
from jaxmap.infer.summary import Summary
from jaxmap.model import Model
from jaxmap.optimize import FirstOrder, choose_solver
from jaxmap.trees import has_tracers, precision_scope
from jaxmap.types import Data, Info, Key, Status

CRITERIA = ("evidence", "validation")


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
            # a trained network may end on a saddle, where the evidence was followed all the same; its status says so
            posterior = own.solve(Laplace(point, curvature, hessian, force=training), seeds_of(key))[0]
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
    if not isinstance(method, MAP) or isinstance(method, MLE) or method.restarts != 1 or method.monitor is not None:
        raise TypeError(f"Expected jm.MAP(...) with one start and no monitor as the method; got {method!r}.")
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
