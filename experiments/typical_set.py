"""How far is the mode from where the probability is?

In d dimensions the mode of a standard Gaussian has the highest density and next to no probability around it: for a
draw t, half the squared radius is what its log density falls short of the mode's, so that

    E[log p(mode) - log p(t)] = d / 2,
    |t| follows the chi distribution: mean close to sqrt(d), deviation close to sqrt(1/2) = 0.71 for every large d.

The coordinates are given different scales and centres here, which changes neither statement (radii are measured in
posterior deviations). The draws are those of `jm.Laplace()`, exact for a Gaussian.

    python -m experiments.typical_set
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy.stats import chi, norm

import jaxmap as jm
from experiments.record import Record, color, command, panels


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    dimensions: tuple[int, ...] = (1, 3, 10, 30, 100, 300)
    draws: int = 20_000
    seed: int = 0


TINY = {"dimensions": (1, 10, 100), "draws": 2000}
"""What the tests run."""


def run(config: Config) -> Record:
    """Fit all dimensions in one model, draw, and measure density and radius."""
    normals = {f"d={d:04d}": (np.linspace(-1.0, 1.0, d), np.geomspace(0.5, 2.0, d)) for d in config.dimensions}

    def log_density(params: Any) -> Any:
        blocks = ((params[name], dist.Normal(*map(jnp.asarray, normal))) for name, normal in normals.items())
        return sum(jnp.sum(normal.log_prob(value)) for value, normal in blocks)

    start = {name: np.zeros_like(center) for name, (center, _) in normals.items()}
    key, model = jax.random.key(config.seed), jm.from_log_density(log_density, init=start)
    fit = jm.fit(key, model, None, jm.Laplace(), precision="float64")
    draws, rows, radii = fit.sample(key, config.draws), [], {}
    for d, (name, (center, scale)) in zip(config.dimensions, normals.items(), strict=True):
        mode, drawn = np.asarray(fit.mode[name]), np.asarray(draws[name])
        depth = norm.logpdf(mode, center, scale).sum() - norm.logpdf(drawn, center, scale).sum(1)
        radii[d] = np.linalg.norm((drawn - center) / scale, axis=1)
        rows.append(
            {"d": d, "log p(mode) - log p(draw)": float(depth.mean()), "log p(mode) - log p(draw), exact": d / 2}
            | {"radius": float(radii[d].mean()), "radius, exact": float(chi.stats(d)[0]), "sqrt(d)": float(d**0.5)}
            | {"deviation": float(radii[d].std()), "deviation, exact": float(chi.std(d))}
            | {"radius of the mode": float(np.linalg.norm((mode - center) / scale))}
        )
    return Record("Draws from a Gaussian in d dimensions", config, rows, lambda: draw(rows, radii))


def draw(rows: list[dict[str, Any]], radii: dict[int, np.ndarray]) -> Any:
    figure, (left, right) = panels("Where the draws are: radius by dimension", "How much the mode's density is higher")
    for j, (d, values) in enumerate(radii.items()):
        left.hist(values, bins=40, density=True, histtype="stepfilled", alpha=0.35, color=color(j))
        grid = np.linspace(max(0, d**0.5 - 3.2), d**0.5 + 3.2, 200)
        left.plot(grid, chi.pdf(grid, d), color=color(j), lw=1.2)
        top = {"xytext": (0, 2 + 10 * (j % 2)), "textcoords": "offset points", "ha": "center", "fontsize": 8}
        left.annotate(f"d = {d}", (d**0.5, chi.pdf(grid, d).max()), **top)
    left.plot(0, 0, "k^", ms=8, clip_on=False, label="the mode, in every d")
    left.set(xlabel="radius (posterior deviations)", ylabel="density of the radius", ylim=(0, 1.0), xlim=(0, None))
    left.legend(fontsize=8, frameon=False, loc="upper right")
    d = np.array([row["d"] for row in rows])
    right.loglog(d, d / 2, lw=0.9, color="#444444", label="closed form, d / 2")
    right.loglog(d, [row["log p(mode) - log p(draw)"] for row in rows], "o", ms=5, label="mean over the draws")
    right.set(xlabel="d, dimensions", ylabel="log p(mode) - log p(draw) (nats)")
    right.legend(fontsize=8, frameon=False)
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
