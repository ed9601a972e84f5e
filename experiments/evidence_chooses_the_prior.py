"""Does the evidence choose the same prior as held-out data?

A linear model of log house prices (Ames, 314 columns, noise scale learned) and a small tanh network for the strength
of concrete, both with N(0, tau^2) on every weight, in standardised units. For each tau the best mode of several
starts is found, and around it a Gaussian N(mode, H^-1), H the Gauss-Newton form of the Hessian. Its

    log evidence = log p(y, mode) + P/2 log(2 pi) - 1/2 log det H

needs the training data alone. It is compared with the lppd of examples that were held out, under the same Gaussian.

    python -m experiments.evidence_chooses_the_prior
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist

import jaxmap as jm
from experiments.record import Record, color, command, panels
from jaxmap.model.tabular import Perceptron


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    datasets: tuple[str, ...] = ("ames", "concrete")
    hidden: tuple[int, ...] = (0, 20)  # tanh units, one number per data set; 0 is a linear model
    columns: int = 400  # at most
    scales: tuple[float, ...] = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0)  # tau
    restarts: int = 4  # of a network
    train: int = 500
    held_out: int = 500
    seed: int = 0


TINY = {"datasets": ("concrete",), "hidden": (0,), "scales": (0.003, 0.3, 300.0), "train": 60, "held_out": 200}
"""What the tests run."""


def table(name: str, config: Config) -> tuple[Any, Any]:
    """Training and held-out examples; house prices as logarithms."""
    data = jm.load_dataset(name)
    y = np.log(data.y) if name == "ames" else data.y
    order = np.random.default_rng(config.seed).permutation(len(y))[: config.train + config.held_out]
    x = data.x[order]
    seen = np.flatnonzero(np.ptp(x[: config.train], axis=0) > 0)[: config.columns]
    x, y = x[:, seen], y[order]
    return (x[: config.train], y[: config.train]), (x[config.train :], y[config.train :])


def curves(name: str, hidden: int, config: Config) -> list[dict[str, Any]]:
    """Evidence and held-out lppd for every prior scale."""
    train, held_out = table(name, config)
    sizes = (train[0].shape[1], *([hidden] if hidden else []), 1)
    scaling, noise = jm.standardize(train), jm.Gaussian(scale=jm.Learned(dist.HalfNormal(1.0)))

    key = jax.random.key(config.seed)
    climb = jm.MAP(space="unconstrained", restarts=config.restarts if hidden else 1)
    rows = []
    for scale in config.scales:
        prior = jm.Prior(dist.Normal(0.0, scale))
        model = jm.supervised(lambda rngs: Perceptron(sizes, rngs), noise, prior, scaling=scaling)
        point = jm.fit(key, model, train, climb, precision="float64")
        fit = jm.fit(key, model, train, jm.Laplace(point, grade=0), precision="float64")
        lppd = {
            score: float(np.mean(jm.predict(key, model, posterior, held_out[0]).log_prob(held_out[1])))
            for score, posterior in (("held-out lppd", fit), ("of the MAP", point))
        }
        status = {"status": point.info.status.name}
        rows.append({"data": name, "prior scale": scale, "log evidence": fit.log_evidence, **lppd, **status})
    return rows


def run(config: Config) -> Record:
    """Both curves for every data set, and what each would choose."""
    rows = []
    notes = []
    for name, hidden in zip(config.datasets, config.hidden, strict=True):
        found = curves(name, hidden, config)
        by = {score: max(found, key=lambda row: row[score]) for score in ("log evidence", "held-out lppd")}
        best, chosen = by["held-out lppd"], by["log evidence"]
        lost = best["held-out lppd"] - chosen["held-out lppd"]
        notes.append(
            f"{name}: the evidence chooses {chosen['prior scale']:g}, held-out data {best['prior scale']:g}; "
            f"the evidence's choice costs {lost:.4f} nats per example."
        )
        rows += found
    title = f"The scale of a prior, {config.train} training and {config.held_out} held-out examples"
    return Record(title, config, rows, lambda: draw(config, rows), tuple(notes))


def draw(config: Config, rows: list[dict[str, Any]]) -> Any:
    titles = [
        f"{name}: {f'tanh network, {hidden} units' if hidden else 'linear model'}"
        for name, hidden in zip(config.datasets, config.hidden, strict=True)
    ]
    figure, axes = panels(*titles, height=3.8)
    for name, axis in zip(config.datasets, axes, strict=True):
        own = [row for row in rows if row["data"] == name]
        scales = [row["prior scale"] for row in own]
        other = axis.twinx()
        other.set(xlabel="prior scale tau")
        other.spines[["top"]].set_visible(False)
        for side, score, index in ((axis, "log evidence", 0), (other, "held-out lppd", 1)):
            values = np.array([row[score] for row in own])
            side.plot(scales, values, "o-", ms=4, lw=1.2, color=color(index), label=score)
            side.axvline(scales[int(np.argmax(values))], color=color(index), lw=0.9, ls=":")
            side.set_ylabel(f"{score}, nats{' per example' if index else ''}", color=color(index))
            low, high = np.percentile(values, 30), values.max()
            side.set_ylim(low - 0.2 * (high - low), high + 0.1 * (high - low))
        of_map = [row["of the MAP"] for row in own]
        other.plot(scales, of_map, "--", lw=1.0, color=color(1), label="of the MAP alone")
        axis.set(xscale="log", xlabel="prior scale tau")
        lines = [*axis.get_lines()[:1], *other.get_lines()[::2]]
        other.legend(lines, [line.get_label() for line in lines], fontsize=8, frameon=False)
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
