"""Have the chains mixed, and how many independent draws are they worth?

Rank-normalised split R-hat and effective sample sizes after Vehtari, Gelman, Simpson, Carpenter and Buerkner
(2021), "Rank-normalization, folding, and localization: an improved R-hat", Bayesian Analysis 16(2). The
choices that paper leaves open (how the autocovariance is scaled, where Geyer's sequence ends) are those of
ArviZ 0.23.

Inside, a block of points is an array (points, chains, draws), so that each sort and transform runs along
memory.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Real
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import ndtri

from jaxmap.statistics.arrays import Array, require_real

_MIN_DRAWS = 4
_TAIL_PROBABILITIES = (0.05, 0.95)
# A draw costs at most about 100 bytes of temporaries, so a block stays near 50 MB.
_BLOCK_DRAWS = 500_000


def rhat(draws: Real[Array, "chains draws *event"]) -> Float[np.ndarray, "*event"]:
    """Compare the variance between half-chains with the variance within them.

    `sqrt((B / W + h - 1) / h)` over 2 x chains half-chains of h draws, where W is the mean of their variances
    and B is h times the variance of their means, both with divisor one less than the count. Taken on normal
    scores of the pooled ranks, `ndtri((rank - 3/8) / (S + 1/4))`, once for the draws (bulk) and once for
    their distance from the median (tail); the larger one counts. Vehtari et al. (2021).

    The bulk part does not change under increasing transforms of the draws; the tail part does. Draws that
    agree in all chains have no spread to compare: nan. Chains that are each stuck at their own value: inf.

    Args:
        draws: chain first, then draw; at least four draws per chain. The middle one of an odd number is left
            out.

    Returns:
        rhat: one number per event entry, near 1 for mixed chains; nan where a draw is not finite, or with one
            chain.

    Raises:
        TypeError: not real numbers.
        ValueError: fewer than two axes, no chain, or fewer than four draws.
    """
    return _per_point(_rank_rhat, draws)


def ess_bulk(draws: Real[Array, "chains draws *event"]) -> Float[np.ndarray, "*event"]:
    """Count the independent draws that would know the centre of the distribution as well.

    `S / tau` with `tau = -1 + 2 * sum` of the autocorrelations, on half-chains of the normal scores of the
    pooled ranks. The sum is Geyer's (1992) initial monotone sequence; tau is at least `1 / log10(S)`. Vehtari
    et al. (2021).

    Args:
        draws: chain first, then draw; at least four draws per chain.

    Returns:
        ess: one number per event entry; nan where a draw is not finite, S where all draws are equal.

    Raises:
        TypeError: not real numbers.
        ValueError: fewer than two axes, no chain, or fewer than four draws.
    """
    return _per_point(lambda block: _ess(_normal_scores(_split(block))), draws)


def ess_tail(draws: Real[Array, "chains draws *event"]) -> Float[np.ndarray, "*event"]:
    """Count the independent draws that would know the 5 % and 95 % quantiles as well.

    The smaller of the two effective sample sizes of the indicators `draws <= quantile`, on half-chains;
    quantiles of all draws, interpolated linearly (type 7). Vehtari et al. (2021).

    Args:
        draws: chain first, then draw; at least four draws per chain.

    Returns:
        ess: one number per event entry; nan where a draw is not finite, S where both indicators are constant.

    Raises:
        TypeError: not real numbers.
        ValueError: fewer than two axes, no chain, or fewer than four draws.
    """
    return _per_point(_indicator_ess, draws)


def mcse_mean(draws: Real[Array, "chains draws *event"]) -> Float[np.ndarray, "*event"]:
    """Estimate the Monte Carlo standard error of the mean of all draws.

    `sd / sqrt(ess)`, with the standard deviation of all draws (divisor S - 1) and the effective sample size
    of the draws themselves (split, not ranked). Vehtari et al. (2021).

    Args:
        draws: chain first, then draw; at least four draws per chain.

    Returns:
        mcse: one number per event entry, in the unit of the draws; nan where a draw is not finite, 0 for
            equal draws.

    Raises:
        TypeError: not real numbers.
        ValueError: fewer than two axes, no chain, or fewer than four draws.
    """
    return _per_point(_standard_error, draws)


def _per_point(statistic: Callable[[np.ndarray], np.ndarray], draws: Array) -> Float[np.ndarray, "..."]:
    """Run a statistic of blocks (points, chains, draws) over the event axes, a bounded block at a time."""
    array = require_real("draws", draws)
    if array.ndim < 2 or array.shape[0] < 1:
        raise ValueError(
            f"Expected draws with shape (chains, draws, ...); got {array.shape}. Put the chain axis first."
        )
    chains, length, *event = array.shape
    if length < _MIN_DRAWS:
        raise ValueError(
            f"Expected draws with at least {_MIN_DRAWS} draws on axis 1; got {array.shape}. "
            "Draw more, or swap the axes."
        )
    columns = array.reshape(chains, length, math.prod(event))
    result = np.full(columns.shape[2], np.nan)
    step = max(1, _BLOCK_DRAWS // (chains * length))
    for start in range(0, result.size, step):
        here = slice(start, start + step)
        block = np.ascontiguousarray(np.moveaxis(columns[:, :, here], 2, 0), dtype=np.float64)
        finite = np.isfinite(block).all(axis=(1, 2))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            result[here][finite] = statistic(block[finite])
    return result.reshape(event)


def _rank_rhat(block: Float[np.ndarray, "points chains draws"]) -> Float[np.ndarray, " points"]:
    if block.shape[1] < 2:
        return np.full(block.shape[0], np.nan)
    halves = _split(block)
    distance = np.abs(halves - np.median(halves, axis=(1, 2), keepdims=True))
    # fmax: two-valued draws can lie equally far from their median. Then only the bulk part exists.
    return np.fmax(_potential_scale(_normal_scores(halves)), _potential_scale(_normal_scores(distance)))


def _potential_scale(halves: Float[np.ndarray, "points halves draws"]) -> Float[np.ndarray, " points"]:
    length = halves.shape[2]
    stuck = np.ptp(halves, axis=2) == 0  # rounding would leave a variance of 1e-33
    within = np.where(stuck, 0.0, halves.var(axis=2, ddof=1)).mean(axis=1)
    between = length * halves.mean(axis=2).var(axis=1, ddof=1)
    return np.sqrt((between / within + length - 1) / length)


def _indicator_ess(block: Float[np.ndarray, "points chains draws"]) -> Float[np.ndarray, " points"]:
    low, high = (_split((block <= bound[:, None, None]).astype(np.float64)) for bound in _tail_quantiles(block))
    return np.minimum(_ess(low), _ess(high))


def _standard_error(block: Float[np.ndarray, "points chains draws"]) -> Float[np.ndarray, " points"]:
    spread = np.where(_constant(block), 0.0, block.std(axis=(1, 2), ddof=1))
    return spread / np.sqrt(_ess(_split(block)))


def _split(block: Float[np.ndarray, "points chains draws"]) -> Float[np.ndarray, "points halves half"]:
    half = block.shape[2] // 2
    return np.concatenate([block[:, :, :half], block[:, :, -half:]], axis=1)


def _constant(block: Float[np.ndarray, "points chains draws"]) -> Bool[np.ndarray, " points"]:
    return np.ptp(block, axis=(1, 2)) == 0


def _normal_scores(
    block: Float[np.ndarray, "points chains draws"],
) -> Float[np.ndarray, "points chains draws"]:
    pooled = block.reshape(block.shape[0], -1)
    # Blom's offset keeps the largest rank away from probability one.
    return ndtri((_average_ranks(pooled) - 3 / 8) / (pooled.shape[1] + 1 / 4)).reshape(block.shape)


def _average_ranks(rows: Float[np.ndarray, "points S"]) -> Float[np.ndarray, "points S"]:
    """Rank along the last axis from one; ties share the mean of their places."""
    order = np.argsort(rows, axis=1)
    ordered = np.take_along_axis(rows, order, axis=1)
    place = np.arange(rows.shape[1])
    new = np.diff(ordered, axis=1) != 0
    first = np.where(np.pad(new, ((0, 0), (1, 0)), constant_values=True), place, 0)
    last = np.where(np.pad(new, ((0, 0), (0, 1)), constant_values=True), place, place[-1])
    first = np.maximum.accumulate(first, axis=1)
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty_like(rows)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=1)
    return ranks


def _tail_quantiles(block: Float[np.ndarray, "points chains draws"]) -> list[Float[np.ndarray, " points"]]:
    pooled = block.reshape(block.shape[0], -1)
    size = pooled.shape[1]
    positions = [size * p + (1 - p) for p in _TAIL_PROBABILITIES]  # counted from one
    lower = [min(int(position), size - 1) - 1 for position in positions]
    ordered = np.partition(pooled, sorted({*lower, *(k + 1 for k in lower)}), axis=1)
    quantiles = []
    for position, k in zip(positions, lower, strict=True):
        share = position - (k + 1)
        # The clip undoes rounding between two equal draws, which would put the quantile below both of them.
        mixed = (1 - share) * ordered[:, k] + share * ordered[:, k + 1]
        quantiles.append(np.clip(mixed, ordered[:, k], ordered[:, k + 1]))
    return quantiles


def _ess(halves: Float[np.ndarray, "points halves draws"]) -> Float[np.ndarray, " points"]:
    """Effective sample size of a mean, by Geyer's initial monotone sequence, of chains as they are."""
    size = halves.shape[1] * halves.shape[2]
    pairs, evens = _autocorrelation_pairs(halves)
    # Pairs count in full up to the first that is not positive, and there only its even lag, if that helps.
    counted = np.minimum.accumulate(pairs[:, :-1] > 0, axis=1)
    stop = counted.sum(axis=1)
    decreasing = np.where(counted, np.minimum.accumulate(pairs[:, :-1], axis=1), 0.0)
    rows = np.arange(len(stop))
    edge = np.where((evens[rows, stop] > 0) | (pairs[rows, stop] >= 0), evens[rows, stop], 0.0)
    tau = np.maximum(-1 + 2 * decreasing.sum(axis=1) + edge, 1 / np.log10(size))
    return np.where(_constant(halves), float(size), size / tau)


def _autocorrelation_pairs(
    halves: Float[np.ndarray, "points halves draws"],
) -> tuple[Float[np.ndarray, "points pairs"], Float[np.ndarray, "points pairs"]]:
    """Autocorrelations summed over lags (0, 1), (2, 3), ..., and those of the even lags alone."""
    length = halves.shape[2]
    means = halves.mean(axis=2, keepdims=True)
    padded = next_fast_len(2 * length, real=True)
    spectrum = np.asarray(rfft(halves - means, padded, axis=2))
    # Only the mean over chains is needed, so one inverse transform per point is enough.
    power = (np.real(spectrum) ** 2 + np.imag(spectrum) ** 2).mean(axis=1)
    covariance = np.asarray(irfft(power, padded, axis=1))[:, :length] / length
    within = covariance[:, :1] * (length / (length - 1))
    total = covariance[:, :1] + means[:, :, 0].var(axis=1, ddof=1)[:, None]
    correlation = 1 - (within - covariance) / total
    correlation[:, 0] = 1.0
    lags = 2 * (1 + max(0, math.ceil((length - 4) / 2)))
    evens = correlation[:, 0:lags:2]
    return evens + correlation[:, 1:lags:2], evens
