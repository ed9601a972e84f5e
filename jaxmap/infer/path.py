"""path(): a model fitted for many strengths of its prior, in one program."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.data import num_examples
from jaxmap.infer.family import template, weak
from jaxmap.infer.path_walk import Walk, scores_of
from jaxmap.infer.point import MAP, MLE, describe
from jaxmap.infer.posteriors import Point
from jaxmap.infer.problem import Problem, Stopwatch, computing_dtype, library_versions, named_key, seeds_of
from jaxmap.infer.summary import Summary
from jaxmap.model import Density, Model
from jaxmap.optimize import Evidence, FirstOrder, certify, choose_solver, verdict
from jaxmap.trees import coordinate_paths, has_tracers, in_double, precision_scope, settled, take
from jaxmap.types import Certificate, Data, Info, Key, Status

SELECTIONS = (None, "cv", "evidence")


@dataclass(frozen=True, eq=False)
class Path:
    """One point estimate per strength.

    Attributes:
        strengths: (K,), as they were given.
        modes: parameters in the user's space, stacked on a leading axis of K.
        statuses, certificates: one per strength.
        log_likelihood, log_joint: (K,), totals in nats.
        scores: (K,) what the selection compares: held-out log-likelihood per example, or log evidence; None without.
        scores_se: (K,) standard errors of the scores over folds, None without folds.
        info: how all of it was found.
    """

    strengths: np.ndarray
    modes: Any
    statuses: tuple[Status, ...]
    certificates: tuple[Certificate, ...]
    log_likelihood: np.ndarray
    log_joint: np.ndarray
    scores: np.ndarray | None
    scores_se: np.ndarray | None
    info: Info
    _stops: Any = field(repr=False)
    _problem_at: Callable[[int], Problem] = field(repr=False)
    _density: Density = field(repr=False)

    def __len__(self) -> int:
        return len(self.strengths)

    def __getitem__(self, index: Any) -> Point:
        """The fit of one strength, as `fit` would return it."""
        if isinstance(index, bool) or not isinstance(index, int | np.integer):
            raise TypeError(f"Expected the index of one strength; got {index!r}. Use a loop for several.")
        k = range(len(self))[int(index)]
        z, mode = take(self._stops.z, k), take(self.modes, k)
        info = replace(
            self.info,
            status=self.statuses[k],
            certificate=self.certificates[k],
            log_likelihood=float(self.log_likelihood[k]),
            log_prior=float(self.log_joint[k] - self.log_likelihood[k]),
            log_joint=float(self.log_joint[k]),
            num_gradients=float(self._stops.gradients[k]),
            members=(self.statuses[k],),
            notes=(f"Strength {self.strengths[k]:.6g}, from a path of {len(self)}.",),
        )
        return Point(mode, info, z, self._density.prior, self._density.jacobian, problem=self._problem_at(k))

    def __iter__(self) -> Iterator[Point]:
        return (self[k] for k in range(len(self)))

    @property
    def best_index(self) -> int:
        """Where the score is highest.

        Raises:
            ValueError: a path without a selection.
        """
        if self.scores is None:
            raise ValueError("Expected a path with a selection; got none. Use jm.path(..., select='cv').")
        if not np.all(np.isfinite(self.scores)):
            worst = self.strengths[~np.isfinite(self.scores)][0]
            raise ValueError(f"Expected finite scores; got {self.scores} at strength {worst:.6g}. Leave it out.")
        return int(np.argmax(self.scores))

    @property
    def best_strength(self) -> float:
        """The strength with the highest score."""
        return float(self.strengths[self.best_index])

    @property
    def one_se_strength(self) -> float:
        """The strongest strength whose score is within one standard error of the highest (Breiman et al., 1984).

        Raises:
            ValueError: a path without folds.
        """
        if self.scores is None or self.scores_se is None:
            raise ValueError("Expected a path with folds; got none. Use jm.path(..., select='cv').")
        best = self.best_index
        return float(np.max(self.strengths[self.scores >= self.scores[best] - self.scores_se[best]]))

    @property
    def best(self) -> Point:
        """The fit with the highest score."""
        return self[self.best_index]

    def summary(self) -> Summary:
        """One row per strength: log-likelihood, zeros, status, score."""
        rows = []
        for k, strength in enumerate(self.strengths):
            leaves = [np.asarray(leaf[k]) for leaf in jax.tree.leaves(self.modes)]
            row: dict[str, Any] = {"strength": f"{strength:.6g}", "log_likelihood": float(self.log_likelihood[k])}
            row |= {"nonzero": int(sum(np.count_nonzero(leaf) for leaf in leaves)), "status": self.statuses[k].name}
            if self.scores is not None:
                row["score"] = float(self.scores[k])
            if self.scores_se is not None:
                row["se"] = float(self.scores_se[k])
            rows.append(row)
        known = self.scores is not None and np.all(np.isfinite(self.scores))
        unit = "log evidence" if self.scores_se is None else "held-out log-likelihood per example"
        footer = f"solver: {self.info.solver}"
        footer += f"\nhighest score ({unit}) at strength {self.best_strength:.6g}" if known else ""
        return Summary(f"{self.info.method}: {self.info.target}", tuple(rows), footer)

    def __str__(self) -> str:
        return str(self.summary())

    def figure(self) -> Any:
        """Every coefficient, and the score, against the strength: a matplotlib figure."""
        from jaxmap.report.figures import path_figure

        return path_figure(self)

    def __repr__(self) -> str:
        sure = sum(status is Status.CONVERGED for status in self.statuses)
        return f"Path({len(self)} strengths, {sure} certified)"


def path(
    key: Key,
    build: Callable[[Any], Model],
    data: Data,
    strengths: Sequence[float] | np.ndarray,
    method: MAP = MAP(),
    *,
    select: str | None = None,
    folds: int = 5,
    precision: str | None = None,
    progress: bool | None = None,
) -> Path:
    """Fit build(strength) for all strengths, from the strongest to the weakest, each starting where the last ended.

    Args:
        key: a key of jax.random, for the folds.
        build: strength -> Model, such as `lambda s: jm.supervised(net, jm.Bernoulli(), jm.l1(s))`. It is traced: the
            strength may enter the prior or the likelihood in any way that jax can follow; only the prior may depend on
            it where starts are to be warm.
        data: as for `fit`.
        strengths: positive numbers in any order.
        method: `jm.MAP(...)` on full batches, with one start.
        select: "cv", the mean log-likelihood of held-out examples in each of `folds` parts; "evidence", Laplace's log
            evidence (smooth priors only); None.
        folds: how many.
        precision: as for `fit`.
        progress: as for `fit`.

    Returns:
        path: `path.modes`, `path[k]`, `path.best`, `path.summary()`, `path.figure()`.

    Raises:
        TypeError, ValueError: bad input, in words.
    """
    key = named_key(key, "path")
    values = _check(build, strengths, method, select, folds, data)
    watch = Stopwatch()
    order = np.argsort(-values, kind="stable")
    model = template(build, float(values[order[0]]))
    with precision_scope(computing_dtype(model, precision)):
        problem = Problem.of(model, data, precision=precision, progress=progress)
        density = method.density(problem)
        if select == "evidence":
            _check_evidence(problem, density)
        solver, description = choose_solver(method.solver, method.task(problem, density))
        if isinstance(solver, FirstOrder):
            raise ValueError(
                "Expected a deterministic solver for a path; got an optax transformation. Use solver=None."
            )
        walk = Walk(weak(build), density, solver, select == "evidence")
        start = take(problem.starts(seeds_of(key)), 0)
        begun = jnp.asarray(values[order], problem.dtype)
        stops = jax.tree.map(np.asarray, walk.program(problem)(start, begun, problem.data, None, None))
        seen = in_double(walk.inspector(problem), stops.z, stops.diagonal, begun, problem.data)
        seen = jax.tree.map(np.asarray, seen)
        scores, errors = scores_of(key, walk, problem, start, begun, seen, select, folds)
        back = np.argsort(order, kind="stable")
        stops, seen = jax.tree.map(lambda leaf: leaf[back], (stops, seen))
        modes = settled(jax.vmap(model.space.constrain)(stops.z))
        stops = stops._replace(z=settled(stops.z))
    info = Info(
        status=Status.STEPS_EXHAUSTED,
        method=f"path of {describe(method)}",
        solver=f"{description}, each from the last one's end",
        target=f"mode of the {density.target}",
        num_gradients=float(np.sum(stops.gradients)),
        seconds=watch.seconds,
        versions=library_versions(),
    )
    log_likelihood = seen.evidence.log_likelihood
    made = Path(
        values, modes, (), (), log_likelihood, log_likelihood + seen.evidence.log_prior,
        None if scores is None else scores[back], None if errors is None else errors[back], info,
        _stops=stops, _problem_at=_problems(problem, build, values), _density=density,
    )  # fmt: skip
    certificates, statuses = _judge(made, seen.evidence, problem, method)
    worst = next((status for status in statuses if status is not Status.CONVERGED), Status.CONVERGED)
    info = replace(info, status=worst, members=statuses, seconds=watch.seconds)
    return replace(made, certificates=certificates, statuses=statuses, info=info)


def _judge(
    made: Path, seen: Evidence, problem: Problem, method: MAP
) -> tuple[tuple[Certificate, ...], tuple[Status, ...]]:
    """Certificates from the evidence of the program; where that cannot tell, from a closer look."""
    resolution = float(np.finfo(problem.dtype).eps)
    names = coordinate_paths(take(made._stops.z, 0))
    found = []
    for k in range(len(made)):
        certificate, status = verdict(take(seen, k), names, resolution)
        if status is None:
            own = made._problem_at(k)
            with precision_scope(problem.dtype):
                certificate, status = certify(
                    method.density(own), take(made._stops.z, k), own.data, resolution=resolution
                )
        found.append((certificate, status))
    return tuple(c for c, _ in found), tuple(s for _, s in found)


def _problems(problem: Problem, build: Callable[[Any], Model], values: np.ndarray) -> Callable[[int], Problem]:
    return lambda k: replace(problem, model=build(float(values[k])), solved={})


def _check(build: Any, strengths: Any, method: Any, select: Any, folds: Any, data: Data) -> np.ndarray:
    if has_tracers(data):
        raise TypeError("Expected jm.path to run on the host; got traced data (inside jit or vmap).")
    if isinstance(build, Model):
        raise TypeError("Expected build to be a function strength -> jm.Model; got a jm.Model. Write lambda s: ... .")
    if not callable(build):
        raise TypeError(f"Expected build to be a function strength -> jm.Model; got {build!r}.")
    if not isinstance(method, MAP) or isinstance(method, MLE):
        raise TypeError(f"Expected jm.MAP(...) as the method of a path; got {method!r}.")
    if method.batch_size is not None or method.restarts != 1 or method.monitor is not None:
        raise ValueError(
            "Expected full batches and one start for a path; got batch_size, restarts or monitor. Leave them out."
        )
    if select not in SELECTIONS:
        raise ValueError(f"Expected select='cv', 'evidence' or None; got {select!r}.")
    if isinstance(folds, bool) or not isinstance(folds, int | np.integer) or folds < 2:
        raise ValueError(f"Expected folds to be an integer of at least 2; got {folds!r}.")
    if select == "cv" and (data is None or folds > num_examples(data)):
        raise ValueError(f"Expected at least one example per fold; got {folds} folds. Use fewer.")
    return _numbers(strengths)


def _check_evidence(problem: Problem, density: Density) -> None:
    if density.kinks(problem.model.start_unconstrained(problem.dtype)) is not None:
        raise ValueError("Expected a smooth prior for select='evidence'; got one with a kink (L1). Use 'cv'.")
    if not (density.jacobian or problem.model.space.is_real):
        raise ValueError(
            "Expected unconstrained modes for select='evidence', where Laplace's formula stands; got constrained "
            "parameters. Use jm.MAP(space='unconstrained')."
        )


def _numbers(strengths: Any) -> np.ndarray:
    """The strengths as an array.

    Raises:
        TypeError, ValueError: anything but positive numbers.
    """
    if not isinstance(strengths, list | tuple | np.ndarray | jax.Array):
        raise TypeError(f"Expected strengths to be a sequence of positive numbers; got {strengths!r}.")
    if has_tracers(strengths):
        raise TypeError("Expected strengths on the host; got traced values (inside jit or vmap).")
    try:
        given = np.asarray(strengths)
    except ValueError:
        given = np.zeros((), object)
    if given.dtype.kind not in "fiu":
        raise TypeError(f"Expected strengths to be a sequence of positive numbers; got {strengths!r}.")
    values = given.astype(np.float64)
    if values.ndim != 1 or not values.size or not np.all(np.isfinite(values) & (values > 0)):
        raise ValueError(f"Expected strengths to be a sequence of positive numbers; got {strengths!r}.")
    return values
