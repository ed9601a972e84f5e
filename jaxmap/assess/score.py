"""score(): how good predictions are, in the target's own units."""

from typing import Any

import numpy as np

from jaxmap.assess.predictive import Predictive
from jaxmap.statistics import (
    accuracy,
    brier,
    coverage,
    crps_draws,
    crps_normal_mixture,
    expected_calibration_error,
    mae,
    rmse,
)
from jaxmap.trees import has_tracers

CRPS_DRAWS = 2000


def score(predictive: Predictive, y: Any) -> dict[str, float]:
    """Score a predictive on observed targets.

    lppd = mean over test points of log p(y | x), p the mixture over the posterior, nats, in the units of y given.
    nll = -lppd. For numbers also rmse (of the mean), mae (of the median), crps (mean), coverage50/90/95 (share of y
    inside the central interval). For classes also accuracy, brier (sum over classes, mean over points) and ece (15
    equal-width bins on the top probability).

    Args:
        predictive: from `jm.predict`.
        y: observed targets, one per input.

    Returns:
        scores: by name.

    Raises:
        ValueError: y of another shape, not finite, or outside the support.
    """
    if not isinstance(predictive, Predictive):
        raise TypeError(f"Expected a predictive from jm.predict; got {type(predictive).__name__}.")
    if y is None or isinstance(y, tuple):
        raise TypeError("Expected y alone, the observed targets; got None or a tuple. Leave x out.")
    if has_tracers(y):
        raise TypeError(
            "Expected predictions to be scored; jm.score has to run on the host; got traced targets (inside jit)."
        )
    if predictive.kind == "classes" and not has_tracers(y) and np.asarray(y).dtype.kind == "f":
        raise TypeError("Expected integer labels as y; got floats. Convert them with y.astype(int).")
    log_probs = predictive.log_prob(y)
    scores = {"lppd": float(np.mean(log_probs)), "nll": -float(np.mean(log_probs))}
    y = np.asarray(y)
    if predictive.kind == "classes":
        probs, labels = predictive.probs.reshape(-1, predictive.probs.shape[-1]), y.astype(int).ravel()
        return scores | {
            "accuracy": float(accuracy(probs, labels)),
            "brier": float(brier(probs, labels)),
            "ece": float(expected_calibration_error(probs, labels)),
        }
    y = y.astype(float)
    scores |= {"rmse": float(rmse(y.ravel(), predictive.mean.ravel()))}
    scores |= {"mae": float(mae(y.ravel(), predictive.quantile(0.5).ravel()))}
    scores |= {"crps": float(np.mean(_crps(predictive, y)))}
    for level in (50, 90, 95):
        tail = (1 - level / 100) / 2
        low, high = predictive.quantile(np.array([tail, 1 - tail]))
        scores[f"coverage{level}"] = float(coverage(y.ravel(), low.ravel(), high.ravel()))
    return scores


def _crps(predictive: Predictive, y: np.ndarray) -> np.ndarray:
    parts = predictive.gaussian_members()
    if parts is not None:
        locs, scales = (part.reshape(predictive.size, -1) for part in parts)
        return crps_normal_mixture(y.ravel(), locs, scales, np.exp(predictive.log_weights))
    draws = predictive.sample(predictive.key, CRPS_DRAWS)
    return crps_draws(y.ravel(), draws.reshape(CRPS_DRAWS, -1))
