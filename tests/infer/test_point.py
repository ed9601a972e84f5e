"""Restarts: distinct maxima counted by what they predict, and the second climb with the Gauss-Newton matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import jaxmap as jm
from jaxmap import Status
from jaxmap.curvature import examples_at_a_time
from jaxmap.infer.point import prior_only
from jaxmap.infer.problem import Problem
from jaxmap.model import Density

KEY = jax.random.key(0)


def wells(low, high):
    """A mixture of two Gaussians as a log density of each example's mean: modes near -3 and 3."""

    def log_likelihood(p, y):
        left, right = (-0.5 * (p["w"] - c) ** 2 for c in (-3.0, 3.0))
        return jnp.logaddexp(jnp.log(low) + left, jnp.log(high) + right) + 0.0 * y

    def init(key):
        return {"w": jax.random.uniform(key, (), minval=-6.0, maxval=6.0)}

    return jm.Model(log_likelihood=log_likelihood, init=init)


def test_two_modes_of_different_height_are_two_and_the_higher_one_is_returned():
    point = jm.fit(KEY, wells(0.3, 0.7), np.zeros(4), jm.MAP(restarts=8), precision="float64")
    assert point.info.diagnostics["distinct_maxima"] == 2
    np.testing.assert_allclose(point.mode["w"], 3.0, atol=1e-4)
    reached = int(point.info.diagnostics["reached_best"])
    assert 0 < reached < 8
    assert point.info.notes == (f"2 distinct maxima among 8 restarts; the best was reached by {reached}.",)
    assert point.info.members == (Status.CONVERGED,) * 8


def test_one_mode_is_one_however_many_restarts():
    model = jm.Model(
        log_likelihood=lambda p, y: dist.Normal(p["w"], 1.0).log_prob(y),
        init=lambda key: {"w": jax.random.normal(key, ())},
    )
    point = jm.fit(KEY, model, np.ones(4), jm.MAP(restarts=5), precision="float64")
    assert point.info.notes == ("1 distinct maximum among 5 restarts; the best was reached by 5.",)
    assert jm.fit(KEY, model, np.ones(4), jm.MAP(), precision="float64").info.notes == ()


WIDTH = 2
SOLUTION = {"in": np.array([[1.5, -0.7]]), "bias": np.array([0.4, -0.9]), "out": np.array([1.2, 2.0])}


def symmetric_copy(key):
    """The same network with its hidden units permuted and their signs flipped, a little off."""
    of_order, of_sign, of_noise = jax.random.split(key, 3)
    order = jax.random.permutation(of_order, WIDTH)
    sign = jax.random.rademacher(of_sign, (WIDTH,), float)
    noise = 0.05 * jax.random.normal(of_noise, (WIDTH,))
    return {
        "in": jnp.asarray(SOLUTION["in"])[:, order] * sign[None],
        "bias": jnp.asarray(SOLUTION["bias"])[order] * sign + noise,
        "out": jnp.asarray(SOLUTION["out"])[order] * sign,
    }


def test_symmetric_copies_of_a_network_are_one_maximum():
    """tanh is odd: flipping a unit's signs, or swapping units, changes the parameters and nothing else."""
    rng = np.random.default_rng(0)
    x = 1.5 * rng.normal(size=(200, 1))
    apply = lambda p, x: jnp.tanh(x @ p["in"] + p["bias"][None]) @ p["out"]
    y = np.asarray(apply(SOLUTION, x)) + 0.1 * rng.normal(size=200)
    model = jm.supervised((symmetric_copy, apply), jm.Gaussian(scale=0.1), jm.Prior(dist.Normal(0.0, 3.0)))
    method = jm.MAP(jm.Newton(), restarts=8)
    point = jm.fit(KEY, model, (x, y), method, precision="float64")
    assert point.info.diagnostics == {"distinct_maxima": 1.0, "reached_best": 8.0}
    assert set(point.info.members) == {Status.CONVERGED}
    ends = np.array(
        [jm.fit(jax.random.key(k), model, (x, y), jm.MAP(jm.Newton()), precision="float64").mode["out"] for k in (0, 1)]
    )
    assert np.ptp(ends, axis=0).max() > 0.1, "the copies are different parameters"


