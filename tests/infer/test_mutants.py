"""Checks that cannot fail check nothing: each must fail for a model that is wrong in the way it looks for."""

import importlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import jaxmap as jm
from jaxmap.model.space import Space
from jaxmap.optimize.objective import flat_kinks
from tests.cases import COUNTS, LINEAR, as_vectors, check_counts, check_draws, check_gaussian, check_mode

KEY = jax.random.key(2)
CASE = next(case for case in LINEAR if case.name == "off-centre")


def fit(model, data, method):
    return jm.fit(KEY, model, data, method, precision="float64")


# Wrong models. The right one comes first: with it the checks pass.


def right(model):
    return model


def negated(model):
    """The log density with the other sign."""
    return jm.Model(
        log_likelihood=lambda p, batch: -model.log_likelihood(p, batch),
        log_prior=lambda p: -model.log_prior(p),
        init=model.init,
        support=model.support,
    )


def with_the_likelihood_negated(model):
    return jm.Model(log_likelihood=lambda p, batch: -model.log_likelihood(p, batch), log_prior=model.log_prior,
                    init=model.init, support=model.support)  # fmt: skip


def with_a_flipped_gradient(model):
    """The density is right, its gradient points the other way."""

    @jax.custom_jvp
    def flip(v):
        return v

    flip.defjvp(lambda primals, tangents: (primals[0], -tangents[0]))
    return jm.Model(log_likelihood=lambda p, batch: model.log_likelihood(jax.tree.map(flip, p), batch),
                    log_prior=model.log_prior, init=model.init, support=model.support)  # fmt: skip


def with_the_prior_doubled(model):
    """The prior counted twice, as it would be on two devices that both add it."""
    return jm.Model(log_likelihood=model.log_likelihood, log_prior=lambda p: 2 * model.log_prior(p), init=model.init,
                    support=model.support)  # fmt: skip


def with_the_prior_per_example(model):
    """The prior added to every example."""
    return jm.Model(
        log_likelihood=lambda p, batch: model.log_likelihood(p, batch) + model.log_prior(p),
        init=model.init,
        support=model.support,
    )


MUTANTS = [
    negated,
    with_the_likelihood_negated,
    with_a_flipped_gradient,
    with_the_prior_doubled,
    with_the_prior_per_example,
]


# The checks, as the tests of the right models use them (tests/infer/test_linear_gaussian.py).


def check_map(model):
    check_mode(CASE, fit(model, CASE.data, jm.MAP()).mode)


def check_laplace(model):
    check_gaussian(CASE, fit(model, CASE.data, jm.Laplace(force=True)))


def check_nuts(model):
    draws = fit(model, CASE.data, jm.NUTS(warmup=200, draws=300, max_tree_depth=6))
    check_draws(as_vectors(draws.draws, 2), CASE.exact.mean, np.sqrt(np.diag(CASE.exact.covariance)))


def check_two_modes():
    model = COUNTS.model()
    constrained, unconstrained = (
        fit(model, COUNTS.data, jm.MAP(space=s)).mode for s in ("constrained", "unconstrained")
    )
    check_counts(COUNTS, constrained, unconstrained, fit(model, COUNTS.data, jm.Laplace()))


def check_nuts_of_counts():
    draws = fit(COUNTS.model(), COUNTS.data, jm.NUTS(warmup=200, draws=1000))
    exact = stats.gamma(COUNTS.shape, scale=1 / COUNTS.rate)
    values = np.asarray(draws.draws["rate"])[..., None]
    check_draws(values, np.array([exact.mean()]), np.array([exact.std()]))


@pytest.fixture
def no_jacobian(monkeypatch):
    """A space that forgets its Jacobian."""
    monkeypatch.setattr(Space, "log_jacobian", lambda self, z: jnp.zeros(()))


# Flat and negative curvature may end a fit of a mutant; that is noticed, too.
NOTICED = (AssertionError, jm.FitError)


def test_the_right_model_passes():
    model = CASE.by_hand()
    check_map(model)
    check_laplace(model)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_model_fails(mutant):
    model = mutant(CASE.by_hand())
    for check in (check_map, check_laplace):
        with pytest.raises(NOTICED):
            check(model)


def test_the_modes_of_a_positive_parameter_pass():
    check_two_modes()


def test_a_dropped_jacobian_fails(no_jacobian):
    with pytest.raises(AssertionError):
        check_two_modes()


# Not among them: a flipped gradient. Leapfrog steps with any force keep the volume and are accepted by the density,
# so that the draws stay exact and only become dear.
@pytest.mark.slow
@pytest.mark.parametrize("mutant", [right, negated, with_the_likelihood_negated, with_the_prior_doubled])
def test_chains_of_a_wrong_model_fail(mutant):
    model = mutant(CASE.by_hand())
    if mutant is right:
        check_nuts(model)
        return
    with pytest.raises(NOTICED):
        check_nuts(model)


@pytest.mark.slow
def test_chains_of_a_positive_parameter_pass():
    check_nuts_of_counts()


@pytest.mark.slow
def test_chains_without_the_jacobian_fail(no_jacobian):
    with pytest.raises(AssertionError):
        check_nuts_of_counts()


def test_an_exact_answer_that_is_off_by_little_fails():
    """The tolerance is tight: a millionth of a standard deviation is too much, a percent of the evidence too."""
    posterior = fit(CASE.by_hand(), CASE.data, jm.Laplace())
    check_gaussian(CASE, posterior)
    moved = replace(posterior, mean=posterior.mean + 1e-6)
    for wrong in (moved, replace(posterior, log_evidence=posterior.log_evidence * 1.0001)):
        with pytest.raises(AssertionError):
            check_gaussian(CASE, wrong)


