"""Is training with AdamW a MAP estimate?

Three parameters, log-likelihood -1/2 sum c (t - 1)^2 with curvatures c = (100, 1, 0.01), prior N(0, 1):

    MAP = c / (c + 1) = (0.9901, 0.5, 0.0099).

Adam on the log posterior arrives there. AdamW divides the gradient, but not the decay, by the gradient's own size, so
that the curvature drops out: with decay d it settles at the minimum of the loss inside the box |t| <= 1 / d (Xie and
Li, 2024), here min(1, 1 / d) for all three parameters alike. No d gives the MAP. `jm.MAP` refuses such a solver beside
a prior unless allow_decay=True; under `jm.MLE` the result is labelled as no MLE.

    python -m experiments.adamw_is_not_map
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax

import jaxmap as jm
from experiments.record import Record, command, panels

CURVATURES = (100.0, 1.0, 0.01)
NAMES = tuple(f"c = {c:g}" for c in CURVATURES)


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    decays: tuple[float, ...] = (0.001, 0.01, 0.1, 0.3, 0.7, 1.5, 3.0, 10.0, 100.0)
    steps: int = 20_000
    rate: float = 0.01  # at the beginning, from where it decays to zero


TINY = {"decays": (0.1, 3.0), "steps": 8000}
"""What the tests run."""


def log_likelihood(params: Any, center: Any) -> Any:
    """One example, the centre (1, 1, 1)."""
    return -0.5 * jnp.sum(jnp.array(CURVATURES)[None] * (params[None] - center) ** 2, axis=1)


def run(config: Config) -> Record:
    """Adam on the log posterior; AdamW with each decay instead of a prior."""
    model = jm.Model(log_likelihood=log_likelihood, log_prior=jm.Prior(dist.Normal(0.0, 1.0)), init=np.full(3, 0.25))
    schedule, steps = optax.cosine_decay_schedule(config.rate, config.steps), config.steps
    curvatures = np.array(CURVATURES)
    at_map = curvatures / (curvatures + 1)

    def row(name: str, method: Any, exact: np.ndarray) -> dict[str, Any]:
        fit = jm.fit(jax.random.key(0), model, np.ones((1, 3)), method, precision="float64")
        cells: dict[str, Any] = {"method": name}
        for i, part in enumerate(NAMES):
            cells |= {part: float(fit.mode[i]), f"{part}, exact": float(exact[i])}
        return cells | {"distance to the MAP": float(np.linalg.norm(fit.mode - at_map))}

    rows = [
        row("MAP()", jm.MAP(), at_map),
        row("MAP(adam)", jm.MAP(optax.adam(schedule), steps=steps), at_map),
    ]
    for decay in config.decays:
        method = jm.MLE(optax.adamw(schedule, weight_decay=decay), steps=steps)
        rows.append(row(f"MLE(adamw, decay {decay:g})", method, np.full(3, min(1.0, 1 / decay))))
    try:
        row("refused", jm.MAP(optax.adamw(schedule, weight_decay=0.1), steps=steps), at_map)
        note = "MAP(adamw) was accepted beside a prior."
    except ValueError as refusal:
        note = f"MAP(adamw, decay 0.1): {refusal}"
    return Record("A quadratic with curvatures c", config, rows, lambda: draw(config, rows), (note,))


def draw(config: Config, rows: list[dict[str, Any]]) -> Any:
    figure, (axis,) = panels("AdamW does not see the curvature", height=4.0)
    grid = np.geomspace(min(config.decays), max(config.decays), 200)
    axis.plot(grid, np.minimum(1, 1 / grid), color="#444444", lw=0.9, label="min(1, 1 / decay)")
    for i, (name, marker) in enumerate(zip(NAMES, "os^", strict=True)):
        found = [row[name] for row in rows[2:]]
        (line,) = axis.plot(config.decays, found, marker, ms=9 - 3 * i, label=f"AdamW, {name}")
        axis.axhline(rows[0][name], color=line.get_color(), lw=1.2, ls="--")
        axis.annotate(f"MAP, {name}", (min(config.decays), rows[0][name]), fontsize=8, color=line.get_color(), va="top",
                      xytext=(0, -3), textcoords="offset points")  # fmt: skip
    axis.set(xscale="log", yscale="log", xlabel="weight decay of AdamW", ylabel="parameter")
    axis.legend(fontsize=8, frameon=False, loc="center left")
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
