"""How much too small is the maximum-likelihood estimate of a variance, and what does a prior do to it?

Data sets of n standard normal numbers, mean and variance unknown. The MLE of the variance is S / n, S the sum of
squares around the sample mean, and E[S] = n - 1:

    E[MLE] = (n - 1) / n,          mean squared error (2 n - 1) / n^2.

The prior InverseGamma(1, 2) on the variance (its mode is 1, the truth) acts like four more observations:

    E[MAP] = (n + 3) / (n + 4),    mean squared error (2 n - 1) / (n + 4)^2.

The expectations are means over simulated data sets (scrambled Sobol points, which average faster than random ones).

    python -m experiments.mle_variance_bias          # 5120 data sets, half a minute
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy.stats import qmc

import jaxmap as jm
from experiments.record import Record, command, panels


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    sizes: tuple[int, ...] = (2, 5, 10, 30, 100)
    sets: int = 1024  # data sets of each size, a power of two
    at_once: int = 4  # of each size in one fit
    seed: int = 0


TINY = {"sets": 16}
"""What the tests run."""


def data_sets(sizes: tuple[int, ...], sets: int, at_once: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield standard normal data sets as columns, `at_once` of each size, and 1 where a number belongs to them."""
    seen = (np.arange(max(sizes))[:, None] < np.repeat(sizes, at_once)[None]).astype(float)
    points = qmc.MultivariateNormalQMC(np.zeros(max(sizes)), rng=np.random.default_rng(seed)).random(sets)
    for block in points.reshape(sets // at_once, at_once, -1):
        yield np.tile(block.T, len(sizes)), seen


def make_model(columns: int) -> jm.Model:
    """Independent data sets, one per column, in one model: a mean and a variance each."""

    def log_likelihood(params: Any, batch: Any) -> Any:
        y, seen = batch
        normal = dist.Normal(params["mean"][None], jnp.sqrt(params["variance"])[None], validate_args=False)
        return jnp.sum(seen * normal.log_prob(y), axis=1)

    prior = jm.Prior({"mean": jm.flat, "variance": dist.InverseGamma(1.0, 2.0)})
    start = {"mean": np.zeros(columns), "variance": np.ones(columns)}
    return jm.Model(log_likelihood=log_likelihood, log_prior=prior, init=start)


def run(config: Config) -> Record:
    """Fit every data set, and average."""
    key, model = jax.random.key(config.seed), make_model(len(config.sizes) * config.at_once)
    found: dict[str, list[np.ndarray]] = {"MLE": [], "MAP": [], "S / n": []}
    for y, seen in data_sets(config.sizes, config.sets, config.at_once, config.seed):
        for method in (jm.MLE(), jm.MAP()):
            fit = jm.fit(key, model, (y, seen), method, precision="float64")
            found[type(method).__name__].append(fit.mode["variance"])
        n = seen.sum(0)
        found["S / n"].append(np.sum(seen * (y - (seen * y).sum(0) / n) ** 2, axis=0) / n)
    shape = (-1, len(config.sizes), config.at_once)
    mle, at_map, expected = (np.moveaxis(np.reshape(v, shape), 1, 0).reshape(shape[1], -1) for v in found.values())
    rows = [
        {"n": n, "MLE": mle[i].mean(), "MLE, exact": (n - 1) / n}
        | {"MAP": at_map[i].mean(), "MAP, exact": (n + 3) / (n + 4)}
        | {"MSE of MLE": np.mean((mle[i] - 1) ** 2), "MSE of MLE, exact": (2 * n - 1) / n**2}
        | {"MSE of MAP": np.mean((at_map[i] - 1) ** 2), "MSE of MAP, exact": (2 * n - 1) / (n + 4) ** 2}
        for i, n in enumerate(config.sizes)
    ]
    worst = np.max(np.abs(mle / expected - 1))
    note = f"{mle.size} data sets; the MLE of each is its own S / n, to a relative {worst:.1g}."
    return Record("The variance of n numbers, true value 1", config, rows, lambda: draw(rows), (note,))


def draw(rows: list[dict[str, Any]]) -> Any:
    figure, axes = panels("Estimated variance, mean over data sets", "Mean squared error of the estimate")
    n = np.array([row["n"] for row in rows])
    for axis, prefix in zip(axes, ("", "MSE of "), strict=True):
        for name, marker in (("MLE", "o"), ("MAP", "s")):
            label = name if name == "MLE" else "MAP, InverseGamma(1, 2) prior"
            (line,) = axis.plot(n, [row[f"{prefix}{name}"] for row in rows], marker, label=label)
            axis.plot(n, [row[f"{prefix}{name}, exact"] for row in rows], color=line.get_color(), lw=0.9)
        axis.set(xscale="log", xlabel="n, numbers in a data set", xticks=n, xticklabels=n)
        axis.minorticks_off()
    axes[0].axhline(1, color="#999999", lw=0.8, ls="--", label="truth")
    axes[0].set(ylabel="variance", ylim=(0.4, 1.05))
    axes[1].set(ylabel="mean squared error", yscale="log")
    axes[1].set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 1.0], labels=["0.02", "0.05", "0.1", "0.2", "0.5", "1"])
    axes[1].minorticks_off()
    axes[0].plot([], [], color="#444444", lw=0.9, label="closed form")
    axes[0].legend(fontsize=8, frameon=False, loc="lower right")
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
