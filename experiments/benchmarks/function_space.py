"""How many effective draws of a network's predictions does a second buy?

    python -m experiments.benchmarks.function_space [--data PATH] [--set yacht] [--pairs N] [--draws N]

A two-headed 16-16 tanh network on the first standard split of a UCI data set. Microcanonical chains of `jm.MCLMC` and
numpyro's NUTS as it is, on the same log density from the same kind of starts, in turn; both with 4 chains and compiled
before they are timed. A sampler is worth the median over 100 test points of the bulk ESS of the predicted mean, per
second of the whole run: modes, warm-up and draws. The R-hat of the same numbers stands beside it, since draws of chains
that disagree are worth less than their ESS says, and the test lppd, since that is what draws are for.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.infer.hmc import hmc

import jaxmap as jm
from experiments.bnn_regression import Setting, make_model
from jaxmap.infer import Problem
from jaxmap.infer.problem import multiply, seeds_of
from jaxmap.model import Density
from jaxmap.statistics import ess_bulk, rhat
from jaxmap.trees import shaper

CHAINS, POINTS = 4, 100


class Worth(NamedTuple):
    """One run."""

    ess: float
    rhat: float
    lppd: float
    seconds: float
    cpu: float


def worth(key: Any, model: jm.Model, draws: jm.Draws, test: Any, seconds: float, cpu: float) -> Worth:
    """What draws say of the test points."""
    x, apply = test[0][:POINTS], model.apply
    means = jax.jit(lambda params: jax.lax.map(jax.vmap(lambda p: apply(p, x)[:, 0]), params))  # type: ignore[misc]
    values = np.asarray(means(jax.tree.map(jnp.asarray, draws.draws)), np.float64)
    score = jm.score(jm.predict(key, model, draws, test[0]), test[1])["lppd"]
    return Worth(float(np.median(ess_bulk(values))), float(np.median(rhat(values))), score, seconds, cpu)


def ours(model: jm.Model, train: Any, draws: int) -> Callable[[Any], jm.Draws]:
    """Key -> draws."""
    method = jm.MCLMC(chains=CHAINS, warmup=1000, draws=draws, thin=20, energy_error=0.002, length=10.0)
    return lambda key: jm.fit(key, model, train, method, progress=False)


def theirs(model: jm.Model, train: Any, draws: int) -> Callable[[Any], jm.Draws]:
    """Numpyro's NUTS at its defaults: diagonal metric, 0.8, trees of depth 10; half as many draws of warm-up."""
    problem = Problem.of(model, train)
    density, shaped = Density(model), shaper(model.start_unconstrained(problem.dtype))
    init, sample = hmc(lambda z: -density(shaped(z), problem.data), algo="NUTS")

    def chain(z: Any, key: Any) -> Any:
        def move(state: Any, _: Any) -> Any:
            state = sample(state)
            return state, state.z

        state = init(z, num_warmup=draws // 2, trajectory_length=None, rng_key=key)
        return jax.lax.scan(move, state, length=draws + draws // 2)[1][draws // 2 :]

    program = jax.jit(lambda starts, keys: jax.lax.map(lambda one: chain(*one), (starts, keys)))

    def run(key: Any) -> jm.Draws:
        starts = jax.vmap(lambda v: ravel_pytree(v)[0])(problem.starts(multiply(seeds_of(key), CHAINS)))
        z = jax.block_until_ready(program(starts, jax.random.split(key, CHAINS)))
        params = jax.vmap(jax.vmap(lambda v: model.space.constrain(shaped(v))))(z)
        info = jm.Info(status=jm.Status.STEPS_EXHAUSTED, method="numpyro", target="draws")
        return jm.Draws(params, info, np.zeros(z.shape[:2]))

    return run


def timed(run: Callable[[Any], jm.Draws], key: Any) -> tuple[jm.Draws, float, float]:
    """A run, its seconds and its CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    made = run(key)
    jax.block_until_ready(made.draws)
    return made, time.perf_counter() - wall, time.process_time() - cpu


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data/uci")
    parser.add_argument("--set", default="yacht")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--draws", type=int, default=500, help="per chain, of ours; numpyro's are --rival-draws")
    parser.add_argument("--rival-draws", type=int, default=200)
    given = parser.parse_args(arguments)
    table = np.load(Path(given.data) / f"{given.set}.npz")
    train, test = ((table["X"][i], table["y"][i]) for i in (table["train"][0], table["test"][0]))
    model = make_model(train, Setting("two heads", "unit", 1, (16, 16)))
    sides = {"jm.MCLMC": ours(model, train, given.draws), "numpyro NUTS": theirs(model, train, given.rival_draws)}
    first = {name: timed(run, jax.random.key(99))[1] for name, run in sides.items()}
    found: dict[str, list[Worth]] = {name: [] for name in sides}
    for i in range(given.pairs):
        for name in list(sides)[:: 1 if i % 2 == 0 else -1]:
            key = jax.random.key(i)
            draws, seconds, cpu = timed(sides[name], key)
            found[name].append(worth(key, model, draws, test, seconds, cpu))
    print(f"{'':14} {'ESS/s':>8} {'ESS/CPU s':>10} {'ESS':>8} {'R-hat':>7} {'lppd':>8} {'s':>7} {'first s':>8}")
    rates = {}
    for name, runs in found.items():
        rates[name] = np.median([r.ess / r.seconds for r in runs])
        of_cpu = np.median([r.ess / r.cpu for r in runs])
        ess, ratio, score, seconds, _ = (float(np.median(column)) for column in zip(*runs, strict=True))
        numbers = f"{rates[name]:8.2f} {of_cpu:10.2f} {ess:8.1f} {ratio:7.3f} {score:8.3f} {seconds:7.1f}"
        print(f"{name:14} {numbers} {first[name]:8.1f}", flush=True)
    print(f"ratio of ESS per second: {rates['jm.MCLMC'] / rates['numpyro NUTS']:.1f}")


if __name__ == "__main__":
    main()
