"""Four posteriors as models, with means and standard deviations from long runs of another sampler.

The formulas stand in `posterior_moments/posterior_moments.json`; each case says how params become what is published.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

import jaxmap as jm


@dataclass(frozen=True, eq=False)
class Case:
    """One posterior.

    Attributes:
        model, data: what to fit.
        quantities: params, leading with any axes, to the published quantities by name.
        moments: `mean`, `mean_se` and `sd` of each.
    """

    model: jm.Model
    data: Any
    quantities: Callable[[Any], dict[str, Any]]
    moments: dict[str, dict[str, Any]]


def load(folder: Path, name: str) -> Case:
    """Read one posterior from the folder of reference data."""
    content = json.loads((folder / "posterior_moments" / "posterior_moments.json").read_text())
    (case,) = (case for case in content if case["name"] == name)
    model, data, quantities = CASES[name](case["data"], folder / "posterior_moments")
    return Case(model, data, quantities, case["moments"])


def eight_schools(d: Any, folder: Path) -> Any:
    """Effects as they are, with a log-normal spread."""

    def log_likelihood(p: Any, batch: Any) -> Any:
        school, y, sigma = batch
        return dist.Normal(p["school_effects"][school], sigma, validate_args=False).log_prob(y)

    prior = jm.Prior(
        {
            "avg_effect": dist.Normal(0.0, 10.0),
            "log_stddev": dist.Normal(5.0, 1.0),
            "school_effects": lambda p: dist.Normal(p["avg_effect"], jnp.exp(p["log_stddev"])),
        }
    )
    init = {"avg_effect": 0.0, "log_stddev": 5.0, "school_effects": np.zeros(8)}
    data = (np.arange(8), np.array(d["y"], float), np.array(d["sigma"], float))
    return jm.Model(log_likelihood=log_likelihood, log_prior=prior, init=init), data, dict


def brownian_motion(d: Any, folder: Path) -> Any:
    """A Gaussian path, seen at some times with noise."""
    seen = [(t, y) for t, y in enumerate(d["observed"]) if y is not None and not np.isnan(y)]
    times, y = np.array([t for t, _ in seen]), np.array([y for _, y in seen])
    step, noise = d["innovation_noise_scale"], d["observation_noise_scale"]

    def log_prior(p: Any) -> Any:
        steps = jnp.diff(p["value"], prepend=jnp.zeros(1))
        return jnp.sum(dist.Normal(0.0, step).log_prob(steps))

    def log_likelihood(p: Any, batch: Any) -> Any:
        times, y = batch
        return dist.Normal(p["value"][times], noise, validate_args=False).log_prob(y)

    init = {"value": np.zeros(len(d["observed"]))}
    return jm.Model(log_likelihood=log_likelihood, log_prior=log_prior, init=init), (times, y), dict


def german_credit(d: Any, folder: Path) -> Any:
    """A logistic regression with a standard normal prior."""
    with np.load(folder / d["data_file"]) as file:
        x, y = file["X"].astype(float), file["y"].astype(int)
    x = np.concatenate([(x - x.mean(axis=0)) / x.std(axis=0), np.ones((len(x), 1))], axis=1)
    linear = (lambda key: {"value": jnp.zeros(x.shape[1])}, lambda p, x: x @ p["value"])
    return jm.supervised(linear, jm.Bernoulli(), jm.Prior(dist.Normal(0.0, 1.0))), (x, y), dict


def stochastic_volatility(d: Any, folder: Path) -> Any:
    """Log volatilities as they are: an autoregression of 100 steps."""
    returns = np.array(d["returns"], float)

    def log_prior(p: Any) -> Any:
        phi, s, m, v = 2 * p["u"] - 1, p["white_noise_shock_scale"], p["mean_log_volatility"], p["log_volatility"]
        first = dist.Normal(m, s / jnp.sqrt(1 - phi**2), validate_args=False).log_prob(v[0])
        rest = dist.Normal(m + phi * (v[:-1] - m), s, validate_args=False).log_prob(v[1:])
        scales = dist.Beta(20.0, 1.5).log_prob(p["u"]) + dist.HalfCauchy(2.0).log_prob(s)
        return first + jnp.sum(rest) + scales + dist.Cauchy(0.0, 5.0).log_prob(m)

    def log_likelihood(p: Any, batch: Any) -> Any:
        day, y = batch
        return dist.Normal(0.0, jnp.exp(p["log_volatility"][day] / 2), validate_args=False).log_prob(y)

    model = jm.Model(
        log_likelihood=log_likelihood,
        log_prior=log_prior,
        init={"u": 0.9, "white_noise_shock_scale": 0.5, "mean_log_volatility": 0.0, "log_volatility": np.zeros(100)},
        support={
            "u": constraints.unit_interval,
            "white_noise_shock_scale": constraints.positive,
            "mean_log_volatility": constraints.real,
            "log_volatility": constraints.real,
        },
    )

    def quantities(p: Any) -> dict[str, Any]:
        return {k: v for k, v in p.items() if k != "u"} | {"persistence_of_volatility": 2 * p["u"] - 1}

    return model, (np.arange(len(returns)), returns), quantities


CASES = {
    "eight_schools_lognormal_scale": eight_schools,
    "brownian_motion_known_scales": brownian_motion,
    "german_credit_logistic": german_credit,
    "stochastic_volatility_sp500_returns_100": stochastic_volatility,
}
"""Name to builder."""
