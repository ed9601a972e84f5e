"""Do the chains of a neural network agree, and about what?

A tanh network says the same when two hidden units change places, or when one changes the sign of all its weights:
every set of weights has H! 2^H copies, and chains that have found different ones hardly meet. Their predictions may
agree all the same. Four chains of NUTS on a small network; the first part of the draws, then more and more of them:
rank-normalised split R-hat of the weights, of the weights after the copies have been put in one order (each unit's
outgoing weight made positive, units sorted by it), and of the network's outputs at 100 inputs; and the test lppd of the
draws of one chain and of all. As a check every draw is exchanged for a random copy of itself: the weights then say
something else, the outputs exactly the same.

    python -m experiments.do_chains_agree --save FOLDER      # a minute
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import jaxmap as jm
from experiments.record import Record, color, command, panels
from jaxmap.statistics import rhat


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    hidden: int = 6
    examples: int = 60
    noise: float = 0.1
    draws: int = 2000
    parts: tuple[int, ...] = (50, 100, 200, 500, 1000, 2000)
    seed: int = 0


TINY = {"hidden": 3, "examples": 30, "draws": 60, "parts": (20, 60)}
"""What the tests run."""

CHAINS = 4


def network(hidden: int) -> tuple[Any, Any]:
    """One hidden layer of one input, as two pure functions."""

    def init(key: Any) -> Any:
        keys = jax.random.split(key, 3)
        shapes = {"kernel": (hidden,), "bias": (hidden,), "out": (hidden,)}
        return {name: jax.random.normal(k, shape) for k, (name, shape) in zip(keys, shapes.items(), strict=True)}

    def apply(params: Any, x: Any) -> Any:
        return jnp.tanh(x * params["kernel"][None] + params["bias"][None]) @ params["out"][:, None]

    return init, apply


def make_data(config: Config, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A wave with noise."""
    rng = np.random.default_rng([config.seed, seed])
    x = np.sort(rng.uniform(-2, 2, (n, 1)), axis=0)
    return x, np.sin(2.5 * x[:, 0]) + config.noise * rng.normal(size=n)


def copied(draws: Any, rng: np.random.Generator) -> Any:
    """Each draw exchanged for a copy of itself: units in another order, some with all signs changed."""
    shape = draws["out"].shape
    order = np.argsort(rng.uniform(size=shape), axis=-1)
    sign = rng.choice([-1.0, 1.0], size=shape)
    return {name: np.take_along_axis(np.asarray(leaf) * sign, order, axis=-1) for name, leaf in draws.items()}


def ordered(draws: Any) -> Any:
    """Each draw's copy with positive outgoing weights, units sorted by them."""
    sign = np.where(np.asarray(draws["out"]) < 0, -1.0, 1.0)
    order = np.argsort(np.asarray(draws["out"]) * sign, axis=-1)
    return {name: np.take_along_axis(np.asarray(leaf) * sign, order, axis=-1) for name, leaf in draws.items()}


def flat(draws: Any) -> np.ndarray:
    """Weights as (chains, draws, P)."""
    return np.concatenate([np.asarray(leaf, np.float64) for _, leaf in sorted(draws.items())], axis=-1)


def outputs(apply: Any, draws: Any, x: np.ndarray) -> np.ndarray:
    """The network at x, (chains, draws, n)."""
    each = jax.vmap(jax.vmap(lambda params: apply(params, x)[:, 0]))
    return np.asarray(each({name: jnp.asarray(leaf) for name, leaf in draws.items()}), np.float64)


def lppd(values: np.ndarray, y: np.ndarray, noise: float) -> float:
    """The log of the mean density of y over draws (draws, n), averaged over y."""
    logs = -0.5 * ((y - values) / noise) ** 2 - np.log(noise) - 0.5 * np.log(2 * np.pi)
    return float(np.mean(np.logaddexp.reduce(logs, axis=0) - np.log(len(values))))


def run(config: Config) -> Record:
    """Sample once, and look at more and more of the draws."""
    init, apply = network(config.hidden)
    model = jm.supervised((init, apply), jm.Gaussian(scale=config.noise), jm.Prior(dist.Normal(0.0, 1.5)))
    data, (x_new, y_new) = make_data(config, config.examples, 0), make_data(config, 500, 1)
    found = jm.fit(jax.random.key(config.seed), model, data, jm.NUTS(chains=CHAINS, draws=config.draws))
    draws = {name: np.asarray(leaf) for name, leaf in found.draws.items()}
    grid = np.linspace(-2, 2, 100)[:, None]
    values, tested = outputs(apply, draws, grid), outputs(apply, draws, x_new)
    copies = copied(draws, np.random.default_rng(config.seed))
    said = outputs(apply, copies, grid)
    rows = []
    for count in config.parts:
        part, part_of_copies = (jax.tree.map(lambda v, c=count: v[:, :c], tree) for tree in (draws, copies))
        each = [lppd(chain[:count], y_new, config.noise) for chain in tested]
        rows.append(
            {
                "draws": count,
                "weights": float(np.median(rhat(flat(part)))),
                "weights, worst": float(np.max(rhat(flat(part)))),
                "ordered, worst": float(np.max(rhat(flat(ordered(part))))),
                "outputs": float(np.median(rhat(values[:, :count]))),
                "outputs, worst": float(np.max(rhat(values[:, :count]))),
                "weights of copies, worst": float(np.max(rhat(flat(part_of_copies)))),
                "lppd of one chain": float(np.mean(each)),
                "lppd of all": lppd(tested[:, :count].reshape(-1, len(y_new)), y_new, config.noise),
            }
        )
    away = float(np.max(np.abs(said - values)) / np.std(values))
    notes = (
        "R-hat of weights, of weights in one order, and of outputs: median and largest; lppd in nats.",
        f"Copies of the draws say the same: outputs differ by {away:.1g} of their sd. Chance may bring chains of "
        "copies together (random copies have small R-hat) as it may keep them apart: R-hat of weights is no evidence.",
        f"The sampler says: {found.info.status.name}; R-hat of its outputs at the training inputs "
        f"{found.info.diagnostics['function_rhat_max']:.3f}.",
    )
    title = f"R-hat of {CHAINS} chains on a network of {config.hidden} tanh units"
    return Record(title, config, rows, lambda: draw(rows), notes)


def draw(rows: list[dict[str, Any]]) -> Any:
    """R-hat over the number of draws."""
    figure, (axis,) = panels("R-hat of weights and of what they say", height=3.8)
    shown = {
        "weights, worst": "weights",
        "ordered, worst": "weights in one order",
        "outputs, worst": "outputs",
    }
    for i, (name, label) in enumerate(shown.items()):
        heights = [max(row[name] - 1, 1e-4) for row in rows]
        axis.loglog([row["draws"] for row in rows], heights, "o-", color=color(i), label=label)
    axis.axhline(0.01, color="#999999", lw=1.0, ls="--")
    axis.set(xlabel="draws per chain", ylabel="largest R-hat, less one")
    axis.legend(fontsize=8, frameon=False)
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
