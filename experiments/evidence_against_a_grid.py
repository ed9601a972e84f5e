"""Does the evidence choose the prior as well as a grid of validation scores, and at what price?

A 1x50 tanh network on the strength of concrete, weights N(0, s^2), standard splits of Hernandez-Lobato and Adams
(2015). The grid fits the Laplace approximation for each of 20 scales s on four fifths of the training rows, chooses by
the lppd of the last fifth and fits once more on all; its noise is learned with the weights, or set to what the evidence
chose. The evidence uses all training rows at once: while Adam
trains, s and the noise scale follow d log Z, with one s, or with one for each of the four leaves.

    python -m experiments.evidence_against_a_grid --save FOLDER      # some minutes
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from flax import nnx

import jaxmap as jm
from experiments.record import Record, command, panels


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    data: str = "../shared/data/uci/concrete.npz"
    splits: int = 3
    hidden: int = 50
    grid: int = 20
    rows: int | None = None  # of the training data, all if left out
    steps: int = 2000  # of Adam
    seed: int = 0


TINY = {"splits": 1, "hidden": 3, "grid": 3, "rows": 60, "steps": 50}
"""What the tests run."""


class Network(nnx.Module):
    """One hidden layer."""

    def __init__(self, inputs: int, hidden: int, rngs: nnx.Rngs):
        self.a = nnx.Linear(inputs, hidden, rngs=rngs)
        self.b = nnx.Linear(hidden, 1, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.b(jnp.tanh(self.a(x)))


def family(train: Any, hidden: int) -> Any:
    """Scales -> model: one for each path pattern, and one of the noise, which is learned where it is left out."""
    scaling, inputs = jm.standardize(train), train[0].shape[1]

    def build(scales: dict[str, Any]) -> jm.Model:
        noise = scales.get("noise", jm.Learned(dist.HalfNormal(1.0)))
        rules = {pattern: dist.Normal(0.0, scale) for pattern, scale in scales.items() if pattern != "noise"}
        network = lambda rngs: Network(inputs, hidden, rngs)
        return jm.supervised(network, jm.Gaussian(scale=noise), jm.Prior.by_path(rules), scaling=scaling)

    return build


def lppd(key: Any, model: jm.Model, posterior: Any, data: Any) -> float:
    return jm.score(jm.predict(key, model, posterior, data[0]), data[1])["lppd"]


def by_grid(
    key: Any, train: Any, test: Any, config: Config, noise: dict[str, float]
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The row of the grid, its scales and their validation scores."""
    n = len(train[1])
    order = np.random.default_rng(config.seed).permutation(n)
    parts = [tuple(part[rows] for part in train) for rows in (order[n // 5 :], order[: n // 5])]
    scales = np.geomspace(0.05, 5.0, config.grid)
    whole, method, scores = family(parts[0], config.hidden), jm.MAP(space="unconstrained"), []

    def build(scale: Any) -> jm.Model:
        return whole({"*": scale} | noise)

    spent = 0.0
    for scale in scales:
        model = build(float(scale))
        # one path per scale: from a warm start under a strong prior, hidden units would stay collapsed on a saddle
        point = jm.path(key, build, parts[0], [scale], method)[0]
        posterior = jm.fit(key, model, parts[0], jm.Laplace(point, grade=0, force=True))  # small scales end on saddles
        spent += posterior.info.num_gradients
        scores.append(lppd(key, model, posterior, parts[1]))
    best = float(scales[int(np.argmax(scores))])
    model = family(train, config.hidden)({"*": best} | noise)
    final = jm.fit(key, model, train, jm.Laplace(method, grade=0, force=True))
    row = {"scales": f"{best:.3g}", "test lppd": lppd(key, model, final, test)}
    row |= {"log evidence": final.log_evidence, "gradients": spent + final.info.num_gradients}
    return row, scales, np.array(scores)


def by_evidence(key: Any, train: Any, test: Any, start: Any, config: Config) -> dict[str, Any]:
    """The row of the evidence."""
    solver = optax.adam(optax.cosine_decay_schedule(2e-2, config.steps))
    tuned = jm.tune(key, family(train, config.hidden), train, start, method=jm.MAP(solver, steps=config.steps))
    scales = [f"{v:.3g}" for name, v in tuned.scales.items() if name != "noise"]
    row = {"scales": " ".join(scales), "test lppd": lppd(key, tuned.model, tuned.posterior, test)}
    row |= {"noise": tuned.scales["noise"]}
    return row | {"log evidence": tuned.posterior.log_evidence, "gradients": tuned.info.num_gradients}


def run(config: Config) -> Record:
    """All three on every split."""
    table, rows, curves = np.load(config.data), [], []
    for split in range(config.splits):
        here, there = (table[part][split] for part in ("train", "test"))
        here = here[: config.rows]
        train, test = ((table["X"][part], table["y"][part]) for part in (here, there))
        key = jax.random.key(config.seed)
        leaves = dict.fromkeys(("a/kernel", "a/bias", "b/kernel", "b/bias"), 1.0)
        found = {}
        for name, start in {"evidence, one scale": {"*": 1.0}, "evidence, one per leaf": leaves}.items():
            found[name] = by_evidence(key, train, test, start | {"noise": 0.3}, config)
        noise = {"noise": found["evidence, one scale"].pop("noise")}
        found["evidence, one per leaf"].pop("noise")
        for name, fixed in {"grid": {}, "grid, noise by evidence": noise}.items():
            found[name], scales, scores = by_grid(key, train, test, config, fixed)
        curves.append((scales, scores))
        rows += [{"split": split, "chosen by": name} | row for name, row in found.items()]
    note = "Test lppd in nats per example, strength in MPa; gradients: everything counted."
    return Record("The prior of a network by evidence and by a grid", config, rows, lambda: draw(rows, curves), (note,))


def draw(rows: list[dict[str, Any]], curves: list[tuple[np.ndarray, np.ndarray]]) -> Any:
    figure, (left, right) = panels("Validation lppd of the grid, and the evidence's scale", "Test lppd against cost")
    for split, (scales, scores) in enumerate(curves):
        (line,) = left.semilogx(scales, scores, ".-", label=f"split {split}")
        chosen = next(row for row in rows if row["split"] == split and row["chosen by"] == "evidence, one scale")
        left.axvline(float(chosen["scales"]), color=line.get_color(), lw=0.8, ls="--")
    left.set(xlabel="prior scale s", ylabel="validation lppd (nats)")
    left.legend(fontsize=8, frameon=False)
    for name in dict.fromkeys(row["chosen by"] for row in rows):
        own = [row for row in rows if row["chosen by"] == name]
        right.semilogx(
            [row["gradients"] for row in own], [row["test lppd"] for row in own], "o", mfc="none", label=name
        )
    right.set(xlabel="gradients, everything counted", ylabel="test lppd (nats)")
    right.legend(fontsize=8, frameon=False)
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
