"""Bayesian deep ensembles by the package bde, run by an interpreter that has it; `deep_ensemble.py` starts this file.

    PYTHON bde_worker.py PROBLEM.npz EPOCHS PATIENCE

The problem holds `x`, `y`, `test_x` and `test_y` in raw units. The settings are those of the regression example in
bde's README, but for the epochs and the patience of the training of its members, which are given. One line of JSON
comes back: the test lppd in raw units, over all draws of all members, and the seconds of fit and prediction by the
processor and by the wall, compilation included.
"""

import json
import os
import sys
import time

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"  # as its README asks for

import numpy as np
from bde import BdeRegressor
from bde.loss import GaussianNLL
from scipy.special import logsumexp


def main() -> None:
    file, epochs, patience = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    given = np.load(file)
    center, scale = given["x"].mean(0), given["x"].std(0) + 1e-8
    middle, spread = given["y"].mean(), given["y"].std() + 1e-8
    wall, cpu = time.perf_counter(), time.process_time()
    regressor = BdeRegressor(
        hidden_layers=[16, 16],
        n_members=8,
        seed=0,
        loss=GaussianNLL(),
        epochs=epochs,
        validation_split=0.15,
        lr=1e-3,
        weight_decay=1e-4,
        warmup_steps=5000,
        n_samples=2000,
        n_thinning=2,
        patience=patience,
    )
    regressor.fit(x=(given["x"] - center) / scale, y=((given["y"] - middle) / spread).reshape(-1, 1))
    raw = np.asarray(regressor.predict((given["test_x"] - center) / scale, raw=True), np.float64)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    loc, wide = raw[..., 0] * spread + middle, raw_scale(raw[..., 1]) * spread
    of_draws = -0.5 * ((given["test_y"] - loc) / wide) ** 2 - np.log(wide) - 0.5 * np.log(2 * np.pi)
    of_draws = of_draws.reshape(-1, of_draws.shape[-1])
    lppd = float(np.mean(logsumexp(of_draws, axis=0) - np.log(len(of_draws))))
    print(json.dumps({"lppd": lppd, "cpu": cpu, "wall": wall, "draws": len(of_draws)}))


def raw_scale(second: np.ndarray) -> np.ndarray:
    """Standard deviations of the second head, as bde's loss reads it: softplus plus a millionth."""
    return np.logaddexp(second, 0.0) + 1e-6


if __name__ == "__main__":
    main()
