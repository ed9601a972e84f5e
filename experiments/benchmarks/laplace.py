"""How fast are Laplace approximations and their predictions, beside laplace-torch?

    python -m experiments.benchmarks.laplace --torch-python PATH [--job digits_kronecker|...] [--pairs N]

PATH is an interpreter that has torch and laplace-torch, best in an environment of its own. Both get the same weights,
which `jm.fit` trains first, and take turns at fitting the Laplace approximation and predicting the test inputs: class
probabilities by the probit formula for the digits (64-100-100-10 ReLU, 1297 examples, there in batches of 256),
outputs with their variances for concrete (8-50-1 tanh, 927 examples). Each side stays in one process. What compiles
does so before the turns; the first call of ours stands apart. Torch has one thread, XLA takes what it wants, BLAS has
one on both sides: its threads spin while they wait, which would count as work. A ratio is the median of theirs over
that of ours, in seconds of all processors (cpu) and of the wall. The log evidences agree where the curvatures do;
Kronecker factors differ by the place of the biases.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from experiments.benchmarks.timing import PAUSE, Turn, measure, without_blas_settings

if __name__ == "__main__":
    without_blas_settings("experiments.benchmarks.laplace")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax

import jaxmap as jm

KEY = jax.random.key(0)
WORKER = Path(__file__).with_name("laplace_torch_worker.py")
SIGMA = 0.3


@dataclass(frozen=True)
class Job:
    """One approximation.

    Attributes:
        problem: "digits" or "concrete".
        method: options of `jm.Laplace`.
        theirs: options of `laplace.Laplace`.
    """

    problem: str
    method: dict[str, Any]
    theirs: dict[str, Any]


def _all(structure: str) -> dict[str, Any]:
    return {"subset_of_weights": "all", "hessian_structure": structure}


JOBS = {
    "digits_kronecker": Job("digits", {"curvature": "kronecker"}, _all("kron")),
    "digits_diagonal": Job("digits", {"curvature": "diagonal"}, _all("diag")),
    "digits_last_layer": Job("digits", {"curvature": "last_layer"}, _all("full") | {"subset_of_weights": "last_layer"}),
    "concrete_full": Job("concrete", {"curvature": "full"}, _all("full")),
    "concrete_kronecker": Job("concrete", {"curvature": "kronecker"}, _all("kron")),
    "concrete_diagonal": Job("concrete", {"curvature": "diagonal"}, _all("diag")),
}


@dataclass(frozen=True)
class Problem:
    """A trained network with its data."""

    model: jm.Model
    point: Any
    data: tuple[np.ndarray, np.ndarray]
    x_new: np.ndarray
    settings: dict[str, Any]

    def arrays(self) -> dict[str, np.ndarray]:
        """What the other side needs."""
        x, y = self.data
        found = {"x": x, "y": y.astype(np.int64) if y.dtype.kind == "i" else y[:, None], "x_new": self.x_new}
        for k, layer in enumerate(self.point.mode):
            found |= {f"W{k}": np.array(layer["kernel"].T), f"b{k}": np.array(layer["bias"])}
        return found


@cache
def make_problem(name: str, steps: int) -> Problem:
    """Read the data and train the network."""
    source = jm.load_dataset(name)
    order = np.random.RandomState(0).permutation(len(source.x))
    x, y = source.x[order], source.y[order]
    if name == "digits":
        x, train, sizes, activation = x / 16, 1297, (64, 100, 100, 10), jax.nn.relu
        likelihood: Any = jm.Categorical()
    else:
        train, sizes, activation = 927, (8, 50, 1), jnp.tanh
        x, y = ((v - v[:train].mean(0)) / v[:train].std(0) for v in (x, y))
        likelihood = jm.Gaussian(scale=SIGMA)
    x, y = x.astype(np.float32), y if name == "digits" else y.astype(np.float32)
    model = jm.supervised(perceptron(sizes, activation), likelihood, jm.Prior(dist.Normal(0.0, 1.0)))
    data = x[:train], y[:train]
    point = jm.fit(KEY, model, data, jm.MAP(optax.adam(3e-3), steps=steps), progress=False)
    kind = "classification" if name == "digits" else "regression"
    settings = {"activation": "relu" if name == "digits" else "tanh", "likelihood": kind}
    settings["batch"] = 256 if name == "digits" else None
    return Problem(model, point, data, x[train:], settings)


def perceptron(sizes: tuple[int, ...], activation: Any) -> Any:
    """A network as a pair of functions."""

    def init(key: jax.Array) -> list[dict[str, jax.Array]]:
        keys = jax.random.split(key, len(sizes) - 1)
        return [
            {"kernel": jax.random.normal(k, (a, b)) / np.sqrt(a), "bias": jnp.zeros(b)}
            for k, a, b in zip(keys, sizes, sizes[1:], strict=False)
        ]

    def apply(params: Any, x: jax.Array) -> jax.Array:
        for layer in params[:-1]:
            x = activation(x @ layer["kernel"] + layer["bias"][None])
        return x @ params[-1]["kernel"] + params[-1]["bias"][None]

    return init, apply


class Ours:
    """One side; a turn is (fit, predict)."""

    def __init__(self, problem: Problem, job: Job):
        self.problem, self.found = problem, None
        self.method = jm.Laplace(problem.point, grade=0, force=True, **job.method)
        self.how = "probit" if job.problem == "digits" else None

    def turn(self) -> tuple[Turn, Turn]:
        return measure(self.fit), measure(self.predict)

    def fit(self) -> None:
        self.found = jm.fit(KEY, self.problem.model, self.problem.data, self.method)

    def predict(self) -> None:
        made = jm.predict(KEY, self.problem.model, self.found, self.problem.x_new, how=self.how)
        jax.block_until_ready(made.members)

    @property
    def evidence(self) -> float:
        return self.found.log_evidence


class Theirs:
    """The other side, in a process of its own."""

    def __init__(self, python: str, problem: Problem, job: Job, folder: Path):
        file = folder / "problem.npz"
        options = dict(job.theirs)
        if job.problem == "concrete":
            options["sigma_noise"] = SIGMA
        settings = json.dumps(problem.settings | {"options": options})
        np.savez(file, settings=np.array(settings), **problem.arrays())
        command = [python, "-I", str(WORKER), str(file)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.evidence = self._answer()["evidence"]

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError("Expected an answer from laplace-torch; its process ended. See above.")
        return json.loads(line)

    def turn(self) -> tuple[Turn, Turn]:
        time.sleep(PAUSE)
        self.process.stdin.write("go\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        answer = self._answer()
        return Turn(*answer["fit"]), Turn(*answer["predict"])

    def close(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()


def compare(name: str, given: argparse.Namespace) -> None:
    """Print the line of one job."""
    job = JOBS[name]
    problem = make_problem(job.problem, given.steps)
    ours = Ours(problem, job)
    first = [turn.wall for turn in ours.turn()]
    with tempfile.TemporaryDirectory() as folder:
        theirs = Theirs(given.torch_python, problem, job, Path(folder))
        taken: dict[Any, list[tuple[Turn, Turn]]] = {ours: [], theirs: []}
        for i in range(given.pairs):
            for side in (ours, theirs)[:: 1 if i % 2 == 0 else -1]:
                taken[side].append(side.turn())
        theirs.close()
    own, other = [[1e3 * median(t[k].cpu for t in taken[side]) for k in (0, 1)] for side in (ours, theirs)]
    cpu, wall = (
        median(sum(getattr(t, clock) for t in turn) for turn in taken[theirs])
        / median(sum(getattr(t, clock) for t in turn) for turn in taken[ours])
        for clock in ("cpu", "wall")
    )
    print(
        f"{name:20} {other[0]:9.1f} {other[1]:9.1f} {own[0]:9.1f} {own[1]:9.1f} {cpu:8.1f} {wall:8.1f} "
        f"{sum(first):9.2f} {theirs.evidence:12.3f} {ours.evidence:12.3f}",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", required=True, help="an interpreter that has laplace-torch")
    parser.add_argument("--job", choices=(*JOBS, "all"), default="all")
    parser.add_argument("--pairs", type=int, default=5, help="rounds of turns")
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    given = parser.parse_args(arguments)
    print(f"{'':20} {'laplace-torch, ms':>19} {'jaxmap, ms':>19} {'ratio of sums':>17} {'':9} {'log evidence':>25}")
    print(
        f"{'':20} {'fit':>9} {'predict':>9} {'fit':>9} {'predict':>9} {'cpu':>8} {'wall':>8} {'first s':>9} "
        f"{'theirs':>12} {'ours':>12}"
    )
    for name in JOBS if given.job == "all" else (given.job,):
        compare(name, given)


if __name__ == "__main__":
    main()
