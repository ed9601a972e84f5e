"""What a solver is, as text: two solvers with the same text take the same steps."""

import functools
import hashlib
import types
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

import jax
import numpy as np

from jaxmap.optimize.first_order import FirstOrder
from jaxmap.optimize.solver import Solver


def recipe_of(solver: Solver) -> str:
    """Name a solver and all of its numbers, the largest number of steps excepted.

    An optax transformation is a tuple of functions; its rates, decays and schedules lie in their closures, which are
    read. What lies in global variables is not seen.

    Args:
        solver: of `maximize`.

    Returns:
        text: such as "optax scale_by_adam, scale [3f2a9c0d17e4b865]".
    """
    if not isinstance(solver, FirstOrder):
        return repr(replace(cast(Any, solver), steps=1))
    content = "\n".join(_content(solver.transformation, frozenset()))
    return f"{solver.name} [{hashlib.sha256(content.encode()).hexdigest()[:16]}]"


def _content(value: Any, above: frozenset[int]) -> Iterator[str]:
    """Everything in a value that is a number, a name or text, in a fixed order."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        yield repr(value)
    elif isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        yield f"{array.shape} {array.dtype} {hashlib.sha256(array.tobytes()).hexdigest()}"
    elif id(value) in above:
        yield "again"
    else:
        yield getattr(value, "__qualname__", type(value).__qualname__)
        for part in _parts(value):
            yield from _content(part, above | {id(value)})


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [part for key in sorted(value, key=str) for part in (str(key), value[key])]
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, types.CodeType):
        return [value.co_names, value.co_consts]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return [value.__defaults__, value.__kwdefaults__, value.__code__, cells]
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, f.name) for f in fields(value)]
    inside = getattr(value, "__wrapped__", None)
    return [] if inside is None else [inside]