# The second climb.


def exponentials(start):
    """y = a exp(-b x), a classic where the Hessian far from the data leads nowhere."""
    x = np.linspace(0.0, 3.0, 20)
    y = 2.0 * np.exp(-1.3 * x) + 0.01 * np.random.default_rng(0).normal(size=20)
    network = (lambda key: {"a": jnp.asarray(start[0]), "b": jnp.asarray(start[1])},
               lambda p, x: p["a"] * jnp.exp(-p["b"] * x))  # fmt: skip
    return jm.supervised(network, jm.Gaussian(scale=0.01)), (x, y)


@pytest.mark.parametrize("start", [(1.0, 1.0), (0.5, 40.0)], ids=["near", "on a plateau"])
def test_the_second_climb_is_adopted_only_where_it_ends_better(start):
    model, data = exponentials(start)
    default, exact, gauss = (
        jm.fit(KEY, model, data, jm.MLE(solver), precision="float64")
        for solver in (None, jm.Newton(curvature="exact"), jm.Newton(curvature="ggn"))
    )
    second = "after trust-region Newton" in default.info.solver
    if exact.info.status is Status.CONVERGED:
        assert not second
    if second:
        assert default.info.status is Status.CONVERGED
        assert default.info.log_joint > exact.info.log_joint - 1e-3
        np.testing.assert_allclose(default.mode["b"], gauss.mode["b"], rtol=1e-6)
        assert default.info.num_gradients > exact.info.num_gradients
    assert default.info.log_joint >= exact.info.log_joint - 1e-3
    for point in (default, exact, gauss):
        if point.info.status is Status.CONVERGED:
            np.testing.assert_allclose([point.mode["a"], point.mode["b"]], [2.0, 1.3], atol=0.1)


def test_a_second_climb_that_ends_nowhere_is_not_adopted():
    """Separable classes have no maximum for either matrix."""
    x = np.array([-2.0, -1.0, 0.4, 1.0])
    network = (lambda key: {"w": jnp.zeros(())}, lambda p, x: p["w"] * x)
    model = jm.supervised(network, jm.Bernoulli())
    point = jm.fit(KEY, model, (x, (x > 0).astype(int)), jm.MLE(), precision="float64")
    assert point.info.status is not Status.CONVERGED
    assert "after" not in point.info.solver


# What stands on a point.


def _lasso(prior):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(60, 3))
    model = jm.supervised((lambda key: jnp.zeros(3), lambda b, x: x @ b), jm.Gaussian(1.0), prior)
    return model, (x, x @ np.array([2.0, 0.0, 0.0]) + rng.normal(size=60))


def test_laplace_refuses_a_mode_at_a_kink_and_names_what_lies_there():
    model, data = _lasso(jm.l1(40.0))
    with pytest.raises(jm.FitError, match=r"\[1\], \[2\] lie at the kink"):
        jm.fit(KEY, model, data, jm.Laplace(), precision="float64")


def test_a_weak_prior_whose_bound_decides_nothing_is_looked_at_closely():
    """The precision 1e-40 bounds the distance by millions of deviations; the curvature itself is sound."""
    path = jm.path(KEY, lambda s: _lasso(jm.weight_decay(s))[0], _lasso(jm.flat)[1], [1e-40], precision="float64")
    assert path.statuses == (jm.Status.CONVERGED,)
    assert path.certificates[0].smallest_curvature > 0.1


@pytest.mark.parametrize("informative", [0, 299])
def test_a_slope_that_only_the_last_examples_show_is_seen(informative):
    """Examples so large that a part of them is asked first."""

    def log_likelihood(p, batch):
        x, y = batch
        wide = jnp.zeros((1, 2**17)) + x[:, None]
        return -((y - p["a"] - p["b"] * jnp.mean(wide, axis=1)) ** 2)

    x = np.zeros(300)
    x[informative] = 1.0
    model = jm.Model(log_likelihood=log_likelihood, init={"a": 0.0, "b": 0.0, "c": 0.0})
    problem = Problem.of(model, (x, np.zeros(300)))
    assert prior_only(problem, Density(model, prior=False)) == ["c"]
    assert examples_at_a_time(lambda batch: log_likelihood(model.start, batch), problem.data) < 299
