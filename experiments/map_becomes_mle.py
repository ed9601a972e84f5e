"""How fast does the prior stop mattering?

The log-odds t of a coin with 70 % heads in n throws, prior N(0, 1). With p = 0.7, to first order in 1 / n,

    |MAP - MLE|            = |MLE| / (n p (1 - p))       falls as 1 / n,
    posterior deviation    = 1 / sqrt(n p (1 - p))       falls as 1 / sqrt(n),

so that the distance between the two estimates vanishes even against the width of the posterior.

    python -m experiments.map_becomes_mle
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from scipy.optimize import brentq
from scipy.special import expit, logit

import jaxmap as jm
from experiments.record import Record, command, panels

HEADS = 0.7


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    sizes: tuple[int, ...] = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
    slopes_from: int = 300  # the smallest n of the two fitted lines


TINY = {"sizes": (10, 1000, 30_000, 100_000)}
"""What the tests run."""


def log_likelihood(log_odds: Any, batch: Any) -> Any:
    """One coin per example, each with its own log-odds."""
    heads, throws = batch
    return dist.Binomial(throws, logits=log_odds, validate_args=False).log_prob(heads)


def exact_mode(n: float) -> float:
    """The root of the derivative of the log posterior, n (0.7 - p(t)) - t."""
    root: Any = brentq(lambda t: n * (HEADS - expit(t)) - t, 0.0, 1.0, xtol=1e-15)
    return float(root)


def run(config: Config) -> Record:
    """One coin for each n, all in one model; slopes by least squares on log-log axes."""
    n = np.array(config.sizes, float)
    model = jm.Model(log_likelihood=log_likelihood, log_prior=jm.Prior(dist.Normal(0.0, 1.0)), init=np.zeros(len(n)))
    mle, laplace = (
        jm.fit(jax.random.key(0), model, (HEADS * n, n), method, precision="float64")
        for method in (jm.MLE(), jm.Laplace())
    )
    gap, width = np.abs(laplace.mode - mle.mode), np.sqrt(laplace.covariance.diagonal())
    exact = np.array([exact_mode(size) for size in n])
    widths = (n * expit(exact) * expit(-exact) + 1.0) ** -0.5
    rows = [
        {"n": int(n[i]), "MLE": float(mle.mode[i]), "MLE, exact": float(logit(HEADS))}
        | {"MAP": float(laplace.mode[i]), "MAP, exact": float(exact[i]), "|MAP - MLE|": float(gap[i])}
        | {"deviation": float(width[i]), "deviation, exact": float(widths[i])}
        for i in range(len(n))
    ]
    used = n >= config.slopes_from
    slopes = [float(np.polyfit(np.log(n[used]), np.log(v[used]), 1)[0]) for v in (gap, width)]
    note = f"Slopes from n = {config.slopes_from}: |MAP - MLE| {slopes[0]:.4f} (-1), deviation {slopes[1]:.4f} (-1/2)."
    return Record("Log-odds of a coin, prior N(0, 1)", config, rows, lambda: draw(rows, slopes), (note,))


def draw(rows: list[dict[str, Any]], slopes: list[float]) -> Any:
    figure, (axis,) = panels("The prior is forgotten faster than the posterior narrows", height=4.0)
    n = np.array([row["n"] for row in rows], float)
    spread = HEADS * (1 - HEADS) * n
    lines = {"deviation": spread**-0.5, "|MAP - MLE|": logit(HEADS) / spread}
    for (name, law), slope, marker in zip(lines.items(), slopes[::-1], "os", strict=True):
        label = f"{'posterior ' if name == 'deviation' else ''}{name}, slope {slope:.3f}"
        (line,) = axis.loglog(n, [row[name] for row in rows], marker, ms=5, label=label)
        axis.loglog(n, law, color=line.get_color(), lw=0.9)
    axis.plot([], [], color="#444444", lw=0.9, label="first order in 1 / n")
    axis.set(xlabel="n, number of throws", ylabel="log-odds")
    axis.legend(fontsize=8, frameon=False)
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
