"""Is the full posterior sparse, where the MAP estimate with the same prior is?

One number z ~ N(b, 1) per coefficient, prior Laplace: the loss term strength |b| of the lasso. The MAP estimate is the
soft threshold

    MAP = sign(z) max(|z| - strength, 0),     (2.6, 0.6, 0.1, 0, 0) for z = (3, 1, 0.5, 0.2, -0.1), strength 0.4,

with exact zeros. The posterior has a density, so that no draw is zero; nor is its mean, (2.60, 0.759, 0.370, 0.147,
-0.073), here by NUTS and, as its closed form, by quadrature in one dimension. Sparsity is a property of the mode.

    python -m experiments.full_bayes_is_never_sparse
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist

import jaxmap as jm
from experiments.record import Record, color, command, panels

GRID = np.linspace(-12.0, 12.0, 240_001)


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    z: tuple[float, ...] = (3.0, 1.0, 0.5, 0.2, -0.1)
    strength: float = 0.4
    warmup: int = 500
    draws: int = 50_000  # of each of four chains
    seed: int = 0


TINY = {"warmup": 200, "draws": 500}
"""What the tests run."""


def density(z: float, strength: float) -> np.ndarray:
    """The normalised posterior density on the grid."""
    heights = np.exp(-0.5 * (GRID - z) ** 2 - strength * np.abs(GRID))
    return heights / np.trapezoid(heights, GRID)


def run(config: Config) -> Record:
    """The mode and the draws of the same model."""
    z, strength = np.array(config.z), config.strength
    model = jm.Model(
        log_likelihood=lambda b, z: dist.Normal(b, 1.0, validate_args=False).log_prob(z),
        log_prior=jm.l1(strength),
        init=np.zeros(len(z)),
    )
    key = jax.random.key(config.seed)
    mode = np.asarray(jm.fit(key, model, z, jm.MAP(), precision="float64").mode)
    fit = jm.fit(key, model, z, jm.NUTS(warmup=config.warmup, draws=config.draws), precision="float64")
    draws = np.asarray(fit.pooled())
    soft = np.sign(z) * np.maximum(np.abs(z) - strength, 0.0) + 0.0  # no -0
    rows = [
        {"z": float(z[i]), "MAP": float(mode[i]), "MAP, exact": float(soft[i])}
        | {"mean": float(draws[:, i].mean())}
        | {"mean, exact": float(np.trapezoid(GRID * density(z[i], strength), GRID))}
        | {"deviation": float(draws[:, i].std()), "draws at zero": int(np.sum(draws[:, i] == 0))}
        for i in range(len(z))
    ]
    note = f"{len(draws)} draws by NUTS, {fit.info.status.name}, effective size {fit.info.diagnostics['ess_min']:.0f}."
    title = f"Coefficients under a Laplace prior, strength {strength:g}"
    return Record(title, config, rows, lambda: draw(config, rows, draws), (note,))


def draw(config: Config, rows: list[dict[str, Any]], draws: np.ndarray) -> Any:
    figure, (left, right) = panels("Shrinkage by the mode and by the mean", "")
    grid, strength = np.linspace(-3.5, 3.5, 141), config.strength
    left.plot(grid, grid, color="#999999", lw=0.8, ls="--", label="no shrinkage (MLE)")
    means = [np.trapezoid(GRID * density(z, strength), GRID) for z in grid]
    soft = np.sign(grid) * np.maximum(np.abs(grid) - strength, 0.0)
    for i, (name, law) in enumerate({"MAP": soft, "mean": means}.items()):
        left.plot(grid, law, color=color(i), lw=1.0)
        label = "MAP" if name == "MAP" else "posterior mean (NUTS)"
        left.plot([row["z"] for row in rows], [row[name] for row in rows], "so"[i], color=color(i), ms=5, label=label)
    left.set(xlabel="z, the observed number", ylabel="estimate of the coefficient")
    left.legend(fontsize=8, frameon=False, title="lines: closed form and quadrature", title_fontsize=8)
    index = int(np.argmin([abs(row["MAP"]) + (row["z"] < 0) for row in rows]))  # a positive z whose mode is zero
    row = rows[index]
    right.hist(draws[:, index], bins=80, density=True, color="#bbbbbb", label="draws by NUTS")
    right.plot(GRID, density(row["z"], strength), color="#444444", lw=1.2, label="posterior density")
    right.axvline(row["MAP"], color=color(0), lw=1.4, label=f"MAP: {row['MAP']:.3g}")
    right.axvline(row["mean"], color=color(1), lw=1.4, ls="--", label=f"mean: {row['mean']:.3f}")
    right.set(xlabel="coefficient", ylabel="density", xlim=(-4, 4))
    right.set_title(f"The posterior of one coefficient, z = {row['z']:g}", fontsize=10)
    right.legend(fontsize=8, frameon=False)
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
