"""supervised(): networks, likelihoods, priors and units, put together."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flax import linen, nnx
from numpyro.distributions import constraints
from scipy import stats

import jaxmap as jm
from jaxmap.trees import paths

RNG = np.random.default_rng(31)
X = 100.0 + 20.0 * RNG.normal(size=(8, 2))
Y = -30.0 + 4.0 * RNG.normal(size=8)
WEIGHTS = {"kernel": np.array([[0.3], [-0.8]]), "bias": np.array([0.2])}
NETWORK = (lambda key: WEIGHTS, lambda params, x: x @ params["kernel"] + params["bias"][None])
WIDE = (
    lambda key: {"kernel": np.array([[0.3, 1.0], [-0.8, 0.1]])},
    lambda params, x: x @ params["kernel"],
)
NORMAL = jm.Prior(dist.Normal(0.0, 1.0))


def raw(model, params, x=X, y=Y):
    return np.asarray(model.log_likelihood(jax.tree.map(jnp.asarray, params), (jnp.asarray(x), jnp.asarray(y))))


# params


def test_without_learned_parts_the_params_are_the_networks_own(x64, key):
    model = jm.supervised(NETWORK, jm.Gaussian(0.5), NORMAL)
    assert paths(model.start) == ["bias", "kernel"]
    f = X @ WEIGHTS["kernel"][:, 0] + 0.2
    np.testing.assert_allclose(raw(model, WEIGHTS), stats.norm.logpdf(Y, f, 0.5), rtol=1e-12)
    np.testing.assert_allclose(model.apply(model.start, jnp.asarray(X)), f, rtol=1e-12)
    expected = sum(stats.norm.logpdf(leaf).sum() for leaf in WEIGHTS.values())
    np.testing.assert_allclose(model.log_prior(model.start), expected, rtol=1e-12)


def test_learned_parts_stand_beside_the_network_with_prior_and_support(x64):
    scale, df = dist.HalfNormal(2.0), dist.Gamma(2.0, 0.1)
    model = jm.supervised(NETWORK, jm.StudentT(df=jm.Learned(df), scale=jm.Learned(scale)), NORMAL)
    assert paths(model.start) == ["likelihood/df", "likelihood/scale", "network/bias", "network/kernel"]
    np.testing.assert_allclose(model.start["likelihood"]["df"], 20.0)
    np.testing.assert_allclose(model.start["likelihood"]["scale"], 2.0 * np.sqrt(2 / np.pi), rtol=1e-6)
    assert [s is constraints.positive for s in model.space.supports] == [True, True, False, False]
    params = {"likelihood": {"df": np.array(3.0), "scale": np.array(0.7)}, "network": WEIGHTS}
    f = X @ WEIGHTS["kernel"][:, 0] + 0.2
    np.testing.assert_allclose(raw(model, params), stats.t.logpdf(Y, 3.0, f, 0.7), rtol=1e-10)
    expected = stats.halfnorm.logpdf(0.7, scale=2.0) + stats.gamma.logpdf(3.0, 2.0, scale=10.0)
    expected += sum(stats.norm.logpdf(leaf).sum() for leaf in WEIGHTS.values())
    np.testing.assert_allclose(model.log_prior(jax.tree.map(jnp.asarray, params)), expected, rtol=1e-10)


def test_the_rules_of_the_prior_speak_of_the_networks_own_paths(x64):
    rules = jm.Prior.by_path({"kernel": dist.Normal(0.0, 0.1), "bias": jm.flat})
    expected = stats.norm.logpdf(WEIGHTS["kernel"], 0, 0.1).sum()
    plain = jm.supervised(NETWORK, jm.Gaussian(0.5), rules)
    np.testing.assert_allclose(plain.log_prior(plain.start), expected, rtol=1e-12)
    learned = jm.supervised(NETWORK, jm.Gaussian(jm.Learned(dist.HalfNormal(1.0))), rules)
    start = learned.start
    of_scale = stats.halfnorm.logpdf(start["likelihood"]["scale"])
    np.testing.assert_allclose(learned.log_prior(start), expected + of_scale, rtol=1e-6)
    assert "likelihood/scale  HalfNormal(scale=1)" in str(learned)
    tree = jm.supervised(NETWORK, jm.Gaussian(0.5), jm.Prior({"kernel": dist.Normal(0.0, 0.1), "bias": jm.flat}))
    np.testing.assert_allclose(tree.log_prior(tree.start), expected, rtol=1e-12)
    with pytest.raises(ValueError, match="got 'network/kernel' that matches nothing"):
        jm.supervised(
            NETWORK,
            jm.Gaussian(jm.Learned(dist.HalfNormal(1.0))),
            jm.Prior.by_path({"*": jm.flat, "network/kernel": jm.flat}),
        )


def test_hierarchies_see_the_networks_own_params(x64):
    rules = jm.Prior({"kernel": lambda p: dist.Normal(0.0, jnp.exp(p["bias"][0])), "bias": dist.Normal(0.0, 1.0)})
    for likelihood in (jm.Gaussian(0.5), jm.Gaussian(jm.Learned(dist.HalfNormal(1.0)))):
        model = jm.supervised(NETWORK, likelihood, rules)
        found = model.log_prior(model.start)
        if "likelihood" in model.start:
            found = found - stats.halfnorm.logpdf(model.start["likelihood"]["scale"])
        expected = stats.norm.logpdf(WEIGHTS["kernel"], 0, np.exp(0.2)).sum() + stats.norm.logpdf(0.2)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_missing_prior_is_flat_and_a_bare_rule_is_a_prior():
    assert float(jm.supervised(NETWORK, jm.Gaussian()).log_prior(WEIGHTS)) == 0.0
    bare = jm.supervised(NETWORK, jm.Gaussian(), dist.Normal(0.0, 1.0))
    np.testing.assert_allclose(bare.log_prior(bare.start), NORMAL(bare.start))


# units


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_scaling_is_the_change_of_variables_of_x_and_y(sign, x64):
    scaling = jm.standardize((X, Y))
    model = jm.supervised(NETWORK, jm.Gaussian(0.5), NORMAL, scaling=scaling)
    x_std, y_std = (X - X.mean(0)) / X.std(0), (Y - Y.mean()) / Y.std()
    f = x_std @ WEIGHTS["kernel"][:, 0] + 0.2
    expected = stats.norm.logpdf(y_std, f, 0.5) - sign * np.log(Y.std())
    close = np.allclose(raw(model, WEIGHTS), expected, rtol=1e-6)
    assert close == (sign > 0)  # the Jacobian is -log scale; its mutant fails


def test_the_density_in_raw_units_integrates_to_one(x64):
    model = jm.supervised(NETWORK, jm.StudentT(5.0, 0.5), NORMAL, scaling=jm.standardize((X, Y)))
    grid = np.linspace(-400.0, 400.0, 40001)
    distribution = model.observe(model.start, jnp.asarray(X))
    density = np.exp(jax.jit(jax.vmap(lambda y: distribution.log_prob(jnp.full(8, y))))(grid))
    np.testing.assert_allclose(np.trapezoid(density, grid, axis=0), 1.0, rtol=1e-5)


def test_apply_speaks_in_standardised_units_and_observe_in_raw_ones(x64):
    model = jm.supervised(NETWORK, jm.Gaussian(0.5), NORMAL, scaling=jm.standardize((X, Y)))
    outputs = model.apply(model.start, jnp.asarray(X))
    distribution = model.observe(model.start, jnp.asarray(X))
    np.testing.assert_allclose(distribution.mean, Y.mean() + Y.std() * np.asarray(outputs), rtol=1e-6)
    np.testing.assert_allclose(distribution.variance, (0.5 * Y.std()) ** 2, rtol=1e-6)


def test_several_targets_have_their_own_units(x64, rank_promotion):
    y = np.stack([Y, 10.0 * Y + RNG.normal(size=8)], axis=1)
    scaling = jm.standardize((X, y))
    model = jm.supervised(WIDE, jm.Gaussian(np.array([0.5, 2.0])), NORMAL, scaling=scaling)
    f = (X - X.mean(0)) / X.std(0) @ WIDE[0](None)["kernel"]
    expected = stats.norm.logpdf((y - y.mean(0)) / y.std(0), f, [0.5, 2.0]) - np.log(y.std(0))
    np.testing.assert_allclose(raw(model, WIDE[0](None), X, y), expected.sum(axis=1), rtol=1e-6)


def test_learned_scales_live_in_standardised_units(x64):
    model = jm.supervised(
        NETWORK, jm.Gaussian(jm.Learned(dist.HalfNormal(1.0))), NORMAL, scaling=jm.standardize((X, Y))
    )
    params = {"network": WEIGHTS, "likelihood": {"scale": np.array(0.25)}}
    distribution = model.observe(jax.tree.map(jnp.asarray, params), jnp.asarray(X))
    np.testing.assert_allclose(np.sqrt(distribution.variance), 0.25 * Y.std(), rtol=1e-6)


def test_labels_keep_their_units(x64):
    labels = np.arange(8) % 2
    model = jm.supervised(NETWORK, jm.Bernoulli(), NORMAL, scaling=jm.standardize((X, labels)))
    logits = (X - X.mean(0)) / X.std(0) @ WEIGHTS["kernel"][:, 0] + 0.2
    expected = stats.bernoulli.logpmf(labels, 1 / (1 + np.exp(-logits)))
    np.testing.assert_allclose(raw(model, WEIGHTS, X, labels), expected, rtol=1e-6)


def test_fits_do_not_depend_on_the_units_of_the_data(key):
    """The same table in other units: the same parameters, and a log-likelihood that moved by the Jacobian alone."""
    x, y = X.astype(np.float32), Y.astype(np.float32)
    found = []
    for stretch, shift in ((1.0, 0.0), (2.0, 64.0)):
        data = (stretch * x + shift, stretch * y + shift)
        model = jm.supervised(NETWORK, jm.Gaussian(0.5), NORMAL, scaling=jm.standardize(data))
        found.append(jm.fit(key, model, data))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), found[0].mode, found[1].mode)
    moved = found[1].info.log_likelihood - found[0].info.log_likelihood
    np.testing.assert_allclose(moved, -8 * np.log(2.0), atol=1e-2)


def test_integer_inputs_are_the_same_numbers(key):
    x = np.round(X).astype(int)
    scaling = jm.standardize((x, Y))
    model = jm.supervised(NETWORK, jm.Gaussian(0.5), NORMAL, scaling=scaling)
    params = jax.tree.map(jnp.asarray, WEIGHTS)
    expected = model.apply(params, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(model.apply(params, jnp.asarray(x)), expected, rtol=1e-5)


# networks


class Tiny(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(1)(x)


def test_linen_modules_learn_their_shapes_from_a_scaled_example(key):
    seen = []

    class Looking(linen.Module):
        @linen.compact
        def __call__(self, x):
            seen.append(x)
            return linen.Dense(1)(x)

    scaling = jm.standardize((X, Y))
    model = jm.supervised(Looking(), jm.Gaussian(0.5), NORMAL, example=X[:1].astype(np.float32), scaling=scaling)
    assert paths(model.start) == ["Dense_0/bias", "Dense_0/kernel"]
    assert seen[0].shape == (1, 2)
    np.testing.assert_allclose(seen[0], (X[:1] - X.mean(0)) / X.std(0), rtol=1e-4)
    outputs = model.apply(model.start, jnp.asarray(X, jnp.float32))
    kernel = np.asarray(model.start["Dense_0"]["kernel"])[:, 0]
    np.testing.assert_allclose(outputs, (X - X.mean(0)) / X.std(0) @ kernel, rtol=1e-3, atol=1e-4)


def test_an_integer_example_is_scaled_like_floats():
    x = np.round(X).astype(int)
    scaling = jm.standardize((x, Y))
    jm.supervised(Tiny(), jm.Gaussian(0.5), NORMAL, example=x[:1], scaling=scaling)


def test_a_linen_module_without_example_is_refused():
    with pytest.raises(ValueError, match=r"Expected example=x\[:1\]"):
        jm.supervised(Tiny(), jm.Gaussian(0.5), NORMAL)


def test_models_of_instances_say_that_they_have_one_start():
    assert jm.supervised(lambda rngs: nnx.Linear(2, 1, rngs=rngs), jm.Gaussian()).restartable
    assert not jm.supervised(nnx.Linear(2, 1, rngs=nnx.Rngs(0)), jm.Gaussian()).restartable


# targets of another shape


@pytest.mark.parametrize(
    ("network", "likelihood", "shape", "words"),
    [
        (NETWORK, jm.Gaussian(), (8, 1), r"shape \(8,\) .*; got \(8, 1\)\. Squeeze y"),
        (NETWORK, jm.Gaussian(), (8, 2), r"shape \(8,\) .*; got \(8, 2\)\. Make the last layer"),
        (WIDE, jm.Gaussian(), (8,), r"shape \(8, 2\) .*; got \(8,\)\. Make the last layer"),
        (WIDE, jm.Gaussian(), (8, 3), r"shape \(8, 2\) .*; got \(8, 3\)"),
        (WIDE, jm.HeteroscedasticGaussian(), (8, 2), r"shape \(8,\) .*; got \(8, 2\)"),
        (WIDE, jm.Categorical(), (8, 2), r"shape \(8,\) .*; got \(8, 2\)"),
    ],
    ids=["column", "too many", "too few", "another number", "heteroscedastic", "one hot"],
)
def test_targets_of_another_shape_never_broadcast(network, likelihood, shape, words):
    model = jm.supervised(network, likelihood, NORMAL)
    with pytest.raises(ValueError, match="Expected y with " + words):
        jax.eval_shape(model.log_likelihood, model.start, (jnp.ones((8, 2)), jnp.ones(shape)))


@pytest.mark.parametrize(
    "scaling", [(0.0, 1.0), "standard", 1.0, lambda x: x], ids=["pair", "text", "number", "function"]
)
def test_a_scaling_is_a_scaling(scaling, unchecked):
    with pytest.raises((TypeError, ValueError), match="Expected"):
        jm.supervised(NETWORK, jm.Gaussian(), NORMAL, scaling=scaling)


def test_counts_cannot_be_standardised(unchecked):
    """A standardised count is not a count; the model says so when it is made."""
    with pytest.raises(ValueError, match="Expected"):
        jm.supervised(NETWORK, jm.Poisson(), NORMAL, scaling=jm.standardize((X, np.arange(8.0))))
