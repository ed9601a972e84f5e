"""Importance weights whose largest values are smoothed by a fitted Pareto tail, and how far to trust them."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Real
from scipy.special import logsumexp

from jaxmap.statistics.arrays import Array, require_float64

_MIN_TAIL = 5
_LOG_TINY = float(np.log(np.finfo(np.float64).tiny))


class SmoothedWeights(NamedTuple):
    """Normalised log weights and the shape of their tail."""

    log_weights: Float[np.ndarray, " S"]
    k_hat: float


class _Tail(NamedTuple):
    shape: float
    scale: float


def pareto_smooth(log_ratios: Real[Array, " S"]) -> SmoothedWeights:
    """Replace the largest importance ratios by the quantiles of a generalised Pareto distribution.

    The `ceil(min(S / 5, 3 * sqrt(S)))` largest ratios, less the cutoff c below them, are fitted by
    `_fit_tail`. The j-th smallest of M becomes `c + scale / k * ((1 - (j - 1/2) / M)^{-k} - 1)`, at most the
    largest raw ratio. Then `log_weights = log ratio - log sum ratio`. Vehtari, Simpson, Gelman, Yao and Gabry
    (2024), JMLR 25(72).

    A k_hat below 0.7 (below `1 - 1 / log10(S)`, for small S) says that averages under these weights can be
    trusted. It is inf, and the weights stay raw, where fewer than five ratios exceed the cutoff: with S up to
    20, and also where the largest ratios are all equal, as for a perfect proposal. It is nan where the fit
    failed.

    Args:
        log_ratios: log target density less log proposal density at the proposal's draws, up to a constant;
            -inf is a draw outside the target's support.

    Returns:
        log_weights: normalised, `sum(exp) = 1`, in the order given; nan where a ratio is nan or +inf, or all
            are -inf.
        k_hat: the shape of the tail.

    Raises:
        TypeError: not real numbers.
        ValueError: not one axis, or no ratio.
    """
    log_ratios = require_float64("log_ratios", log_ratios, "S")
    largest = log_ratios.max()
    if not np.isfinite(largest):
        return SmoothedWeights(np.full(len(log_ratios), np.nan), math.nan)
    log_weights = log_ratios - largest
    order = np.argsort(log_weights, kind="stable")
    in_tail = min(len(order) - 1, math.ceil(min(len(order) / 5, 3 * math.sqrt(len(order)))))
    log_cutoff = max(log_weights[order[-in_tail - 1]], _LOG_TINY)
    tail = order[log_weights[order] > log_cutoff]
    if len(tail) < _MIN_TAIL:
        k_hat = math.inf
    else:
        cutoff = np.exp(log_cutoff)
        fit = _fit_tail(np.exp(log_weights[tail]) - cutoff)
        k_hat = fit.shape
        if np.isfinite(k_hat):
            smoothed = cutoff + _tail_quantiles(fit, (np.arange(len(tail)) + 0.5) / len(tail))
            log_weights[tail] = np.minimum(np.log(smoothed), 0.0)
    return SmoothedWeights(log_weights - logsumexp(log_weights), k_hat)


def ess_of_weights(log_weights: Real[Array, " S"]) -> float:
    """Count the equally weighted draws that would estimate a mean as well as these weighted ones.

    `(sum w)^2 / sum w^2`, that is `1 / sum w^2` of normalised weights. Kong (1992).

    Args:
        log_weights: log importance weights, normalised or not.

    Returns:
        ess: between 1 and S; nan where a weight is nan or infinite, or all are zero.

    Raises:
        TypeError: not real numbers.
        ValueError: not one axis, or no weight.
    """
    log_weights = require_float64("log_weights", log_weights, "S")
    if not np.isfinite(log_weights.max()):
        return math.nan
    weights = np.exp(log_weights - log_weights.max())
    return float(weights.sum() ** 2 / (weights**2).sum())


def _fit_tail(excesses: Float[np.ndarray, " M"]) -> _Tail:
    """Fit a generalised Pareto distribution to sorted positive excesses.

    The posterior mean of b = -k / scale under the data-driven grid prior of Zhang and Stephens (2009); the
    shape is `mean log(1 - b * excess)`, drawn towards 1/2 with the weight of ten observations (Vehtari et al.
    2024).
    """
    size = len(excesses)
    grid = 30 + int(math.sqrt(size))
    quartile = excesses[int(size / 4 + 0.5) - 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        b = 1 / excesses[-1] + (1 - np.sqrt(grid / (np.arange(grid) + 0.5))) / (3 * quartile)
        shapes = np.log1p(-b[:, None] * excesses).mean(axis=1)
        log_profile = size * (np.log(-b / shapes) - shapes - 1)
        weights = np.exp(log_profile - logsumexp(log_profile))
        # Grid points of negligible weight go, as in ArviZ: their b can be many orders of magnitude off.
        weights = np.where(weights >= 10 * np.finfo(np.float64).eps, weights, 0.0)
        mean_b = (b * weights).sum() / weights.sum()
        shape = np.log1p(-mean_b * excesses).mean()
        scale = -shape / mean_b
    return _Tail(shape=float((size * shape + 10 * 0.5) / (size + 10)), scale=float(scale))


def _tail_quantiles(tail: _Tail, probabilities: Float[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
    survival = np.log1p(-probabilities)
    if abs(tail.shape) < np.finfo(np.float64).eps:
        return -tail.scale * survival
    return tail.scale * np.expm1(-tail.shape * survival) / tail.shape
