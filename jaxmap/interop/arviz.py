"""Draws for ArviZ: InferenceData of version 0.x, a DataTree of version 1.x."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import numpy as np

from jaxmap.data import check_data
from jaxmap.model import Model
from jaxmap.trees import float_dtype, named_leaves, precision_scope
from jaxmap.types import Data, Info, Params

DRAWS_AT_A_TIME = 32
"""Draws whose log-likelihoods are computed together."""

ALONE = "params"
"""The name of parameters that are one array without a name."""


def inference_data(
    draws: Params,
    info: Info,
    *,
    model: Model | None = None,
    data: Data = None,
    sample_stats: dict[str, np.ndarray] | None = None,
) -> Any:
    """Hand draws over to ArviZ.

    Variables are named by their paths, with dots (`layers.0.kernel`). Examples lie along the dimension `example`.

    Args:
        draws: parameters in the user's space; arrays lead with (chain, draw).
        info: how they were made, for the attributes.
        model: the model that was fitted; with it, `log_likelihood` has one value per draw and example, as `az.loo` and
            `az.compare` need it, all constants kept, and what the model derives stands beside the parameters.
        data: of that model. Of a pair (x, y), y is `observed_data` and x `constant_data`; other data are observed.
        sample_stats: arrays (chain, draw) by their ArviZ names.

    Returns:
        data: an `arviz.InferenceData`, or a `DataTree` from ArviZ 1.0 on.

    Raises:
        ValueError: one of model and data without the other, or a model of other parameters.
        ImportError: ArviZ is not installed.
    """
    if (model is None) != (data is None):
        raise ValueError("Expected model= and data= together, for the log-likelihood; got one of them. Give both.")
    if 0 in jax.tree.leaves(draws)[0].shape[:2]:
        raise ValueError("Expected at least one draw for ArviZ; got none.")
    arviz = _arviz()
    groups = {"posterior": named(draws, ALONE)}
    if sample_stats:
        groups["sample_stats"] = sample_stats
    if model is not None:
        groups |= data_groups(model, draws, data)
        groups["posterior"] |= derived(model, draws, data)
    own = set(groups["posterior"])
    by_example = {name for group in groups if "data" in group or group == "log_likelihood" for name in groups[group]}
    return _convert(arviz, groups, {name: ["example"] for name in by_example - own}, attributes(info))


def data_groups(model: Model, draws: Params, data: Data) -> dict[str, dict[str, np.ndarray]]:
    """The groups that need the model and its data."""
    _check_model(model, draws)
    values = log_likelihoods(model, draws, data)
    if isinstance(data, tuple) and len(data) == 2:
        x, y = named(data[0], "x"), named(data[1], "y")
        groups = {"observed_data": y, "constant_data": x}
    else:
        groups = {"observed_data": named(data, "data")}
    name = next(iter(groups["observed_data"])) if len(groups["observed_data"]) == 1 else "examples"
    return {"log_likelihood": {name: values}} | {group: found for group, found in groups.items() if found}


def log_likelihoods(model: Model, draws: Params, data: Data) -> np.ndarray:
    """The log-likelihood of each example under each draw, (chain, draw, n)."""
    return by_draw(model, "log_likelihoods", model.log_likelihood, draws, data)


def derived(model: Model, draws: Params, data: Data) -> dict[str, np.ndarray]:
    """What the model derives from each draw, by name; arrays lead with (chain, draw).

    Raises:
        ValueError: a name that a parameter has.
    """
    if model.derived is None:
        return {}
    found = named(by_draw(model, "derived", model.derived, draws, data), ALONE)
    twice = sorted(set(found) & set(named(draws, ALONE)))
    if twice:
        raise ValueError(f"Expected derived quantities with names of their own; got {twice[0]!r}, a parameter. Rename.")
    return found


def by_draw(model: Model, name: str, function: Callable[[Params, Data], Any], draws: Params, data: Data) -> Any:
    """The function's values under each draw, arrays led by (chain, draw); 32 draws at a time are on the device."""
    dtype = float_dtype(draws)
    shape = jax.tree.leaves(draws)[0].shape[:2]
    count = shape[0] * shape[1]
    with precision_scope(dtype):
        data = check_data(data, dtype=dtype)
        program = model.programs.jitted(name, jax.vmap(function, (0, None)))
        pooled = jax.tree.map(lambda leaf: np.reshape(leaf, (count, *leaf.shape[2:])), draws)
        parts, known = [], 0
        while known < count:
            # the last ones are computed once more where the number does not come out even: one shape, one program
            begin = max(0, min(known, count - DRAWS_AT_A_TIME))
            some = jax.tree.map(lambda leaf, b=begin: leaf[b : b + DRAWS_AT_A_TIME], pooled)
            made = jax.tree.map(np.asarray, program(some, data))
            parts.append(jax.tree.map(lambda leaf, new=known - begin: leaf[new:], made))
            known = min(count, begin + DRAWS_AT_A_TIME)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves).reshape(*shape, *leaves[0].shape[1:]), *parts)


def named(tree: Any, alone: str) -> dict[str, np.ndarray]:
    """The leaves by their paths, with dots.

    Raises:
        ValueError: two paths that read alike.
    """
    found: dict[str, np.ndarray] = {}
    for path, leaf in named_leaves(tree):
        name = path.replace("/", ".") or alone
        if name in found:
            raise ValueError(f"Expected paths that differ when written with dots; got {name!r} twice. Rename one.")
        found[name] = np.asarray(leaf)
    return found


def attributes(info: Info) -> dict[str, Any]:
    """What ArviZ keeps beside the draws; plain values, so that it can write them to files."""
    said = {"inference_library": "jaxmap", "method": info.method, "status": info.status.name}
    return said | {"inference_library_version": info.versions.get("jaxmap", ""), "sampling_time": float(info.seconds)}


def _arviz() -> ModuleType:
    try:
        import arviz
    except ImportError as error:
        raise ImportError("Expected ArviZ to be installed; it is not. Run: pip install 'jaxmap[arviz]'.") from error
    return arviz


def _convert(
    arviz: Any, groups: dict[str, dict[str, np.ndarray]], dims: dict[str, list[str]], attrs: dict[str, Any]
) -> Any:
    """Version 1 takes the groups as one mapping, version 0 as keywords; neither understands the other's form."""
    if int(arviz.__version__.split(".")[0]) >= 1:
        return arviz.from_dict(groups, dims=dims, attrs={"posterior": attrs})
    return arviz.from_dict(**groups, dims=dims, posterior_attrs=attrs)


def _check_model(model: Model, draws: Params) -> None:
    """Refuse a model over other parameters."""
    found = [(path, np.shape(leaf)[2:]) for path, leaf in named_leaves(draws)]
    if found != [(path, np.shape(leaf)) for path, leaf in named_leaves(model.start)]:
        raise ValueError(
            "Expected the model that the posterior was fitted with; got one over other parameters. Give that one."
        )
