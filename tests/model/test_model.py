"""Model: pure functions, checked when they are put together."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import stats

import jaxmap as jm

RNG = np.random.default_rng(23)
X = RNG.normal(size=(6, 2))
Y = RNG.normal(size=6)
NESTED = {"w": np.array([0.5, -1.0]), "scale": np.array(0.7), "mix": [np.array([[0.2, 0.8]])]}


def arrays(tree):
    return jax.tree.map(jnp.asarray, tree)


def observe(params, x):
    return dist.Normal(x @ params["w"], params["scale"])


# log densities


def test_observe_alone_is_a_likelihood(x64):
    model = jm.Model(observe=observe, init=NESTED)
    found = model.log_likelihood(arrays(NESTED), (jnp.asarray(X), jnp.asarray(Y)))
    np.testing.assert_allclose(found, stats.norm.logpdf(Y, X @ NESTED["w"], 0.7), rtol=1e-12)


def test_a_likelihood_beside_observe_is_kept(x64):
    model = jm.Model(log_likelihood=lambda params, batch: -(batch[1] ** 2), observe=observe, init=NESTED)
    np.testing.assert_array_equal(model.log_likelihood(arrays(NESTED), (X, jnp.asarray(Y))), -(Y**2))


@pytest.mark.parametrize(
    "init",
    [np.array(0.5), np.array([0.5, -1.0]), np.ones((2, 3)), NESTED],
    ids=["scalar", "vector", "matrix", "nested"],
)
def test_log_joint_is_the_prior_plus_the_sum_over_examples(init, x64):
    def log_likelihood(params, batch):
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params)) * batch - batch**2

    prior = jm.Prior(dist.Normal(0.0, 2.0))
    model = jm.Model(log_likelihood=log_likelihood, log_prior=prior, init=init)
    total = sum(leaf.sum() for leaf in jax.tree.leaves(init))
    expected = np.sum(total * Y - Y**2) + sum(stats.norm.logpdf(leaf, 0, 2).sum() for leaf in jax.tree.leaves(init))
    np.testing.assert_allclose(model.log_joint(model.start, jnp.asarray(Y)), expected, rtol=1e-12)
    halves = [jnp.sum(model.log_likelihood(model.start, jnp.asarray(part))) for part in (Y[:2], Y[2:])]
    np.testing.assert_allclose(sum(halves) + prior(model.start), expected, rtol=1e-12)
    assert not np.isclose(sum(halves) - prior(model.start), expected)


def test_without_a_prior_the_prior_is_flat():
    model = jm.Model(log_likelihood=lambda params, batch: -batch * params, init=1.0)
    assert float(model.log_prior(model.start)) == 0.0
    assert model.space.is_real


@pytest.mark.parametrize("where", ["likelihood", "prior", "both"])
def test_numpy_constants_in_closures_survive_a_change_of_precision(where):
    """Constants belong into closures; a fit computes in float32 and certifies in float64 with the same closures."""
    constant = np.linspace(0.1, 0.6, 6)

    def log_likelihood(params, batch):
        return -((batch - params * constant) ** 2) if where != "prior" else -((batch - params) ** 2)

    def log_prior(params):
        return -jnp.sum(params * constant) if where != "likelihood" else -(params**2)

    model = jm.Model(log_likelihood=log_likelihood, log_prior=log_prior, init=0.5)
    single = jm.fit(jax.random.key(0), model, Y, jm.Laplace())
    assert single.info.status is jm.Status.CONVERGED
    assert np.isfinite(single.log_evidence)
    with pytest.raises(ValueError, match="Expected a model that can compute in float64"):  # jax keeps it in float32
        jm.fit(jax.random.key(0), model, Y, jm.Laplace(), precision="float64")


# starts and supports


def test_init_may_be_a_tree_or_a_function_of_a_key(key):
    def init(key):
        return {"w": jax.random.normal(key, (2,)), "scale": jnp.ones(())}

    fixed, fresh = jm.Model(observe=observe, init=init(key)), jm.Model(observe=observe, init=init)
    np.testing.assert_array_equal(fixed.starts(key)["w"], fixed.starts(jax.random.key(1))["w"])
    np.testing.assert_array_equal(fixed.start["w"], init(key)["w"])
    np.testing.assert_array_equal(fresh.starts(key)["w"], init(key)["w"])
    assert not np.array_equal(fresh.starts(key)["w"], fresh.starts(jax.random.key(1))["w"])
    assert jax.vmap(fresh.starts)(jax.random.split(key, 3))["w"].shape == (3, 2)


@pytest.mark.parametrize("init", [0.5, [0.5, 1.0], (0.5,), {"a": [0.5]}, np.float32(0.5), np.ones(2, np.float32)])
def test_python_numbers_are_parameters(init):
    model = jm.Model(log_likelihood=lambda params, batch: batch, init=init)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model.start))
    assert jax.tree.structure(model.start) == jax.tree.structure(init)


def test_the_support_comes_from_the_prior_unless_it_is_given(rank_promotion):
    rules = {"w": dist.Normal(0.0, 1.0), "scale": dist.HalfNormal(1.0), "mix": dist.Dirichlet(jnp.ones(2))}
    model = jm.Model(observe=observe, init=NESTED, log_prior=jm.Prior(rules))
    assert [str(s) for s in model.space.supports] == [
        str(s) for s in (constraints.simplex, constraints.positive, constraints.real)
    ]
    given = jm.Model(observe=observe, init=NESTED, log_prior=jm.Prior(dist.Normal(0.0, 1.0)), support={
        "w": constraints.real, "scale": constraints.greater_than(0.5), "mix": constraints.simplex})  # fmt: skip
    assert float(given.space.supports[1].lower_bound) == 0.5
    plain = jm.Model(observe=observe, init=NESTED, log_prior=lambda params: -(params["scale"] ** 2))
    assert plain.space.is_real


def test_the_start_has_unconstrained_coordinates_of_the_dtype(x64):
    model = jm.Model(log_likelihood=lambda p, b: b, init=np.array([0.5, 2.0]), support=constraints.greater_than(0.25))
    z = model.start_unconstrained(jnp.float64)
    assert z.dtype == jnp.float64
    np.testing.assert_allclose(z, np.log([0.25, 1.75]), rtol=1e-12)


def test_a_model_prints_its_prior():
    model = jm.Model(
        log_likelihood=lambda p, b: b, init=np.ones(3, np.float32), log_prior=jm.Prior(dist.Normal(0.0, 1.0))
    )
    assert str(model).splitlines() == ["leaf  distribution            size", "      Normal(loc=0, scale=1)     3"]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"log_likelihood": None}, ValueError, "Expected log_likelihood or observe; got neither"),
        ({"log_likelihood": np.ones(3)}, TypeError, "Expected log_likelihood to be a function"),
        ({"log_prior": 0.0}, TypeError, "Expected log_prior to be a function"),
        ({"log_prior": None}, TypeError, "Expected log_prior to be a function"),
        ({"log_prior": {"a": dist.Normal(0.0, 1.0)}}, TypeError, "Expected log_prior to be a function"),
        ({"log_prior": dist.Normal(0.0, 1.0)}, TypeError, "Expected log_prior"),
        ({"observe": dist.Normal(0.0, 1.0)}, TypeError, "Expected observe"),
        ({"init": 1}, TypeError, "Expected floating parameters; got .*int"),
        ({"init": {"a": np.arange(3)}}, TypeError, "Expected floating parameters; got .*int"),
        ({"init": True}, TypeError, "Expected floating parameters; got .*bool"),
        ({"init": 1j}, TypeError, "Expected floating parameters; got .*complex"),
        ({"init": "zeros"}, TypeError, "Expected floating parameters; got"),
        ({"init": None}, ValueError, "Expected"),
        ({"init": {}}, ValueError, "Expected"),
        ({"init": np.zeros((0,))}, ValueError, "Expected"),
        ({"init": np.nan}, ValueError, "Expected finite parameters; got NaN or infinity in init"),
        ({"init": {"a": np.array([1.0, np.inf])}}, ValueError, r"NaN or infinity in init\['a'\]"),
        ({"init": lambda key: {"a": np.array([np.nan])}}, ValueError, r"NaN or infinity in init\(key\)\['a'\]"),
        ({"init": lambda: 1.0}, TypeError, "Expected init"),
        ({"init": -1.0, "support": constraints.positive}, ValueError, r"Expected init inside its support Positive"),
        ({"init": 0.0, "support": constraints.positive}, ValueError, r"Expected init inside its support Positive"),
        (
            {"init": 0.5, "support": constraints.greater_than(0.5)},
            ValueError,
            "Expected init inside its support Greater",
        ),
        ({"init": np.ones(3), "support": constraints.simplex}, ValueError, "Expected init inside its support Simplex"),
        ({"init": -1.0, "log_prior": jm.Prior(dist.HalfNormal(1.0))}, ValueError, "Expected init inside its support"),
        ({"init": 1.0, "support": constraints.nonnegative_integer}, ValueError, "Expected a continuous support"),
        ({"init": {"a": 1.0}, "support": {"b": constraints.real}}, ValueError, "Expected a prefix .*'b'"),
        ({"init": 1.0, "support": "positive"}, ValueError, "Expected a numpyro constraint"),
        ({"init": 1.0, "support": dist.HalfNormal(1.0)}, ValueError, "Expected a numpyro constraint"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_parts_that_do_not_fit_are_refused_when_the_model_is_made(given, error, words, unchecked):
    with pytest.raises(error, match=words):
        jm.Model(**({"log_likelihood": lambda params, batch: -batch, "init": 1.0} | given))


def test_all_parts_are_keywords_and_unknown_ones_raise():
    with pytest.raises(TypeError):
        jm.Model(lambda params, batch: -batch, 1.0)
    with pytest.raises(TypeError, match="prior"):
        jm.Model(log_likelihood=lambda params, batch: -batch, init=1.0, prior=jm.Prior(jm.flat))


# from_log_density


@pytest.mark.parametrize(
    "init",
    [np.array(0.3), np.ones(3), np.ones((2, 2)), {"a": np.array(0.3), "b": [np.ones(2)]}],
    ids=["scalar", "vector", "matrix", "nested"],
)
def test_one_log_density_is_a_model_without_data(init, x64):
    def log_density(params):
        return -sum(jnp.sum((leaf - 2.0) ** 2) for leaf in jax.tree.leaves(params)) / 2

    model = jm.from_log_density(log_density, init=init)
    expected = -sum(np.sum((leaf - 2.0) ** 2) for leaf in jax.tree.leaves(init)) / 2
    assert model.log_likelihood(model.start, None).shape == (1,)
    np.testing.assert_allclose(model.log_joint(model.start, None), expected, rtol=1e-12)
    assert float(model.log_prior(model.start)) == 0.0


def test_mle_and_map_both_find_the_mode_of_a_log_density(key):
    model = jm.from_log_density(
        lambda p: -jnp.sum((jnp.log(p) - 1.0) ** 2), init=np.array([0.5, 4.0], np.float32), support=constraints.positive
    )
    for method in (jm.MLE(), jm.MAP()):
        posterior = jm.fit(key, model, None, method)
        np.testing.assert_allclose(posterior.mode, np.e, rtol=1e-4)
        assert posterior.info.status is jm.Status.CONVERGED


@pytest.mark.parametrize("log_density", [lambda p: -(p**2), lambda p: -(p[:1] ** 2)])
def test_a_log_density_returns_a_scalar(log_density, unchecked):
    model = jm.from_log_density(log_density, init=np.ones(2, np.float32))
    with pytest.raises(ValueError, match="Expected the log density to return a scalar; got shape"):
        model.log_likelihood(model.start, None)


def test_a_log_density_is_a_function(unchecked):
    with pytest.raises(TypeError, match="Expected"):
        jm.from_log_density(3.0, init=1.0)


# what is kept with a model


def test_what_is_kept_with_a_model_is_made_once_and_is_not_another_models():
    model = jm.Model(log_likelihood=lambda p, y: y * p, init=np.zeros(()))
    made = []
    for _ in range(2):
        assert model.programs.made("answer", lambda: made.append(1) or 42) == 42
        program = model.programs.jitted("twice", lambda x: 2 * x)
    assert made == [1]
    assert program is model.programs.jitted("twice", lambda x: 3 * x)
    assert float(program(1.0)) == 2.0
    assert not replace(model, init=np.ones(())).programs
