"""Tables of point estimates: standard errors, intervals and the prior's share against closed forms and Stata."""

import json
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from numpyro.distributions import constraints
from scipy import stats

import jaxmap as jm
from jaxmap import Status
from jaxmap.curvature import View
from jaxmap.infer import curved, delta_method, posteriors, standard_errors
from jaxmap.infer.curved import Curved
from jaxmap.model import Density
from tests.cases import COUNTS, LINEAR

KEY = jax.random.key(11)
Q = stats.norm.ppf(0.975)
RNG = np.random.default_rng(7)
X = RNG.normal(size=(40, 3)) * np.array([1.0, 5.0, 0.2]) + np.array([0.0, 2.0, 1.0])
Y = X @ np.array([0.5, -0.2, 3.0]) + RNG.normal(size=40) * (0.5 + np.abs(X[:, 0]))
LABELS = (RNG.uniform(size=40) < 1 / (1 + np.exp(-(X @ np.array([1.0, -0.3, 0.4]))))).astype(float)
WAITS = RNG.exponential(0.4, size=25)
NOISE = 0.8


def fit(model, data, method, precision="float64"):
    return jm.fit(KEY, model, data, method, precision=precision)


def column(table, name):
    return np.array([row[name] for row in table.rows])


def linear(prior=None, noise=NOISE):
    """Three coefficients in two leaves: y ~ N(x0 b0 + x1 b1 + x2 a, noise)."""
    network = (
        lambda key: {"b": np.zeros(2), "a": np.zeros(())},
        lambda p, x: x[:, :2] @ p["b"] + x[:, 2] * p["a"],
    )
    return jm.supervised(network, jm.Gaussian(noise), jm.Prior(prior or jm.flat))


ORDER = [2, 0, 1]
"""Columns of X in the order of the leaves a, b."""

DESIGN = X[:, ORDER]


def regression(likelihood):
    """A regression by hand: (params, batch) -> log_likelihood, with one vector of coefficients."""
    return jm.Model(log_likelihood=lambda p, batch: likelihood(batch[0] @ p["b"], batch[1]), init={"b": np.zeros(3)})


def logistic():
    return regression(lambda eta, y: y * eta - jnp.logaddexp(0.0, eta))


def waits(prior=None):
    """Exponential waiting times with a positive rate."""
    return jm.Model(
        log_likelihood=lambda p, x: jnp.log(p["rate"]) - p["rate"] * x,
        log_prior=jm.Prior({"rate": prior}) if prior else jm.Prior(jm.flat),
        init={"rate": 1.0},
        support={"rate": constraints.positive},
    )


TAU = np.array([0.3, 2.0, 0.05])
"""Prior scales of a, b[0], b[1]."""


@cache
def fitted(name):
    """Points that several tests read."""
    ridge = {"a": dist.Normal(0.1, TAU[0]), "b": dist.Normal(0.0, TAU[1:])}
    return {
        "least squares": lambda: fit(linear(), (X, Y), jm.MLE()),
        "ridge": lambda: fit(linear(ridge), (X, Y), jm.MAP()),
        "rate": lambda: fit(waits(), WAITS, jm.MLE()),
        "logistic": lambda: fit(logistic(), (X, LABELS), jm.MLE()),
    }[name]()


# Closed forms.


def check_linear_regression():
    """The observed information of a linear regression with known noise is X'X / sigma^2."""
    table = fitted("least squares").summary()
    estimate = np.linalg.solve(DESIGN.T @ DESIGN, DESIGN.T @ Y)
    errors = NOISE * np.sqrt(np.diag(np.linalg.inv(DESIGN.T @ DESIGN)))
    assert list(column(table, "parameter")) == ["a", "b[0]", "b[1]"]
    np.testing.assert_allclose(column(table, "estimate"), estimate, rtol=1e-8)
    np.testing.assert_allclose(column(table, "std err"), errors, rtol=1e-8)
    np.testing.assert_allclose(column(table, "z"), estimate / errors, rtol=1e-8)
    np.testing.assert_allclose(column(table, "P>|z|"), 2 * stats.norm.cdf(-np.abs(estimate / errors)), rtol=1e-6)
    np.testing.assert_allclose(column(table, "[0.025"), estimate - Q * errors, rtol=1e-8)
    np.testing.assert_allclose(column(table, "0.975]"), estimate + Q * errors, rtol=1e-8)
    assert "prior share" not in table.rows[0]


