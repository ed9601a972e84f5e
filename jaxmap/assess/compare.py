"""compare(): several methods on the same model and data, side by side."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxmap.assess.asked import check_options, pairs_of
from jaxmap.assess.comparison import Comparison
from jaxmap.assess.contents import write_contents
from jaxmap.assess.diagnostics import fidelity_view, function_rhat
from jaxmap.assess.kept import keep, ranks
from jaxmap.assess.measured import density_seen, evidence_of, loo_of, plain_info
from jaxmap.assess.predict import predict
from jaxmap.assess.predictive import Predictive
from jaxmap.assess.records import Record, RecordFolder
from jaxmap.assess.same_target import Probes
from jaxmap.assess.score import score
from jaxmap.data import as_mesh, fingerprint
from jaxmap.infer import Problem, budgeted, fit_problem
from jaxmap.infer.point import describe
from jaxmap.infer.problem import library_versions, named_key
from jaxmap.model import Model
from jaxmap.trees import check_key
from jaxmap.types import FitError, Key, Method, Status

QUANTILE_LEVELS = np.array([0.025, 0.05, 0.25, 0.5, 0.75, 0.95, 0.975])

KEPT = 2
"""The tag folded into a cell's key for the draws that its record keeps; 0 and 1 are the halves'."""

RANKS = 3
"""The tag folded into a cell's key for the ranks of counts."""


