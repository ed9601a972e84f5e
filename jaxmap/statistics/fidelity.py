"""How close is a cheap predictive to a reference predictive, whatever the truth?"""

import numpy as np
from jaxtyping import Float, Real

from jaxmap.statistics.arrays import Array, require_float64, require_probabilities

# Terms of the W1 sum that are held at once: 80 MB in float64 with its temporaries.
_BLOCK_TERMS = 2_000_000


def agreement(p: Real[Array, "n classes"], q: Real[Array, "n classes"]) -> float:
    """Count how often two predictives name the same class.

    `mean(argmax p == argmax q)`; among equal entries the first counts. Izmailov et al. (2021).

    Args:
        p: class probabilities, or any scores that order the classes alike.
        q: the reference's.

    Returns:
        share: in [0, 1]; nan where an entry is nan.

    Raises:
        TypeError: not real numbers.
        ValueError: not two axes, or shapes that differ.
    """
    p = require_float64("p", p, "n", "classes")
    q = require_float64("q", q, *p.shape)
    if np.isnan(p).any() or np.isnan(q).any():
        return float("nan")
    return float(np.mean(p.argmax(axis=1) == q.argmax(axis=1)))


def total_variation(p: Real[Array, "n classes"], q: Real[Array, "n classes"]) -> float:
    """Average the total-variation distance between two predictives.

    `mean_i 1/2 * sum_c |p_ic - q_ic|`, in [0, 1]. Izmailov et al. (2021).

    Args:
        p: class probabilities, rows that sum to one.
        q: the reference's.

    Returns:
        distance: 0 for equal, 1 for disjoint predictives; nan where an entry is nan.

    Raises:
        TypeError: not real numbers.
        ValueError: shapes that differ, or rows that are no probabilities.
    """
    p = require_probabilities("p", p, "n", "classes")
    q = require_probabilities("q", q, *p.shape)
    return float(np.mean(np.abs(p - q).sum(axis=1) / 2))


def wasserstein1(a: Real[Array, "S n"], b: Real[Array, "T n"]) -> float:
    """Average the one-dimensional Wasserstein-1 distance between predictive draws.

    `mean_i integral_0^1 |A_i^{-1}(u) - B_i^{-1}(u)| du` with the empirical quantile functions; for S = T the
    mean distance of sorted draws. All draws weigh the same. Ramdas, Garcia Trillos and Cuturi (2017).

    Args:
        a: draws by test point.
        b: the reference's; their number may differ.

    Returns:
        distance: in the unit of the draws; nan where a draw is not finite.

    Raises:
        TypeError: not real numbers.
        ValueError: not two axes, or another number of test points.
    """
    a = require_float64("a", a, "S", "n")
    b = require_float64("b", b, "T", a.shape[1])
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    width, in_a, in_b = _common_steps(len(a), len(b))
    total = 0.0
    step = max(1, _BLOCK_TERMS // len(width))
    for start in range(0, a.shape[1], step):
        here = slice(start, start + step)
        ordered_a, ordered_b = np.sort(a[:, here], axis=0), np.sort(b[:, here], axis=0)
        total += float((width @ np.abs(ordered_a[in_a] - ordered_b[in_b])).sum())
    return total / a.shape[1]


def _common_steps(size_a: int, size_b: int) -> tuple[Float[np.ndarray, " steps"], np.ndarray, np.ndarray]:
    """Cut [0, 1] where a quantile function steps: widths, and the order statistics of a and b there."""
    # In units of 1 / (size_a * size_b) the cuts are integers, so equal ones coincide exactly.
    cuts = np.union1d(np.arange(size_a + 1) * size_b, np.arange(size_b + 1) * size_a)
    return np.diff(cuts) / (size_a * size_b), cuts[:-1] // size_b, cuts[:-1] // size_a
