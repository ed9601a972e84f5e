"""Does the estimate depend on whether the variance is called a variance, a deviation, a logarithm or a precision?

Four numbers y ~ N(0, v) with sum of squares 3 and the prior v ~ InverseGamma(1, 1/2), so that the posterior is
InverseGamma(a = 3, b = 2). Its density picks up a Jacobian in other coordinates, and the mode moves. Expressed as a
variance:

    mode of v                b / (a + 1)      0.500
    mode of sqrt(v)          2 b / (2 a + 1)  0.571
    mode of log(v)           b / a            0.667
    mode of 1 / v            b / (a - 1)      1.000
    MLE in all of them       S / n            0.750     (a likelihood has no Jacobian)

    python -m experiments.parametrisation
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions.transforms import ExpTransform, PowerTransform
from scipy.stats import invgamma

import jaxmap as jm
from experiments.record import Record, color, command, panels


@dataclass(frozen=True)
class Config:
    """What to run: the data and the InverseGamma prior of their variance."""

    y: tuple[float, ...] = (-1.5, 0.5, 0.5, -0.5)
    prior_a: float = 1.0
    prior_b: float = 0.5


TINY: dict[str, Any] = {}
"""What the tests run."""

TO_VARIANCE = {
    "variance": lambda v: v,
    "deviation": lambda s: s**2,
    "log variance": lambda u: np.e**u,
    "precision": lambda w: 1.0 / w,
}
FROM_VARIANCE = {"variance": lambda v: v, "deviation": np.sqrt, "log variance": np.log, "precision": lambda v: 1.0 / v}
SLOPE = {"variance": lambda v: 1 + 0 * v, "deviation": lambda v: 2 * np.sqrt(v), "log variance": lambda v: v,
         "precision": lambda v: v**2}  # fmt: skip
"""|dv / d coordinate| at the variance v."""


def make_model(a: float, b: float) -> jm.Model:
    """The same data four times, explained by four coordinates of their own, each with the prior moved there."""
    prior = dist.InverseGamma(a, b)

    def log_likelihood(params: Any, y: Any) -> Any:
        variances = [to(params[name]) for name, to in TO_VARIANCE.items()]
        return sum(dist.Normal(0.0, jnp.sqrt(v), validate_args=False).log_prob(y) for v in variances)

    priors = {
        "variance": prior,
        "deviation": dist.TransformedDistribution(prior, PowerTransform(0.5)),
        "log variance": dist.TransformedDistribution(prior, ExpTransform().inv),
        "precision": dist.Gamma(a, b),
    }
    start = {name: np.array(0.0 if name == "log variance" else 1.0) for name in TO_VARIANCE}
    return jm.Model(log_likelihood=log_likelihood, log_prior=jm.Prior(priors), init=start)


def run(config: Config) -> Record:
    """Fit the four coordinates at once."""
    y = np.array(config.y)
    n, a, b = len(y), config.prior_a + len(y) / 2, config.prior_b + float(y @ y) / 2
    modes = {"variance": b / (a + 1), "deviation": 2 * b / (2 * a + 1), "log variance": b / a, "precision": b / (a - 1)}
    model = make_model(config.prior_a, config.prior_b)
    at_map, mle = (jm.fit(jax.random.key(0), model, y, m, precision="float64").mode for m in (jm.MAP(), jm.MLE()))
    rows = [
        {"coordinate": name, "mode there": float(at_map[name])}
        | {"MAP variance": float(to(at_map[name])), "MAP variance, exact": float(modes[name])}
        | {"MLE variance": float(to(mle[name])), "MLE variance, exact": float(y @ y / n)}
        for name, to in TO_VARIANCE.items()
    ]
    title = f"One posterior, InverseGamma({a:g}, {b:g}), in four coordinates"
    return Record(title, config, rows, lambda: draw(rows, a, b))


def draw(rows: list[dict[str, Any]], a: float, b: float) -> Any:
    names = list(TO_VARIANCE)
    figure, axes = panels(*(f"density of the {name}" for name in names), height=3.2)
    figure.set_size_inches(13, 3.3)
    v = np.geomspace(0.05, 30, 600)
    for j, (axis, name, row) in enumerate(zip(axes, names, rows, strict=True)):
        density = invgamma.pdf(v, a, scale=b) * SLOPE[name](v)
        axis.fill_between(FROM_VARIANCE[name](v), density, color=color(j), alpha=0.25, lw=0)
        mode, mle = row["mode there"], FROM_VARIANCE[name](row["MLE variance"])
        axis.axvline(mode, ymax=0.72, color=color(j), lw=1.6, label=f"MAP: variance {row['MAP variance']:.3f}")
        axis.axvline(mle, ymax=0.72, color="#444444", lw=1.2, ls="--", label=f"MLE: variance {row['MLE variance']:.3f}")
        axis.set(xlabel=name, ylabel="posterior density" if j == 0 else None, ylim=(0, density.max() * 1.45))
        axis.legend(fontsize=8, frameon=False, loc="upper right")
    for axis, limits in zip(axes, ((0, 4), (0, 2.5), (-3, 3), (0, 8)), strict=True):
        axis.set_xlim(*limits)
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
