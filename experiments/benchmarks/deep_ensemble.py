"""What does the test lppd of a Bayesian deep ensemble cost, beside the package bde?

    python -m experiments.benchmarks.deep_ensemble --bde-python PATH [--sets concrete energy yacht] [--rounds N]

Networks of 16 and 16 hidden units with two heads (mean and scale as functions of x) and N(0, 1) on every weight, on the
first standard split of UCI data sets, eight members from which microcanonical Langevin chains go out: by
`jm.MCLMC(start=jm.Ensemble(...))`, and by bde (MILE; PATH is an interpreter that has `sklearn-contrib-bde`) with the
settings of its README's example, and with 5000 epochs and a patience of 100 for its members. Ours has tanh and 17,000
gradients a chain, the climb included; bde its relu and 14,000 beside the training. Each run is a process of its own, in
turn, and costs the CPU seconds of fit and prediction, compilation included, imports left out. The chains of neither
agree after so few steps: these are scores of a sampled ensemble, not yet of the posterior
(`experiments/bnn_regression.py` waits until chains agree).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
import optax

import jaxmap as jm
from experiments.bnn_regression import network

WORKER = Path(__file__).with_name("bde_worker.py")
RIVALS = {"bde, its README": (200, 10), "bde, trained longer": (5000, 100)}
"""Epochs and patience."""


def ours(problem: str) -> dict[str, float]:
    """Fit and predict once; what it cost."""
    given = np.load(problem)
    wall, cpu = time.perf_counter(), time.process_time()
    train = given["x"], given["y"]
    sizes = (train[0].shape[1], 16, 16, 2)
    prior = jm.Prior(dist.Normal(0.0, 1.0))
    model = jm.supervised(network(sizes), jm.HeteroscedasticGaussian(), prior, scaling=jm.standardize(train))
    mode = jm.MAP(optax.adam(optax.cosine_decay_schedule(0.01, 1000)), steps=1000)
    method = jm.MCLMC(
        start=jm.Ensemble(mode, members=8),
        chains=8,
        warmup=5000,
        draws=100,
        thin=30,
        energy_error=0.02,
        length=10.0,
    )
    posterior = jm.fit(jax.random.key(0), model, train, method, progress=False)
    predictive = jm.predict(jax.random.key(0), model, posterior, given["test_x"])
    lppd = jm.score(predictive, given["test_y"])["lppd"]
    return {
        "lppd": lppd,
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "gradients": posterior.info.num_gradients,
    }


def answer(command: list[str]) -> dict[str, Any]:
    """The line of JSON that a process of its own prints last."""
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(f"Expected an answer from {' '.join(command)}; it ended with:\n{found.stderr[-2000:]}")
    return json.loads(found.stdout.strip().splitlines()[-1])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bde-python", help="an interpreter that has bde")
    parser.add_argument("--data", default="../shared/data/uci")
    parser.add_argument("--sets", nargs="+", default=["concrete", "energy", "yacht"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--problem", help=argparse.SUPPRESS)  # of the process that is our side
    given = parser.parse_args(arguments)
    if given.problem:
        print(json.dumps(ours(given.problem)))
        return
    print(f"{'':10} {'':20} {'lppd':>8} {'CPU s':>8} {'wall s':>8}", flush=True)
    for name in given.sets:
        with tempfile.TemporaryDirectory() as folder:
            compare(name, given, Path(folder) / "problem.npz")


def compare(name: str, given: argparse.Namespace, problem: Path) -> None:
    """All sides on one data set, in turn."""
    table = np.load(Path(given.data) / f"{name}.npz")
    (x, y), (test_x, test_y) = ((table["X"][i], table["y"][i]) for i in (table["train"][0], table["test"][0]))
    np.savez(problem, x=x, y=y, test_x=test_x, test_y=test_y)
    sides = {"jm.MCLMC": [sys.executable, "-m", "experiments.benchmarks.deep_ensemble", "--problem", str(problem)]}
    if given.bde_python:
        for rival, training in RIVALS.items():
            sides[rival] = [given.bde_python, "-I", str(WORKER), str(problem), *map(str, training)]
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for i in range(given.rounds):
        for side in list(sides)[:: 1 if i % 2 == 0 else -1]:
            found[side].append(answer(sides[side]))
    for side, runs in found.items():
        median = {key: statistics.median(run[key] for run in runs) for key in ("lppd", "cpu", "wall")}
        print(f"{name:10} {side:20} {median['lppd']:8.3f} {median['cpu']:8.1f} {median['wall']:8.1f}", flush=True)


if __name__ == "__main__":
    main()
