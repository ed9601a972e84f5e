"""Paired differences: two methods on the same splits, or, where there is one split, on the same test points."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

SPLITS, SEEDS, POINTS = "splits", "seeds", "test points"
"""What a difference is paired over."""

Cell = tuple[int, int]
"""(split, seed)."""


class Difference(NamedTuple):
    """The mean of paired differences and its standard error.

    Attributes:
        mean: of method less base.
        se: sd / sqrt(count), sd with divisor count - 1; None for a single pair.
        count: pairs.
        over: "splits": other training sets would differ like that (seeds of one split are averaged first, for they
            share its data); "test points" of one split: other test points would, the training set stays; "seeds" of
            one split, for scores that are no mean over points.
        runs: the (split, seed) that both have.
    """

    mean: float
    se: float | None
    count: int
    over: str
    runs: int

    @property
    def within_noise(self) -> bool:
        """True where it is below two standard errors, or there is none to tell."""
        return self.se is None or not abs(self.mean) >= 2 * self.se


def mean_and_error(values: Iterable[float]) -> tuple[float, float | None]:
    """Mean and standard error, sd with divisor n - 1; a value that is not a number is not left out."""
    array = np.asarray(list(values), np.float64)
    with np.errstate(invalid="ignore"):
        error = float(array.std(ddof=1) / np.sqrt(len(array))) if len(array) > 1 else None
        return float(array.mean()), error


def by_split(values: dict[Cell, float]) -> list[float]:
    """One number per split, the mean over its seeds; of a single split its seeds."""
    splits = list(dict.fromkeys(split for split, _ in values))
    if len(splits) == 1:
        return list(values.values())
    with np.errstate(invalid="ignore"):
        return [float(np.mean([v for (split, _), v in values.items() if split == one])) for one in splits]


def over_runs(values: dict[Cell, float], base: dict[Cell, float]) -> Difference | None:
    """Pair by (split, seed) over the runs that both have; None where they share none."""
    with np.errstate(invalid="ignore"):
        both = {cell: float(np.subtract(values[cell], base[cell])) for cell in values if cell in base}
    if not both:
        return None
    pairs = by_split(both)
    mean, error = mean_and_error(pairs)
    return Difference(mean, error, len(pairs), SPLITS if len({s for s, _ in both}) > 1 else SEEDS, len(both))


def over_points(values: Sequence[np.ndarray], base: Sequence[np.ndarray]) -> Difference:
    """Pair the log densities of the test points of one split, the mean over its seeds.

    Args:
        values: of the method, (n,) for each seed.
        base: of the base, with the same seeds.
    """
    with np.errstate(invalid="ignore"):
        each = np.mean([np.subtract(a, b, dtype=np.float64) for a, b in zip(values, base, strict=True)], axis=0)
        mean, error = mean_and_error(each)
    return Difference(mean, error, len(each), POINTS, len(values))
