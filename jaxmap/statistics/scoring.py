"""Scores of predictions against what happened, each with the sign and unit its field uses."""

import numpy as np
from jaxtyping import Float, Int, Real
from scipy.special import logsumexp

from jaxmap.statistics.arrays import Array, require_float64, require_labels, require_probabilities

# Values of the log mean exp that are held at once, about seven times over: 60 MB.
_BLOCK_VALUES = 1_000_000


def log_mean_exp(
    log_probs: Real[Array, "S n"], log_weights: Real[Array, " S"] | None = None
) -> Float[np.ndarray, " n"]:
    """Average probabilities that are given by their logarithms: the log density of a mixture.

    `log sum_s w_s * exp(log_probs_s) - log sum_s w_s`, so the weights need not be normalised. The mean over n
    of this is the lppd per test point.

    Args:
        log_probs: log densities (nats) by component and example; -inf is a density of zero.
        log_weights: log weight of each component; equal weights if not given.

    Returns:
        log_prob: log density of the mixture (nats) at each example; nan where a component is nan or all
            weights are zero.

    Raises:
        TypeError: not real numbers.
        ValueError: not two axes, or another number of weights.
    """
    log_probs = require_float64("log_probs", log_probs, "S", "n")
    if log_weights is None:
        log_weights = np.zeros(len(log_probs))
    log_weights = require_float64("log_weights", log_weights, len(log_probs))
    log_prob = np.empty(log_probs.shape[1])
    step = max(1, _BLOCK_VALUES // len(log_probs))
    with np.errstate(invalid="ignore"):
        for start in range(0, log_prob.size, step):
            here = slice(start, start + step)
            log_prob[here] = logsumexp(log_probs[:, here] + log_weights[:, None], axis=0)
        return log_prob - np.asarray(logsumexp(log_weights))


def rmse(y: Real[Array, "*shape"], mean: Real[Array, "*shape"]) -> float:
    """Take the root mean squared error: `sqrt(mean((y - mean)^2))` over all entries.

    Args:
        y: outcomes.
        mean: predictive means, of the same shape (no broadcasting).

    Returns:
        error: in the unit of y; nan where an entry is nan.

    Raises:
        TypeError: not real numbers.
        ValueError: shapes that differ, or no entry.
    """
    y, mean = _same_shape(y, mean=mean)
    return float(np.sqrt(np.mean((y - mean) ** 2)))


def mae(y: Real[Array, "*shape"], center: Real[Array, "*shape"]) -> float:
    """Take the mean absolute error: `mean(|y - center|)` over all entries.

    Args:
        y: outcomes.
        center: predictive medians (the point that this score rewards), of the same shape.

    Returns:
        error: in the unit of y; nan where an entry is nan.

    Raises:
        TypeError: not real numbers.
        ValueError: shapes that differ, or no entry.
    """
    y, center = _same_shape(y, center=center)
    return float(np.mean(np.abs(y - center)))


def coverage(y: Real[Array, "*shape"], lower: Real[Array, "*shape"], upper: Real[Array, "*shape"]) -> float:
    """Count the share of outcomes inside their closed intervals: `mean(lower <= y <= upper)`.

    Args:
        y: outcomes.
        lower: lower bounds, of the same shape; may be -inf.
        upper: upper bounds, of the same shape; may be inf.

    Returns:
        share: in [0, 1]; nan where an entry is nan.

    Raises:
        TypeError: not real numbers.
        ValueError: shapes that differ, no entry, or a lower bound above its upper bound.
    """
    y, lower, upper = _same_shape(y, lower=lower, upper=upper)
    if (lower > upper).any():
        raise ValueError(
            f"Expected lower <= upper; got {int((lower > upper).sum())} intervals the other way round. Swap the bounds."
        )
    if np.isnan(y).any() or np.isnan(lower).any() or np.isnan(upper).any():
        return float("nan")
    return float(np.mean((lower <= y) & (y <= upper)))


def brier(probs: Real[Array, "n classes"], y: Int[Array, " n"]) -> float:
    """Average the squared distance between class probabilities and the outcome.

    `mean_i sum_c (p_ic - 1{y_i = c})^2`, in [0, 2]: the sum runs over all classes, as Brier (1950) has it.
    For two classes this is twice the score of the second class alone, which scikit-learn reports.

    Args:
        probs: class probabilities, rows that sum to one.
        y: class labels from zero.

    Returns:
        score: smaller is better; nan where a probability is nan.

    Raises:
        TypeError: probabilities that are not real numbers, or labels that are not integers.
        ValueError: shapes that do not match, rows that are no probabilities, or a label out of range.
    """
    probs = require_probabilities("probs", probs, "n", "classes")
    y = require_labels("y", y, *probs.shape)
    return float(np.mean(((probs - np.eye(probs.shape[1])[y]) ** 2).sum(axis=1)))


def accuracy(probs: Real[Array, "n classes"], y: Int[Array, " n"]) -> float:
    """Count how often the most probable class is the outcome: `mean(argmax p == y)`.

    Args:
        probs: class probabilities, or any scores that order the classes alike; among equal ones the first
            counts.
        y: class labels from zero.

    Returns:
        share: in [0, 1]; nan where an entry is nan.

    Raises:
        TypeError: scores that are not real numbers, or labels that are not integers.
        ValueError: shapes that do not match, or a label out of range.
    """
    probs = require_float64("probs", probs, "n", "classes")
    y = require_labels("y", y, *probs.shape)
    return float("nan") if np.isnan(probs).any() else float(np.mean(probs.argmax(axis=1) == y))


def _same_shape(y: Array, **others: Array) -> list[np.ndarray]:
    array = np.asarray(y)
    return [require_float64(name, values, *array.shape) for name, values in {"y": array, **others}.items()]
