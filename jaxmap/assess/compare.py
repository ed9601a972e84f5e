"""compare(): several methods on the same model and data, side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmap.assess.comparison import CEILING, Comparison
from jaxmap.assess.diagnostics import fidelity_view, function_rhat
from jaxmap.assess.kept import keep, ranks
from jaxmap.assess.predict import predict
from jaxmap.assess.predictive import Predictive
from jaxmap.assess.records import Record, RecordFolder
from jaxmap.assess.score import score
from jaxmap.data import check_data, fingerprint
from jaxmap.infer import Problem, fit_problem
from jaxmap.infer.point import describe
from jaxmap.infer.problem import check_method, library_versions, named_key
from jaxmap.model import Model
from jaxmap.trees import check_key
from jaxmap.types import FitError, Key, Method

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
    folder: str | Path | None = None,
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
        folder: keep each (split, seed, method) there as one record; a rerun takes up what is there.
        precision: as in `jm.fit`.
        progress: as in `jm.fit`.
        on_record: called with every record as it is made or taken up.

    Returns:
        comparison: print it, `save` it, read its `rows`. A method whose fit failed has a row with its status.

    Raises:
        ValueError: bad options; a record in `folder` of another model, data, method or version.
    """
    given = np.asarray(jax.random.key_data(check_key(key, "compare"))).tolist()
    key = named_key(key, "compare")
    if not isinstance(model, Model) and not callable(model):
        raise TypeError(f"Expected a jm.Model or a function train -> Model; got {type(model).__name__}.")
    pairs = _pairs(splits)
    _check_options(methods, reference, seeds)
    store = None if folder is None else RecordFolder(folder)
    records = []
    for split, (train, test) in enumerate(pairs):
        built = model if isinstance(model, Model) else model(train)
        problem = Problem.of(built, train, precision=precision, progress=progress)
        check_test(built, test, precision)
        identity = problem.identity() | {"test": fingerprint(test)}
        for seed in range(seeds):
            run_key = jax.random.fold_in(jax.random.fold_in(key, split), seed)
            identity["key"] = np.asarray(jax.random.key_data(run_key)).tobytes().hex()
            for name, method in methods.items():
                blank = Record(split, seed, name, identity | {"method": describe(method)}, {}, {}, {})
                record = None if store is None else store.read(blank)
                if record is None:
                    record = _cell(run_key, problem, method, test, blank)
                    if store is not None:
                        store.write(record)
                records.append(record)
                if on_record is not None:
                    on_record(record)
            problem.solved.clear()
    config = {
        "methods": {name: describe(m) for name, m in methods.items()},
        "splits": len(pairs),
        "seeds": seeds,
    }
    config |= {"given_key": given, "key": np.asarray(jax.random.key_data(key)).tolist(), "versions": library_versions()}
    return Comparison(tuple(records), reference, config)


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


def _cell(key: Key, problem: Problem, method: Method, test: Any, blank: Record) -> Record:
    """Fit, predict and score one method."""
    x, y = test
    try:
        posterior = fit_problem(key, problem, method)
    except FitError as error:
        return replace(blank, scores={}, info={"status": "DIVERGED", "notes": [str(error)]})
    predictive = predict(key, problem.model, posterior, x)
    info = posterior.info
    plain = {
        "status": info.status.name,
        "method": info.method,
        "solver": info.solver,
        "target": info.target,
        "seconds": float(info.seconds),
        "num_gradients": float(info.num_gradients),
        "members": [status.name for status in info.members],
        "notes": list(info.notes),
        "diagnostics": info.diagnostics,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    plain |= {n: float(v) for n in ("log_likelihood", "log_prior", "log_joint") if (v := getattr(info, n)) is not None}
    if "k_hat" in info.diagnostics:
        plain["k_hat"] = float(info.diagnostics["k_hat"])
    agree = function_rhat(predictive)
    if agree is not None:
        plain |= {"rhat": agree.quantile95, "rhat_median": agree.median, "rhat_max": agree.largest}
    arrays = _arrays(key, predictive, y) | keep(jax.random.fold_in(key, KEPT), posterior)
    return replace(blank, scores=score(predictive, y), info=plain, arrays=arrays)


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


def _pairs(splits: Any) -> list[tuple[Any, Any]]:
    """One (train, test) or a sequence of them, checked."""
    one = isinstance(splits, tuple) and len(splits) == 2 and _is_xy(splits[0]) and _is_xy(splits[1])
    pairs = [splits] if one else list(splits) if isinstance(splits, Sequence) else []
    if not pairs or not all(isinstance(p, tuple) and len(p) == 2 and _is_xy(p[0]) and _is_xy(p[1]) for p in pairs):
        raise ValueError("Expected splits as (train, test) or a sequence of them, each an (x, y) pair.")
    for i, (train, test) in enumerate(pairs):
        check_data(train, name=f"split {i} train")
        check_data(test, name=f"split {i} test")
    return pairs


def _is_xy(data: Any) -> bool:
    return isinstance(data, tuple) and len(data) == 2 and hasattr(data[1], "shape") and not isinstance(data[0], tuple)


def _check_options(methods: Mapping[str, Method], reference: str | None, seeds: int) -> None:
    if not isinstance(methods, Mapping) or not methods:
        raise ValueError(f"Expected methods as a dict of names, {{'MAP': jm.MAP()}}; got {methods!r}.")
    for name, method in methods.items():
        if not isinstance(name, str):
            raise TypeError(f"Expected row names that are text; got {name!r}.")
        check_method(method, f"row {name!r}")
    if CEILING in methods:
        raise ValueError(f"Expected row names other than {CEILING!r}, which is the reference against itself.")
    if reference is not None and reference not in methods:
        raise ValueError(f"Expected reference to be one of {', '.join(methods)}; got {reference!r}.")
    if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1:
        raise ValueError(f"Expected seeds >= 1; got {seeds!r}.")