def check_exponential_rate():
    """The information of a rate is n / rate^2; its interval is that of log rate, mapped back."""
    (row,) = fitted("rate").summary().rows
    rate, n = 1 / WAITS.mean(), len(WAITS)
    np.testing.assert_allclose(row["estimate"], rate, rtol=1e-7)
    np.testing.assert_allclose(row["std err"], rate / np.sqrt(n), rtol=1e-7)
    ends = rate * np.exp([-Q / np.sqrt(n), Q / np.sqrt(n)])
    np.testing.assert_allclose([row["[0.025"], row["0.975]"]], ends, rtol=1e-7)
    assert np.isnan(row["z"])  # a rate of zero lies on the edge: there is no Wald test of it
    assert np.isnan(row["P>|z|"])


def check_sandwich():
    """HC0 (White 1980): (X'X)^-1 X' diag(e^2) X (X'X)^-1 for least squares, whatever the scale that was assumed."""
    table = fitted("least squares").summary(errors="sandwich")
    bread = np.linalg.inv(DESIGN.T @ DESIGN)
    residual = Y - DESIGN @ (bread @ DESIGN.T @ Y)
    hc0 = bread @ (DESIGN.T * residual**2) @ DESIGN @ bread
    np.testing.assert_allclose(column(table, "std err"), np.sqrt(np.diag(hc0)), rtol=1e-8)


def check_prior_share():
    """Ridge: H = X'X / sigma^2 + 1 / tau^2, so the prior's share is (H^-1)_ii / tau^2."""
    table = fitted("ridge").summary()
    inverse = np.linalg.inv(DESIGN.T @ DESIGN / NOISE**2 + np.diag(TAU**-2))
    share = np.diag(inverse) / TAU**2
    np.testing.assert_allclose(column(table, "prior share"), share, rtol=1e-8)
    np.testing.assert_allclose(column(table, "std err"), np.sqrt(np.diag(inverse)), rtol=1e-8)
    assert np.all((share > 0) & (share < 1))
    effective = np.trace(inverse @ DESIGN.T @ DESIGN) / NOISE**2
    np.testing.assert_allclose(3 - share.sum(), effective)
    assert f"Effective parameters: {effective:.4g} of 3." in table.footer


CHECKS = [check_linear_regression, check_exponential_rate, check_sandwich, check_prior_share]


@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
def test_closed_forms(check):
    check()


def test_a_learned_scale_has_the_information_2n():
    """MLE of a regression with unknown noise: se(sigma) = sigma / sqrt(2 n), independent of the coefficients."""
    point = fit(linear(noise=jm.Learned(dist.HalfNormal(1.0))), (X, Y), jm.MLE())
    table, by_ggn = point.summary(), point.summary(errors="ggn")
    bread = np.linalg.inv(DESIGN.T @ DESIGN)
    sigma = np.sqrt(np.mean((Y - DESIGN @ (bread @ DESIGN.T @ Y)) ** 2))
    errors = {"likelihood/scale": sigma / np.sqrt(2 * len(Y))}
    errors |= dict(zip(["network/a", "network/b[0]", "network/b[1]"], sigma * np.sqrt(np.diag(bread)), strict=True))
    assert list(column(table, "parameter")) == list(errors)
    np.testing.assert_allclose(column(table, "std err"), list(errors.values()), rtol=1e-6)
    np.testing.assert_allclose(column(by_ggn, "std err"), list(errors.values()), rtol=1e-6)