def compare(
    key: Key,
    model: Model | Callable[[Any], Model],
    splits: Any,
    methods: Mapping[str, Method],
    *,
    seeds: int = 1,
    reference: str | None = None,
    budget: int | float | None = None,
    folder: str | Path | None = None,
    mesh: Mesh | None = None,
    precision: str | None = None,
    progress: bool | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> Comparison:
    """Fit, predict and score every method on every split with every seed.

    Within one split and seed all methods get the same key, so that a fit which several of them need (the mode under
    a Laplace approximation, say) is computed once; each row's cost still counts it.

    Args:
        key: a key of jax.random.
        model: a model, or `build(train) -> Model` (so that scaling is learned on the training rows).
        splits: one (train, test) pair or a sequence of them; each of the two is (x, y).
        methods: row name -> method.
        seeds: how many keys per split.
        reference: a row name; the others get fidelity columns, and a ceiling row shows the reference against its
            own other half.
        budget: gradients (of the density of all examples, everything counted as in `info.num_gradients`) that every
            method shall spend: its steps, draws, restarts or members are scaled until the run itself reports 85 to
            100 % of it. The row prints spent / budget; its notes say how the method was run, what looking for that cost
            (not counted), and where a method cannot spend more or less. None: as the methods are written.
        folder: keep each (split, seed, method) there as one record; a rerun takes up what is there, and
            `jm.Comparison.load(folder)` reads the whole back.
        mesh: as in `jm.fit`, for all fits and predictions, of one process; a method whose members do not divide over
            the axis `member` leaves those devices idle. Results are those of one device, to rounding.
        precision: as in `jm.fit`.
        progress: as in `jm.fit`.
        on_record: called with every record as it is made or taken up.

    Returns:
        comparison: print it, `save` it, read its `rows`. A method whose fit failed has a row with its status. After
            Ctrl-C it has the rows so far, the last one that which was interrupted, with the result it had, if any; the
            same call with the same folder goes on.

    Raises:
        ValueError: bad options; a record in `folder` of another model, data, method or version.
    """
    given = np.asarray(jax.random.key_data(check_key(key, "compare"))).tolist()
    key = named_key(key, "compare")
    if not isinstance(model, Model) and not callable(model):
        raise TypeError(f"Expected a jm.Model or a function train -> Model; got {type(model).__name__}.")
    pairs = pairs_of(splits)
    check_options(methods, reference, seeds, budget)
    budget = None if budget is None else float(budget)
    mesh = _of_one_process(mesh)
    store = None if folder is None else RecordFolder(folder)
    cells = [(i, seed, name) for i in range(len(pairs)) for seed in range(seeds) for name in methods]
    config = _config(key, methods, len(pairs), seeds, budget, mesh) | {"given_key": given}
    records = []
    try:
        for split, (train, test) in enumerate(pairs):
            built = model if isinstance(model, Model) else model(train)
            problem = Problem.of(built, train, precision=precision, progress=progress, mesh=mesh)
            check_test(built, test, precision)
            identity = problem.identity() | {"test": fingerprint(test)}
            if store is not None:
                common = identity | {"key": _hex(key), "budget": str(budget)}
                write_contents(store.folder, reference, config, {str(split): common}, cells)
            table = _Table(jax.random.fold_in(key, split), split, problem, test, identity, budget, store)
            for record in table.records(methods, seeds):
                records.append(record)
                if on_record is not None:
                    on_record(record)
    except _InterruptedError as stopped:
        records.append(stopped.record)
        config |= _stopped(records, cells)
    except KeyboardInterrupt:  # between two rows
        if not records:
            raise
        config |= _stopped(records, cells)
    return Comparison(tuple(records), reference, config)


def _config(
    key: Key, methods: Mapping[str, Method], splits: int, seeds: int, budget: float | None, mesh: Mesh | None
) -> dict[str, Any]:
    """What was run, for the record."""
    described = {name: describe(method) for name, method in methods.items()}
    config: dict[str, Any] = {"methods": described, "splits": splits, "seeds": seeds, "budget": budget}
    config |= {"mesh": None if mesh is None else {name: int(size) for name, size in mesh.shape.items()}}
    return config | {"key": np.asarray(jax.random.key_data(key)).tolist(), "versions": library_versions()}


def _stopped(records: list[Record], cells: list[tuple[int, int, str]]) -> dict[str, Any]:
    """Where the user stopped it, and what is missing."""
    left = [f"{name} (split {split}, seed {seed})" for split, seed, name in cells[len(records) :]]
    return {"interrupted": records[-1].cell, "missing": left}


class _InterruptedError(Exception):
    """The user stopped a comparison; carries the row that was being made."""

    def __init__(self, record: Record):
        super().__init__(record.name)
        self.record = record


@dataclass(frozen=True)
class _Table:
    """The cells of one split."""

    key: Key
    split: int
    problem: Problem
    test: Any
    identity: dict[str, str]
    budget: int | float | None
    store: RecordFolder | None

    def records(self, methods: Mapping[str, Method], seeds: int) -> Iterator[Record]:
        """Take up or make one record after the other.

        Raises:
            _InterruptedError: by the user, in the midst of one.
        """
        for seed in range(seeds):
            run_key = jax.random.fold_in(self.key, seed)
            identity = self.identity | {"key": _hex(run_key)}
            for name, method in methods.items():
                within = "" if self.budget is None else f" within {self.budget:g} gradients"
                named = identity | {"method": describe(method) + within}
                blank = Record(self.split, seed, name, named, {}, {}, {})
                record = None if self.store is None else self.store.read(blank)
                yield self.made(run_key, method, blank) if record is None else record
            self.problem.solved.clear()

    def made(self, key: Key, method: Method, blank: Record) -> Record:
        """Make one record, and keep it if it is whole."""
        try:
            record = self.cell(key, method, blank)
        except KeyboardInterrupt as error:
            info = {"status": Status.INTERRUPTED.name, "notes": ["Interrupted before it had a result."]}
            raise _InterruptedError(replace(blank, info=info)) from error
        if Status.INTERRUPTED.name in (record.info["status"], *record.info.get("members", ())):
            raise _InterruptedError(replace(record, info=record.info | {"status": Status.INTERRUPTED.name}))
        if self.store is not None:
            self.store.write(record)
        return record

    @cached_property
    def probes(self) -> Probes:
        """Where the densities that methods see are compared."""
        with self.problem.scope():
            return Probes(self.problem)

    def cell(self, key: Key, method: Method, blank: Record) -> Record:
        """Fit, predict and score one method."""
        x, y = self.test
        spent: dict[str, Any] = {}
        try:
            if self.budget is None:
                posterior = fit_problem(key, self.problem, method)
            else:
                found = budgeted(key, self.problem, method, self.budget)
                posterior, method = found.posterior, found.method
                spent = {"budget": float(self.budget), "budget_how": found.how, "looking": found.looking}
        except FitError as error:
            return replace(blank, info={"status": error.status.name, "notes": [str(error)]})
        predictive = predict(key, self.problem.model, posterior, x, mesh=self.problem.mesh)
        plain = plain_info(posterior.info) | spent | evidence_of(posterior)
        agree = function_rhat(predictive)
        if agree is not None:
            plain |= {"rhat": agree.quantile95, "rhat_median": agree.median, "rhat_max": agree.largest}
        arrays = _arrays(key, predictive, y) | keep(jax.random.fold_in(key, KEPT), posterior)
        for more, kept in (loo_of(key, self.problem, posterior), density_seen(self.probes, method, posterior)):
            plain |= more | {"notes": [*plain["notes"], *more.get("notes", [])]}
            arrays |= kept
        plain["notes"] = [*_of_budget(plain), *plain["notes"]]
        return replace(blank, scores=score(predictive, y), info=plain, arrays=arrays)


def _of_budget(plain: dict[str, Any]) -> list[str]:
    """How a method was fitted to the budget, in a note."""
    if "budget" not in plain:
        return []
    spent = f"{plain['num_gradients']:,.0f} of {plain['budget']:,.0f} gradients"
    looking = f" (looking for that took {plain['looking']:,.0f} more, not counted)" if plain["looking"] else ""
    return [f"{spent}: {plain['budget_how']}{looking}."]


def _hex(key: Key) -> str:
    return np.asarray(jax.random.key_data(key)).tobytes().hex()


def _of_one_process(mesh: Mesh | None) -> Mesh | None:
    """A mesh as fits use it.

    Raises:
        ValueError: its devices are those of several processes, of which each would score and write.
    """
    found = as_mesh(mesh)
    if found is not None and found.is_multi_process:
        raise ValueError(
            "Expected a mesh of one process for jm.compare; got one of several. Use the devices of one, or fit with "
            "jm.fit(..., mesh=) and score with jm.predict(..., mesh=), of which every process has the whole."
        )
    return found


def check_test(model: Model, test: Any, precision: str | None) -> None:
    """Refuse test data that could not be scored, before anything is fitted."""
    if model.observe is None:
        raise ValueError(
            "Expected a model with `observe`, to predict the test data; got none. Give Model(observe=...)."
        )
    try:
        Problem.of(model, test, precision=precision)
    except (ValueError, TypeError) as error:
        raise type(error)(f"Expected test data (x, y) that fit the model. {error}") from error


def _arrays(key: Key, predictive: Predictive, y: Any) -> dict[str, np.ndarray]:
    """What figures and fidelity need of a predictive."""
    arrays = {
        "y": np.asarray(y),
        "log_prob": predictive.log_prob(y),
        "view": fidelity_view(key, predictive),
    }
    if predictive.size >= 2:
        halves = predictive.halves()
        arrays |= {
            f"view_{n}": fidelity_view(jax.random.fold_in(key, i), h)
            for i, (n, h) in enumerate(zip("ab", halves, strict=True))
        }
    if predictive.kind == "classes":
        return arrays | {"probs": predictive.probs}
    return arrays | {
        "mean": predictive.mean,
        "quantiles": predictive.quantile(QUANTILE_LEVELS),
        "pit": ranks(jax.random.fold_in(key, RANKS), predictive, y),
        "epistemic": predictive.epistemic,
        "aleatoric": predictive.aleatoric,
    }
