"""The bootstrap: refits to resampled data, all in one program."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.infer.point import MAP, MLE, check_counts, describe
from jaxmap.infer.posteriors import Particles, Point, equal_weights, line_of
from jaxmap.infer.problem import Problem, Stopwatch
from jaxmap.infer.storage import Saved, pack_info, pack_tree, unpack_info, unpack_tree, write_saved
from jaxmap.infer.summary import Summary, interval_names, summarize, title_of
from jaxmap.optimize import FirstOrder, choose_solver, climb, examine, objective_of, statuses_of
from jaxmap.trees import settled, take
from jaxmap.types import FitError, Info, Key, Method, Params, Seeds, Status

RESAMPLE = 2
"""The tag folded into a key for the resampling of examples."""


@dataclass(frozen=True, eq=False)
class Replicates:
    """Estimates from resampled data: the sampling distribution of an estimator, not a posterior.

    Attributes:
        estimate: the fit to the data as they are.
        replicates: parameters in the user's space, stacked on a leading axis.
        info: how they were made; `members` holds the status of each refit.
    """

    estimate: Point
    replicates: Params
    info: Info

    @property
    def mode(self) -> Params:
        """The fit to the data as they are."""
        return self.estimate.mode

    def sample(self, key: Key, n: int) -> Params:
        """Pick n replicates at random, with replacement."""
        rows = np.asarray(jax.random.randint(key, (n,), 0, len(jax.tree.leaves(self.replicates)[0])))
        return take(self.replicates, rows)

    def particles(self, key: Key, draws: int | None) -> Particles:
        """All replicates, or the first `draws`, equally weighted."""
        count = len(jax.tree.leaves(self.replicates)[0])
        kept = jax.tree.map(lambda leaf: leaf[: count if draws is None else draws], self.replicates)
        return Particles(kept, equal_weights(len(jax.tree.leaves(kept)[0])))

    def summary(self, level: float = 0.95) -> Summary:
        """Estimate, bias, standard error and percentile interval (Efron and Tibshirani, 1993) by path."""
        values = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), self.replicates)
        below, above = interval_names(level)
        low, high = (1 - level) / 2, (1 + level) / 2
        columns = {
            "estimate": self.estimate.mode,
            "bias": jax.tree.map(lambda v, e: v.mean(0) - np.asarray(e, np.float64), values, self.estimate.mode),
            "std err": jax.tree.map(lambda v: v.std(0, ddof=1), values),
            below: jax.tree.map(lambda v: np.quantile(v, low, 0), values),
            above: jax.tree.map(lambda v: np.quantile(v, high, 0), values),
        }
        return summarize(title_of(self.info), columns, " ".join((self.info.status.value + ".", *self.info.notes)))

    def packed(self) -> Saved:
        """As plain values and arrays; those of the estimate begin with estimate/."""
        inner = self.estimate.packed()
        arrays = {f"estimate/{name}": array for name, array in inner.arrays.items()}
        header = {"kind": "Replicates", "info": pack_info(self.info, arrays), "estimate": inner.header}
        return Saved(header | {"replicates": pack_tree(self.replicates, "replicates", arrays)}, arrays)

    @classmethod
    def from_saved(cls, saved: Saved, model: Any = None) -> "Replicates":
        """The inverse of `packed`."""
        start = "estimate/"
        own = {name.removeprefix(start): a for name, a in saved.arrays.items() if name.startswith(start)}
        estimate = Point.from_saved(Saved(saved.header["estimate"], own), model)
        template = None if model is None else model.start
        tree = unpack_tree(saved.header["replicates"], "replicates", saved.arrays, template)
        return cls(estimate, tree, unpack_info(saved.header["info"], saved.arrays))

    def save(self, folder: str | Path) -> Path:
        """Write to a folder, atomically; `jm.load` reads it."""
        return write_saved(folder, self.packed())

    def __repr__(self) -> str:
        return f"Replicates({len(jax.tree.leaves(self.replicates)[0])} refits; {line_of(self.info)})"


@dataclass(frozen=True)
class Bootstrap:
    """Refits to data resampled with replacement (Efron, 1979), from the estimate on, in one program.

    Args:
        of: `jm.MLE()` or `jm.MAP()`, on full batches.
        replicates: how many refits, at least two. One that is no certified maximum is kept and counted.
    """

    of: Method = MLE()
    replicates: int = 1000

    def __post_init__(self) -> None:
        check_counts(replicates=self.replicates)
        if self.replicates < 2:
            raise ValueError(f"Expected at least two replicates, to have a spread; got {self.replicates}.")
        if not isinstance(self.of, MAP):
            raise TypeError(f"Expected jm.MLE() or jm.MAP() as `of`; got {self.of!r}.")
        if self.of.batch_size is not None or self.of.monitor is not None:
            raise ValueError("Expected full batches for a bootstrap; got batch_size or monitor. Leave them out.")

    def seen(self, problem: Problem, found: Any, z: Any) -> np.ndarray:
        """What its estimate climbs, as in `infer/seen.py`."""
        return self.of.seen(problem, found.estimate, z)  # type: ignore[attr-defined]

    def run(self, problem: Problem, seeds: Seeds) -> Any:
        """Fit the data as they are; then all refits of each seed."""
        if problem.data is None:
            raise ValueError("Expected data to resample; got None. A bootstrap needs examples.")
        of: Any = self.of
        solver, _ = choose_solver(of.solver, replace(of.task(problem, of.density(problem)), members=self.replicates))
        if isinstance(solver, FirstOrder):
            raise ValueError("Expected a deterministic solver for a bootstrap; got an optax transformation.")
        points = problem.solve(self.of, seeds)
        return [
            point if isinstance(point, FitError) else (point, *self._refit(problem, point, solver, take(seeds.keys, i)))
            for i, point in enumerate(points)
        ]

    def _refit(self, problem: Problem, point: Any, solver: Any, key: Key) -> tuple[Any, Any, float]:
        watch, dtype = Stopwatch(), problem.dtype
        of: Any = self.of
        density = of.density(problem)

        def refits(z: Any, counts: Any, data: Any) -> Any:
            def one(weights: Any) -> Any:
                objective = objective_of(density, data, weights, jnp.sum(weights))
                state, steps = climb(objective, solver, solver.init(objective, z))
                return state.z, state.gradients, steps, examine(density, state.z, data, weights)

            return jax.vmap(one)(counts)

        name = ("bootstrap", density, solver)
        program = problem.model.programs.jitted(name, refits)
        start = jax.tree.map(jnp.asarray, point.z)
        counts = jnp.asarray(resampled(jax.random.fold_in(key, RESAMPLE), problem.num_examples, self.replicates), dtype)
        ends = jax.tree.map(np.asarray, program(start, counts, problem.data))
        return ends, solver, watch.seconds

    def finish(self, problem: Problem, runs: Any, index: int) -> Replicates:
        """Certify the refits of one seed.

        Raises:
            FitError: the estimate itself diverged.
        """
        if isinstance(runs[index], FitError):
            raise runs[index]
        point, (z, gradients, _, evidence), solver, seconds = runs[index]
        resolution = float(np.finfo(problem.dtype).eps)
        statuses = statuses_of(evidence, resolution)
        sure = sum(status is Status.CONVERGED for status in statuses)
        modes = settled(jax.vmap(problem.model.space.constrain)(jax.tree.map(jnp.asarray, z)))
        ends = (point.info.status, *statuses)
        note = f"{sure} of {self.replicates} refits are certified maxima."
        if point.info.status is not Status.CONVERGED:
            note += " The estimate itself is not: its bias means nothing."
        info = replace(
            point.info,
            status=next((status for status in ends if status is not Status.CONVERGED), Status.CONVERGED),
            method=describe(self),
            solver=f"{solver.name}, each from the estimate",
            num_gradients=point.info.num_gradients + float(np.sum(gradients)),
            members=statuses,
            notes=(note,),
            seconds=point.info.seconds + seconds,
        )
        return Replicates(point, modes, info)


def resampled(key: Key, n: int, count: int) -> np.ndarray:
    """How often each of n examples is drawn in `count` samples of size n with replacement, (count, n)."""
    rows = np.asarray(jax.random.randint(key, (count, n), 0, n, jnp.int32), np.int64)
    return np.bincount((rows + n * np.arange(count)[:, None]).ravel(), minlength=count * n).reshape(count, n)