@pytest.mark.parametrize("space", ["constrained", "unconstrained"])
def test_the_share_of_a_gamma_prior_of_a_poisson_rate(space):
    """In log r the prior's curvature is rate * r, that of n counts n * r, with or without the Jacobian."""
    (row,) = fit(COUNTS.model(), COUNTS.data, jm.MAP(space=space)).summary().rows
    total = COUNTS.rate  # of the posterior: that of the prior plus n
    np.testing.assert_allclose(row["prior share"], (total - len(COUNTS.y)) / total, rtol=1e-7)
    shape = COUNTS.shape - (space == "constrained")
    np.testing.assert_allclose(row["std err"], np.sqrt(shape) / total, rtol=1e-7)


def test_the_sandwich_of_a_logistic_regression_by_hand():
    point = fitted("logistic")
    p = 1 / (1 + np.exp(-X @ np.asarray(point.mode["b"])))
    bread = np.linalg.inv((X.T * (p * (1 - p))) @ X)
    hc0 = bread @ (X.T * (LABELS - p) ** 2) @ X @ bread
    table = point.summary(errors="sandwich")
    np.testing.assert_allclose(column(table, "std err"), np.sqrt(np.diag(hc0)), rtol=1e-7)
    assert "sandwich (HC0)" in str(table)


def test_the_sandwich_goes_through_the_delta_method():
    """Of a rate: H = n / rate^2, scores 1 / rate - x."""
    (row,) = fitted("rate").summary(errors="sandwich").rows
    rate, n = 1 / WAITS.mean(), len(WAITS)
    expected = np.sqrt(rate**4 / n**2 * np.sum((1 / rate - WAITS) ** 2))
    np.testing.assert_allclose(row["std err"], expected, rtol=1e-6)


def test_the_prior_is_a_constant_penalty_in_the_sandwich():
    """It is in the bread and not in the scores."""
    point = fitted("ridge")
    table = point.summary(errors="sandwich")
    bread = np.linalg.inv(DESIGN.T @ DESIGN / NOISE**2 + np.diag(TAU**-2))
    scores = DESIGN * (Y - DESIGN @ column(table, "estimate"))[:, None] / NOISE**2
    np.testing.assert_allclose(column(table, "std err"), np.sqrt(np.diag(bread @ scores.T @ scores @ bread)), rtol=1e-8)


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_scores_are_summed_in_chunks(monkeypatch, rows):
    point = fitted("logistic")
    whole = point.summary(errors="sandwich")
    monkeypatch.setattr(curved, "SCORE_NUMBERS", 3 * rows)
    view = View(Density(point.problem.model, prior=False, jacobian=False))
    point.problem.model.programs.pop(("score products", view))
    chunked = point.summary(errors="sandwich")
    np.testing.assert_allclose(column(chunked, "std err"), column(whole, "std err"), rtol=1e-10)


def test_gauss_newton_is_the_observed_information_for_a_canonical_link():
    network = (lambda key: {"b": np.zeros(3)}, lambda p, x: x @ p["b"])
    point = fit(jm.supervised(network, jm.Bernoulli(), jm.Prior(jm.flat)), (X, LABELS.astype(int)), jm.MLE())
    observed, by_ggn = point.summary(), point.summary(errors="ggn")
    np.testing.assert_allclose(column(by_ggn, "std err"), column(observed, "std err"), rtol=1e-8)
    assert "Gauss-Newton" in str(by_ggn)


def test_gauss_newton_leaves_the_curvature_of_the_network_out():
    """y ~ N(exp(a) x, s): J = exp(a) x, while the observed information also has the residuals."""
    x, y, s = X[:, 0], 1.5 * X[:, 0] + 0.1 * X[:, 1], 0.5
    network = (lambda key: {"a": np.zeros(())}, lambda p, x: jnp.exp(p["a"]) * x)
    point = fit(jm.supervised(network, jm.Gaussian(s), jm.Prior(dist.Normal(0.0, 0.5))), (x, y), jm.MAP())
    slope = np.exp(float(point.mode["a"]))
    fisher = slope**2 * np.sum(x**2) / s**2 + 4.0
    residual = slope * np.sum(x * (slope * x - y)) / s**2
    (by_ggn,), (observed,) = point.summary(errors="ggn").rows, point.summary().rows
    np.testing.assert_allclose(by_ggn["std err"], fisher**-0.5, rtol=1e-8)
    np.testing.assert_allclose(by_ggn["prior share"], 4.0 / fisher, rtol=1e-8)
    np.testing.assert_allclose(observed["std err"], (fisher + residual) ** -0.5, rtol=1e-8)


