"""How many gradients does a sampler save that starts from what an optimizer knows?

Textbook posteriors of the posteriordb collection, each sampled by `jm.NUTS()` as it is, and by numpyro's NUTS with a
diagonal (its default) and a dense metric, 1000 warm-up steps and 1000 draws in each of four chains, from the same
starts. A sampler is worth the smallest bulk ESS over all x and x^2 in the user's space, per gradient of the log joint
density, everything counted: the optimizer, its Hessians (a product with a vector is three gradients), grades, trials,
warm-up and draws. Medians over the seeds. `mean` and `sd` are the largest deviations from the collection's reference
draws, in combined standard errors; a run counts only where R-hat is below 1.01 and both are below 4.

    python -m experiments.map_warms_up_nuts --save FOLDER      # half an hour
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.infer.hmc import hmc

import jaxmap as jm
from experiments import posteriordb
from experiments.record import Record, color, command, panels
from jaxmap.infer import Problem
from jaxmap.infer.problem import multiply, seeds_of
from jaxmap.model import Density
from jaxmap.statistics import ess_bulk, rhat
from jaxmap.trees import shaper

CENTERED = "schools_centered"
"""Has no mode, and no sampler is right about it; it stands in the tests."""


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    data: str = "../shared/data/posteriordb"
    cases: tuple[str, ...] = tuple(name for name in posteriordb.CASES if name != CENTERED)
    seeds: int = 3
    warmup: int = 1000  # of the rivals
    draws: int = 1000


TINY = {"cases": ("kidiq",), "seeds": 1, "warmup": 200, "draws": 200}
"""What the tests run."""

CHAINS = 4
SAMPLERS = ("ours", "default", "dense")


@dataclass(frozen=True)
class Ran:
    """One run: draws in the published columns, (chains, draws, P), its gradients, seconds, and how it ended."""

    columns: np.ndarray
    gradients: float
    seconds: float
    status: str = ""

    @property
    def ess(self) -> float:
        """The smallest bulk ESS over x and x^2."""
        return float(np.min(ess_bulk(np.concatenate([self.columns, self.columns**2], axis=2))))

    @property
    def rhat(self) -> float:
        return float(np.max(rhat(self.columns)))


def in_columns(case: posteriordb.Case, params: Any) -> np.ndarray:
    """Draws in the user's space, (chain, draw, ...), as the collection's columns."""
    chains, draws = jax.tree.leaves(params)[0].shape[:2]
    flat = jax.tree.map(lambda v: np.asarray(v).reshape(chains * draws, *v.shape[2:]), params)
    return np.asarray(case.to_columns(flat), np.float64).reshape(chains, draws, -1)


def ours(case: posteriordb.Case, config: Config) -> Callable[[Any], Ran]:
    """Key -> run."""

    def run(key: Any) -> Ran:
        begun = time.perf_counter()
        found = jm.fit(key, case.model, case.data, jm.NUTS(chains=CHAINS, draws=config.draws))
        spent = time.perf_counter() - begun
        return Ran(in_columns(case, found.draws), found.info.num_gradients, spent, found.info.status.name)

    return run


def numpyros(case: posteriordb.Case, config: Config, dense: bool) -> Callable[[Any], Ran]:
    """Key -> run of numpyro's sampler at its defaults, compiled once."""
    problem = Problem.of(case.model, case.data)
    density, space = Density(case.model), case.model.space
    shaped = shaper(case.model.start_unconstrained(problem.dtype))
    init, sample = hmc(lambda z: -density(shaped(z), problem.data), algo="NUTS")

    def chain(z: Any, key: Any) -> Any:
        def move(state: Any, _: Any) -> Any:
            state = sample(state)
            return state, (state.z, state.num_steps)

        options = {"dense_mass": dense, "trajectory_length": None, "rng_key": key}
        _, (z, steps) = jax.lax.scan(
            move, init(z, num_warmup=config.warmup, **options), length=config.warmup + config.draws
        )
        return jax.vmap(lambda v: space.constrain(shaped(v)))(z[config.warmup :]), jnp.sum(steps)

    program = jax.jit(jax.vmap(chain))

    def run(key: Any) -> Ran:
        begun = time.perf_counter()
        starts = jax.vmap(lambda v: ravel_pytree(v)[0])(problem.starts(multiply(seeds_of(key), CHAINS)))
        params, steps = jax.block_until_ready(program(starts, jax.random.split(key, CHAINS)))
        return Ran(in_columns(case, params), float(steps.sum()) + CHAINS, time.perf_counter() - begun)

    return run


