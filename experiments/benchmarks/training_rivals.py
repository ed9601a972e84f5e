"""What `training_speed` and `many_networks` compare: the networks, a loop by hand, and PyTorch in its own process."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from flax import nnx

import jaxmap as jm
from experiments.benchmarks.timing import Turn
from experiments.networks import ResNet, Transformer
from jaxmap.trees import named_leaves

KEY = jax.random.key(0)
RATE = 1e-3
ADAM = optax.adam(RATE)
"""One for all fits: what was compiled for a transformation serves that one again."""
WORKER = Path(__file__).with_name("training_torch_worker.py")


@dataclass(frozen=True)
class Job:
    """A network, examples for it, and how it is trained; the examples are as many as fill whole batches.

    Attributes:
        network: the factory.
        x, y: inputs and classes.
        batch_size: examples per step.
        short, long: steps of the two runs whose difference is a step's cost.
        settings: what the other side must know.
    """

    network: Callable[[nnx.Rngs], nnx.Module]
    x: np.ndarray
    y: np.ndarray
    batch_size: int
    short: int
    long: int
    settings: dict[str, Any]

    @property
    def model(self) -> jm.Model:
        """With N(0, 1) on every weight."""
        return jm.supervised(self.network, jm.Categorical(), jm.Prior(dist.Normal(0.0, 1.0)))

    @property
    def targets(self) -> int:
        """Classes that a row asks for: many in a text, one of an image."""
        return self.y.size // len(self.y)


def make_job(name: str, *, batch_size: int | None = None, how: str | None = None, size: int = 28) -> Job:
    """The MLP, the Transformer or the ResNet, on random examples: a step's cost does not depend on what they say."""
    rng = np.random.default_rng(0)
    if name == "mlp":
        batch = batch_size or 32
        n = 1280 // batch * batch
        x, y = rng.normal(size=(n, 64)).astype(np.float32), rng.integers(0, 10, n)
        return Job(perceptron, x, y, batch, 2000, 22000, {"network": name, "layers": 3})
    if name == "transformer":
        batch, n = batch_size or 12, 240
        text = rng.integers(0, 65, (n, 65))
        shape = {"layers": 4, "heads": 4}
        network = lambda rngs: Transformer(65, 64, width=128, rngs=rngs, **shape)
        return Job(network, text[:, :-1], text[:, 1:], batch, 20, 60, {"network": name} | shape)
    batch, n, widths, stem = batch_size or 64, 640, (16, 32, 64), 1 if size < 16 else 2
    x, y = rng.normal(size=(n, size, size, 1)).astype(np.float32), rng.integers(0, 10, n)
    network = lambda rngs: ResNet(1, 10, widths, rngs, stem=stem, how=how)
    settings = {"network": name, "stem": stem, "strides": [1, 2, 2], "groups": 4}
    return Job(network, x, y, batch, 10, 60, settings)


def perceptron(rngs: nnx.Rngs) -> nnx.Module:
    """64-100-100-10, relu."""
    sizes = ((64, 100), (100, 100), (100, 10))
    return MLP([nnx.Linear(*size, rngs=rngs) for size in sizes])


class MLP(nnx.Module):
    """Dense layers with relu between them."""

    def __init__(self, layers: list[nnx.Linear]):
        self.layers = nnx.List(layers)

    def __call__(self, x: Any) -> Any:
        for layer in list(self.layers)[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


class Handwritten:
    """What one would write without jaxmap: a jitted `lax.scan` over the batches of the epochs, with optax.

    The parameters are the network's own (`nnx.split`); the batches are rows of a permutation, looked up on the device;
    loss and gradient are those of the mean cross-entropy plus the log density of N(0, 1) over all N.
    """

    def __init__(self, job: Job):
        self.job, self.adam = job, optax.adam(RATE)
        graph, self.start = nnx.split(job.network(nnx.Rngs(KEY)), nnx.Param)
        total = len(job.y)
        x, y = jnp.asarray(job.x), jnp.asarray(job.y)
        batches = total // job.batch_size

        def loss(params: Any, x: Any, y: Any) -> Any:
            losses = optax.softmax_cross_entropy_with_integer_labels(nnx.merge(graph, params)(x), y)
            weights = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)) / 2
            return jnp.sum(losses) / len(x) + weights / total

        def step(carry: Any, rows: Any, x: Any, y: Any) -> Any:
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params, x[rows], y[rows])
            updates, state = self.adam.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), value

        @partial(jax.jit, static_argnames="epochs")
        def run(params: Any, key: Any, x: Any, y: Any, epochs: int) -> Any:
            def epoch(carry: Any, key: Any) -> Any:
                rows = jax.random.permutation(key, total).reshape(batches, job.batch_size)
                return jax.lax.scan(partial(step, x=x, y=y), carry, rows)

            return jax.lax.scan(epoch, (params, self.adam.init(params)), jax.random.split(key, epochs))

        self.batches, self.run = batches, lambda epochs: run(self.start, KEY, x, y, epochs)

    def __call__(self, steps: int) -> None:
        """Train; whole epochs."""
        jax.block_until_ready(self.run(steps // self.batches))


class Torch:
    """PyTorch in a process of its own, on jax's device, one thread, Adam as it comes (or fused)."""

    def __init__(self, python: str, job: Job, folder: Path, *, fused: bool = False, channels_last: bool = False):
        file, model = folder / "problem.npz", job.model
        settings = job.settings | {"batch_size": job.batch_size, "rate": RATE, "decay": 1 / job.y.size}
        settings |= {"fused": fused, "channels_last": channels_last}
        settings["device"] = "cpu" if jax.default_backend() == "cpu" else "cuda"
        arrays = {path: np.asarray(leaf) for path, leaf in named_leaves(model.start)}
        np.savez(file, x=job.x, y=job.y, settings=np.array(json.dumps(settings)), **arrays)  # type: ignore[arg-type]
        command = [python, "-I", str(WORKER), str(file)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        own = float(-jnp.mean(model.log_likelihood(model.start, (job.x, job.y)))) / job.targets
        theirs = self._answer()["loss"]
        if not np.isclose(own, theirs, rtol=1e-4 if settings["device"] == "cpu" else 1e-2):  # TF32
            raise RuntimeError(f"Expected the same network on both sides; got losses {own} here and {theirs} there.")

    def _answer(self) -> Any:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError("Expected an answer from PyTorch; its process ended. See above.")
        return json.loads(line)

    def turn(self, steps: int, *, fresh: bool = False) -> Turn:
        """Take steps, of a new network where `fresh`."""
        self.process.stdin.write(json.dumps([steps, fresh]) + "\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return Turn(*self._answer())

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()