# Published numbers.


def published(kind, eta, y):
    if kind == "poisson":
        return y * eta - jnp.exp(eta) - jax.scipy.special.gammaln(y + 1)
    return y * eta - jnp.logaddexp(0.0, eta)


@pytest.mark.parametrize("name", ["spector_logit", "lbw_logit", "cpunish_poisson"])
def test_standard_errors_as_stata_and_r_print_them(reference_data, name):
    entries = json.loads((reference_data / "mle" / "regression_reference.json").read_text())
    entry = next(entry for entry in entries if entry["name"] == name)
    arrays = np.load(reference_data / "mle" / entry["data"])
    model = jm.Model(
        log_likelihood=lambda p, b: published(name.split("_")[1], b[0] @ p["b"], b[1]),
        init={"b": np.zeros(len(entry["params"]))},
    )
    table = fit(model, (arrays["X"], arrays["y"]), jm.MLE()).summary()
    np.testing.assert_allclose(column(table, "estimate"), entry["params"], rtol=2e-5)
    np.testing.assert_allclose(column(table, "std err"), entry["std_errors"], rtol=2e-5)
    assert table.header["Log-Likelihood"] == f"{entry['log_likelihood']:.3f}"
    count, n = len(entry["params"]), len(arrays["y"])
    assert table.header["AIC"] == f"{2 * count - 2 * entry['log_likelihood']:.3f}"
    assert table.header["BIC"] == f"{count * np.log(n) - 2 * entry['log_likelihood']:.3f}"
    assert table.header["No. Observations"] == str(n)


# Supports.


def dice(prior=None):
    """Counts of three faces: one example, a multinomial with probabilities on a simplex."""
    return jm.Model(
        log_likelihood=lambda p, faces: jnp.log(p["p"])[faces],
        log_prior=jm.Prior({"p": prior}) if prior else jm.Prior(jm.flat),
        init={"p": np.full(3, 1 / 3)},
        support={"p": constraints.simplex},
    )


FACES = np.repeat([0, 1, 2], [10, 20, 30])


def test_a_simplex_has_multinomial_errors_and_logit_intervals():
    table = fit(dice(), FACES, jm.MLE()).summary()
    p = np.array([1.0, 2.0, 3.0]) / 6
    np.testing.assert_allclose(column(table, "estimate"), p, rtol=1e-6)
    np.testing.assert_allclose(column(table, "std err"), np.sqrt(p * (1 - p) / 60), rtol=1e-6)
    logit = np.log(p / (1 - p))
    low, high = (1 / (1 + np.exp(-(logit + s * Q / np.sqrt(60 * p * (1 - p))))) for s in (-1, 1))
    np.testing.assert_allclose(column(table, "[0.025"), low, rtol=1e-6)
    np.testing.assert_allclose(column(table, "0.975]"), high, rtol=1e-6)
    assert np.all(np.isnan(column(table, "z")))
    assert table.header["Parameters"] == "2"


def test_the_share_of_a_prior_over_a_simplex_is_its_share_of_the_counts():
    """Pseudo-counts (1, 2, 3) beside counts (10, 20, 30)."""
    table = fit(dice(dist.Dirichlet(np.array([2.0, 3.0, 4.0]))), FACES, jm.MAP()).summary()
    np.testing.assert_allclose(column(table, "prior share"), 6 / 66, rtol=1e-6)
    assert f"Effective parameters: {2 - 2 * 6 / 66:.4g} of 2." in table.footer


