"""The continuous ranked probability score (CRPS) of draws, and of mixtures of normals however many.

`crps = E|X - y| - 1/2 * E|X - X'|`. The first term is a sum of closed forms. The second is a double sum of
closed forms, or the integral of `F * (1 - F)`: normal mixtures are entire functions, so on panels as narrow
as the sharpest component that reaches them a polynomial of degree 15 is as good as exact.
"""

import math

import numpy as np
from jaxtyping import Float, Real
from numpy.polynomial import legendre
from scipy.special import erf

from jaxmap.statistics.arrays import Array, require_float64, require_weights

# Up to here all pairs cost less than the panels do.
_FEW_COMPONENTS = 96
_ORDER = 16
# In standard deviations of the sharpest component: an error of 5e-11 of it for one normal (5 would be 1e-12).
_PANEL_WIDTH = 6.0
# A component ends here: 1e-12 of its mass lies beyond.
_REACH = 7.0
_MASS_TOLERANCE = 1e-9
# A pair (erf, and arrays that leave the cache) costs as much as about ten nodes (exp).
_NODES_PER_PAIR = 10
# Blocks that stay in the cache.
_BLOCK_VALUES = 100_000

_NODES, _NODE_WEIGHTS = legendre.leggauss(_ORDER)
# Row j: the integral from -1 to node j of the polynomial through the values at all nodes.
_INTEGRATION = (
    legendre.legvander(_NODES, _ORDER)
    @ legendre.legint(np.eye(_ORDER), lbnd=-1)
    @ np.linalg.inv(legendre.legvander(_NODES, _ORDER - 1))
)


def crps_normal_mixture(
    y: Real[Array, " n"], loc: Real[Array, "S n"], scale: Real[Array, "S n"], weights: Real[Array, " S"]
) -> Float[np.ndarray, " n"]:
    """Score a mixture of normals by its continuous ranked probability score.

    `sum_s w_s A(y - loc_s, scale_s) - 1/2 * sum_st w_s w_t A(loc_s - loc_t, sqrt(scale_s^2 + scale_t^2))`
    with `A(m, s) = E|N(m, s^2)| = 2 s phi(m / s) + m (2 Phi(m / s) - 1)`. Grimit, Gneiting, Berrocal and
    Johnson (2006).

    Up to 96 components the double sum is taken as it stands. Beyond, it is a quadrature of `F (1 - F)`
    wherever that costs less, with an absolute error below 1e-9 of the predictive standard deviation; where
    scales differ by orders of magnitude the double sum remains, O(S^2) in time and O(S) in memory.

    Args:
        y: outcomes.
        loc: component means by example.
        scale: component standard deviations by example, zero for a point mass.
        weights: component weights, not negative; taken relative to their sum.

    Returns:
        crps: in the unit of y, smaller is better; nan where an entry is nan or a component is not finite.

    Raises:
        TypeError: not real numbers.
        ValueError: shapes that do not match, a negative scale, or weights that are negative or all zero.
    """
    y = require_float64("y", y, "n")
    loc = require_float64("loc", loc, "S", len(y))
    scale = require_float64("scale", scale, *loc.shape)
    weights = require_weights("weights", weights, len(loc))
    if (scale < 0).any():
        raise ValueError(f"Expected scale >= 0; got {np.nanmin(scale)}. Take exp of log scales.")
    crps = np.full(len(y), np.nan)
    if not np.isfinite(weights).all():
        return crps
    valid = np.isfinite(loc).all(axis=0) & np.isfinite(scale).all(axis=0)
    present = weights > 0
    loc, scale, weights = loc[present][:, valid], scale[present][:, valid], weights[present]
    distance = sum(w * _mean_absolute(y[valid] - m, s) for w, m, s in zip(weights, loc, scale, strict=True))
    # Far from zero, rounding would show: only differences matter, so the locations move there.
    crps[valid] = distance - _half_mean_difference(loc - loc.mean(axis=0), scale, weights)
    return crps


def crps_draws(y: Real[Array, " n"], draws: Real[Array, "S n"]) -> Float[np.ndarray, " n"]:
    """Estimate the continuous ranked probability score from draws, without bias in their number.

    `1 / S * sum_s |x_s - y| - 1 / (S (S - 1)) * sum_{s < t} |x_s - x_t|`, the fair form: its mean over draws
    is the score of the distribution they come from (it can be negative). One sort per example. Zamo and
    Naveau (2018).

    Args:
        y: outcomes.
        draws: predictive draws by example, independent and of equal weight.

    Returns:
        crps: in the unit of y, smaller is better; nan where an entry is not finite.

    Raises:
        TypeError: not real numbers.
        ValueError: shapes that do not match, or fewer than two draws.
    """
    y = require_float64("y", y, "n")
    draws = require_float64("draws", draws, "S", len(y))
    size = len(draws)
    if size < 2:
        raise ValueError(f"Expected draws with at least 2 rows; got {size}. Draw more, or use mae for a point.")
    with np.errstate(invalid="ignore"):
        ordered = np.sort(draws - y, axis=0)
        # The k-th smallest of S is the larger one in k - 1 pairs and the smaller one in S - k.
        signs = 2.0 * np.arange(1, size + 1) - size - 1
        return np.abs(ordered).mean(axis=0) - signs @ ordered / (size * (size - 1.0))


