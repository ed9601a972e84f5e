"""Is ridge regression a MAP estimate?

Log house prices in Ames on standardised columns, noise N(0, sigma^2), coefficients N(0, tau^2), a flat intercept:

    -log posterior = |y - a - X b|^2 / (2 sigma^2) + |b|^2 / (2 tau^2) + constant,

which is scikit-learn's Ridge objective over 2 sigma^2 for alpha = sigma^2 / tau^2. Its minimiser is the MAP estimate.

    python -m experiments.ridge_is_a_gaussian_prior
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import jaxmap as jm
from experiments.record import Record, color, command, panels

COLUMNS = (
    *("Lot_Area", "Year_Built", "Year_Remod_Add", "Total_Bsmt_SF", "Gr_Liv_Area", "Full_Bath", "Half_Bath"),
    *("Bedroom_AbvGr", "Fireplaces", "Garage_Area", "Wood_Deck_SF", "Open_Porch_SF"),
)
"""Numeric columns that are not sums of each other."""


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    scales: tuple[float, ...] = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # tau, the prior's deviation
    noise: float = 0.4  # sigma


TINY = {"scales": (0.005, 0.1)}
"""What the tests run."""


def make_model(scales: np.ndarray, noise: float) -> jm.Model:
    """One linear regression per prior scale, side by side: a column of coefficients and an intercept each."""

    def observe(params: Any, x: Any) -> Any:
        mean = x @ params["coefficients"] + params["intercept"][None]
        return dist.Normal(mean, noise, validate_args=False).to_event(1)

    return jm.Model(
        observe=observe,
        log_prior=jm.Prior({"coefficients": dist.Normal(0.0, scales), "intercept": jm.flat}),
        init={"coefficients": jnp.zeros((len(COLUMNS), len(scales))), "intercept": jnp.zeros(len(scales))},
    )


def run(config: Config) -> Record:
    """Fit all prior scales at once by jaxmap, and one after the other by scikit-learn."""
    from sklearn.linear_model import Ridge

    data = jm.load_dataset("ames")
    x = data.x[:, [data.columns.index(name) for name in COLUMNS]]
    x, y = ((v - v.mean(0)) / v.std(0) for v in (x, np.log(data.y)))
    scales = np.array(config.scales)
    targets = np.repeat(y[:, None], len(scales), axis=1)
    fit = jm.fit(jax.random.key(0), make_model(scales, config.noise), (x, targets), jm.MAP(), precision="float64")
    found = np.asarray(fit.mode["coefficients"]).T
    ridges = [Ridge(alpha=(config.noise / scale) ** 2, tol=1e-12).fit(x, y) for scale in scales]
    rows = [
        {"prior scale": float(scales[i]), "alpha": float((config.noise / scales[i]) ** 2)}
        | {"living area": float(found[i, 4]), "living area, exact": float(ridge.coef_[4])}
        | {"norm": float(np.linalg.norm(found[i])), "norm, exact": float(np.linalg.norm(ridge.coef_))}
        | {"largest difference": float(np.max(np.abs(found[i] - ridge.coef_)))}
        | {"intercept difference": float(abs(fit.mode["intercept"][i] - ridge.intercept_))}
        for i, ridge in enumerate(ridges)
    ]
    note = f"{len(x)} houses, {len(COLUMNS)} columns; 'exact' is scikit-learn's Ridge; status {fit.info.status.name}."
    curves = np.array([ridge.coef_ for ridge in ridges])
    return Record("Ridge regression of log house prices", config, rows, lambda: draw(scales, found, curves), (note,))


def draw(scales: np.ndarray, found: np.ndarray, ridge: np.ndarray) -> Any:
    figure, (axis,) = panels("Coefficients by the width of their prior", height=4.2)
    for j, name in enumerate(COLUMNS):
        style = {"color": color(j), "mfc": color(j) if j < 7 else "white"}
        axis.plot(scales, ridge[:, j], lw=0.9, color=color(j), ls="-" if j < 7 else "--")
        axis.plot(scales, found[:, j], "o", ms=4, label=name.replace("_", " "), **style)
    axis.axhline(0, color="#999999", lw=0.6)
    axis.set(xscale="log", xlabel="prior deviation tau", ylabel="coefficient (deviations of log price)")
    options = {"fontsize": 8, "frameon": False, "title": "dots: MAP, lines: Ridge", "title_fontsize": 8}
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), **options)
    figure.set_size_inches(6.8, 4.2)
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