@pytest.mark.parametrize(
    ("support", "start", "tested"),
    [
        (constraints.interval(1.0, 4.0), 2.0, False),
        (constraints.interval(-1.0, 4.0), 2.0, True),
        (constraints.less_than(4.0), 2.0, True),
        (constraints.independent(constraints.positive, 1), np.full(2, 2.0), False),
        (constraints.positive_ordered_vector, np.array([1.0, 2.0]), False),
        (constraints.ordered_vector, np.array([1.0, 2.0]), False),
    ],
    ids=str,
)
def test_errors_do_not_depend_on_the_coordinates_and_intervals_lie_in_the_support(support, start, tested):
    """The mean of a Gaussian sample: its standard error is sigma / sqrt(n), whatever the support."""
    shift = np.arange(float(np.size(start))).reshape(np.shape(start))
    data = 2.2 + np.random.default_rng(3).normal(size=(30, *np.shape(start))) + shift
    axes = tuple(range(1, np.ndim(start) + 1))
    model = jm.Model(
        log_likelihood=lambda p, y: -0.5 * jnp.sum((y - p[None]) ** 2, axis=axes), init=start, support=support
    )
    table = fit(model, data, jm.MLE()).summary()
    np.testing.assert_allclose(column(table, "estimate"), np.ravel(data.mean(0)), rtol=1e-6)
    np.testing.assert_allclose(column(table, "std err"), 30**-0.5, rtol=1e-6)
    low, high = column(table, "[0.025"), column(table, "0.975]")
    assert np.all((low < column(table, "estimate")) & (column(table, "estimate") < high))
    np.testing.assert_allclose(high - low, 2 * Q * 30**-0.5, rtol=0.2)
    for end in (low, high):
        assert bool(np.all(support(jnp.asarray(end.reshape(np.shape(start))))))
    expected = column(table, "estimate") / column(table, "std err") if tested else np.full(np.size(start), np.nan)
    np.testing.assert_allclose(column(table, "z"), expected)


def test_a_wide_interval_of_a_small_scale_stays_positive():
    (row,) = fit(waits(), WAITS[:2], jm.MLE()).summary(level=0.99).rows
    assert 0 < row["[0.005"] < row["estimate"] < row["0.995]"]
    assert row["estimate"] - stats.norm.ppf(0.995) * row["std err"] < 0


# What there is no standard error for.


def test_collinear_columns_have_no_errors_and_the_others_keep_theirs():
    twice = np.column_stack([X[:, 0], 2 * X[:, 0], X[:, 1]])
    point = fit(regression(lambda eta, y: -0.5 * (y - eta) ** 2), (twice, Y), jm.MLE())
    assert point.info.status is Status.NOT_A_MAXIMUM
    for errors in ("observed", "sandwich"):
        table = point.summary(errors=errors)
        found = column(table, "std err")
        assert np.isnan(found[:2]).all()
        assert np.isnan(column(table, "[0.025")[:2]).all()
        assert "No standard error for b[0], b[1]: the density is flat along b[" in table.footer
        assert "NOT_A_MAXIMUM" in str(table)
        assert posteriors.HERE not in table.footer
        assert "AIC" not in table.header
    bread = np.linalg.inv(X[:, :2].T @ X[:, :2])
    np.testing.assert_allclose(column(point.summary(), "std err")[2], np.sqrt(bread[1, 1]), rtol=1e-6)
    residual = Y - X[:, :2] @ (bread @ X[:, :2].T @ Y)
    hc0 = bread @ (X[:, :2].T * residual**2) @ X[:, :2] @ bread
    np.testing.assert_allclose(column(table, "std err")[2], np.sqrt(hc0[1, 1]), rtol=1e-6)


def test_a_separable_regression_has_no_errors():
    x = np.linspace(-1.0, 1.0, 20)
    model = jm.Model(log_likelihood=lambda p, b: b[1] * p * b[0] - jnp.logaddexp(0.0, p * b[0]), init=np.asarray(0.0))
    table = fit(model, (x, (x > 0).astype(float)), jm.MLE()).summary()
    assert np.isnan(column(table, "std err")).all()
    assert "No standard error" in table.footer
    assert "CONVERGED" not in table.header["Status"]


