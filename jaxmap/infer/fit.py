"""fit(): the verb."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxmap.infer.nuts import NUTS
from jaxmap.infer.point import MAP
from jaxmap.infer.problem import Problem, check_method, computing_dtype, named_key, seeds_of
from jaxmap.model import Model
from jaxmap.trees import has_tracers, precision_scope
from jaxmap.types import Data, FitError, Key, Method


def fit(
    key: Key,
    model: Model,
    data: Data,
    method: Method = MAP(),
    *,
    precision: str | None = None,
    progress: bool | None = None,
    folder: str | Path | None = None,
) -> Any:
    """Fit a model to data by a method.

    Args:
        key: a key of jax.random; equal keys give equal results on the same machine.
        model: a `jm.Model`.
        data: a pytree whose arrays share the leading axis n, (x, y) for supervised models, None for
            `jm.from_log_density`.
        method: `jm.MLE()`, `jm.MAP()`, `jm.Given(params)`, `jm.Laplace()`, `jm.Ensemble()`, `jm.NUTS()`.
        precision: "float64" or "float32", for this fit alone; None: the dtype of the model's `init`.
        progress: show progress bars; None: where standard error is a terminal.
        folder: where `jm.NUTS()` keeps its draws while it runs. The same call takes up a run that was stopped or
            killed and ends with the same draws, bit for bit; with more `draws` it goes on.

    Returns:
        posterior: a `Point`, `GaussianPosterior`, `Draws` or `MixturePosterior`; read `posterior.info`.

    Raises:
        TypeError, ValueError: bad input, in words.
        FitError: the fit has no result (everything diverged); carries the last finite parameters.
    """
    if has_tracers(data):
        raise TypeError("Expected jm.fit to run on the host; got traced data (inside jit or vmap). Use jm.Ensemble.")
    check_method(method, "method")
    key = named_key(key, "fit")
    if not isinstance(model, Model):
        raise TypeError(f"Expected a jm.Model; got {type(model).__name__}. Build one with jm.supervised(...).")
    _check_folder(method, folder)
    with precision_scope(computing_dtype(model, precision)):
        problem = Problem.of(model, data, precision=precision, progress=progress)
        if folder is not None:
            problem = replace(problem, folder=Path(folder))
        return fit_problem(key, problem, method)


def _check_folder(method: Method, folder: str | Path | None) -> None:
    """Refuse a folder that nobody would write to."""
    if folder is not None and not isinstance(getattr(method, "of", method), NUTS):
        raise ValueError(
            f"Expected jm.NUTS() or jm.Ensemble(jm.NUTS()) with folder=; got {type(method).__name__}, which keeps "
            "nothing while it runs. Use posterior.save(folder) after the fit."
        )


def fit_problem(key: Key, problem: Problem, method: Method) -> Any:
    """Fit a checked problem; what it has already solved is not computed again.

    Raises:
        FitError: the fit has no result.
    """
    with precision_scope(problem.dtype):
        result = problem.solve(method, seeds_of(key))[0]
    if isinstance(result, FitError):
        raise result
    return result
