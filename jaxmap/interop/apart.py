"""Whether the arguments of a numpyro model can be taken apart into examples, which is tried."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmap.interop.traced import Seen, Traced
from jaxmap.types import Data

RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""How far two evaluations of the same log-probabilities may differ."""


@dataclass(frozen=True, eq=False)
class Apart:
    """Arguments that can be taken apart into examples.

    Attributes:
        arrays: those that lead with the examples, by name.
        y: the names of those that are observed.
    """

    arrays: dict[str, Any]
    y: tuple[str, ...]

    @property
    def x(self) -> tuple[str, ...]:
        """The names of the others."""
        return tuple(name for name in self.arrays if name not in self.y)

    @property
    def data(self) -> Data:
        """As the user sees them."""
        if not self.y:
            return dict(self.arrays)
        return _packed(self.arrays, self.x), _packed(self.arrays, self.y)

    def named(self, batch: Data) -> dict[str, Any]:
        """The leaves of a batch by name."""
        if not self.y:
            return dict(batch)
        x, y = batch
        return unpacked(x, self.x) | unpacked(y, self.y)


def _packed(arrays: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return arrays[names[0]] if len(names) == 1 else {name: arrays[name] for name in names}


def unpacked(packed: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """By name what the user sees as one array or a dict."""
    return {names[0]: packed} if len(names) == 1 else {name: packed[name] for name in names}


def apart_of(traced: Traced, whole: list[Seen], given: list[Any]) -> Apart | None:
    """The arguments that lead with the examples, if some rows of them have these rows' log-likelihoods.

    Half of the rows, in reverse, must have theirs, and one row must leave the prior as it is. `given` are the values
    of the observed sites.
    """
    n = len(whole[0].values)
    arrays = traced.call.leading(n)
    if not arrays:
        return None
    rows = np.arange(n)[::-2]
    try:
        for params, prior, values in whole:
            _, some = traced.evaluate(params, {name: leaf[rows] for name, leaf in arrays.items()})
            alone, _ = traced.evaluate(params, {name: leaf[:1] for name, leaf in arrays.items()})
            if not (equal(values[rows], some) and equal(prior, alone)):
                return None
    except Exception:  # whatever the user's program raises on fewer rows, it cannot run on them
        return None
    return Apart(arrays, tuple(name for name, leaf in arrays.items() if any(_same(leaf, value) for value in given)))


def equal(expected: Any, got: Any) -> bool:
    """Whether two evaluations agree, rounding aside."""
    return np.shape(expected) == np.shape(got) and bool(np.allclose(expected, got, rtol=RELATIVE, atol=ABSOLUTE))


def _same(leaf: Any, value: Any) -> bool:
    """Whether a site observed this argument, which the run may have rounded to its own dtype."""
    if leaf is value:
        return True
    given, seen = np.asarray(leaf), np.asarray(value)
    return given.shape == seen.shape and np.array_equal(given.astype(seen.dtype), seen)