def test_a_saddle_has_no_errors():
    model = jm.from_log_density(lambda p: p["a"] ** 2 - p["b"] ** 2, init={"a": 0.0, "b": 0.0})
    table = fit(model, None, jm.Given({"a": 0.0, "b": 0.0})).summary()
    assert np.isnan(column(table, "std err")).all()
    assert "curves up along a" in table.footer


def test_a_maximum_at_the_edge_has_no_errors():
    """A variance component whose estimate is zero."""
    y = np.linspace(-0.9, 0.9, 30)
    model = jm.Model(
        log_likelihood=lambda p, y: dist.Normal(0.0, jnp.sqrt(1.0 + p["tau"] ** 2)).log_prob(y),
        init={"tau": 1.0},
        support={"tau": constraints.positive},
    )
    point = fit(model, y, jm.MLE())
    assert point.info.status is Status.AT_BOUNDARY
    table = point.summary()
    assert np.isnan(column(table, "std err")).all()
    assert "edge of its support" in table.footer


def test_where_nothing_is_certified_the_table_says_so():
    table = fit(linear(), (X, Y), jm.Given({"a": np.asarray(1.0), "b": np.zeros(2)})).summary()
    assert np.isfinite(column(table, "std err")).all()
    assert (table.header["Status"], table.header["Method"]) == ("STEPS_EXHAUSTED", "Given")
    assert "STEPS_EXHAUSTED: the steps were used up" in table.footer
    assert posteriors.HERE in table.footer
    assert "AIC" not in table.header


def test_the_lasso_has_errors_on_its_active_set():
    """On an orthogonal design the lasso is soft thresholding; what it sets to zero is conditioned on."""
    basis = np.linalg.qr(X[:20])[0] * np.sqrt(20)
    y = basis @ np.array([1.0, 0.05, -0.5]) + 0.1 * (np.arange(20) % 2)
    raw, weight = basis.T @ y / 20, 4.0
    lasso = np.sign(raw) * np.maximum(np.abs(raw) - weight / 20, 0.0)
    assert np.sum(lasso == 0) == 1
    network = (lambda key: {"b": np.zeros(3)}, lambda p, x: x @ p["b"])
    model = jm.supervised(network, jm.Gaussian(1.0), jm.Prior(dist.Laplace(0.0, 1 / weight)))
    table = fit(model, (basis, y), jm.Given({"b": lasso})).summary()
    np.testing.assert_allclose(column(table, "std err"), np.where(lasso == 0, np.nan, 20**-0.5), rtol=1e-8)
    np.testing.assert_allclose(column(table, "prior share"), lasso == 0, atol=1e-12)
    assert "No standard error for b[1]: at the kink of the L1 penalty." in table.footer
    assert "Effective parameters: 2 of 3." in table.footer


def test_no_matrix_is_formed_for_many_parameters(monkeypatch):
    monkeypatch.setattr(standard_errors, "DENSE_UP_TO", 2)
    monkeypatch.setattr(standard_errors, "Curved", None)
    table = fitted("least squares").summary()
    assert list(table.rows[0]) == ["parameter", "estimate"]
    assert "No standard errors: 3 parameters" in table.footer


# The table.


def test_more_than_sixty_numbers_have_a_row_per_leaf():
    model = jm.Model(
        log_likelihood=lambda p, y: -0.5 * jnp.sum((y - p["b"][None]) ** 2, 1) - 0.5 * (y[:, 0] - p["a"]) ** 2,
        init={"a": np.asarray(0.0), "b": np.zeros(61)},
    )
    first, second = fit(model, np.random.default_rng(5).normal(size=(16, 61)), jm.MLE()).summary().rows
    assert (first["parameter"], second["parameter"]) == ("a", "b[61] (mean)")
    np.testing.assert_allclose([first["std err"], second["std err"]], 0.25, rtol=1e-8)


