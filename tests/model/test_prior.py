"""Priors: densities against scipy, rules by tree and by path, hierarchies, samples, and weight decay as a prior."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import stats

import jaxmap as jm
from jaxmap.trees import paths

RNG = np.random.default_rng(11)
TREES = {
    "scalar": np.array(0.7),
    "vector": RNG.normal(size=3),
    "matrix": RNG.normal(size=(2, 3)),
    "nested": {"a": {"kernel": RNG.normal(size=(2, 2)), "bias": RNG.normal(size=2)}, "b": [np.array(-0.4)]},
}
each_tree = pytest.mark.parametrize("name", TREES)


def arrays(tree):
    return jax.tree.map(jnp.asarray, tree)


def normal_logpdf(tree, loc=0.0, scale=1.0):
    return sum(stats.norm.logpdf(leaf, loc, scale).sum() for leaf in jax.tree.leaves(tree))


# densities


@each_tree
def test_one_distribution_covers_every_entry(name, x64):
    prior = jm.Prior(dist.Normal(0.3, 2.0))
    found = prior(arrays(TREES[name]))
    assert found.shape == ()
    np.testing.assert_allclose(found, normal_logpdf(TREES[name], 0.3, 2.0), rtol=1e-12)
    assert not np.isclose(jm.Prior(dist.Normal(-0.3, 2.0))(arrays(TREES[name])), found)  # a flipped sign is seen


@each_tree
def test_a_flat_prior_adds_nothing(name):
    assert float(jm.Prior(jm.flat)(arrays(TREES[name]))) == 0.0


def test_a_prefix_tree_gives_each_leaf_its_own(x64):
    tree = TREES["nested"]
    prior = jm.Prior({"a": {"kernel": dist.Laplace(0.0, 0.5), "bias": jm.flat}, "b": dist.Normal(0.0, 3.0)})
    expected = stats.laplace.logpdf(tree["a"]["kernel"], 0, 0.5).sum() + normal_logpdf(tree["b"], 0, 3.0)
    np.testing.assert_allclose(prior(arrays(tree)), expected, rtol=1e-12)
    whole = jm.Prior({"a": dist.Normal(0.0, 1.0), "b": [jm.flat]})
    np.testing.assert_allclose(whole(arrays(tree)), normal_logpdf(tree["a"]), rtol=1e-12)


def test_arguments_of_a_distribution_broadcast_to_the_leaf(x64, rank_promotion):
    scales = np.array([0.5, 1.0, 2.0])
    prior = jm.Prior(dist.Normal(jnp.asarray([1.0, 0.0, -1.0]), jnp.asarray(scales)))
    expected = stats.norm.logpdf(TREES["matrix"], [1.0, 0.0, -1.0], scales).sum()
    np.testing.assert_allclose(prior(jnp.asarray(TREES["matrix"])), expected, rtol=1e-12)


def test_multivariate_distributions_take_the_last_axes(x64, rank_promotion):
    covariance = np.array([[2.0, 0.6], [0.6, 1.0]])
    prior = jm.Prior(dist.MultivariateNormal(jnp.zeros(2), jnp.asarray(covariance)))
    kernel = TREES["nested"]["a"]["kernel"]
    expected = stats.multivariate_normal.logpdf(kernel, np.zeros(2), covariance).sum()
    np.testing.assert_allclose(prior(jnp.asarray(kernel)), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "distribution",
    [
        dist.Uniform(-1.0, 2.0),
        dist.TruncatedNormal(0.0, 1.0, low=0.0),
        dist.HalfCauchy(1.0),
        dist.LogNormal(0.0, 1.0),
        dist.StudentT(3.0, 0.0, 1.0),
        dist.TransformedDistribution(dist.Normal(0.0, 1.0), dist.transforms.ExpTransform()),
        dist.Dirichlet(np.ones(3)),
        dist.Normal(np.zeros(3), 1.0).to_event(1),
        dist.HalfNormal(1.0).expand([3]),
    ],
    ids=lambda d: type(d).__name__,
)
def test_continuous_distributions_of_numpyro_are_priors(distribution, key, rank_promotion):
    value = distribution.sample(key)
    prior = jm.Prior(distribution)
    np.testing.assert_allclose(prior(value), jnp.sum(distribution.log_prob(value)), rtol=1e-6)
    assert bool(jnp.all(prior.support(value)(value)))
    assert prior.sample(key, value).shape == value.shape
    assert type(distribution).__name__.replace("Distribution", "") in prior.table(value)


def test_array_arguments_survive_a_change_of_precision(rank_promotion):
    """A fit computes in float32 and certifies in float64; the arrays inside a distribution serve both."""
    prior = jm.Prior(dist.Normal(np.array([0.1, 0.2, 0.3]), 1.0))
    in_single, in_double = jax.jit(prior), jax.jit(lambda params: prior(params))  # both live, as in a fit
    single = in_single(jnp.ones(3))
    with jax.enable_x64(True):
        double = in_double(jnp.ones(3, jnp.float64))
        np.testing.assert_allclose(double, stats.norm.logpdf(1.0, [0.1, 0.2, 0.3]).sum(), rtol=1e-12)
    np.testing.assert_allclose(single, double, rtol=1e-6)


# rules by path


NETWORK = arrays(
    {
        "layers": {"0": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}, "1": {"kernel": np.ones((3, 1))}},
        "scale": np.ones(()),
    }
)


def winners(patterns, params=NETWORK):
    """Which pattern each leaf got, told by the scales of Gaussians: by path."""
    prior = jm.Prior.by_path({pattern: dist.Normal(0.0, 1.0 + i) for i, pattern in enumerate(patterns)})
    lines = prior.table(params).splitlines()[1:]
    return {line.split()[0]: patterns[int(line.split("scale=")[1].split(")")[0]) - 1] for line in lines}


def test_the_pattern_with_the_most_literal_characters_wins():
    assert winners(["*", "*/kernel", "layers/0/kernel", "l*/b*"]) == {
        "layers/0/bias": "l*/b*",
        "layers/0/kernel": "layers/0/kernel",
        "layers/1/kernel": "*/kernel",
        "scale": "*",
    }


def test_the_order_of_the_rules_does_not_matter():
    patterns = ["*", "*/kernel", "layers/0/kernel", "l*/b*"]
    assert winners(patterns[::-1]) == winners(patterns)


def test_a_pattern_with_a_slash_matches_at_the_root_too():
    assert winners(["*/kernel", "*"], {"kernel": jnp.ones(1), "bias": jnp.ones(1)})["kernel"] == "*/kernel"


@pytest.mark.parametrize(
    ("exact", "other"),
    [("layers/0/kernel", "layers/[0-9]/kernel"), ("layers/0/kernel", "layers/[0123]/*"), ("scale", "*/scale")],
)
def test_an_exact_path_beats_every_wildcard(exact, other):
    assert winners([exact, other, "*"])[exact] == exact


def test_ties_leaves_without_rule_and_idle_rules_name_the_path():
    normal = dist.Normal(0.0, 1.0)
    tie = {"*": jm.flat, "layers/0/*": normal, "layers/?/b*": normal, "layers/?/?*": jm.flat}
    with pytest.raises(ValueError, match=r"one prior rule for 'layers/0/bias'; got a tie between 'layers/0/\*' and"):
        jm.Prior.by_path(tie)(NETWORK)
    with pytest.raises(ValueError, match=r"rule for every parameter; got none for 'scale'\. Add a rule"):
        jm.Prior.by_path({"layers/*": normal})(NETWORK)
    with pytest.raises(ValueError, match=r"got '\*/weight' that matches nothing.*parameters are layers/0/bias"):
        jm.Prior.by_path({"*": normal, "*/weight": normal})(NETWORK)
    with pytest.raises(ValueError, match="got none for 'layers/0/bias'"):
        jm.Prior.by_path({})(NETWORK)


def test_by_path_sums_the_same_numbers_as_the_tree(x64):
    params = arrays(TREES["nested"])
    by_path = jm.Prior.by_path({"*": dist.Normal(0.0, 2.0), "a/kernel": dist.Laplace(0.0, 1.0), "*/bias": jm.flat})
    tree = jm.Prior({"a": {"kernel": dist.Laplace(0.0, 1.0), "bias": jm.flat}, "b": dist.Normal(0.0, 2.0)})
    np.testing.assert_allclose(by_path(params), tree(params), rtol=1e-14)


def test_tree_rules_that_do_not_fit_name_the_place():
    normal = dist.Normal(0.0, 1.0)
    with pytest.raises(ValueError, match="got nothing for scale"):
        jm.Prior({"layers": normal})(NETWORK)
    with pytest.raises(ValueError, match="'offset', which covers nothing"):
        jm.Prior({"layers": normal, "scale": normal, "offset": normal})(NETWORK)


@pytest.mark.parametrize(
    ("distribution", "shape"),
    [(dist.Normal(np.zeros(3), 1.0), (2,)), (dist.Normal(np.zeros((1,)), 1.0), ())],
    ids=["vector on vector", "vector on scalar"],
)
def test_a_distribution_larger_than_its_leaf_is_refused(distribution, shape):
    with pytest.raises(ValueError, match=r"Expected a prior for 'w' that broadcasts to its shape .*; got one of shape"):
        jm.Prior(distribution)({"w": jnp.zeros(shape)})


@pytest.mark.parametrize(
    ("rules", "error"),
    [
        (1.0, TypeError),
        ("normal", TypeError),
        (None, TypeError),
        ({"a": 1.0}, TypeError),
        (dist.Normal, TypeError),
        ({"a": dist.Normal}, TypeError),
        (dist.Poisson(1.0), ValueError),
        (dist.Bernoulli(0.5), ValueError),
        (dist.Normal(0.0, -1.0, validate_args=False), ValueError),
        (dist.Laplace(0.0, np.nan, validate_args=False), ValueError),
        (dist.Normal(0.0, -1.0, validate_args=False).to_event(0), ValueError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_what_is_not_a_prior_is_refused_at_once(rules, error, unchecked):
    with pytest.raises(error, match="Expected"):
        jm.Prior(rules)


# nested priors and hierarchies


def test_priors_nest_and_speak_of_their_own_subtree(x64):
    params = arrays(TREES["nested"])
    inner = jm.Prior.by_path({"kernel": dist.Laplace(0.0, 1.0), "bias": dist.Normal(0.0, 2.0)})
    nested = jm.Prior({"a": inner, "b": jm.Prior([jm.Prior(dist.Normal(0.0, 3.0))])})
    expected = inner(params["a"]) + normal_logpdf(TREES["nested"]["b"], 0, 3.0)
    np.testing.assert_allclose(nested(params), expected, rtol=1e-12)
    assert [line.split()[0] for line in nested.table(params).splitlines()[1:]] == paths(params)


def test_regularisers_are_rules(x64):
    params = arrays(TREES["nested"])
    prior = jm.Prior.by_path({"*": jm.flat, "*/kernel": jm.weight_decay(4.0)})
    np.testing.assert_allclose(prior(params), normal_logpdf(TREES["nested"]["a"]["kernel"], 0, 0.5), rtol=1e-12)


def scale_of(p):
    return dist.Normal(0.0, p["tau"])


def test_a_hierarchy_is_the_product_of_its_conditionals(x64):
    tree = {"tau": np.array(2.5), "w": RNG.normal(size=(2, 2))}
    prior = jm.Prior({"tau": dist.HalfNormal(3.0), "w": scale_of})
    expected = stats.halfnorm.logpdf(2.5, scale=3.0) + normal_logpdf(tree["w"], 0.0, 2.5)
    np.testing.assert_allclose(prior(arrays(tree)), expected, rtol=1e-12)
    slope = jax.grad(prior)(arrays(tree))["tau"]
    by_hand = -2.5 / 9.0 + np.sum(tree["w"] ** 2 / 2.5**3 - 1 / 2.5)
    np.testing.assert_allclose(slope, by_hand, rtol=1e-12)


def test_functions_inside_a_nested_prior_see_their_own_subtree(x64):
    tree = {"first": {"tau": np.array(0.5), "w": np.ones(2)}, "second": {"tau": np.array(4.0), "w": np.ones(2)}}
    own = jm.Prior({"tau": jm.flat, "w": scale_of})
    found = jm.Prior({"first": own, "second": own})(arrays(tree))
    np.testing.assert_allclose(found, stats.norm.logpdf(1.0, 0, [0.5, 0.5, 4.0, 4.0]).sum(), rtol=1e-12)
    outer = jm.Prior({"first": own, "second": {"tau": jm.flat, "w": lambda p: dist.Normal(0.0, p["first"]["tau"])}})
    np.testing.assert_allclose(outer(arrays(tree)), 4 * stats.norm.logpdf(1.0, 0, 0.5), rtol=1e-12)


def test_functions_chosen_by_path_see_all_parameters(x64):
    tree = {"tau": np.array(0.5), "layer": {"w": np.ones(2)}}
    prior = jm.Prior.by_path({"tau": dist.HalfNormal(1.0), "layer/*": scale_of})
    expected = stats.halfnorm.logpdf(0.5) + 2 * stats.norm.logpdf(1.0, 0, 0.5)
    np.testing.assert_allclose(prior(arrays(tree)), expected, rtol=1e-12)


def test_a_function_that_returns_no_distribution_is_refused():
    with pytest.raises(TypeError, match="prior function of 'w' to return a distribution; got"):
        jm.Prior({"w": lambda p: -p["w"]})({"w": jnp.ones(2)})


def test_the_support_is_known_leaf_by_leaf():
    params = {"tau": jnp.ones(()), "w": jnp.ones(2), "mix": jnp.ones(3) / 3, "free": jnp.ones(1)}
    rules = {"tau": dist.HalfNormal(1.0), "w": scale_of, "mix": dist.Dirichlet(jnp.ones(3)), "free": jm.flat}
    support = jm.Prior(rules).support(params)
    assert support["tau"] is constraints.positive
    assert support["w"] is constraints.real
    assert support["mix"] is constraints.simplex
    assert support["free"] is constraints.real


# samples


def test_samples_have_the_shapes_and_moments_of_the_prior(key, rank_promotion):
    params = {"w": jnp.zeros((100, 20)), "v": jnp.zeros((2000, 2)), "s": jnp.zeros(()), "m": jnp.zeros((5, 3))}
    prior = jm.Prior(
        {
            "w": dist.Normal(1.0, 2.0),
            "v": dist.Normal(jnp.asarray([1.0, 1.5]), 0.5),
            "s": dist.HalfNormal(1.0),
            "m": dist.Dirichlet(jnp.ones(3)),
        }
    )
    drawn = prior.sample(key, params)
    jax.tree.map(lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)), drawn, params)
    np.testing.assert_allclose([drawn["w"].mean(), drawn["w"].std()], [1.0, 2.0], atol=5 * 2.0 / np.sqrt(2000))
    np.testing.assert_allclose(drawn["v"].mean(axis=0), [1.0, 1.5], atol=5 * 0.5 / np.sqrt(2000))
    np.testing.assert_allclose(drawn["m"].sum(axis=-1), 1.0, rtol=1e-5)
    again, other = prior.sample(key, params), prior.sample(jax.random.key(1), params)
    np.testing.assert_array_equal(drawn["w"], again["w"])
    assert not np.array_equal(drawn["w"], other["w"])
    assert not np.array_equal(drawn["w"].ravel()[:2000], drawn["v"].ravel()[:2000])


def test_hierarchies_are_drawn_from_their_roots_however_deep(key):
    params = {"a_leaf": jnp.zeros(4000), "m_middle": jnp.zeros(()), "z_root": jnp.zeros(())}
    prior = jm.Prior(
        {
            "a_leaf": lambda p: dist.Normal(p["m_middle"], 0.01),
            "m_middle": lambda p: dist.Normal(p["z_root"], 0.01),
            "z_root": dist.Normal(100.0, 5.0),
        }
    )
    drawn = prior.sample(key, params)
    assert abs(float(drawn["z_root"]) - 100.0) < 25.0
    assert abs(float(drawn["m_middle"] - drawn["z_root"])) < 0.05
    np.testing.assert_allclose(drawn["a_leaf"].mean(), drawn["m_middle"], atol=5 * 0.01 / np.sqrt(4000) + 1e-5)
    np.testing.assert_allclose(drawn["a_leaf"].std(), 0.01, rtol=0.1)


def test_a_flat_leaf_cannot_be_drawn(key):
    with pytest.raises(ValueError, match="Expected a proper prior to sample from; 'b' is flat"):
        jm.Prior({"a": dist.Normal(0.0, 1.0), "b": jm.flat}).sample(key, {"a": jnp.ones(1), "b": jnp.ones(1)})


# what people read


def test_the_table_has_leaf_distribution_and_size():
    table = jm.Prior({"layers": dist.Normal(0.0, 0.5), "scale": jm.flat}).table(NETWORK)
    assert table.splitlines() == [
        "leaf             distribution              size",
        "layers/0/bias    Normal(loc=0, scale=0.5)     3",
        "layers/0/kernel  Normal(loc=0, scale=0.5)     6",
        "layers/1/kernel  Normal(loc=0, scale=0.5)     3",
        "scale            flat                         1",
    ]


def test_a_prior_prints_its_rules():
    assert repr(jm.Prior(dist.Normal(0.0, 0.5))) == "Prior(Normal(loc=0, scale=0.5))"
    assert repr(jm.Prior({"a": jm.flat, "b": scale_of})) == "Prior({'a': flat, 'b': function scale_of})"
    assert repr(jm.Prior.by_path({"*": jm.flat})) == "Prior.by_path({'*': flat})"


# weight decay is a prior


LOSSES = [(per, loss) for per in ("sum", "mean") for loss in ("nll", "mse", "half_mse")]
each_loss = pytest.mark.parametrize(("per", "loss"), LOSSES)
SIGMA, N, STRENGTH = 0.7, 5, 0.3
X = RNG.normal(size=(N, 6))
Y = RNG.normal(size=N)
WEIGHTS = {"w": np.array(0.4), "v": RNG.normal(size=2), "m": [RNG.normal(size=(3, 1))]}  # six numbers


def options(per, loss):
    given = {"per": per, "loss": loss}
    given |= {"num_examples": N} if per == "mean" else {}
    return given | ({"noise_scale": SIGMA} if loss != "nll" else {})


def predictions(params):
    flat = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params)])
    return jnp.sum(jnp.asarray(X) * flat[None], axis=1)


def nll(params):
    return -dist.Normal(predictions(params), SIGMA).log_prob(jnp.asarray(Y))


def training_loss(params, per, loss):
    """What people minimise, with its penalty, as they write it."""
    squares = (jnp.asarray(Y) - predictions(params)) ** 2
    each = {"nll": nll(params), "mse": squares, "half_mse": squares / 2}[loss]
    penalty = STRENGTH / 2 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
    return {"sum": jnp.sum, "mean": jnp.mean}[per](each) + penalty


@each_loss
def test_the_gradient_of_the_loss_is_that_of_the_log_posterior(per, loss, x64):
    prior = jm.weight_decay(STRENGTH, **options(per, loss))
    c = {"nll": 1.0, "mse": 1 / (2 * SIGMA**2), "half_mse": 1 / SIGMA**2}[loss] * (N if per == "mean" else 1)
    params = arrays(WEIGHTS)
    scaled = jax.grad(lambda p: c * training_loss(p, per, loss))(params)
    posterior = jax.grad(lambda p: jnp.sum(nll(p)) - prior(p))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), scaled, posterior)
    flipped = jax.grad(lambda p: jnp.sum(nll(p)) + prior(p))(params)
    assert not np.allclose(flipped["v"], scaled["v"], rtol=1e-3)


@each_loss
def test_as_weight_decay_is_the_way_back(per, loss):
    prior = jm.weight_decay(STRENGTH, **options(per, loss))
    np.testing.assert_allclose(prior.as_weight_decay(**options(per, loss)), STRENGTH, rtol=1e-6)
    tree = jm.Prior({"a": prior, "b": jm.flat, "c": dist.Normal(0.0, 2.0)})
    found = tree.as_weight_decay(**options(per, loss))
    c = {"nll": 1.0, "mse": 1 / (2 * SIGMA**2), "half_mse": 1 / SIGMA**2}[loss] * (N if per == "mean" else 1)
    assert set(found) == {"a", "b", "c"}
    np.testing.assert_allclose([found["a"], found["b"], found["c"]], [STRENGTH, 0.0, 0.25 / c], rtol=1e-6)
    by_path = jm.Prior.by_path({"*": prior, "*/bias": jm.flat}).as_weight_decay(**options(per, loss))
    np.testing.assert_allclose([by_path["*"], by_path["*/bias"]], [STRENGTH, 0.0], rtol=1e-6)


@pytest.mark.parametrize("there", LOSSES)
@pytest.mark.parametrize("back", LOSSES)
def test_one_prior_is_different_strengths_in_different_losses(there, back):
    prior = jm.weight_decay(STRENGTH, **options(*there))
    precision = 1 / float(prior.rules.scale) ** 2
    strength = prior.as_weight_decay(**options(*back))
    np.testing.assert_allclose(1 / float(jm.weight_decay(strength, **options(*back)).rules.scale) ** 2, precision)


def test_the_prior_of_weight_decay_is_normalised(x64):
    grid = np.linspace(-40, 40, 8001)
    density = np.exp(jax.vmap(jm.weight_decay(0.3))(jnp.asarray(grid)))
    np.testing.assert_allclose(np.trapezoid(density, grid), 1.0, rtol=1e-10)


def test_no_decay_is_flat():
    assert repr(jm.weight_decay(0.0)) == "Prior(flat)"
    assert jm.weight_decay(0.0).as_weight_decay() == 0.0


@pytest.mark.parametrize(
    "given",
    [
        {"strength": -1.0},
        {"strength": np.nan},
        {"strength": np.inf},
        {"strength": 1.0, "per": "batch"},
        {"strength": 1.0, "loss": "l2"},
        {"strength": 1.0, "per": "mean"},
        {"strength": 1.0, "num_examples": 5},
        {"strength": 1.0, "per": "mean", "num_examples": 0},
        {"strength": 1.0, "per": "mean", "num_examples": 10.5},
        {"strength": 1.0, "loss": "mse"},
        {"strength": 1.0, "noise_scale": 1.0},
        {"strength": 1.0, "loss": "mse", "noise_scale": 0.0},
        {"strength": 1.0, "loss": "mse", "noise_scale": -1.0},
        {"strength": 1.0, "loss": "half_mse", "noise_scale": np.inf},
        {"strength": 1.0, "loss": "half_mse", "noise_scale": np.nan},
    ],
    ids=str,
)
def test_numbers_that_are_missing_or_not_used_are_errors(given, unchecked):
    with pytest.raises(ValueError, match="Expected"):
        jm.weight_decay(**given)


@pytest.mark.parametrize(
    "rule",
    [
        dist.Laplace(0.0, 1.0),
        dist.Normal(1.0, 1.0),
        dist.Normal(0.0, np.array([1.0, 2.0])),
        dist.HalfNormal(1.0),
        scale_of,
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_only_centred_gaussians_are_weight_decay(rule):
    with pytest.raises(ValueError, match="Expected a zero-mean Gaussian with one scale; got"):
        jm.Prior(rule).as_weight_decay()
    with pytest.raises(ValueError, match="Expected a zero-mean Gaussian"):
        jm.Prior({"a": dist.Normal(0.0, 1.0), "b": rule}).as_weight_decay()
