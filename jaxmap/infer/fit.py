"""fit(): the verb."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxmap.data import MEMBER, Stream, fingerprint, leads, same_everywhere
from jaxmap.infer.ensemble import Ensemble
from jaxmap.infer.given import Given
from jaxmap.infer.laplace import Laplace
from jaxmap.infer.lock import locked
from jaxmap.infer.mclmc import MCLMC
from jaxmap.infer.nuts import NUTS
from jaxmap.infer.point import MAP
from jaxmap.infer.problem import Problem, check_method, computing_dtype, named_key, seeds_of
from jaxmap.infer.sghmc import SGHMC
from jaxmap.model import Model
from jaxmap.trees import has_tracers, precision_scope
from jaxmap.types import Data, FitError, Key, Method


def fit(
    key: Key,
    model: Model,
    data: Data | Stream,
    method: Method = MAP(),
    *,
    precision: str | None = None,
    progress: bool | None = None,
    folder: str | Path | None = None,
    mesh: Mesh | None = None,
) -> Any:
    """Fit a model to data by a method.

    Args:
        key: a key of jax.random; equal keys give equal results on the same machine.
        model: a `jm.Model`.
        data: a pytree whose arrays share the leading axis n, (x, y) for supervised models, None for
            `jm.from_log_density`; or a `jm.Stream` of such data, for point estimates on minibatches.
        method: `jm.MLE()`, `jm.MAP()`, `jm.Given(params)`, `jm.Laplace()`, `jm.Ensemble()`, `jm.NUTS()`.
        precision: "float64" or "float32", for this fit alone; None: the dtype of the model's `init`.
        progress: show progress bars; None: where standard error is a terminal.
        folder: where `jm.MLE()`, `jm.MAP()`, `jm.NUTS()`, `jm.MCLMC()` and `jm.SGHMC()`, or ensembles of them, keep
            what they have while they run. The same call takes up a run that was stopped or killed and ends with the
            same numbers, bit for bit on the same kind of machine; with more `steps` (of a given solver) or `draws`
            (unless `jm.SGHMC(cycles=...)` groups them) it goes on. One run at a time writes to a folder; a second one
            is refused.
        mesh: `jm.mesh(member=..., data=...)`, over whose devices members, restarts and chains, and the examples of each
            of them, are shared out; the result is that of one device, to rounding. None: one device, or the mesh that
            `jax.set_mesh` set.

    Returns:
        posterior: a `Point`, `GaussianPosterior`, `Draws` or `MixturePosterior`; read `posterior.info`.

    Raises:
        TypeError, ValueError: bad input, in words; a `folder` that holds the run of another model, data or method,
            or that another run writes to.
        FitError: the fit has no result (everything diverged); carries the last finite parameters.
    """
    if has_tracers(data):
        raise TypeError("Expected jm.fit to run on the host; got traced data (inside jit or vmap). Use jm.Ensemble.")
    check_method(method, "method")
    key = named_key(key, "fit")
    if not isinstance(model, Model):
        raise TypeError(f"Expected a jm.Model; got {type(model).__name__}. Build one with jm.supervised(...).")
    _check_folder(method, folder)
    if isinstance(data, Stream):
        _check_streams(method)
    with precision_scope(computing_dtype(model, precision)):
        problem = Problem.of(model, data, precision=precision, progress=progress, streams=True, mesh=mesh)
        _check_mesh(method, problem.mesh)
        _check_alike(key, problem, data)
        if folder is None:
            return fit_problem(key, problem, method)
        with problem.scope():
            writes = leads()
        with locked(Path(folder)) if writes else contextlib.nullcontext():
            return fit_problem(key, replace(problem, folder=Path(folder)), method)


def _each(method: Method) -> Method:
    """The method of a member."""
    return method.of if isinstance(method, Ensemble) else method


def _check_folder(method: Method, folder: str | Path | None) -> None:
    """Refuse a folder that nobody would write to."""
    if folder is not None and not isinstance(_each(method), MAP | NUTS | MCLMC | SGHMC):
        raise ValueError(
            "Expected jm.MLE(), jm.MAP(), jm.NUTS(), jm.MCLMC(), jm.SGHMC() or a jm.Ensemble of them with folder=; got "
            f"jm.{type(_each(method)).__name__}(), which keeps nothing while it runs. Use posterior.save(folder) after "
            "the fit; a long climb to a mode is kept by jm.fit(..., jm.MAP(...), folder=...), and the point it returns "
            "is what jm.Laplace(point) and jm.NUTS(start=point) begin at."
        )


def _members(method: Any) -> tuple[int, ...]:
    """How many fits of their own a method makes at once; where these are of two kinds, of either kind."""
    if isinstance(method, Ensemble):
        sampled = isinstance(method.of, NUTS)
        return (method.members, *_members(method.of)) if sampled else (method.members * _members(method.of)[0],)
    if isinstance(method, NUTS):
        return (method.chains,)
    if isinstance(method, MAP):
        return (method.restarts,)
    return _members(method.at) if isinstance(method, Laplace) else (1,)


def _check_mesh(method: Method, mesh: Mesh | None) -> None:
    """Refuse an axis of devices that a method would leave idle, and processes that it does not know of."""
    if mesh is not None and mesh.is_multi_process and not isinstance(_each(method), MAP | Given | Laplace | NUTS):
        raise ValueError(
            "Expected jm.MLE(), jm.MAP(), jm.Given(), jm.Laplace(), jm.NUTS() or a jm.Ensemble of them on the devices "
            f"of several processes; got {type(_each(method)).__name__}, which knows those of one. Leave out mesh=."
        )
    devices, members = 1 if mesh is None else mesh.shape[MEMBER], _members(method)
    name = type(method).__name__
    if devices > 1 and members == (1,) and not isinstance(method, MAP | Given | Laplace | NUTS | Ensemble):
        raise ValueError(
            f"Expected jm.MAP(restarts=...), jm.NUTS() or a jm.Ensemble for {devices} devices of the axis 'member'; "
            f"got jm.{name}(), which one device computes as a whole. Write jm.Ensemble(jm.{name}(...), "
            f"members={devices}), or leave out mesh=."
        )
    if all(count % devices for count in members):
        raise ValueError(
            f"Expected members, restarts or chains that {devices} devices of the axis 'member' share evenly; got "
            f"{' or '.join(map(str, members))} of {name}. Ask for a multiple of {devices}, or write "
            f"jm.mesh(data={devices})."
        )


def _check_alike(key: Key, problem: Problem, data: Data | Stream) -> None:
    """Refuse keys and data of its own in a process: sums over them would be of nobody's data."""
    if problem.mesh is None or not problem.mesh.is_multi_process:
        return
    name = problem.data.fingerprint() if isinstance(problem.data, Stream) else fingerprint(data)
    with problem.scope():
        if not same_everywhere(f"{jax.random.key_data(key).tolist()} {name}"):
            raise ValueError(
                f"Expected the same key and the same whole data in all {jax.process_count()} processes; those of "
                f"process {jax.process_index()} are not those of process 0. Read the same data in each, with the same "
                "random seeds; they are shared out by jm.fit."
            )


def _check_streams(method: Method) -> None:
    """Refuse a stream to what needs all examples at once."""
    one = _each(method)
    if not isinstance(one, MAP | Given):
        raise ValueError(
            f"Expected jm.MLE(), jm.MAP(), jm.Given() or a jm.Ensemble of them for a jm.Stream; got "
            f"{type(one).__name__}, which needs all examples in memory at once. Fit jm.MAP(optax.adam(1e-3), "
            "batch_size=...) to the stream, or give this method as many examples as memory holds."
        )
    if isinstance(one, MAP) and one.batch_size is None:
        raise ValueError(
            f"Expected batch_size= in jm.{type(one).__name__} for a jm.Stream, whose examples are never all in memory; "
            "got none. Write jm.MAP(optax.adam(1e-3), steps=..., batch_size=256)."
        )


def fit_problem(key: Key, problem: Problem, method: Method) -> Any:
    """Fit a checked problem; what it has already solved is not computed again.

    Raises:
        FitError: the fit has no result.
    """
    with problem.scope():
        result = problem.solve(method, seeds_of(key))[0]
    if isinstance(result, FitError):
        raise result
    return result