# Kinks: y = w + noise, so that the mode of a Laplace prior is the soft threshold of y.

Y = np.array([2.0, -0.3, 0.9, -1.7, 0.05])
WEIGHT = 0.5


def check_soft_threshold(prior=None, solver=None):
    """Exact zeros where |y| is below the weight, y moved towards zero by it elsewhere; and certified, zeros named."""
    network = (lambda key: {"w": jnp.zeros(5)}), (lambda p, x: x @ p["w"])
    model = jm.supervised(network, jm.Gaussian(scale=1.0), jm.l1(WEIGHT) if prior is None else prior)
    point = fit(model, (np.eye(5), Y), jm.MAP(solver))
    exact = np.sign(Y) * np.maximum(np.abs(Y) - WEIGHT, 0.0)
    np.testing.assert_allclose(point.mode["w"], exact, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(point.mode["w"]) == 0.0, exact == 0.0)
    assert point.info.status is jm.Status.CONVERGED
    assert point.info.certificate.held == ("w[1]", "w[4]")


PROXIMAL = [jm.ProximalNewton(), jm.ProximalGradient()]
each_proximal = pytest.mark.parametrize("solver", PROXIMAL, ids=["Newton", "gradient"])


@each_proximal
def test_the_soft_threshold_passes(solver):
    check_soft_threshold(solver=solver)


@each_proximal
def test_a_kink_of_twice_the_weight_fails(solver, monkeypatch):
    whole = jm.Prior.kinks
    doubled = lambda self, params: [None if k is None else k._replace(weight=2 * k.weight) for k in whole(self, params)]
    monkeypatch.setattr(jm.Prior, "kinks", doubled)
    with pytest.raises(NOTICED):
        check_soft_threshold(solver=solver)


@each_proximal
def test_a_prior_of_twice_the_strength_fails(solver):
    with pytest.raises(NOTICED):
        check_soft_threshold(jm.l1(2 * WEIGHT), solver)


@each_proximal
def test_a_soft_threshold_of_the_other_sign_fails(solver, monkeypatch):
    """The threshold pushes away from the kink instead of towards it."""
    objective = importlib.import_module("jaxmap.optimize.objective")
    proximal = importlib.import_module("jaxmap.optimize.proximal")
    threshold, quadratic = objective.soft_threshold, proximal.l1_quadratic
    monkeypatch.setattr(objective, "soft_threshold", lambda v, kink, step: threshold(v, kink, -step))
    monkeypatch.setattr(proximal, "l1_quadratic", lambda h, g, a, w, c: quadratic(h, g, a, -w, c))
    with pytest.raises(NOTICED):
        check_soft_threshold(solver=solver)


def _with_kinks(monkeypatch, seen):
    """What a certificate takes the kinks for, in its slope and in its walks."""
    for name in ("slope", "nearby"):
        monkeypatch.setattr(importlib.import_module(f"jaxmap.optimize.{name}"), "flat_kinks", seen)


def test_a_certificate_that_forgets_the_kinks_fails(monkeypatch):
    """Without them the gradient at the mode is as large as the weight."""

    def forgotten(kinks, z):
        weights, centers = flat_kinks(kinks, z)
        return jnp.zeros_like(weights), centers

    _with_kinks(monkeypatch, forgotten)
    with pytest.raises(NOTICED):
        check_soft_threshold()


def test_a_certificate_that_holds_every_coordinate_at_its_kink_fails(monkeypatch):
    """With weights a hundred times too large a point is held that grows: the same certificate must refuse it."""
    model = jm.Model(
        log_likelihood=lambda p, y: dist.Normal(p["w"], 1.0).log_prob(y),
        log_prior=jm.Prior(jm.l1(0.5)),
        init={"w": 0.0},
    )
    start = jm.Given({"w": np.asarray(0.0)})
    assert fit(model, np.full(1, 2.0), start).info.status is jm.Status.STEPS_EXHAUSTED

    def heavy(kinks, z):
        weights, centers = flat_kinks(kinks, z)
        return 100 * weights, centers

    _with_kinks(monkeypatch, heavy)
    assert fit(replace(model), np.full(1, 2.0), start).info.status is jm.Status.CONVERGED


# The new forms of Newton against the same mutants.


@pytest.mark.parametrize(
    "solver", [jm.NewtonCG(), jm.Newton(lazy=True), jm.LBFGS()], ids=["conjugate gradients", "lazy", "L-BFGS"]
)
def test_a_flipped_gradient_and_a_doubled_prior_fail_with_every_solver(solver):
    check_mode(CASE, fit(CASE.by_hand(), CASE.data, jm.MAP(solver)).mode)
    for mutant in (with_a_flipped_gradient, with_the_prior_doubled):
        with pytest.raises(NOTICED):
            check_mode(CASE, fit(mutant(CASE.by_hand()), CASE.data, jm.MAP(solver)).mode)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_dropped_jacobian_fails_with_every_newton(lazy, no_jacobian):
    constrained, unconstrained = (
        fit(COUNTS.model(), COUNTS.data, jm.MAP(jm.Newton(lazy=lazy), space=space)).mode["rate"]
        for space in ("constrained", "unconstrained")
    )
    np.testing.assert_allclose(unconstrained, constrained, rtol=1e-6)  # the mutant: both modes are one
    with pytest.raises(AssertionError):
        check_counts(COUNTS, {"rate": constrained}, {"rate": unconstrained}, None)
