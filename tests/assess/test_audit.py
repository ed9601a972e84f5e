"""The audit: its prices against closed forms, and its verdicts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy import stats

import jaxmap as jm
from jaxmap.assess.audit import EXAMPLES
from jaxmap.assess.verdict import NATS, SHARE

KEY = jax.random.key(0)
NOISE, PRIOR = 0.7, 2.0


def line(d, scale=NOISE, prior=PRIOR):
    network = (lambda key: jnp.zeros(d), lambda b, x: x @ b)
    return jm.supervised(network, jm.Gaussian(scale=scale), jm.Prior(dist.Normal(0.0, prior)))


def rows(n, d, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    return x, x @ rng.normal(size=d) + NOISE * rng.normal(size=n)


def without_each(x, y):
    """Slow and obvious: mean and variance of x_i'b with example i left out."""
    found = []
    for i in range(len(y)):
        rest = np.arange(len(y)) != i
        precision = x[rest].T @ x[rest] / NOISE**2 + np.eye(x.shape[1]) / PRIOR**2
        b = np.linalg.solve(precision, x[rest].T @ y[rest] / NOISE**2)
        found.append((x[i] @ b, x[i] @ np.linalg.solve(precision, x[i])))
    return np.array(found).T


@pytest.mark.parametrize(
    ("n", "d"), [(12, 3), *(pytest.param(*size, marks=pytest.mark.slow) for size in ((40, 3), (30, 8)))]
)
def test_the_price_of_a_linear_gaussian_point_is_its_closed_form(n, d):
    x, y = rows(n, d)
    model = line(d)
    point = jm.fit(KEY, model, (x, y), jm.MAP(), precision="float64")
    audit = jm.audit(KEY, model, (x, y), point, precision="float64")
    center, variance = without_each(x, y)
    ratio = variance / NOISE**2
    kl = 0.5 * (ratio - np.log1p(ratio))  # of N(m, s^2 + v) from N(m, s^2)
    inside = 2 * stats.norm.cdf(1.6449 / np.sqrt(1 + ratio)) - 1
    whole = stats.norm.logpdf(y, center, np.sqrt(NOISE**2 + variance))
    alone = stats.norm.logpdf(y, center, NOISE)
    numbers = audit.numbers
    # 1000 draws and 64 values of y per example; weights that leave out one of 12 are smoothed hard
    rough = 0.02 if n > 12 else 0.03
    assert numbers["expected"] == pytest.approx(kl.mean(), rel=0.25, abs=2e-3)
    assert numbers["coverage_gap"] == pytest.approx(inside.mean() - 0.9, abs=rough)
    assert numbers["elpd"] == pytest.approx(whole.mean(), abs=rough)
    assert numbers["observed"] == pytest.approx((whole - alone).mean(), abs=0.03)
    assert numbers["k_hat"] == -np.inf or numbers["k_hat"] < 0.5
    assert numbers["severity"] == pytest.approx(
        max(abs(numbers["loss"]) / NATS, abs(numbers["coverage_gap"]) / SHARE), rel=1e-12
    )


@pytest.mark.slow
def test_many_examples_and_few_parameters_suffice():
    x, y = rows(400, 2)
    model = line(2)
    audit = jm.audit(KEY, model, (x, y), jm.fit(KEY, model, (x, y), jm.MAP()))
    assert audit.verdict is jm.Verdict.MAP_SUFFICES
    assert audit.numbers["examples"] == EXAMPLES
    assert json.loads(json.dumps(audit.as_dict(), allow_nan=False))["verdict"] == "MAP_SUFFICES"
    text = str(audit)
    assert text.startswith("MAP_SUFFICES: the point estimate predicts as well")
    for name in ("maximum", "only one", "near Gaussian", "loss", "coverage", "prior's part", "float32", "Next:"):
        assert name in text


def test_few_examples_need_the_gaussian_around_the_point():
    x, y = rows(20, 8)
    model = line(8)
    point = jm.fit(KEY, model, (x, y), jm.MAP())
    audit = jm.audit(KEY, model, (x, y), point)
    assert audit.verdict is jm.Verdict.LAPLACE_SUFFICES
    assert "jm.Laplace" in audit.next
    # the same of the Gaussian itself, whose mode is looked at
    of_gaussian = jm.audit(KEY, model, (x, y), jm.fit(KEY, model, (x, y), jm.Laplace(point)))
    assert of_gaussian.verdict is audit.verdict


