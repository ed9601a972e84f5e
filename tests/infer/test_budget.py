"""Budgets: each kind of method spends what it is given, and says so where it cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import jaxmap as jm
from jaxmap.infer import Problem, budgeted, fit_problem
from jaxmap.infer.budget import ENOUGH

pytestmark = pytest.mark.usefixtures("rank_promotion")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 2))
Y = X @ np.array([1.0, -2.0]) + 0.3 * RNG.normal(size=40)
BUDGET = 4000


def linear():
    pair = (lambda key: 0.1 * jax.random.normal(key, (2,)), lambda w, x: x @ w)
    return jm.supervised(pair, jm.Gaussian(scale=jm.Learned(dist.HalfNormal(1.0))), jm.Prior(dist.Normal(0.0, 1.0)))


@pytest.fixture(scope="module")
def model():
    return linear()


def problem_of(model):
    return Problem.of(model, (X, Y), precision="float64", progress=False)


ADAM = jm.MAP(optax.adam(1e-2), steps=300)

KINDS = {
    "steps": ADAM,
    "steps of batches": jm.MLE(optax.adam(1e-2), steps=7, batch_size=16),
    "restarts": jm.MAP(),
    "Laplace": jm.Laplace(ADAM, grade=25, force=True),
    "members": jm.Ensemble(ADAM, members=3),
    "replicates": jm.Bootstrap(jm.MAP(), replicates=10),
    "NUTS": jm.NUTS(start=jm.MAP(space="unconstrained"), chains=2),
    "SGHMC": jm.SGHMC(start=jm.MAP(space="unconstrained"), chains=2, thin=5),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in ("replicates", "NUTS") else kind for kind in KINDS]
)
def test_each_kind_spends_its_budget(key, model, kind):
    found = budgeted(key, problem_of(model), KINDS[kind], BUDGET)
    assert found.posterior.info.num_gradients == found.gradients
    assert ENOUGH * BUDGET <= found.gradients <= BUDGET, found.how
    assert found.how.startswith("run as ")
    assert "budget" not in found.how


@pytest.mark.parametrize("budget", [1500, 12_000])
def test_a_bound_spends_what_it_needs_and_says_why(key, model, budget):
    method = jm.VI(start=jm.Given(linear().start), grade=0)
    found = budgeted(key, problem_of(model), method, budget)
    assert found.gradients <= budget or "OVER the budget" in found.how
    assert found.gradients > ENOUGH * budget or "less than the budget" in found.how or "OVER" in found.how


def test_the_kept_run_is_what_the_scaled_method_gives(key, model):
    found = budgeted(key, problem_of(model), KINDS["NUTS"], BUDGET)
    assert found.method != KINDS["NUTS"]
    alone = fit_problem(key, problem_of(model), found.method)
    assert alone.info.num_gradients == found.gradients
    np.testing.assert_array_equal(alone.draws["network"], found.posterior.draws["network"])


def test_what_was_asked_for_comes_back_where_the_budget_allows_it(key, model):
    warm = jm.NUTS(start=jm.MAP(space="unconstrained"), chains=2, warmup=30, draws=1000)
    found = budgeted(key, problem_of(model), warm, 8000)
    assert found.method.warmup == 30
    small = budgeted(key, problem_of(model), warm, 400)
    assert small.gradients <= 400
    assert small.method.warmup <= 30


def test_a_climb_that_is_too_dear_is_cut_short(key):
    def bent(key):
        return jax.random.normal(key, (2,))

    model = jm.supervised((bent, lambda w, x: jnp.sinh(x @ w)), jm.Gaussian(0.3), jm.Prior(dist.Normal(0.0, 1.0)))
    method = jm.MAP(jm.LBFGS(tolerance=0.0), restarts=4)
    whole = fit_problem(key, problem_of(model), method).info.num_gradients
    found = budgeted(key, problem_of(model), method, 0.2 * whole)
    assert found.gradients <= 0.2 * whole
    assert found.method.restarts == 1


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (jm.Given(np.zeros(2)), "Given has nothing that could be scaled"),
        (jm.MAP(), "the density has one maximum, to which another climb would lead again"),
    ],
)
def test_what_cannot_be_scaled_says_why(key, method, told):
    pair = (lambda key: np.zeros(2), lambda w, x: x @ w)
    model = jm.supervised(pair, jm.Gaussian(0.3), jm.Prior(dist.Normal(0.0, 1.0)))
    found = budgeted(key, problem_of(model), method, BUDGET)
    assert found.method is method
    assert found.gradients < BUDGET
    assert found.how == f"run as given, less than the budget: {told}"


def test_what_cannot_be_made_cheaper_says_so(key, model):
    found = budgeted(key, problem_of(model), jm.Laplace(jm.Given(linear().start), force=True), 5)
    assert found.gradients > 5
    assert "OVER the budget" in found.how
