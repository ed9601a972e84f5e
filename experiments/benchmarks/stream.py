"""How much memory and time does a fit to a stream take, and do they depend on the number of rows?

    python -m experiments.benchmarks.stream [--rows 10000000] [--small 100000] [--steps 4000]

Rows of a linear regression with 16 columns are written to .npy files (640 MB at 10^7 rows). A MAP estimate is then
trained on them in a process of its own, by Adam on batches of 256: once with rows in an order like that of memory, once
in blocks of 256 neighbouring rows, and once from a generator that makes the rows when they are asked for. Each process
prints its peak memory above that of the imported library, the time of a step (the best long run less the best short
one), and how far
the estimate is from the one in closed form. The bar is a peak of 1 GiB above the baseline at 10^7 rows.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax

import jaxmap as jm

KEY = jax.random.key(0)
COLUMNS, NOISE = 16, 0.5
ADAM = optax.adam(optax.exponential_decay(0.02, 1000, 0.5, end_value=1e-5))
PART = 100_000
BAR = 1024.0
"""MiB."""

REPEATS = 2

KINDS = ("rows", "blocks", "generator")


def part(index: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows number index * PART and following ones; the same whenever they are made."""
    rng = np.random.default_rng([7, index])
    x = rng.standard_normal((count, COLUMNS), np.float32)
    truth = np.linspace(-1.0, 1.0, COLUMNS, dtype=np.float32)
    return x, x @ truth + np.float32(NOISE) * rng.standard_normal(count, np.float32)


def parts(rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for index in range(-(-rows // PART)):
        yield part(index, min(PART, rows - index * PART))


def write(folder: Path, rows: int) -> np.ndarray:
    """Write the rows to files, part by part, and return the estimate in closed form."""
    open_memmap = np.lib.format.open_memmap
    x = open_memmap(folder / "x.npy", "w+", np.float32, (rows, COLUMNS))
    y = open_memmap(folder / "y.npy", "w+", np.float32, (rows,))
    gram, moment = NOISE**2 * np.eye(COLUMNS), np.zeros(COLUMNS)
    for index, (inputs, targets) in enumerate(parts(rows)):
        x[index * PART : index * PART + len(inputs)] = inputs
        y[index * PART : index * PART + len(inputs)] = targets
        gram += inputs.astype(np.float64).T @ inputs
        moment += inputs.astype(np.float64).T @ targets
    x.flush()
    y.flush()
    return np.linalg.solve(gram, moment)


def model() -> jm.Model:
    network = (lambda key: jnp.zeros(COLUMNS), lambda b, x: x @ b)
    return jm.supervised(network, jm.Gaussian(scale=NOISE), jm.Prior(dist.Normal(0.0, 1.0)))


def stream(kind: str, folder: Path, rows: int) -> jm.Stream:
    if kind == "generator":
        return jm.Stream.of_batches(lambda epoch: parts(rows), rows)
    files = (folder / "x.npy", folder / "y.npy")
    return jm.Stream.of_arrays(files, block=256 if kind == "blocks" else 1)


def peak() -> float:
    """The largest memory that this process has had so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def fit(kind: str, folder: Path, rows: int, steps: int) -> None:
    """Train in this process, and print a line."""
    built, baseline = model(), peak()

    def train(steps: int) -> tuple[Any, float]:
        began = time.perf_counter()
        point = jm.fit(
            KEY, built, stream(kind, folder, rows), jm.MAP(ADAM, steps=steps, batch_size=256), progress=False
        )
        return point, time.perf_counter() - began

    few = max(1, steps // 4)
    train(few)
    short = min(train(few)[1] for _ in range(REPEATS))
    ended = [train(steps) for _ in range(REPEATS)]
    point, long = ended[0][0], min(seconds for _, seconds in ended)
    per_step = 1e6 * (long - short) / (steps - few)
    used = peak() - baseline
    away = np.max(np.abs(np.asarray(point.mode, np.float64) - np.load(folder / "exact.npy")))
    print(
        f"{kind:10} {rows:10d} {baseline:9.0f} {used:9.0f} {per_step:10.1f} {away:10.1e} "
        f"{point.info.log_joint:16.1f}  {'under' if used < BAR else 'OVER'} {BAR:.0f} MiB",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--small", type=int, default=100_000, help="rows of the smaller run beside it")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--folder", help="of the rows; a process of its own trains on them")
    parser.add_argument("--kind", choices=KINDS)
    given = parser.parse_args(arguments)
    if given.folder is not None:
        fit(given.kind, Path(given.folder), given.rows, given.steps)
        return
    print("kind             rows  baseline  MiB more  us / step       away        log joint", flush=True)
    for rows in dict.fromkeys((given.small, given.rows)):
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder) / "exact.npy", write(Path(folder), rows))
            for kind in KINDS:
                own = ["--folder", folder, "--kind", kind, "--rows", str(rows), "--steps", str(given.steps)]
                subprocess.run([sys.executable, "-m", "experiments.benchmarks.stream", *own], check=True)


if __name__ == "__main__":
    main()
