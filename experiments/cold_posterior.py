"""Is a Bayesian neural network better when it is cold?

Draws of exp(f / T) with T < 1 often predict better than those of the posterior (Wenzel et al., 2020). One explanation
(Aitchison, 2021): the labels of benchmarks are curated. An image on which annotators disagree is thrown away, so that
a label that was kept tells as much as several independent ones, and the likelihood that is written down counts it once.

Here the truth is known. A teacher network is drawn from the prior; each label is one draw from its class
probabilities, or is kept only where several draws agree. The student has the teacher's prior and architecture, and is
sampled by stochastic-gradient Hamiltonian Monte Carlo at several temperatures. Test data are made as the training data
are. The first must be best at T = 1, but for chance; the second may be better below.

    python -m experiments.cold_posterior --save FOLDER      # some minutes
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import jaxmap as jm
from experiments.record import Record, color, command, panels


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    temperatures: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0, 2.0)
    annotators: tuple[int, ...] = (1, 4)
    teachers: int = 12
    hidden: int = 10
    classes: int = 3
    examples: int = 100
    tested: int = 2000
    draws: int = 200
    thin: int = 50
    warmup: int = 3000
    seed: int = 0


TINY = {"temperatures": (0.25, 1.0), "teachers": 2, "hidden": 3, "tested": 100, "draws": 10, "thin": 5, "warmup": 100}
"""What the tests run."""

SCALE = 1.5
"""Standard deviation of the prior of every weight."""


def network(hidden: int, classes: int) -> tuple[Any, Any]:
    """Two inputs, one hidden layer, logits; two pure functions."""

    def init(key: Any) -> Any:
        first, second, third = jax.random.split(key, 3)
        return {
            "kernel": SCALE * jax.random.normal(first, (2, hidden)),
            "bias": SCALE * jax.random.normal(second, (hidden,)),
            "out": SCALE * jax.random.normal(third, (hidden, classes)),
        }

    def apply(params: Any, x: Any) -> Any:
        return jnp.tanh(x @ params["kernel"] + params["bias"][None]) @ params["out"]

    return init, apply


def labelled(rng: np.random.Generator, logits: Any, n: int, annotators: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs on which all annotators agree, and what they agree on."""
    inputs, labels, count = [], [], 0
    while count < n:
        x = rng.normal(size=(4 * n, 2)).astype(np.float32)
        noise = rng.gumbel(size=(annotators, *logits(x).shape))
        votes = np.argmax(logits(x)[None] + noise, axis=-1)
        agreed = np.all(votes == votes[0], axis=0)
        inputs.append(x[agreed])
        labels.append(votes[0][agreed])
        count += int(agreed.sum())
    return np.concatenate(inputs)[:n], np.concatenate(labels)[:n].astype(np.int32)


def run(config: Config) -> Record:
    """Every temperature on every teacher, with and without curation."""
    init, apply = network(config.hidden, config.classes)
    model = jm.supervised((init, apply), jm.Categorical(), jm.Prior(dist.Normal(0.0, SCALE)))
    scores: dict[tuple[int, float], list[float]] = {}
    warmth: dict[tuple[int, float], list[float]] = {}
    for teacher in range(config.teachers):
        key = jax.random.fold_in(jax.random.key(config.seed), teacher)
        weights = init(key)
        for annotators in config.annotators:
            rng = np.random.default_rng([config.seed, teacher, annotators])
            logits = lambda x, w=weights: np.asarray(apply(w, x), np.float64)
            train, test = (labelled(rng, logits, n, annotators) for n in (config.examples, config.tested))
            for temperature in config.temperatures:
                options = {"draws": config.draws, "thin": config.thin, "warmup": config.warmup}
                method = jm.SGHMC(start=jm.Given(weights), temperature=temperature, **options)
                found = jm.fit(key, model, train, method)
                cell = annotators, temperature
                score = jm.score(jm.predict(key, model, found, test[0]), test[1])
                scores.setdefault(cell, []).append(score["lppd"])
                warmth.setdefault(cell, []).append(found.info.diagnostics["kinetic_temperature"])
    rows = [row_of(cell, scores, warmth) for cell in scores]
    rows = [row for annotators in config.annotators for row in rows if row["annotators"] == annotators]
    notes = (
        f"Means over {config.teachers} teachers; difference from T = 1 paired, with its standard error.",
        "warmth: squared momenta over T, one for a sampler that is right about its temperature.",
    )
    return Record("Test lppd of draws of exp(f / T)", config, rows, lambda: draw(rows, config), notes)


def row_of(cell: tuple[int, float], scores: dict[Any, list[float]], warmth: dict[Any, list[float]]) -> dict[str, Any]:
    """One temperature under one kind of labels."""
    annotators, temperature = cell
    away = np.array(scores[cell]) - np.array(scores.get((annotators, 1.0), scores[cell]))
    error = float(np.std(away, ddof=1) / np.sqrt(len(away))) if len(away) > 1 else float("nan")
    return {
        "annotators": annotators,
        "T": temperature,
        "lppd": float(np.mean(scores[cell])),
        "from T = 1": float(np.mean(away)),
        "se": error,
        "warmth": float(np.mean(warmth[cell])),
    }


def draw(rows: list[dict[str, Any]], config: Config) -> Any:
    """The difference from T = 1 over T."""
    figure, (axis,) = panels("Is cold better?", height=3.8)
    for i, annotators in enumerate(config.annotators):
        chosen = [row for row in rows if row["annotators"] == annotators]
        label = "one annotator" if annotators == 1 else f"kept where {annotators} annotators agree"
        values = [[row[name] for row in chosen] for name in ("T", "from T = 1", "se")]
        axis.errorbar(*values, fmt="o-", capsize=3, color=color(i), label=label)
    axis.axhline(0.0, color="#999999", lw=1.0, zorder=0)
    axis.set(xscale="log", xlabel="temperature", ylabel="test lppd less that of T = 1, nats")
    axis.legend(fontsize=8, frameon=False)
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