def test_the_printed_table():
    text = str(fitted("ridge").summary())
    title, rule, *lines = text.splitlines()
    assert title.strip() == "MAP: mode of the log joint density"
    assert set(rule) == {"="}
    assert all(len(line) <= len(rule) for line in lines)
    head = next(line for line in lines if line.startswith("parameter"))
    columns = ["parameter", "estimate", "std err", "z", "P>|z|", "[0.025", "0.975]", "prior share"]
    assert head.replace("std err", "std_err").replace("prior share", "prior_share").split() == [
        name.replace(" ", "_") for name in columns
    ]
    assert {len(line) for line in lines if line[:2] in ("pa", "a ", "b[")} == {len(rule)}
    assert "Log-Joint" in text
    assert "AIC" not in text
    assert "[1] Certified maximum: scaled gradient" in text


def test_a_share_outside_zero_to_one_is_explained():
    """A Student t prior far from its centre curves the other way, and takes information away."""
    model = jm.Model(
        log_likelihood=lambda p, y: -0.5 * (y - p) ** 2, log_prior=jm.Prior(dist.StudentT(1.0, 0.0, 1.0)), init=5.0
    )
    table = fit(model, np.linspace(4.0, 6.0, 5), jm.MAP()).summary()
    assert table.rows[0]["prior share"] < 0
    assert "A share outside 0 to 1" in table.footer


def test_a_long_solver_is_cut_and_its_decay_said():
    table = fit(linear(), (X, Y), jm.MLE(optax.adamw(1e-3), steps=20)).summary()
    assert max(map(len, str(table).splitlines()[1:])) < 90
    assert "not an MLE" in table.footer
    assert "AIC" not in table.header


def test_a_density_without_data_counts_no_observations():
    model = jm.from_log_density(lambda p: -0.5 * ((p - 3.0) / 2.0) ** 2, init=0.0)
    point = fit(model, None, jm.MAP())
    table = point.summary()
    assert table.rows[0]["std err"] == pytest.approx(2.0)
    assert not {"No. Observations", "AIC", "BIC"} & set(table.header)
    with pytest.raises(ValueError, match="Expected several examples for errors='sandwich'"):
        point.summary(errors="sandwich")


def test_wrong_options_are_refused():
    point = fitted("rate")
    with pytest.raises(ValueError, match="Expected errors to be one of 'observed', 'ggn', 'sandwich'; got 'robust'"):
        point.summary(errors="robust")
    with pytest.raises(ValueError, match="Expected a model with network outputs for errors='ggn'"):
        point.summary(errors="ggn")
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="Expected a level between 0 and 1"):
            point.summary(level=level)
    with pytest.raises(TypeError, match="positional"):
        point.summary("ggn")


