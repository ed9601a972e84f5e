"""What a comparison is asked for, checked before anything is fitted."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxmap.assess.comparison import CEILING
from jaxmap.data import check_data
from jaxmap.infer.problem import check_method
from jaxmap.types import Method


def pairs_of(splits: Any) -> list[tuple[Any, Any]]:
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


def check_options(methods: Mapping[str, Method], reference: str | None, seeds: int, budget: int | float | None) -> None:
    """Refuse options that no comparison has.

    Raises:
        TypeError, ValueError: in words.
    """
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
    number = isinstance(budget, int | float | np.number) and not isinstance(budget, bool)
    if budget is not None and not (number and 1 <= budget < np.inf):
        raise ValueError(f"Expected budget to be a number of gradients, at least 1; got {budget!r}.")
