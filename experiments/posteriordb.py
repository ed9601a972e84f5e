"""The posteriordb collection as models: densities of real statistics with draws by Stan to compare with.

Each case says how its parameters and the published columns belong together, both ways. The formulas are those of the
files in `posteriordb/`; tests/test_posteriordb.py checks each against its draws. Sequences are one example each.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import logsumexp
from numpyro.distributions import constraints

import jaxmap as jm

REGRESSION = {"beta": constraints.real, "sigma": constraints.positive}


@dataclass(frozen=True, eq=False)
class Case:
    """One posterior.

    Attributes:
        model, data: what to fit.
        to_params: published columns, (n, P), to a params tree with a leading axis n.
        to_columns: the way back.
        published: the content of the JSON file.
        file: the draws.
    """

    model: jm.Model
    data: Any
    to_params: Callable[[Any], Any]
    to_columns: Callable[[Any], Any]
    published: dict[str, Any]
    file: Path

    @cached_property
    def draws(self) -> np.ndarray:
        """Nearly independent draws by Stan, (10,000, P)."""
        draws = np.load(self.file)["draws"]
        return draws.reshape(-1, draws.shape[-1]).astype(np.float64)

    @property
    def mean(self) -> np.ndarray:
        return np.array(self.published["mean"])

    @property
    def sd(self) -> np.ndarray:
        return np.array(self.published["sd"])

    @property
    def standard_error(self) -> np.ndarray:
        """Of the published mean, in posterior standard deviations."""
        return 1 / np.sqrt(self.published["ess_bulk"])


@dataclass(frozen=True)
class Parts:
    """What a case is made of."""

    model: jm.Model
    data: Any
    to_params: Callable[[Any], Any]
    to_columns: Callable[[Any], Any]


def load(folder: Path, name: str) -> Case:
    """Read one posterior from the folder of reference data."""
    file, build = CASES[name]
    published = json.loads((folder / "posteriordb" / f"{file}.json").read_text())
    parts = build({k: np.asarray(v, float) for k, v in published["data"].items()})
    draws = folder / "posteriordb" / f"{file}.npz"
    return Case(parts.model, parts.data, parts.to_params, parts.to_columns, published, draws)


def columns_of(tree: Any) -> Any:
    """The leaves side by side, (n, P), in flattening order."""
    return np.concatenate([np.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(tree)], axis=1)


def regression(design: np.ndarray, y: np.ndarray, log_prior: Any = None) -> Parts:
    """y ~ Normal(design beta, sigma); both flat where there is no prior."""
    prior = {} if log_prior is None else {"log_prior": log_prior}
    model = jm.Model(
        observe=lambda p, x: dist.Normal(x @ p["beta"], p["sigma"], validate_args=False),
        init={"beta": np.zeros(design.shape[1]), "sigma": np.array(1.0)},
        support=REGRESSION,
        **prior,
    )
    return Parts(model, (design, y), lambda c: {"beta": c[:, :-1], "sigma": c[:, -1]}, columns_of)


def nes1980(d: Any) -> Parts:
    ages = [d["age_discrete"] == k for k in (2, 3, 4)]
    others = [d["educ1"], d["gender"], d["income"]]
    columns = [np.ones_like(d["real_ideo"]), d["real_ideo"], d["race_adj"], *ages, *others]
    return regression(np.stack(columns, axis=1), d["partyid7"])


def earn_height(d: Any) -> Parts:
    return regression(np.stack([np.ones_like(d["height"]), d["height"]], axis=1), d["earn"])


def mesquite(d: Any) -> Parts:
    names = ("diam1", "diam2", "canopy_height", "total_height", "density", "group")
    return regression(np.stack([np.ones_like(d["weight"]), *(d[name] for name in names)], axis=1), d["weight"])


def kidiq(d: Any) -> Parts:
    hs, iq = d["mom_hs"], d["mom_iq"]
    prior = jm.Prior({"beta": jm.flat, "sigma": dist.HalfCauchy(2.5)})
    return regression(np.stack([np.ones_like(hs), hs, iq, hs * iq], axis=1), d["kid_score"], prior)


def sblri(d: Any) -> Parts:
    return regression(d["X"], d["y"], jm.Prior({"beta": dist.Normal(0.0, 10.0), "sigma": dist.HalfNormal(10.0)}))


def kilpisjarvi(d: Any) -> Parts:
    center, scale = [np.stack([d[f"{word}alpha"], d[f"{word}beta"]]) for word in ("pmu", "ps")]
    prior = jm.Prior({"beta": dist.Normal(center, scale), "sigma": jm.flat})
    return regression(np.stack([np.ones_like(d["x"]), d["x"]], axis=1), d["y"], prior)


def ark(d: Any) -> Parts:
    order, y = int(d["K"]), d["y"]
    past = [y[order - k : len(y) - k] for k in range(1, order + 1)]
    prior = jm.Prior({"beta": dist.Normal(0.0, 10.0), "sigma": dist.HalfCauchy(2.5)})
    return regression(np.stack([np.ones(len(y) - order), *past], axis=1), y[order:], prior)


def eight_schools(centered: bool) -> Callable[[Any], Parts]:
    """The school effects themselves (centered), or in units of their spread tau around mu."""

    def build(d: Any) -> Parts:
        def effects(p: Any) -> Any:
            return p["theta"] if centered else p["mu"] + p["tau"] * p["theta"]

        def log_likelihood(p: Any, batch: Any) -> Any:
            school, y, sigma = batch
            return dist.Normal(effects(p)[school], sigma, validate_args=False).log_prob(y)

        def log_prior(p: Any) -> Any:
            center, spread = (p["mu"], p["tau"]) if centered else (0.0, 1.0)
            given = jnp.sum(dist.Normal(center, spread, validate_args=False).log_prob(p["theta"]))
            return given + dist.Normal(0.0, 5.0).log_prob(p["mu"]) + dist.HalfCauchy(5.0).log_prob(p["tau"])

        def to_params(columns: Any) -> Any:
            theta, mu, tau = columns[:, :8], columns[:, 8], columns[:, 9]
            return {"mu": mu, "tau": tau, "theta": theta if centered else (theta - mu[:, None]) / tau[:, None]}

        def to_columns(p: Any) -> Any:
            mu, tau = np.asarray(p["mu"])[:, None], np.asarray(p["tau"])[:, None]
            theta = p["theta"] if centered else mu + tau * p["theta"]
            return np.concatenate([theta, mu, tau], axis=1)

        model = jm.Model(
            log_likelihood=log_likelihood,
            log_prior=log_prior,
            init={"mu": np.array(0.0), "tau": np.array(1.0), "theta": np.zeros(8)},
            support={"mu": constraints.real, "tau": constraints.positive, "theta": constraints.real},
        )
        return Parts(model, (np.arange(8), d["y"], d["sigma"]), to_params, to_columns)

    return build


def gauss_mix(d: Any) -> Parts:
    def log_likelihood(p: Any, y: Any) -> Any:
        parts = dist.Normal(p["mu"][None], p["sigma"][None], validate_args=False).log_prob(y[:, None])
        log_weights = jnp.log(jnp.stack([p["theta"], 1 - p["theta"]]))
        return logsumexp(parts + log_weights[None], axis=1)

    model = jm.Model(
        log_likelihood=log_likelihood,
        log_prior=jm.Prior({"mu": dist.Normal(0.0, 2.0), "sigma": dist.HalfNormal(2.0), "theta": dist.Beta(5.0, 5.0)}),
        init={"mu": np.array([-1.0, 1.0]), "sigma": np.ones(2), "theta": np.array(0.5)},
        support={
            "mu": constraints.ordered_vector,
            "sigma": constraints.positive,
            "theta": constraints.unit_interval,
        },
    )
    return Parts(model, d["y"], lambda c: {"mu": c[:, :2], "sigma": c[:, 2:4], "theta": c[:, 4]}, columns_of)


def forward(log_emissions: Any, transition: Any) -> Any:
    """Log-probability of a sequence under a hidden Markov model; each first state has weight 1.

    Args:
        log_emissions: (T, K).
        transition: (K, K), rows sum to 1.
    """

    def step(log_alpha: Any, log_emission: Any) -> Any:
        return logsumexp(log_alpha[:, None] + jnp.log(transition), axis=0) + log_emission, None

    return logsumexp(jax.lax.scan(step, log_emissions[0], log_emissions[1:])[0])


ROWS = {"theta1": np.full(2, 0.5), "theta2": np.full(2, 0.5)}
"""The rows of a transition matrix, where a search begins."""


def rows_of(p: Any) -> Any:
    return jnp.stack([p["theta1"], p["theta2"]])


def hmm_example(d: Any) -> Parts:
    def one(p: Any, y: Any) -> Any:
        return forward(dist.Normal(p["mu"][None], 1.0, validate_args=False).log_prob(y[:, None]), rows_of(p))

    model = jm.Model(
        log_likelihood=lambda p, y: jax.vmap(lambda each: one(p, each))(y),
        log_prior=jm.Prior(
            {"mu": dist.Normal(np.array([3.0, 10.0]), 1.0), "theta1": dist.Dirichlet(np.ones(2))}
            | {"theta2": dist.Dirichlet(np.ones(2))}
        ),
        init={"mu": np.array([1.0, 2.0]), **ROWS},
        support={"mu": constraints.positive_ordered_vector} | dict.fromkeys(ROWS, constraints.simplex),
    )

    def to_columns(p: Any) -> Any:
        return np.concatenate([p["theta1"], p["theta2"], p["mu"]], axis=1)

    def to_params(c: Any) -> Any:
        return {"mu": c[:, 4:], "theta1": c[:, :2], "theta2": c[:, 2:4]}

    return Parts(model, d["y"][None], to_params, to_columns)


def hmm_drive(d: Any) -> Parts:
    def one(p: Any, u: Any, v: Any) -> Any:
        rates = (p["phi"], u), (p["lambda"], v)
        logs = [dist.Exponential(rate[None], validate_args=False).log_prob(each[:, None]) for rate, each in rates]
        return forward(logs[0] + logs[1], rows_of(p))

    rate = dist.Normal(np.array([0.0, 3.0]), 1.0)
    model = jm.Model(
        log_likelihood=lambda p, batch: jax.vmap(lambda u, v: one(p, u, v))(*batch),
        log_prior=jm.Prior(
            {"lambda": rate, "phi": rate} | dict(zip(ROWS, map(dist.Dirichlet, d["alpha"]), strict=True))
        ),
        init={"lambda": np.array([1.0, 2.0]), "phi": np.array([1.0, 2.0]), **ROWS},
        support=dict.fromkeys(("lambda", "phi"), constraints.positive_ordered_vector)
        | dict.fromkeys(ROWS, constraints.simplex),
    )

    def to_columns(p: Any) -> Any:
        return np.concatenate([p["theta1"], p["theta2"], p["phi"], p["lambda"]], axis=1)

    def to_params(c: Any) -> Any:
        return {"lambda": c[:, 6:], "phi": c[:, 4:6], "theta1": c[:, :2], "theta2": c[:, 2:4]}

    return Parts(model, (d["u"][None], d["v"][None]), to_params, to_columns)


def garch(d: Any) -> Parts:
    """alpha1, beta1 and what remains to 1 are a simplex."""
    first = float(d["sigma1"])

    def one(p: Any, y: Any) -> Any:
        alpha1, beta1, _ = p["shares"]

        def step(variance: Any, before: Any) -> Any:
            found = p["alpha0"] + alpha1 * (before - p["mu"]) ** 2 + beta1 * variance
            return found, found

        start = jnp.asarray(first**2, y.dtype)
        variances = jnp.concatenate([start[None], jax.lax.scan(step, start, y[:-1])[1]])
        return jnp.sum(dist.Normal(p["mu"], jnp.sqrt(variances), validate_args=False).log_prob(y))

    model = jm.Model(
        log_likelihood=lambda p, y: jax.vmap(lambda each: one(p, each))(y),
        init={"alpha0": np.array(1.0), "mu": np.array(0.0), "shares": np.full(3, 1 / 3)},
        support={"alpha0": constraints.positive, "mu": constraints.real, "shares": constraints.simplex},
    )

    def to_params(c: Any) -> Any:
        shares = np.stack([c[:, 2], c[:, 3], 1 - c[:, 2] - c[:, 3]], axis=1)
        return {"alpha0": c[:, 1], "mu": c[:, 0], "shares": shares}

    def to_columns(p: Any) -> Any:
        return np.stack([p["mu"], p["alpha0"], p["shares"][:, 0], p["shares"][:, 1]], axis=1)

    return Parts(model, d["y"][None], to_params, to_columns)


def gp_regr(d: Any) -> Parts:
    """The noise enters the diagonal as it is, not squared."""

    def one(p: Any, x: Any, y: Any) -> Any:
        squares = (x[:, None] - x[None, :]) ** 2
        kernel = p["alpha"] ** 2 * jnp.exp(-squares / (2 * p["rho"] ** 2)) + p["sigma"] * jnp.eye(len(x))
        return dist.MultivariateNormal(jnp.zeros_like(y), kernel, validate_args=False).log_prob(y)

    model = jm.Model(
        log_likelihood=lambda p, batch: jax.vmap(lambda x, y: one(p, x, y))(*batch),
        log_prior=jm.Prior(
            {"alpha": dist.HalfNormal(2.0), "rho": dist.Gamma(25.0, 4.0), "sigma": dist.HalfNormal(1.0)}
        ),
        init={"alpha": np.array(1.0), "rho": np.array(1.0), "sigma": np.array(1.0)},
    )

    def to_columns(p: Any) -> Any:
        return np.stack([p["rho"], p["alpha"], p["sigma"]], axis=1)

    data = (d["x"][None], d["y"][None])
    return Parts(model, data, lambda c: {"alpha": c[:, 1], "rho": c[:, 0], "sigma": c[:, 2]}, to_columns)


SCHOOLS = "eight_schools-eight_schools_noncentered"

CASES: dict[str, tuple[str, Callable[[Any], Parts]]] = {
    "nes1980": ("nes1980-nes", nes1980),
    "sblri": ("sblri-blr", sblri),
    "arK": ("arK-arK", ark),
    "mesquite": ("mesquite-mesquite", mesquite),
    "kilpisjarvi": ("kilpisjarvi_mod-kilpisjarvi", kilpisjarvi),
    "earn_height": ("earnings-earn_height", earn_height),
    "kidiq": ("kidiq-kidscore_interaction", kidiq),
    "gauss_mix": ("low_dim_gauss_mix-low_dim_gauss_mix", gauss_mix),
    "hmm_example": ("hmm_example-hmm_example", hmm_example),
    "hmm_drive": ("bball_drive_event_0-hmm_drive_0", hmm_drive),
    "garch": ("garch-garch11", garch),
    "gp_regr": ("gp_pois_regr-gp_regr", gp_regr),
    "schools_noncentered": (SCHOOLS, eight_schools(centered=False)),
    "schools_centered": (SCHOOLS, eight_schools(centered=True)),
}
"""Name to file and builder."""
