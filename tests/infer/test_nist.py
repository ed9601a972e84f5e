"""Nonlinear least squares against the certified answers of NIST's Statistical Reference Datasets, from both starts."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import jaxmap as jm

pytestmark = pytest.mark.slow

DIGITS = 8
DIGITS_OF_A_CERTIFIED_MAXIMUM = 6
STARTS = ("start1", "start2")
EXACT_DATA = ("Lanczos1",)
"""Data without noise: their standard deviations are below rounding."""

EXPONENTIALS = [[0, 1], [2, 3], [4, 5]]
ALIKE = {"Lanczos1": EXPONENTIALS, "Lanczos3": EXPONENTIALS, "MGH17": [[1, 3], [2, 4]]}
"""Terms of the same form: a curve is the same when their parameters change places, and so is the maximum."""


def decays(b, x):
    return b[0] * jnp.exp(-b[1] * x) + b[2] * jnp.exp(-b[3] * x) + b[4] * jnp.exp(-b[5] * x)


def enso(b, x):
    year, first, second = (2 * jnp.pi * x / period for period in (12.0, b[3], b[6]))
    seasons = b[0] + b[1] * jnp.cos(year) + b[2] * jnp.sin(year)
    return seasons + b[4] * jnp.cos(first) + b[5] * jnp.sin(first) + b[7] * jnp.cos(second) + b[8] * jnp.sin(second)


def gauss(b, x):
    first, second = (b[i] * jnp.exp(-((x - b[i + 1]) ** 2) / b[i + 2] ** 2) for i in (2, 5))
    return b[0] * jnp.exp(-b[1] * x) + first + second


def hahn(b, x):
    return (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3)


CURVES = {
    "BoxBOD": lambda b, x: b[0] * (1 - jnp.exp(-b[1] * x)),
    "Chwirut1": lambda b, x: jnp.exp(-b[0] * x) / (b[1] + b[2] * x),
    "DanWood": lambda b, x: b[0] * x ** b[1],
    "ENSO": enso,
    "Eckerle4": lambda b, x: b[0] / b[1] * jnp.exp(-0.5 * ((x - b[2]) / b[1]) ** 2),
    "Gauss1": gauss,
    "Hahn1": hahn,
    "Lanczos1": decays,
    "Lanczos3": decays,
    "MGH09": lambda b, x: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "MGH17": lambda b, x: b[0] + b[1] * jnp.exp(-x * b[3]) + b[2] * jnp.exp(-x * b[4]),
    "Misra1a": lambda b, x: b[0] * (1 - jnp.exp(-b[1] * x)),
    "Misra1c": lambda b, x: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5),
    "Rat42": lambda b, x: b[0] / (1 + jnp.exp(b[1] - b[2] * x)),
}


@pytest.fixture(scope="module")
def problems(reference_data):
    return json.loads((reference_data / "mle" / "nist_strd.json").read_text())


def fit(name, problem, start):
    """Fit with nothing tuned: the spread of the noise starts at the same value for all."""
    begin = np.asarray(problem[start])
    likelihood = jm.Gaussian(scale=jm.Learned(dist.HalfNormal(1.0)))
    model = jm.supervised((lambda key: jnp.asarray(begin), CURVES[name]), likelihood)
    data = (np.asarray(problem["x"]), np.asarray(problem["y"]))
    return jm.fit(jax.random.key(0), model, data, jm.MLE(), precision="float64")


def orders(name, count):
    """The orders of the parameters that make no difference to the curve; the printed one comes first."""
    terms = ALIKE.get(name, [])
    for places in itertools.permutations(terms):
        order = np.arange(count)
        order[np.ravel(terms).astype(int)] = np.ravel(places)
        yield order


def matched(name, problem, point):
    """The order in which the parameters found agree with the certified ones, and the digits that all share."""

    def digits(order):
        worst = np.max(np.abs(np.asarray(point.mode["network"])[order] / np.asarray(problem["certified"]) - 1))
        return -np.log10(max(worst, 1e-16))

    best = max(orders(name, len(problem["certified"])), key=digits)
    return best, digits(best)


@pytest.fixture(
    scope="module", params=[(name, start) for name in CURVES for start in ("start1", "start2")], ids="-".join
)
def fitted(request, problems):
    """One problem from one of its starts, fitted once."""
    name, start = request.param
    return name, problems[name], fit(name, problems[name], start)


def test_certified_parameters(fitted):
    name, problem, point = fitted
    _, digits = matched(name, problem, point)
    assert digits >= DIGITS, f"{digits:.1f} digits, {point.info.status.name}"


def test_nothing_else_is_called_converged(fitted):
    name, problem, point = fitted
    _, digits = matched(name, problem, point)
    assert point.info.status is not jm.Status.CONVERGED or digits >= DIGITS_OF_A_CERTIFIED_MAXIMUM


def test_certified_standard_deviations(fitted):
    name, problem, point = fitted
    if name in EXACT_DATA:
        pytest.skip("the data are exact: the standard deviations are below rounding")
    order, _ = matched(name, problem, point)
    rows = {row["parameter"]: row["std err"] for row in point.summary(errors="ggn").rows}
    found = np.array([rows[f"network[{i}]"] for i in order])
    unbiased = np.sqrt(len(problem["x"]) / problem["dof"])  # ours are at the maximum-likelihood spread of the noise
    np.testing.assert_allclose(found * unbiased, problem["certified_sd"], rtol=1e-5)
