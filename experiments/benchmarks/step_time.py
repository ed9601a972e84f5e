"""How much slower is a training step of `jm.fit` than one of a hand-written loop?

The same 1x50 tanh network on the concrete data, the same loss, Adam: (a) `jm.fit(..., jm.MAP(optax.adam(1e-3)))`,
(b) a jitted `lax.scan` over plain functions, (c) numpyro's SVI with AutoDelta. The steady-state time of a step is the
difference of a long and a short run of each, so that compilation and the fixed cost of a fit drop out; the runs
alternate, and the median ratio of the pairs is printed with its 95 % interval (binomial, distribution-free).

    python -m experiments.benchmarks.step_time            # about six minutes on two cores
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta
from scipy.stats import binom

import jaxmap as jm

HIDDEN = 50
ADAM = optax.adam(1e-3)


def init(key: jax.Array) -> dict[str, Any]:
    a, b = jax.random.split(key)
    return {
        "w1": jax.random.normal(a, (8, HIDDEN)) / np.sqrt(8),
        "b1": jnp.zeros(HIDDEN),
        "w2": jax.random.normal(b, (HIDDEN,)) / np.sqrt(HIDDEN),
        "b2": jnp.zeros(()),
    }


def apply(params: dict[str, Any], x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def mean_loss(params: Any, x: jax.Array, y: jax.Array, total: int) -> jax.Array:
    """-(log joint) / N, by hand: unit noise, N(0, 1) priors."""
    squares = jnp.mean((y - apply(params, x)) ** 2) / 2
    weights = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)) / 2
    return squares + weights / total


@partial(jax.jit, static_argnames="steps")
def scan_full(params: Any, x: jax.Array, y: jax.Array, steps: int) -> Any:
    def step(carry: Any, _: None) -> Any:
        params, state = carry
        loss, gradient = jax.value_and_grad(mean_loss)(params, x, y, len(x))
        updates, state = ADAM.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), loss

    return jax.lax.scan(step, (params, ADAM.init(params)), length=steps)


@partial(jax.jit, static_argnames=("steps", "size"))
def scan_minibatch(params: Any, x: jax.Array, y: jax.Array, key: jax.Array, steps: int, size: int) -> Any:
    n = len(x)
    batches = n // size

    def step(carry: Any, rows: jax.Array) -> Any:
        params, state = carry
        loss, gradient = jax.value_and_grad(mean_loss)(params, x[rows], y[rows], n)
        updates, state = ADAM.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), loss

    def epoch(carry: Any, key: jax.Array) -> Any:
        rows = jax.random.permutation(key, n)[: batches * size].reshape(batches, size)
        return jax.lax.scan(step, carry, rows)

    return jax.lax.scan(epoch, (params, ADAM.init(params)), jax.random.split(key, steps // batches))


def numpyro_model(x: jax.Array, y: jax.Array, total: int, size: int | None) -> None:
    params = {k: numpyro.sample(k, dist.Normal(0.0, 1.0).expand(v.shape).to_event(v.ndim)) for k, v in SHAPES.items()}
    with numpyro.plate("data", total, subsample_size=size) as rows:
        chosen = (x, y) if size is None else (x[rows], y[rows])
        numpyro.sample("y", dist.Normal(apply(params, chosen[0]), 1.0), obs=chosen[1])


SHAPES = jax.eval_shape(init, jax.random.key(0))


@partial(jax.jit, static_argnames=("steps", "size"))
def scan_svi(key: jax.Array, x: jax.Array, y: jax.Array, steps: int, size: int | None) -> Any:
    svi = SVI(numpyro_model, AutoDelta(numpyro_model), ADAM, Trace_ELBO())
    state = svi.init(key, x, y, len(x), size)
    return jax.lax.scan(lambda s, _: svi.update(s, x, y, len(x), size), state, length=steps)


def seconds(run: Callable[[int], Any], steps: int) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run(steps))
    return time.perf_counter() - began


def compare(ours: Callable[[int], Any], theirs: Callable[[int], Any], short: int, long: int, pairs: int) -> str:
    """The median ratio of the time per step and its distribution-free 95 % interval."""
    for run in (ours, theirs):
        seconds(run, short), seconds(run, long)  # compile
    ratios, own = [], []
    for i in range(pairs):
        order = (ours, theirs) if i % 2 == 0 else (theirs, ours)
        spent = {run: seconds(run, long) - seconds(run, short) for run in order}
        ratios.append(spent[ours] / spent[theirs])
        own.append(spent[ours] / (long - short))
    ratios.sort()
    low, high = (int(binom.ppf(q, pairs, 0.5)) for q in (0.025, 0.975))
    return (
        f"median ratio {statistics.median(ratios):.3f}, 95 % interval {ratios[max(low - 1, 0)]:.3f} to "
        f"{ratios[min(high, pairs - 1)]:.3f}, {pairs} pairs, {1e6 * statistics.median(own):.0f} us per step"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=31)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of steps")
    given = parser.parse_args(arguments)
    data = jm.load_dataset("concrete")
    rows = 1024  # a multiple of the batch, so that the hand-written loop drops nothing
    x = jnp.asarray((data.x - data.x.mean(0)) / data.x.std(0), jnp.float32)[:rows]
    y = jnp.asarray((data.y - data.y.mean()) / data.y.std(), jnp.float32)[:rows]
    model = jm.supervised((init, apply), jm.Gaussian(scale=1.0), jm.Prior(dist.Normal(0.0, 1.0)))
    key, start = jax.random.key(0), init(jax.random.key(0))
    for name, size, short, long in (("full batch", None, 500, 3500), ("minibatch of 32", 32, 3200, 35200)):
        short, long = int(short * given.scale), int(long * given.scale)

        def ours(steps: int, size: int | None = size) -> Any:
            return jm.fit(key, model, (x, y), jm.MAP(ADAM, steps=steps, batch_size=size), progress=False).mode

        def scan(steps: int, size: int | None = size) -> Any:
            return scan_full(start, x, y, steps) if size is None else scan_minibatch(start, x, y, key, steps, size)

        def svi(steps: int, size: int | None = size) -> Any:
            return scan_svi(key, x, y, steps, size)

        print(f"{name}: jm.fit over a hand-written scan: {compare(ours, scan, short, long, given.pairs)}", flush=True)
        print(
            f"{name}: jm.fit over numpyro SVI: {compare(ours, svi, short, long, max(3, given.pairs // 3))}", flush=True
        )


if __name__ == "__main__":
    main()
