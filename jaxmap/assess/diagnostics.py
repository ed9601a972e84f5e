"""Diagnostics of predictions: do chains agree, and how near is one predictive to another?"""

from typing import NamedTuple

import numpy as np

from jaxmap.assess.predictive import Predictive
from jaxmap.statistics import agreement, ess_bulk, rhat, total_variation, wasserstein1
from jaxmap.types import Key

DRAWS = 1000
NUMBERS = 2**25
"""How many numbers of predictive draws are held at a time."""


class FunctionRhat(NamedTuple):
    """Rank-normalised split R-hat of the per-draw predictive mean (class probabilities), over test points."""

    median: float
    quantile95: float
    largest: float
    share_below_1_1: float
    ess_median: float


def function_rhat(predictive: Predictive) -> FunctionRhat | None:
    """Compare the chains of a predictive in function space; None where it does not come from several chains."""
    if predictive.chains < 2 or predictive.size // predictive.chains < 4:
        return None
    means = predictive.member_means
    watched = means.reshape(predictive.chains, predictive.size // predictive.chains, -1)
    ratios = rhat(watched)
    ratios = ratios[~np.isnan(ratios)] if np.all(np.ptp(watched, axis=(0, 1))[np.isnan(ratios)] == 0) else ratios
    return FunctionRhat(
        float(np.median(ratios)),
        float(np.quantile(ratios, 0.95)),
        float(np.max(ratios)),
        float(np.mean(ratios < 1.1)),
        float(np.median(ess_bulk(watched))),
    )


class Fidelity(NamedTuple):
    """Distance of a predictive from a reference; the entries that do not apply are None."""

    agreement: float | None = None
    total_variation: float | None = None
    wasserstein1: float | None = None


def fidelity(a: np.ndarray, b: np.ndarray, *, classes: bool) -> Fidelity:
    """Compare two predictives at the same inputs.

    Args:
        a: class probabilities (n, classes), or draws of y (draws, n, ...), as `fidelity_view` makes them.
        b: likewise, of the reference.
        classes: which of the two they are.

    Returns:
        fidelity: agreement (share of equal argmax) and total_variation (mean of half the L1 distance) for classes;
            wasserstein1 (mean 1-D W1 distance of the draws, in units of y) for numbers.
    """
    if classes:
        return Fidelity(agreement=float(agreement(a, b)), total_variation=float(total_variation(a, b)))
    return Fidelity(wasserstein1=float(wasserstein1(a.reshape(len(a), -1), b.reshape(len(b), -1))))


def fidelity_view(key: Key, predictive: Predictive) -> np.ndarray:
    """What `fidelity` compares: class probabilities, or up to 1000 draws of y."""
    if predictive.kind == "classes":
        return predictive.probs.reshape(-1, predictive.probs.shape[-1]).astype(np.float32)
    count = max(100, min(DRAWS, NUMBERS // max(1, int(np.prod(predictive.member_means.shape[1:])))))
    return predictive.sample(key, count).astype(np.float32)
