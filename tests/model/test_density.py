"""Density: the total, its parts, and the minibatch estimate."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import stats

import jaxmap as jm
from jaxmap.data import BatchPlan, take_examples
from jaxmap.model import Density

RNG = np.random.default_rng(37)
N = 7
DATA = {"x": RNG.normal(size=N), "y": [RNG.normal(size=(N, 2))]}
STARTS = {
    "scalar": np.array(0.6),
    "vector": np.array([0.6, 1.2]),
    "matrix": RNG.gamma(3.0, size=(2, 2)),
    "nested": {"a": np.array(0.6), "b": [RNG.gamma(3.0, size=(2,)), {"c": RNG.gamma(3.0, size=(1, 2))}]},
}
each_start = pytest.mark.parametrize("name", STARTS)


def log_likelihood(params, batch):
    total = sum(jnp.sum(jnp.log(leaf)) for leaf in jax.tree.leaves(params))
    return -((batch["x"] - total) ** 2) + total * jnp.sum(batch["y"][0], axis=-1)


def model_of(name):
    return jm.Model(log_likelihood=log_likelihood, log_prior=jm.Prior(dist.HalfNormal(2.0)), init=STARTS[name])


def setting(name):
    model = model_of(name)
    z = jax.tree.map(lambda leaf: jnp.log(jnp.asarray(leaf)) + 0.1, STARTS[name])
    return model, z, jax.tree.map(jnp.asarray, DATA)


def by_hand(z, prior=True, jacobian=True):
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(z)]
    total = sum(leaf.sum() for leaf in leaves)
    likelihood = np.sum(-((DATA["x"] - total) ** 2) + total * DATA["y"][0].sum(-1))
    of_prior = sum(stats.halfnorm.logpdf(np.exp(leaf), scale=2.0).sum() for leaf in leaves)
    return likelihood + prior * of_prior + jacobian * total  # log |d exp(z) / dz| = z


@each_start
@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("jacobian", [True, False])
def test_the_flags_say_what_is_summed(name, prior, jacobian, x64):
    model, z, data = setting(name)
    density = Density(model, prior=prior, jacobian=jacobian)
    value = density(z, data)
    assert value.shape == ()
    np.testing.assert_allclose(value, by_hand(z, prior, jacobian), rtol=1e-10)
    np.testing.assert_allclose(density.log_prior(z) + jnp.sum(density.log_likelihoods(z, data)), value, rtol=1e-12)
    if jacobian:  # a flipped sign would be seen
        assert not np.isclose(value, by_hand(z, prior, -1))


@each_start
def test_it_is_the_log_joint_of_the_model_where_there_is_no_jacobian(name, x64):
    model, z, data = setting(name)
    expected = model.log_joint(model.space.constrain(z), data)
    np.testing.assert_allclose(Density(model, jacobian=False)(z, data), expected, rtol=1e-12)


@each_start
def test_the_mean_loss_is_minus_the_total_per_example(name, x64):
    model, z, data = setting(name)
    density = Density(model)
    np.testing.assert_allclose(density.mean_loss(z, data), -density(z, data) / N, rtol=1e-12)
    np.testing.assert_allclose(density.mean_loss(z, data, jnp.ones(N), N), -density(z, data) / N, rtol=1e-12)


@pytest.mark.parametrize("name", ["scalar", "nested"])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 6, 7])
def test_an_epoch_of_weighted_batches_is_the_full_sum(name, batch_size, x64, key):
    """Batches weighted by their size average to the full loss, gradients too: no example counts twice."""
    model, z, data = setting(name)
    density, plan = Density(model), BatchPlan(N, batch_size)
    rows, weights = plan.epoch(key, jnp.asarray(3))
    loss = jax.jit(jax.value_and_grad(lambda z, batch, w: density.mean_loss(z, batch, w, N)))
    parts = [loss(z, take_examples(data, r), w) for r, w in zip(rows, weights, strict=True)]
    shares = np.asarray(weights.sum(axis=1)) / N
    averaged = jax.tree.map(lambda *leaves: sum(s * leaf for s, leaf in zip(shares, leaves, strict=True)), *parts)
    full = jax.value_and_grad(lambda z: density.mean_loss(z, data))(z)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), averaged, full)


def test_the_estimate_is_that_of_the_design(x64):
    model, z, data = setting("vector")
    density = Density(model)
    rows, weights = np.array([4, 1, 0]), np.array([1.0, 1.0, 0.0])
    each = density.log_likelihoods(z, data)
    estimate = density.log_prior(z) + N / 2 * (each[4] + each[1])
    found = density.mean_loss(z, take_examples(data, rows), jnp.asarray(weights), N)
    np.testing.assert_allclose(found, -estimate / N, rtol=1e-12)


def test_the_learning_rate_does_not_depend_on_the_size_of_the_data(x64):
    model, z, data = setting("vector")
    density = Density(model, prior=False, jacobian=False)
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), data)
    np.testing.assert_allclose(density.mean_loss(z, twice), density.mean_loss(z, data), rtol=1e-12)


def test_the_order_of_the_examples_does_not_matter(x64):
    model, z, data = setting("nested")
    shuffled = take_examples(data, RNG.permutation(N))
    np.testing.assert_allclose(Density(model)(z, shuffled), Density(model)(z, data), rtol=1e-12)


def test_it_says_which_density_it_is():
    model = model_of("scalar")
    real = jm.Model(log_likelihood=lambda p, b: b, init=1.0)
    assert Density(model).target == "log joint density in unconstrained coordinates, Jacobian included"
    assert Density(model, jacobian=False).target == "log joint density in the user's own coordinates"
    assert Density(model, prior=False).target == "log-likelihood"
    assert Density(real).target == Density(real, jacobian=False).target == "log joint density"


def test_the_dtype_is_that_of_the_coordinates():
    model = jm.Model(log_likelihood=log_likelihood, init=np.float32(0.6), support=constraints.positive)
    data = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), DATA)
    assert Density(model)(jnp.float32(0.1), data).dtype == jnp.float32
    with jax.enable_x64(True):
        assert Density(model)(jnp.float32(0.1), data).dtype == jnp.float32
        assert Density(model).mean_loss(jnp.float32(0.1), data).dtype == jnp.float32


@pytest.mark.parametrize("precision", [None, "float32"])
def test_float32_parameters_are_fitted_while_float64_is_allowed(precision, key, x64):
    """Who enables float64 globally still has float32 networks: flax makes them so."""
    start = np.float32(0.5) if precision is None else 0.5
    model = jm.Model(log_likelihood=lambda p, b: -((b - p) ** 2), init=start, log_prior=jm.Prior(dist.Normal(0.0, 9.0)))
    posterior = jm.fit(key, model, np.ones(4), jm.MAP(), precision=precision)
    assert posterior.mode.dtype == jnp.float32
    assert posterior.info.status is jm.Status.CONVERGED


def test_equal_densities_are_equal_keys():
    model = model_of("scalar")
    assert hash(Density(model)) == hash(Density(model))
    assert Density(model) == Density(model) != Density(model, prior=False)
    assert Density(model) != Density(model_of("scalar"))


SEPARABLE = {
    "independent": (jm.Prior(dist.Normal(0.0, jnp.array([1.0, 2.0, 3.0]))), True),
    "positive": (jm.Prior(dist.HalfNormal(2.0)), True),
    "flat": (jm.Prior(jm.flat), True),
    "a matrix between parameters": (jm.Prior(dist.MultivariateNormal(jnp.zeros(3), jnp.eye(3) + 0.5)), False),
    "a function": (lambda p: -(jnp.sum(p) ** 2), False),
}


@pytest.mark.parametrize("kind", SEPARABLE)
def test_a_prior_is_separable_only_where_its_hessian_is_diagonal(kind, x64):
    prior, expected = SEPARABLE[kind]
    model = jm.Model(log_likelihood=lambda p, y: y * p[0], log_prior=prior, init=np.array([0.2, 0.3, 0.5]))
    density = Density(model)
    assert density.is_prior_separable is expected
    z = model.space.unconstrain(jnp.asarray(model.start))
    hessian = np.asarray(jax.hessian(density.log_prior)(z))
    if expected:
        np.testing.assert_allclose(hessian, np.diag(np.diag(hessian)), atol=1e-12)
    else:
        assert np.abs(hessian - np.diag(np.diag(hessian))).max() > 1e-3


def test_a_hierarchy_is_not_separable_but_its_likelihood_alone_is():
    prior = jm.Prior({"s": dist.HalfNormal(1.0), "b": lambda p: dist.Normal(0.0, p["s"])})
    model = jm.Model(log_likelihood=lambda p, y: y * p["b"][0], log_prior=prior, init={"s": 1.0, "b": np.zeros(2)})
    assert not Density(model).is_prior_separable
    assert Density(model, prior=False).is_prior_separable
