"""Statistics on plain arrays, in float64: pure functions that know nothing of models or posteriors.

In import order:

- `arrays`: entry checks.
- `calibration`: coverage and reliability curves, expected calibration error.
- `convergence`: rank-normalised R-hat, effective sample sizes, Monte Carlo standard errors.
- `crps`: the continuous ranked probability score of draws and of mixtures of normals.
- `fidelity`: distances between a predictive and a reference.
- `psis`: Pareto-smoothed importance sampling.
- `scoring`: log scores, errors, coverage, Brier score, accuracy.
"""

from jaxmap.statistics.arrays import Array
from jaxmap.statistics.calibration import (
    ReliabilityCurve,
    coverage_curve,
    expected_calibration_error,
    reliability_curve,
)
from jaxmap.statistics.convergence import ess_bulk, ess_tail, mcse_mean, rhat
from jaxmap.statistics.crps import crps_draws, crps_normal_mixture
from jaxmap.statistics.fidelity import agreement, total_variation, wasserstein1
from jaxmap.statistics.psis import SmoothedWeights, ess_of_weights, pareto_smooth
from jaxmap.statistics.scoring import accuracy, brier, coverage, log_mean_exp, mae, rmse

__all__ = [
    "Array",
    "ReliabilityCurve",
    "SmoothedWeights",
    "accuracy",
    "agreement",
    "brier",
    "coverage",
    "coverage_curve",
    "crps_draws",
    "crps_normal_mixture",
    "ess_bulk",
    "ess_of_weights",
    "ess_tail",
    "expected_calibration_error",
    "log_mean_exp",
    "mae",
    "mcse_mean",
    "pareto_smooth",
    "reliability_curve",
    "rhat",
    "rmse",
    "total_variation",
    "wasserstein1",
]
