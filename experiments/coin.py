"""What do MLE, MAP and a change of coordinates say about a coin?

k heads in n throws with a Beta(a, b) prior on the probability p of heads:

    MLE                           k / n                          (0 after no heads: on the edge of the support)
    MAP                           (k + a - 1) / (n + a + b - 2)  (the MLE under the uniform prior, a = b = 1)
    MAP of the log-odds of p      (k + a) / (n + a + b)          (the posterior mean of p)

The density of p and that of its log-odds differ by the Jacobian p (1 - p), so that "the uniform prior changes nothing"
holds in the coordinates in which it is uniform, and only there.

    python -m experiments.coin
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist

import jaxmap as jm
from experiments.record import Record, color, command, panels


@dataclass(frozen=True)
class Config:
    """What to run: coin i shows heads[i] in throws[i] under the prior Beta(a[i], b[i]); the first prior is uniform."""

    heads: tuple[int, ...] = (1, 2, 3, 7, 70, 7, 7, 70)
    throws: tuple[int, ...] = (3, 3, 10, 10, 100, 10, 10, 100)
    a: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 10.0, 10.0)
    b: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 10.0, 10.0)


TINY = {"heads": (1, 7, 7), "throws": (3, 10, 10), "a": (1.0, 1.0, 10.0), "b": (1.0, 1.0, 4.0)}
"""What the tests run."""

METHODS = {"MLE": jm.MLE(), "MAP": jm.MAP(), "MAP of log-odds": jm.MAP(space="unconstrained")}


def make_model(a: np.ndarray, b: np.ndarray) -> jm.Model:
    """One coin per example, each with its own probability and prior."""

    def log_likelihood(p: Any, batch: Any) -> Any:
        heads, throws = batch
        return dist.Binomial(throws, p, validate_args=False).log_prob(heads)

    return jm.Model(log_likelihood=log_likelihood, log_prior=jm.Prior(dist.Beta(a, b)), init=np.full(len(a), 0.5))


def closed_forms(k: np.ndarray, n: np.ndarray, a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """The three modes, by name of the method."""
    return {"MLE": k / n, "MAP": (k + a - 1) / (n + a + b - 2), "MAP of log-odds": (k + a) / (n + a + b)}


def run(config: Config) -> Record:
    """Fit all coins at once; then the same coins after 0 heads in 3 throws, of which the first is shown."""
    k, n, a, b = (np.array(v, float) for v in (config.heads, config.throws, config.a, config.b))
    model, rows = make_model(a, b), []
    for heads, throws, shown in ((k, n, len(k)), (0 * k, 0 * n + 3, 1)):
        fits = {
            name: jm.fit(jax.random.key(0), model, (heads, throws), method, precision="float64")
            for name, method in METHODS.items()
        }
        exact = closed_forms(heads, throws, a, b)
        for i in range(shown):
            row = {"coin": f"{heads[i]:g} of {throws[i]:g}", "prior": f"Beta({a[i]:g}, {b[i]:g})"}
            for name, fit in fits.items():
                row |= {name: float(fit.mode[i]), f"{name}, exact": float(exact[name][i])}
            rows.append(row | {"status of the MLE": fits["MLE"].info.status.name})
    return Record("The probability of heads", config, rows, lambda: draw(rows))


def draw(rows: list[dict[str, Any]]) -> Any:
    figure, (axis,) = panels("Most probable p: the closed form (bars) and jaxmap (dots)")
    place = np.arange(len(rows))
    for j, name in enumerate(METHODS):
        at = place + 0.26 * (j - 1)
        axis.bar(at, [row[f"{name}, exact"] for row in rows], 0.24, alpha=0.45, color=color(j), label=name)
        axis.plot(at, [row[name] for row in rows], "o", ms=4, color=color(j))
    axis.set(xticks=place, ylabel="probability of heads", ylim=(0, 1), xlabel="what it showed, and the prior")
    axis.set_xticklabels([f"{row['coin']}\n{row['prior']}" for row in rows], fontsize=7)
    axis.legend(fontsize=8, frameon=False, loc="upper left", ncols=3)
    figure.set_size_inches(1.0 * len(rows) + 1, 3.6)
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
