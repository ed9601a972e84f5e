"""What a solver is, as text: two solvers with the same text take the same steps."""

import contextlib
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
    read, with the instructions of the functions and with the global variables that functions of the user's own name.
    Modules count by their names alone, and what such a function reads from a file or a clock is not seen.

    Args:
        solver: of `maximize`.

    Returns:
        text: such as "optax scale_by_adam, scale [3f2a9c0d17e4b865]".
    """
    if not isinstance(solver, FirstOrder):
        return repr(replace(cast(Any, solver), steps=1))
    content = "\n".join(_content(solver.transformation, {}))
    return f"{solver.name} [{hashlib.sha256(content.encode()).hexdigest()[:16]}]"


def program_key(solver: Solver) -> Any:
    """What programs compiled for a solver are kept by: its recipe where that says all, else the solver itself.

    `optax.adam(1e-3)` written twice makes two tuples of functions that are equal in nothing but what they do. Where
    these functions are a library's and hold numbers alone, the recipe says all of them, and one program serves both.

    Args:
        solver: of `maximize`.

    Returns:
        key: hashable; solvers with equal keys take the same steps.
    """
    alone = replace(cast(Any, solver), steps=1)
    if not isinstance(solver, FirstOrder) or not _is_of_libraries(solver.transformation, {}):
        return alone
    return recipe_of(alone)


PLAIN = bool | int | float | complex | str | bytes | np.ndarray | np.generic | np.dtype | jax.Array | types.CodeType
"""What a recipe reads whole, as it is."""

CONTAINERS = dict | list | tuple | set | frozenset | functools.partial | types.MethodType
"""What a recipe reads by its parts, whoever made it."""


def _is_of_libraries(value: Any, seen: dict[int, Any]) -> bool:
    """True where every function and class inside is of `LIBRARIES`, and the rest is such that a recipe reads it whole.

    An object without parts that can be read may differ from another in what nobody sees: it is not.
    """
    if value is None or id(value) in seen or isinstance(value, PLAIN):
        return True
    seen[id(value)] = value
    named = value if isinstance(value, type | types.FunctionType) else type(value)
    home, parts = (getattr(named, "__module__", None) or "").split(".")[0], _parts(value)
    known = isinstance(value, CONTAINERS) or (home in (*LIBRARIES, "builtins") and parts != [{}])
    return known and all(_is_of_libraries(part, seen) for part in parts)


def _content(value: Any, seen: dict[int, Any]) -> Iterator[str]:
    """Everything in a value that is a number, a name or text, in a fixed order; functions and objects once."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        yield repr(value)
    elif isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        yield f"{array.shape} {array.dtype} {hashlib.sha256(array.tobytes()).hexdigest()}"
    elif id(value) in seen:
        yield "again"
    else:
        if not isinstance(value, tuple | types.CodeType):  # Python may share these, or not
            seen[id(value)] = value  # kept, so that its id stays its own
        yield getattr(value, "__qualname__", type(value).__qualname__)
        for part in _parts(value):
            yield from _content(part, seen)


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
        return [value.co_names, value.co_consts, value.co_code]
    if isinstance(value, types.FunctionType):
        return [value.__defaults__, value.__kwdefaults__, value.__code__, _cells_of(value), _globals_of(value)]
    if isinstance(value, type | types.ModuleType):
        return [value.__name__]
    if is_dataclass(value):
        return [getattr(value, f.name) for f in fields(value) if f.repr]
    inside = getattr(value, "__wrapped__", None)
    return [dict(getattr(value, "__dict__", {}))] if inside is None else [inside]


def _cells_of(function: types.FunctionType) -> list[Any]:
    """What a function has closed over; a name that was not bound when it was made counts as missing."""
    found = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):
            found.append(cell.cell_contents)
    return found


LIBRARIES = ("optax", "jax", "jaxlib", "jaxmap", "flax", "chex", "numpy")
"""Their functions are known by name and version."""


def _globals_of(function: types.FunctionType) -> dict[str, Any]:
    """The global variables that a function of the user's own names, also in functions inside it."""
    if (function.__module__ or "").split(".")[0] in LIBRARIES:
        return {}
    codes, names = [function.__code__], set()
    while codes:
        code = codes.pop()
        names |= set(code.co_names)
        codes += [inner for inner in code.co_consts if isinstance(inner, types.CodeType)]
    return {name: function.__globals__[name] for name in sorted(names) if name in function.__globals__}
