"""Do stated probabilities come true as often as they say?"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Real

from jaxmap.statistics.arrays import Array, require_float64, require_labels, require_probabilities


class ReliabilityCurve(NamedTuple):
    """What a classifier claims and what it gets, by bin of its top probability."""

    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]


def coverage_curve(pit: Real[Array, " n"], levels: Real[Array, " levels"]) -> Float[np.ndarray, " levels"]:
    """Observe how often central predictive intervals hold the outcome, at each nominal level.

    `mean(|2 * pit - 1| <= level)`: y lies in the closed central interval of that level exactly where its
    probability integral transform `pit = F(y)` lies within level / 2 of one half. Calibrated predictions give
    `levels` back. Gneiting, Balabdaoui and Raftery (2007).

    Args:
        pit: predictive distribution function at the outcome, in [0, 1]; randomised between F(y-) and F(y) for
            counts.
        levels: nominal coverages, in [0, 1].

    Returns:
        coverage: observed share at each level; nan everywhere where a pit is nan.

    Raises:
        TypeError: not real numbers.
        ValueError: another shape, or an entry outside [0, 1].
    """
    pit, levels = require_float64("pit", pit, "n"), require_float64("levels", levels, "levels")
    for name, values in (("pit", pit), ("levels", levels)):
        if (values < 0).any() or (values > 1).any():
            raise ValueError(
                f"Expected {name} within [0, 1]; got {values.min()} to {values.max()}. Pass probabilities, not percent."
            )
    if np.isnan(pit).any():
        return np.full(len(levels), np.nan)
    # Sorted once: a level's share is a position, not a pass over all examples.
    width = np.sort(np.abs(2 * pit - 1))
    share = np.searchsorted(width, levels, side="right") / len(width)
    return np.where(np.isnan(levels), np.nan, share)


def reliability_curve(probs: Real[Array, "n classes"], y: Int[Array, " n"], bins: int = 15) -> ReliabilityCurve:
    """Group examples by the top probability and compare it with the accuracy there.

    Bin b of B holds the top probabilities in `(b / B, (b + 1) / B]`, the first also zero. Guo et al. (2017).

    Args:
        probs: class probabilities, rows that sum to one.
        y: class labels from zero.
        bins: the number of equal-width bins.

    Returns:
        confidence: mean top probability by bin; nan in an empty bin.
        accuracy: share of examples by bin whose first most probable class is y; nan in an empty bin.
        count: examples by bin. A nan among the probabilities has no bin: then both means are nan and all
            counts zero.

    Raises:
        TypeError: probabilities that are not real numbers, labels or bins that are not integers.
        ValueError: shapes that do not match, rows that are no probabilities, a label out of range, bins below
            one.
    """
    probs = require_probabilities("probs", probs, "n", "classes")
    y = require_labels("y", y, *probs.shape)
    _require_bins(bins)
    if np.isnan(probs).any():
        return ReliabilityCurve(np.full(bins, np.nan), np.full(bins, np.nan), np.zeros(bins, dtype=np.int64))
    top = probs.max(axis=1)
    bin_of = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], top, side="left")
    count = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(bin_of, top, bins) / count
        accuracy = np.bincount(bin_of, probs.argmax(axis=1) == y, bins) / count
    return ReliabilityCurve(confidence, accuracy, count)


def expected_calibration_error(probs: Real[Array, "n classes"], y: Int[Array, " n"], bins: int = 15) -> float:
    """Average the gap between accuracy and confidence over the bins of the top probability.

    `sum_b count_b / n * |accuracy_b - confidence_b|` over `reliability_curve`, in [0, 1]. Guo et al. (2017).
    It depends on the bins, and is biased upwards where bins hold few examples.

    Args:
        probs: class probabilities, rows that sum to one.
        y: class labels from zero.
        bins: the number of equal-width bins.

    Returns:
        error: zero for a calibrated classifier; nan where a probability is nan.

    Raises:
        TypeError: as `reliability_curve`.
        ValueError: as `reliability_curve`.
    """
    confidence, accuracy, count = reliability_curve(probs, y, bins)
    if not count.any():
        return float("nan")
    held = count > 0
    return float(np.average(np.abs(accuracy - confidence)[held], weights=count[held]))


def _require_bins(bins: int) -> None:
    if isinstance(bins, bool) or not isinstance(bins, int | np.integer):
        raise TypeError(f"Expected bins as an integer; got {bins!r}. Pass the number of bins, not their edges.")
    if bins < 1:
        raise ValueError(f"Expected bins of at least 1; got {bins}. The usual number is 15.")
