"""How much memory and time does a fit to a stream take, and do they depend on the number of rows?

    python -m experiments.benchmarks.stream [--rows 10000000] [--small 100000] [--steps 30000]

Rows of a linear regression with 16 columns are written to .npy files (640 MB at 10^7 rows). A MAP estimate is then
trained on them in a process of its own, by Adam on batches of 256: once with rows in an order like that of memory, once
in blocks of 256 neighbouring rows, and once from a generator that makes the rows when they are asked for. Each process
prints its peak memory above that of the imported library, the time of a step (in the last three quarters of them), and
how far the estimate is from the one in closed form. The bar is a peak of 1 GiB above the baseline at 10^7 rows.

What came out, two cores that others used too (load 4 to 5): 578, 269 and 229 MiB above a baseline of 310 at 10^7 rows
(187, 187 and 167 at 10^5); 185, 126 and 217 microseconds a step (330, 129 and 193 at 10^5).
"""

import argparse
import importlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax

import jaxmap as jm
from jaxmap.optimize import Progress

KEY = jax.random.key(0)
COLUMNS, NOISE = 16, 0.5
ADAM = optax.adam(optax.exponential_decay(0.02, 1000, 0.5, end_value=1e-5))
PART = 100_000
BAR = 1024.0
"""MiB."""

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
    """The largest memory that this process has had so far, MiB; files that are mapped count where they are held."""
    lines = Path("/proc/self/status").read_text().splitlines()  # getrusage would count the parent's peak, too
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


class Clock(Progress):
    """Notes when so many steps were done; the time of a step is that of the last three quarters."""

    seen: ClassVar[list[tuple[int, float]]] = []

    def update(self, done: int, note: str = "") -> None:
        self.seen.append((done, time.perf_counter()))

    @classmethod
    def microseconds(cls) -> float:
        later = [at for at in cls.seen if at[0] >= cls.seen[-1][0] / 4]
        return 1e6 * (later[-1][1] - later[0][1]) / (later[-1][0] - later[0][0])


def fit(kind: str, folder: Path, rows: int, steps: int) -> None:
    """Train in this process, and print a line."""
    built, baseline = model(), peak()
    importlib.import_module("jaxmap.optimize.maximize").Progress = Clock  # type: ignore[attr-defined]
    point = jm.fit(KEY, built, stream(kind, folder, rows), jm.MAP(ADAM, steps=steps, batch_size=256), progress=False)
    used = peak() - baseline
    away = np.max(np.abs(np.asarray(point.mode, np.float64) - np.load(folder / "exact.npy")))
    print(
        f"{kind:10} {rows:10d} {baseline:9.0f} {used:9.0f} {Clock.microseconds():10.1f} {away:10.1e} "
        f"{point.info.log_joint:16.1f}  {'under' if used < BAR else 'OVER'} {BAR:.0f} MiB",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--small", type=int, default=100_000, help="rows of the smaller run beside it")
    parser.add_argument("--steps", type=int, default=30_000)
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