@pytest.mark.slow
def test_a_classifier_against_its_posterior_on_a_grid():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(14, 1))
    y = (rng.random(14) < 1 / (1 + np.exp(-2 * x[:, 0]))).astype(int)
    network = (lambda key: jnp.zeros(1), lambda b, x: x @ b)
    model = jm.supervised(network, jm.Bernoulli(), jm.Prior(dist.Normal(0.0, 3.0)))
    point = jm.fit(KEY, model, (x, y), jm.MAP(), precision="float64")
    audit = jm.audit(KEY, model, (x, y), point, precision="float64")
    grid = np.linspace(-15, 25, 8001)
    each = -np.logaddexp(0, -np.where(y == 1, 1, -1)[:, None] * x * grid[None])
    kl = []
    for i in range(len(y)):
        log = each[np.arange(14) != i].sum(0) - grid**2 / 18
        weights = np.exp(log - log.max()) / np.exp(log - log.max()).sum()
        p = np.sum(weights / (1 + np.exp(-x[i, 0] * grid)))
        q = 1 / (1 + np.exp(-x[i, 0] * grid[np.argmax(log)]))
        kl.append(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    # the point without an example is found by one step, not climbed to
    assert audit.numbers["expected"] == pytest.approx(np.mean(kl), rel=0.3)
    assert np.isnan(audit.numbers["coverage_gap"])


def test_a_run_away_is_no_maximum():
    x = np.linspace(-1, 1, 10)[:, None]
    y = (x[:, 0] > 0).astype(int)
    network = (lambda key: jnp.zeros(1), lambda b, x: x @ b)
    model = jm.supervised(network, jm.Bernoulli())
    point = jm.fit(KEY, model, (x, y), jm.MLE())
    audit = jm.audit(KEY, model, (x, y), point)
    assert audit.verdict is jm.Verdict.NOT_A_MAXIMUM
    assert audit.numbers["severity"] == np.inf
    assert audit.as_dict()["numbers"] == {"severity": None}


def two_places(n=12):
    """|b| is known, its sign is not: two modes that predict otherwise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 1)) * 0.02
    y = rng.normal(size=n)

    def observe(b, x):
        return dist.Normal(x[:, 0] * b, 1.0)

    prior = dist.MixtureSameFamily(
        dist.Categorical(probs=jnp.array([0.5, 0.5])), dist.Normal(jnp.array([-40.0, 40.0]), 1.0)
    )
    return jm.Model(
        observe=observe, log_prior=jm.Prior(prior), init=lambda key: 30 * jax.random.rademacher(key, (), float)
    ), (x, y)


@pytest.mark.slow
def test_another_mode_that_predicts_otherwise_needs_full_bayes():
    model, data = two_places()
    point = jm.fit(KEY, model, data, jm.MAP())
    audit = jm.audit(KEY, model, data, point, restarts=6)
    assert audit.numbers["modes"] == 2
    assert audit.verdict is jm.Verdict.NEEDS_FULL_BAYES
    alone = jm.audit(KEY, model, data, point, restarts=0)
    assert alone.numbers["modes"] == 1
    assert alone.numbers["loss"] < audit.numbers["loss"]


@pytest.mark.slow
def test_of_a_network_that_no_weights_can_correct_the_outputs_are_drawn():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 2))
    y = np.sin(2 * x[:, 0]) + 0.2 * rng.normal(size=40)

    def init(key):
        return {"a": jax.random.normal(key, (2, 6)), "b": jnp.ones((6, 1))}

    pair = (init, lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"])
    model = jm.supervised(pair, jm.Gaussian(scale=jm.Learned(dist.HalfNormal(1.0))), jm.Prior(dist.Normal(0.0, 1.0)))
    point = jm.fit(KEY, model, (x, y), jm.MAP())
    audit = jm.audit(KEY, model, (x, y), point, restarts=2)
    assert audit.numbers["k_hat"] > 0.7
    assert audit.numbers["coverage_gap"] < 0
    assert audit.verdict is jm.Verdict.NEEDS_FULL_BAYES


def test_a_point_that_was_left_early_is_held_against_the_mode_beyond_it():
    x, y = rows(60, 3)
    model = line(3)
    early = jm.fit(KEY, model, (x, y), jm.MAP(optax.sgd(0.05), steps=2))
    assert early.info.status is jm.Status.STEPS_EXHAUSTED
    audit = jm.audit(KEY, model, (x, y), early)
    there = jm.audit(KEY, model, (x, y), jm.fit(KEY, model, (x, y), jm.MAP()))
    assert there.numbers["loss"] < 0.05 < audit.numbers["loss"]
    assert audit.verdict is jm.Verdict.NOT_A_MAXIMUM  # a Gaussian would do, but around another point
    assert "from a maximum" in audit.reasons[0]
    assert 0 < audit.num_gradients < 1e4


def test_what_cannot_be_audited_is_said():
    x, y = rows(20, 2)
    model = line(2)
    draws = jm.fit(KEY, model, (x, y), jm.NUTS(warmup=20, draws=20, chains=2))
    with pytest.raises(TypeError, match=r"Expected a point or a Gaussian from jm\.fit to audit; got Draws"):
        jm.audit(KEY, model, (x, y), draws)
    alone = jm.Model(log_likelihood=lambda b, d: dist.Normal(d[0] @ b, 1.0).log_prob(d[1]), init=jnp.zeros(2))
    with pytest.raises(ValueError, match="Expected a model with `observe`"):
        jm.audit(KEY, alone, (x, y), jm.fit(KEY, alone, (x, y), jm.MLE()))
    with pytest.raises(TypeError, match="key"):
        jm.audit(3, model, (x, y), draws)