def deviations(case: posteriordb.Case, columns: np.ndarray) -> tuple[float, float]:
    """The largest deviations of means and sds from those of the reference draws, in combined standard errors."""
    flat, other = columns.reshape(-1, columns.shape[-1]), case.draws
    square = (columns - case.mean) ** 2
    of_mean = np.sqrt(1 / ess_bulk(columns) + case.standard_error**2)
    kurtosis = ((other - other.mean(axis=0)) ** 4).mean(axis=0) / other.var(axis=0) ** 2
    of_sd = 0.5 * np.sqrt((kurtosis - 1) * (1 / ess_bulk(square) + case.standard_error**2))
    means = np.abs(flat.mean(axis=0) - case.mean) / case.sd / of_mean
    sds = np.abs(flat.std(axis=0) / case.sd - 1) / of_sd
    return float(means.max()), float(sds.max())


def measured(name: str, config: Config) -> dict[str, Any]:
    """The row of one case."""
    case = posteriordb.load(Path(config.data).parent, name)
    runs = {"ours": ours(case, config), "default": numpyros(case, config, False), "dense": numpyros(case, config, True)}
    taken = {who: [run(jax.random.key(seed)) for seed in range(config.seeds)] for who, run in runs.items()}
    worth = {who: float(np.median([1e3 * r.ess / r.gradients for r in made])) for who, made in taken.items()}
    errors = [deviations(case, r.columns) for r in taken["ours"]]
    rhats = {who: max(r.rhat for r in made) for who, made in taken.items()}
    good = rhats["ours"] < 1.01 and np.max(errors) < 4
    row = {"case": name, **worth, "over default": worth["ours"] / worth["default"]}
    row |= {"over better": worth["ours"] / max(worth["default"], worth["dense"])}
    row |= {f"R-hat {who}": value for who, value in rhats.items()}
    row |= {"mean": max(m for m, _ in errors), "sd": max(s for _, s in errors), "true": "yes" if good else "no"}
    for who, made in taken.items():
        row |= {f"s {who}": float(np.median([r.seconds for r in made[1:] or made])), f"first {who}": made[0].seconds}
    return row | {"status": " ".join(sorted({r.status for r in taken["ours"]}))}


def run(config: Config) -> Record:
    """All samplers on every case."""
    rows = []
    for name in config.cases:
        rows.append(measured(name, config))
        print(rows[-1], flush=True)
    good = [row for row in rows if row["true"] == "yes"]
    over, better = (np.array([row[name] for row in good]) for name in ("over default", "over better"))
    notes = ["ESS per 1000 gradients of each sampler, and ratios; seconds of a run, and of the first with compilation."]
    if good:
        notes.append(
            f"{len(good)} of {len(rows)} cases pass. Median ratio over the default {np.median(over):.1f} (smallest "
            f"{over.min():.2f}), over the better of the two {np.median(better):.1f} (smallest {better.min():.2f})."
        )
    title = "Effective draws per 1000 gradients, everything counted"
    return Record(title, config, rows, lambda: draw(rows), tuple(notes))


def draw(rows: list[dict[str, Any]]) -> Any:
    figure, (axis,) = panels("Effective draws per 1000 gradients", height=0.35 * len(rows) + 1.8)
    ordered = sorted(rows, key=lambda row: row["over default"])
    for i, who in enumerate(SAMPLERS):
        label = "jm.NUTS()" if who == "ours" else f"numpyro, {'diagonal' if who == 'default' else 'dense'}"
        axis.semilogx([row[who] for row in ordered], range(len(ordered)), "o", color=color(i), label=label)
    for k, row in enumerate(ordered):
        axis.plot([row["default"], row["ours"]], [k, k], color="#bbbbbb", lw=1.0, zorder=0)
        axis.annotate(f"{row['over default']:.1f}x", (row["ours"], k), (6, -3), textcoords="offset points", fontsize=8)
    axis.set_yticks(range(len(ordered)), [row["case"] for row in ordered])
    axis.set(xlabel="smallest bulk ESS per 1000 gradients")
    axis.legend(fontsize=8, frameon=False, loc="lower left")
    axis.margins(x=0.12)
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
