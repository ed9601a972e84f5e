"""What do the structures of a Laplace approximation cost, and what do they bring?

A tanh network for scikit-learn's digits, N(0, tau^2) on every weight, at its MAP estimate. The curvature is the
Gauss-Newton matrix in every row,

    H = sum_n J_n' L_n J_n + I / tau^2,     J_n the Jacobian of the 10 logits, L_n = diag(p) - p p',

and predictions are those of the linearised network, logits ~ N(f(x), J H^-1 J'). Only what is kept of H differs: all of
it, its diagonal, a Kronecker product per layer, its leading eigenvectors, or the block of the last layer.

    python -m experiments.laplace_structures
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist

import jaxmap as jm
from experiments.record import Record, color, command, panels
from jaxmap.infer.ladder import FULL_UP_TO
from jaxmap.model.tabular import Perceptron


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    widths: tuple[int, ...] = (30,)  # of the hidden layers
    prior_scale: float = 1.0  # tau
    rank: int = 256  # of the low-rank structure
    train: int = 1297
    seed: int = 0


TINY = {"widths": (8,), "rank": 20, "train": 300}
"""What the tests run."""

STRUCTURES = ("full", "diagonal", "kronecker", "low_rank", "last_layer")


def digits(train: int) -> tuple[Any, Any]:
    """Training and test images, in the order of the reference of another package (`data/README.md`)."""
    data = jm.load_dataset("digits")
    order = np.random.RandomState(0).permutation(len(data.y))
    x, y = (data.x / 16)[order], data.y[order]
    return (x[:train], y[:train]), (x[-500:], y[-500:])


def make_model(widths: tuple[int, ...], prior_scale: float) -> jm.Model:
    """A classifier of 64 pixels."""
    sizes = (64, *widths, 10)
    return jm.supervised(
        lambda rngs: Perceptron(sizes, rngs), jm.Categorical(), jm.Prior(dist.Normal(0.0, prior_scale))
    )


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Call it twice, the first time to compile, and time the second call."""
    function()
    begun = time.perf_counter()
    return function(), time.perf_counter() - begun


def stored(posterior: Any) -> int:
    """Bytes of the arrays that a precision is saved as."""
    arrays: dict[str, np.ndarray] = {}
    if isinstance(posterior, jm.GaussianPosterior):
        posterior.precision.packed(arrays, "precision")
    return sum(array.nbytes for array in arrays.values())


def run(config: Config) -> Record:
    """One point, and around it every structure that fits."""
    train, (x, y) = digits(config.train)
    model, key = make_model(config.widths, config.prior_scale), jax.random.key(config.seed)
    point, seconds = timed(lambda: jm.fit(key, model, train, jm.MAP(jm.NewtonCG())))
    fits = {"MAP": (point, seconds)}
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(point.mode))
    for name in STRUCTURES:
        if name != "full" or size <= FULL_UP_TO:
            method = jm.Laplace(point, curvature=name, rank=config.rank, grade=0)
            fits[name] = timed(lambda method=method: jm.fit(key, model, train, method))
    rows = []
    for name, (fit, seconds) in fits.items():
        predictive, waited = timed(lambda fit=fit: jm.predict(key, model, fit, x))
        scores = jm.score(predictive, y)
        kept = {score: scores[score] for score in ("lppd", "accuracy", "ece", "brier")}
        cost = {"KiB": stored(fit) / 1024, "fit, s": seconds, "predict, s": waited}
        rows.append({"curvature": name, **kept, "top probability": float(np.mean(predictive.probs.max(1))), **cost})
    notes = (
        f"{size} parameters, {config.train} training and {len(y)} test images; mode {point.info.status.name}.",
        "lppd is minus the NLL; KiB: of the precision; seconds after compilation, those of Laplace without its mode.",
    )
    title = f"One digits network, prior N(0, {config.prior_scale:g}^2), and what is kept of its curvature"
    return Record(title, config, rows, lambda: draw(rows), notes)


def draw(rows: list[dict[str, Any]]) -> Any:
    figure, axes = panels("Better than the point estimate?", "Calibrated?", "How long?", height=3.8)
    point, *laplace = rows
    for axis, score in zip(axes[:2], ("lppd", "ece"), strict=True):
        axis.axhline(point[score], color="#444444", lw=1.0, ls="--", label="MAP")
        for i, row in enumerate(laplace):
            axis.semilogx(row["KiB"], row[score], "o", ms=7, color=color(i), label=row["curvature"])
        axis.set(xlabel="memory of the precision, KiB", ylabel={"lppd": "test lppd, nats", "ece": "test ECE"}[score])
    axes[0].legend(fontsize=8, frameon=False)
    names = [row["curvature"] for row in rows]
    for i, (part, shift) in enumerate((("fit, s", -0.2), ("predict, s", 0.2))):
        axes[2].bar(np.arange(len(rows)) + shift, [row[part] for row in rows], 0.38, color=color(i), label=part[:-3])
    axes[2].set(yscale="log", ylabel="seconds, compiled", xlabel="curvature")
    axes[2].set_xticks(np.arange(len(rows)), names, rotation=20, fontsize=8)
    axes[2].legend(fontsize=8, frameon=False)
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