def test_laplace_at_the_mle_has_the_same_table():
    mle = fitted("rate")
    gaussian = fit(mle.problem.model, WAITS, jm.Laplace(jm.MLE(), hessian="exact"))
    for ours, theirs in zip(mle.summary().rows, gaussian.summary().rows, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours.pop("parameter") == theirs.pop("parameter")
        assert ours == pytest.approx(theirs, rel=1e-12, nan_ok=True)


def test_laplace_at_the_map_speaks_of_a_posterior(tmp_path):
    case = LINEAR[0]
    posterior = fit(case.supervised(), case.data, jm.Laplace())
    table = posterior.summary()
    assert list(table.rows[0]) == ["parameter", "estimate", "posterior sd", "[0.025", "0.975]"]
    np.testing.assert_allclose(column(table, "posterior sd"), np.sqrt(np.diag(case.exact.covariance)), rtol=1e-8)
    posterior.save(tmp_path)
    assert jm.load(tmp_path).summary() == table
    by_mle = fit(case.supervised(), case.data, jm.Laplace(jm.MLE()))
    by_mle.save(tmp_path)
    assert "std err" in jm.load(tmp_path).summary().rows[0]


@pytest.mark.parametrize("method", [jm.MLE(), jm.MAP()], ids=["MLE", "MAP"])
def test_a_loaded_point_shows_estimates_and_says_how_to_get_errors(method, tmp_path):
    case = LINEAR[0]
    model = case.supervised()
    point = fit(model, case.data, method)
    point.save(tmp_path)
    loaded = jm.load(tmp_path)
    assert loaded.problem is None
    table = loaded.summary()
    assert list(table.rows[0]) == ["parameter", "estimate"]
    np.testing.assert_array_equal(column(table, "estimate"), column(point.summary(), "estimate"))
    assert str(table) == str(replace(point, problem=None).summary())
    if isinstance(method, jm.MLE):
        assert 'jm.Laplace(point, hessian="exact")' in table.footer.replace("\n    ", " ")
        again = fit(model, case.data, jm.Laplace(loaded, hessian="exact")).summary()
    else:
        assert "jm.Given(point.mode)" in table.footer
        again = fit(model, case.data, jm.Given(loaded.mode)).summary()
    np.testing.assert_allclose(column(again, "std err"), column(point.summary(), "std err"), rtol=1e-8)


def test_a_fit_in_single_precision_has_its_errors_in_double():
    single, double = fit(waits(), WAITS, jm.MLE(), "float32").summary(), fitted("rate").summary()
    for name in ("estimate", "std err", "[0.025"):
        np.testing.assert_allclose(column(single, name), column(double, name), rtol=1e-4)


def test_a_second_table_compiles_nothing():
    point = fit(linear(dist.Normal(0.0, 1.0)), (X, Y), jm.MAP())
    programs = point.problem.model.programs

    def compiled():
        return {name: program._cache_size() for name, program in programs.items() if hasattr(program, "_cache_size")}

    point.summary(errors="sandwich")
    known = compiled()
    assert {name for name, *_ in known} >= {"curvature", "prior curvature", "score products"}
    point.summary(errors="sandwich")
    fit(point.problem.model, (X + 1.0, Y), jm.MAP()).summary(errors="sandwich")
    assert compiled() == known


def test_restarts_and_members_have_their_tables():
    case = LINEAR[0]
    model = case.supervised()
    alone = fit(model, case.data, jm.MAP()).summary()
    for member in fit(model, case.data, jm.Ensemble(jm.MAP(), members=2)).members:
        np.testing.assert_allclose(column(member.summary(), "std err"), column(alone, "std err"), rtol=1e-6)


# Broken on purpose.


def without_the_slope(monkeypatch):
    monkeypatch.setattr(delta_method, "_slope", lambda axis, at: np.ones(np.shape(at)))


def with_the_other_sign(monkeypatch):
    exact = Curved.exact
    monkeypatch.setattr(Curved, "exact", lambda self: (-exact(self)[0], 0.0))


def with_the_curvature_per_example(monkeypatch):
    exact = Curved.exact
    monkeypatch.setattr(Curved, "exact", lambda self: (exact(self)[0] / self.problem.num_examples, 0.0))


def with_scores_of_the_mean(monkeypatch):
    products = Curved.score_products
    monkeypatch.setattr(Curved, "score_products", lambda self: products(self) / self.problem.num_examples)


def with_the_prior_squared(monkeypatch):
    of_prior = Curved.of_prior
    monkeypatch.setattr(Curved, "of_prior", lambda self: of_prior(self) ** 2)


MUTANTS = {
    without_the_slope: {check_exponential_rate},
    with_the_other_sign: set(CHECKS),
    with_the_curvature_per_example: set(CHECKS),
    with_scores_of_the_mean: {check_sandwich},
    with_the_prior_squared: {check_prior_share},
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda f: f.__name__)
def test_mutants_fail(mutant, monkeypatch):
    mutant(monkeypatch)
    failed = set()
    for check in CHECKS:
        try:
            check()
        except AssertionError:
            failed.add(check)
    assert failed == MUTANTS[mutant]