def _mean_absolute(mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """E|N(mean, scale^2)|."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        z = mean / (np.sqrt(2.0) * scale)
        spread = np.sqrt(2 / np.pi) * scale * np.exp(-(z**2)) + mean * erf(z)
    return np.where(scale == 0, np.abs(mean), spread)


def _half_mean_difference(
    loc: Float[np.ndarray, "S n"], scale: Float[np.ndarray, "S n"], weights: Float[np.ndarray, " S"]
) -> Float[np.ndarray, " n"]:
    """E|X - X'| / 2 by the cheaper way at each example."""
    result = np.full(loc.shape[1], np.nan)
    if len(weights) > _FEW_COMPONENTS:
        for i in range(loc.shape[1]):
            result[i] = _by_quadrature(loc[:, i], scale[:, i], weights)
    rest = np.isnan(result)
    result[rest] = _by_pairs(loc[:, rest], scale[:, rest], weights)
    return result


def _by_pairs(
    loc: Float[np.ndarray, "S n"], scale: Float[np.ndarray, "S n"], weights: Float[np.ndarray, " S"]
) -> Float[np.ndarray, " n"]:
    # A component meets itself with half weight, every other one in two orders.
    total = np.square(weights) @ scale / np.sqrt(np.pi)
    step = max(1, _BLOCK_VALUES // max(1, loc.shape[1]))
    for s in range(len(weights) - 1):
        for start in range(s + 1, len(weights), step):
            other = slice(start, start + step)
            mean_absolute = _mean_absolute(loc[s] - loc[other], np.hypot(scale[s], scale[other]))
            total += weights[s] * (weights[other] @ mean_absolute)
    return total


def _by_quadrature(
    loc: Float[np.ndarray, " S"], scale: Float[np.ndarray, " S"], weights: Float[np.ndarray, " S"]
) -> float:
    """Integrate F (1 - F) for one example; nan where pairs are cheaper or the density's mass is missed."""
    panels = _panels(loc, scale, len(loc) * _NODES_PER_PAIR // (2 * _ORDER)) if scale.all() else None
    if panels is None:
        return float("nan")
    left, width = panels
    half = width[:, None] / 2
    density = _density(left[:, None] + half * (1 + _NODES), loc, scale, weights)
    mass = half[:, 0] * (density @ _NODE_WEIGHTS)
    if abs(mass.sum() - 1) > _MASS_TOLERANCE:
        return float("nan")
    distribution = (np.cumsum(mass) - mass)[:, None] + half * (density @ _INTEGRATION.T)
    return float((half[:, 0] * ((distribution * (1 - distribution)) @ _NODE_WEIGHTS)).sum())


def _panels(
    loc: Float[np.ndarray, " S"], scale: Float[np.ndarray, " S"], most: int
) -> tuple[Float[np.ndarray, " panels"], Float[np.ndarray, " panels"]] | None:
    """Cut the support for the widest component, then halve panels for the sharpest that reaches them."""
    reach = _REACH * scale
    bottom, top = (loc - reach).min(), (loc + reach).max()
    widest = _PANEL_WIDTH * scale.max()
    if top - bottom > most * widest:
        return None
    edges = np.linspace(bottom, top, 1 + math.ceil((top - bottom) / widest))
    left, width = edges[:-1], np.diff(edges)
    kept_left, kept_width, kept = [], [], 0
    while left.size:
        distance = np.abs((left + width / 2)[:, None] - loc)
        sharpest = np.where(distance < reach + width[:, None] / 2, scale, np.inf).min(axis=1)
        fine = width <= _PANEL_WIDTH * sharpest
        kept_left.append(left[fine])
        kept_width.append(width[fine])
        kept += int(fine.sum())
        left, width = left[~fine], width[~fine] / 2
        left, width = np.concatenate([left, left + width]), np.concatenate([width, width])
        if kept + left.size > most:
            return None
    left, width = np.concatenate(kept_left), np.concatenate(kept_width)
    order = np.argsort(left)
    return left[order], width[order]


def _density(
    points: Float[np.ndarray, "panels order"],
    loc: Float[np.ndarray, " S"],
    scale: Float[np.ndarray, " S"],
    weights: Float[np.ndarray, " S"],
) -> Float[np.ndarray, "panels order"]:
    root, height = 1 / (np.sqrt(2.0) * scale), weights / (np.sqrt(2 * np.pi) * scale)
    flat = points.ravel()
    density = np.zeros(flat.size)
    step = max(1, _BLOCK_VALUES // flat.size)
    for start in range(0, len(loc), step):
        here = slice(start, start + step)
        # In place: fresh temporaries of this size cost five times the arithmetic.
        values = np.multiply.outer(flat, root[here])
        values -= loc[here] * root[here]
        np.square(values, out=values)
        np.negative(values, out=values)
        density += np.exp(values, out=values) @ height[here]
    return density.reshape(points.shape)
