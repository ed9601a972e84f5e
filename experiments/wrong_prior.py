"""What does a confident, wrong prior cost?

n numbers y ~ N(t, 1), the truth is t = 0, the prior N(5, 0.25) (deviation 0.5) is sure of something else. The MLE is
the mean of y. The MAP estimate shrinks it towards 5 as if the prior were four more observations of 5:

    E[(MLE - t)^2] = 1 / n
    E[(MAP - t)^2] = (20^2 + n) / (n + 4)^2     16.04, 2.09, 0.046 at n = 1, 10, 100

The same with a good prior, N(0, 0.25), would be n / (n + 4)^2, better than the MLE for every n.

    python -m experiments.wrong_prior
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import jaxmap as jm
from experiments.mle_variance_bias import data_sets
from experiments.record import Record, command, panels


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    sizes: tuple[int, ...] = (1, 3, 10, 30, 100)
    sets: int = 1024  # data sets of each size, a power of two
    at_once: int = 8  # of each size in one fit
    center: float = 5.0
    scale: float = 0.5
    seed: int = 0


TINY = {"sizes": (1, 10, 100), "sets": 64}
"""What the tests run."""


def make_model(columns: int, center: float, scale: float) -> jm.Model:
    """Independent data sets, one per column, each with a mean of its own."""

    def log_likelihood(mean: Any, batch: Any) -> Any:
        y, seen = batch
        return jnp.sum(seen * dist.Normal(mean[None], 1.0, validate_args=False).log_prob(y), axis=1)

    return jm.Model(
        log_likelihood=log_likelihood, log_prior=jm.Prior(dist.Normal(center, scale)), init=np.zeros(columns)
    )


def run(config: Config) -> Record:
    """Fit every data set, and average."""
    model = make_model(len(config.sizes) * config.at_once, config.center, config.scale)
    found: dict[str, list[np.ndarray]] = {"MLE": [], "MAP": []}
    for y, seen in data_sets(config.sizes, config.sets, config.at_once, config.seed):
        for method in (jm.MLE(), jm.MAP()):
            fit = jm.fit(jax.random.key(config.seed), model, (y, seen), method, precision="float64")
            found[type(method).__name__].append(np.reshape(fit.mode, (len(config.sizes), -1)))
    mle, at_map = (np.concatenate(parts, axis=1) for parts in found.values())
    extra = config.scale**-2
    rows = [
        {"n": n, "MSE of MLE": float(np.mean(mle[i] ** 2)), "MSE of MLE, exact": 1 / n}
        | {"MSE of MAP": float(np.mean(at_map[i] ** 2))}
        | {"MSE of MAP, exact": ((extra * config.center) ** 2 + n) / (n + extra) ** 2}
        for i, n in enumerate(config.sizes)
    ]
    n, weight = np.array(config.sizes)[:, None], f"{extra:g}"
    worst = np.max(np.abs(at_map - (n * mle + extra * config.center) / (n + extra)))
    note = f"{mle.size} data sets; the MAP is (n MLE + {weight} x {config.center:g}) / (n + {weight}) to {worst:.1g}."
    return Record("Mean squared error of a mean, truth 0", config, rows, lambda: draw(config, rows), (note,))


def draw(config: Config, rows: list[dict[str, Any]]) -> Any:
    title = f"Truth 0, prior N({config.center:g}, {config.scale**2:g})"
    figure, (axis,) = panels(title, height=4.0)
    grid = np.geomspace(min(config.sizes), max(config.sizes), 100)
    extra = config.scale**-2
    laws = {"MLE": 1 / grid, "MAP": ((extra * config.center) ** 2 + grid) / (grid + extra) ** 2}
    n = [row["n"] for row in rows]
    for (name, law), marker in zip(laws.items(), "os", strict=True):
        (line,) = axis.loglog(n, [row[f"MSE of {name}"] for row in rows], marker, ms=6, label=name)
        axis.loglog(grid, law, color=line.get_color(), lw=0.9)
    good = grid / (grid + extra) ** 2
    axis.loglog(
        grid, good, ls="--", lw=0.9, color="#228833", label=f"MAP, had the prior been N(0, {config.scale**2:g})"
    )
    axis.plot([], [], color="#444444", lw=0.9, label="closed form")
    axis.set(xlabel="n, numbers in a data set", ylabel="mean squared error", xticks=n)
    axis.set_xticklabels(n)
    axis.minorticks_off()
    axis.legend(fontsize=8, frameon=False, loc="lower left")
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
