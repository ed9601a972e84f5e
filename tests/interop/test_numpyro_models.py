"""numpyro models: the parts are numpyro's own, and the methods reach what is known."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.infer.util import log_density

import jaxmap as jm
from tests import reference

pytestmark = pytest.mark.usefixtures("rank_promotion")  # numpyro draws and expands by it

RNG = np.random.default_rng(5)
X = RNG.normal(size=(12, 2)).astype(np.float32)
Y = (X @ np.array([1.0, -0.5]) + 0.3 * RNG.normal(size=12)).astype(np.float32)
GROUP = np.arange(12) % 3
KEEP = np.arange(12) != 4
COUNTS = RNG.poisson(3.0, 12)
EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], np.float32)
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], np.float32)


def regression(x, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    mean = numpyro.deterministic("mean", x @ b)
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(mean, scale), obs=y)


def hierarchical(group, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
    with numpyro.plate("groups", 3):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
    with numpyro.plate("rows", len(group)):
        numpyro.sample("y", dist.Normal(theta[group], 0.5), obs=y)


def eight_schools(schools, errors, effects):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", schools):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * z)
        numpyro.sample("effects", dist.Normal(theta, errors), obs=effects)


def masked(x, keep, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]), handlers.mask(mask=keep):
        numpyro.sample("y", dist.Normal(x @ b, 0.5), obs=y)


def scaled(x, y=None):
    with handlers.scale(scale=0.5):
        b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]), handlers.scale(scale=2.5):
        numpyro.sample("y", dist.Normal(x @ b, 0.5), obs=y)


def subsampled(x, y):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0], subsample_size=4) as rows:
        numpyro.sample("y", dist.Normal(x[rows] @ b, 0.5), obs=y[rows])


def two_sites(x, y, counts):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.StudentT(4.0, x @ b, 0.5), obs=y)
        numpyro.sample("counts", dist.Poisson(jnp.exp(0.3 * x @ b)), obs=counts)


def uneven(y, counts):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    numpyro.sample("y", dist.Normal(rate, 1.0), obs=y[:5])
    numpyro.sample("counts", dist.Poisson(rate), obs=counts)
    numpyro.sample("mean", dist.Normal(rate, 0.1), obs=3.0)


def supports(y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([2.0, 3.0, 4.0])))
    centers = numpyro.sample("centers", dist.Normal(0.0, 2.0).expand([3]).to_event(1).mask(True))
    ordered = dist.TransformedDistribution(
        dist.Normal(0.0, 1.0).expand([3]).to_event(1), dist.transforms.OrderedTransform()
    )
    shifts = numpyro.sample("shifts", ordered)
    width = numpyro.sample("width", dist.Uniform(0.1, 3.0))
    corr = numpyro.sample("corr", dist.LKJCholesky(2, 2.0))
    mixture = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(centers + shifts, width))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", mixture, obs=y)
    numpyro.sample("pair", dist.MultivariateNormal(jnp.zeros(2), scale_tril=corr), obs=jnp.array([0.5, -0.2]))


def improper(y):
    center = numpyro.sample("center", dist.ImproperUniform(constraints.real, (), ()))
    scale = numpyro.sample("scale", dist.ImproperUniform(constraints.positive, (), ()))
    numpyro.sample("y", dist.Normal(center, scale), obs=y)


def nested_plates(table):
    with numpyro.plate("columns", 3, dim=-1):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", table.shape[0], dim=-2):
            numpyro.sample("table", dist.Normal(mu, 1.0), obs=table)


def series(y):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    slope = numpyro.sample("slope", dist.Uniform(-1.0, 1.0))

    def step(before, now):
        numpyro.sample("y", dist.Normal(slope * before, scale), obs=now)
        return now, None

    scan(step, jnp.zeros((), jnp.asarray(y).dtype), jnp.asarray(y))


def with_factor(x, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    numpyro.factor("ridge", -jnp.sum(b**2))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ b, 0.5), obs=y)


def factor_alone(x, y):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    numpyro.factor("loss", -((y - x @ b) ** 2))


def scoped(x, y=None):
    with handlers.scope(prefix="line"):
        b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        a = numpyro.sample("a", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(a + x @ b, 0.5), obs=y)


def with_param(x, y=None):
    scale = numpyro.param("scale", 0.7, constraint=constraints.positive)
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ b, scale), obs=y)


CASES = {  # model, arguments, keywords, examples, whether they can be taken apart
    "regression": (regression, (X,), {"y": Y}, 12, True),
    "hierarchical": (hierarchical, (GROUP, Y), {}, 12, True),
    "latent sites per example": (eight_schools, (8, ERRORS, EFFECTS), {}, 8, False),
    "masked": (masked, (X, KEEP), {"y": Y}, 12, True),
    "scaled": (scaled, (X, Y), {}, 12, True),
    "subsampled": (subsampled, (jnp.asarray(X), jnp.asarray(Y)), {}, 4, False),
    "two observed sites": (two_sites, (X, Y, COUNTS), {}, 12, True),
    "sites of other lengths": (uneven, (Y, COUNTS), {}, 18, False),
    "constrained supports": (supports, (Y,), {}, 13, False),
    "improper priors": (improper, (Y,), {}, 12, True),
    "nested plates": (nested_plates, (X[:, [0, 1, 0]],), {}, 12, True),
    "series": (series, (Y,), {}, 12, False),
    "factor": (with_factor, (X, Y), {}, 12, True),
    "factor alone": (factor_alone, (X, Y), {}, 12, True),
    "scoped": (scoped, (X,), {"y": Y}, 12, True),
    "param": (with_param, (X,), {"y": Y}, 12, True),
}


def site_values(params):
    return dict(zip(jm_paths(params), jax.tree.leaves(params), strict=True))


def jm_paths(params):
    return ["/".join(str(k.key) for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def numpyro_log_density(model, args, kwargs, params):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return log_density(handlers.seed(model, 0), args, kwargs, site_values(params))[0]


@pytest.mark.filterwarnings("ignore:The plate 'rows' takes")
@pytest.mark.parametrize(("fn", "args", "kwargs", "n", "apart"), CASES.values(), ids=CASES)
def test_the_parts_are_those_of_numpyro(fn, args, kwargs, n, apart, x64):
    """Prior and likelihood sum to numpyro's density, gradients too, and rows in any order have their own values."""
    args, kwargs = jax.tree.map(
        lambda v: v.astype(float) if getattr(v, "dtype", None) == np.float32 else v, (args, kwargs)
    )
    model, data = jm.from_numpyro(fn, *args, **kwargs)
    assert (isinstance(data, tuple) or "row" not in data) == apart
    assert {len(leaf) for leaf in jax.tree.leaves(data)} == {n}
    data, rows = jax.tree.map(jnp.asarray, data), np.array([2, 0, 3])
    batch = jax.tree.map(lambda leaf: leaf[rows], data)

    def density(params):
        values = model.log_likelihood(params, data)
        return model.log_prior(params) + values.sum(), (values, model.log_likelihood(params, batch))

    ours = jax.jit(jax.value_and_grad(density, has_aux=True))
    theirs = jax.jit(jax.value_and_grad(lambda p: numpyro_log_density(fn, args, kwargs, p)))
    steps = np.random.default_rng(2)
    center = model.space.unconstrain(model.start)
    for _ in range(2):
        params = model.space.constrain(jax.tree.map(lambda v: v + 0.5 * steps.normal(size=v.shape), center))
        (total, (values, some)), slopes = ours(params)
        assert values.shape == (n,)
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
        close(some, values[rows])
        jax.tree.map(close, (total, slopes), theirs(params))


def test_the_prior_is_that_of_the_latent_sites_alone(x64):
    model, (x, y) = jm.from_numpyro(regression, X, y=Y)
    assert x is X
    assert y is Y
    params = {"b": jnp.array([0.3, -2.0]), "scale": jnp.array(0.4)}
    prior = dist.Normal(0.0, 2.0).log_prob(params["b"]).sum() + dist.HalfNormal(1.0).log_prob(0.4)
    np.testing.assert_allclose(model.log_prior(params), prior, rtol=1e-12)
    likelihood = dist.Normal(X @ params["b"], 0.4).log_prob(Y)
    np.testing.assert_allclose(model.log_likelihood(params, (jnp.asarray(X), jnp.asarray(Y))), likelihood, rtol=1e-6)


def test_a_large_likelihood_does_not_drown_the_prior():
    """As a difference of two sums in float32 the prior would have lost all its digits."""
    far = Y + np.float32(1e6)
    model, _ = jm.from_numpyro(regression, X, y=far)
    params = {"b": jnp.array([0.3, -2.0]), "scale": jnp.array(0.4)}
    prior = dist.Normal(0.0, 2.0).log_prob(params["b"]).sum() + dist.HalfNormal(1.0).log_prob(0.4)
    np.testing.assert_allclose(model.log_prior(params), prior, rtol=1e-6)


def test_supports_are_those_of_the_sites():
    model, _ = jm.from_numpyro(supports, Y)
    assert not model.space.is_real
    start = model.start
    np.testing.assert_allclose(start["weights"].sum(), 1.0, rtol=1e-5)
    assert np.all(np.diff(start["shifts"]) > 0)
    assert 0.1 < start["width"] < 3.0


def test_the_start_is_always_the_same():
    starts = [jm.from_numpyro(scaled, X, Y)[0].start for _ in range(2)]
    jax.tree.map(np.testing.assert_array_equal, *starts)


def test_scopes_are_levels_of_the_tree():
    model, _ = jm.from_numpyro(scoped, X, y=Y)
    assert jm_paths(model.start) == ["line/a", "line/b"]


def test_a_mask_and_a_scale_act_on_examples():
    model, data = jm.from_numpyro(masked, X, KEEP, y=Y)
    values = model.log_likelihood(model.start, jax.tree.map(jnp.asarray, data))
    assert np.flatnonzero(np.asarray(values) == 0.0).tolist() == [4]
    predictive = jm.predict(jax.random.key(0), model, jm.fit(jax.random.key(0), model, data), data[0])
    assert predictive.mean.shape == (12,)


def conjugate(x, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ b, 0.3), obs=y)


def test_map_laplace_and_predictions_are_exact_for_a_linear_gaussian_model(key):
    model, data = jm.from_numpyro(conjugate, X, y=Y)
    exact = reference.linear_gaussian(X.astype(float), Y.astype(float), np.zeros(2), 4.0 * np.eye(2), 0.3)
    found = jm.fit(key, model, data, jm.MAP(), precision="float64")
    assert found.info.status is jm.Status.CONVERGED
    np.testing.assert_allclose(found.mode["b"], exact.mean, rtol=1e-6)
    gaussian = jm.fit(key, model, data, jm.Laplace(), precision="float64")
    np.testing.assert_allclose(gaussian.covariance.dense(), exact.covariance, rtol=1e-5)
    np.testing.assert_allclose(gaussian.log_evidence, exact.log_evidence, rtol=1e-6)
    predictive = jm.predict(key, model, found, X[:5])
    np.testing.assert_allclose(predictive.mean, X[:5] @ exact.mean, rtol=1e-5)
    assert set(jm.score(predictive, Y[:5])) >= {"lppd", "rmse"}


def test_a_model_is_compared_on_test_data(key):
    model, data = jm.from_numpyro(regression, X, y=Y)
    splits = jm.split(key, data, test=4)
    table = jm.compare(key, model, splits, {"MAP": jm.MAP()})
    assert all(np.isfinite(row["lppd"]) for row in table.rows)


@pytest.mark.slow
def test_deterministic_sites_are_derived():
    """Where the data can be taken apart and where they cannot; a model without such sites derives nothing."""
    model, data = jm.from_numpyro(eight_schools, 8, ERRORS, EFFECTS)
    params = {"mu": jnp.asarray(4.0), "tau": jnp.asarray(2.0), "z": jnp.arange(8.0)}
    np.testing.assert_allclose(model.derived(params, data)["theta"], 4.0 + 2.0 * np.arange(8.0))
    model, data = jm.from_numpyro(regression, X, y=Y)
    params = {"b": jnp.array([1.0, 2.0]), "scale": jnp.asarray(1.0)}
    np.testing.assert_allclose(model.derived(params, data)["mean"], X @ np.array([1.0, 2.0]), rtol=1e-5)
    some = jax.tree.map(lambda leaf: leaf[2:5], data)
    np.testing.assert_allclose(model.derived(params, some)["mean"], X[2:5] @ np.array([1.0, 2.0]), rtol=1e-5)
    assert jm.from_numpyro(hierarchical, GROUP, y=Y)[0].derived is None


@pytest.mark.slow
def test_nuts_on_eight_schools(key):
    model, data = jm.from_numpyro(eight_schools, 8, ERRORS, EFFECTS)
    posterior = jm.fit(key, model, data, jm.NUTS(chains=4, warmup=300, draws=300))
    assert posterior.info.diagnostics["ess_min"] > 100
    draws = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), posterior.draws)
    theta = draws["mu"][..., None] + draws["tau"][..., None] * draws["z"]
    # posteriordb, eight_schools_noncentered: mu 4.4 (sd 3.3), tau 3.6 (sd 3.2), theta[0] 6.2 (sd 5.6)
    assert abs(draws["mu"].mean() - 4.4) < 1.0
    assert abs(draws["tau"].mean() - 3.6) < 1.0
    assert abs(theta[..., 0].mean() - 6.2) < 1.5


def test_minibatches_of_examples_that_cannot_be_taken_apart(key):
    import optax

    model, data = jm.from_numpyro(eight_schools, 8, ERRORS, EFFECTS)
    whole = jm.fit(key, model, data, jm.MAP())
    decaying = optax.adam(optax.cosine_decay_schedule(0.1, 2000))
    found = jm.fit(key, model, data, jm.MAP(decaying, steps=2000, batch_size=3))
    np.testing.assert_allclose(found.info.log_joint, whole.info.log_joint, atol=0.1)


def test_float64_is_that_of_the_fit_and_not_of_the_making(key):
    model, data = jm.from_numpyro(regression, X, y=Y.astype(np.float64))
    assert model.start["b"].dtype == np.float32
    assert jm.fit(key, model, data, precision="float64").mode["b"].dtype == np.float64
    assert jm.fit(key, model, data).mode["b"].dtype == np.float32
    held, rows = jm.from_numpyro(eight_schools, 8, ERRORS.astype(np.float64), EFFECTS)
    assert jm.fit(key, held, rows, precision="float64").mode["z"].dtype == np.float64
    assert jm.fit(key, held, rows).mode["z"].dtype == np.float32


def test_jax_arrays_and_trees_of_arguments_come_in_too(key):
    def tree(batch, offset):
        b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        with numpyro.plate("rows", batch["x"].shape[0]):
            numpyro.sample("y", dist.Normal(batch["x"] @ b + offset, 0.3), obs=batch["y"])

    model, (x, y) = jm.from_numpyro(tree, {"x": jnp.asarray(X), "y": jnp.asarray(Y)}, jnp.asarray(0.5))
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)
    assert model.observe is not None
    assert jm.fit(key, model, (x, y)).info.status is jm.Status.CONVERGED


def test_an_observed_transform_leaves_a_dict_of_all_arguments():
    def logarithm(x, y):
        b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        numpyro.sample("log_y", dist.Normal(x @ b, 0.3), obs=jnp.log(y))

    model, data = jm.from_numpyro(logarithm, X, np.exp(Y))
    assert sorted(data) == ["x", "y"]
    assert model.observe is None


def test_numbers_of_the_whole_are_not_those_of_a_batch():
    """A model that centres its own data is not one of rows by themselves."""

    def centred(x, y):
        b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal((x - x.mean(0)) @ b, 0.3), obs=y)

    assert list(jm.from_numpyro(centred, X, Y)[1]) == ["row"]


def discrete(y):
    z = numpyro.sample("z", dist.Bernoulli(0.4))
    numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


def dynamic(y):
    low = numpyro.sample("low", dist.Normal(0.0, 1.0))
    high = numpyro.sample("high", dist.Uniform(low, low + 2.0))
    numpyro.sample("y", dist.Normal(high, 1.0), obs=y)


def branching(y):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    if numpyro.sample("u", dist.Uniform(0.0, 1.0)) < 0.5:
        a = a + numpyro.sample("extra", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(a, 1.0), obs=y)


def clashing(y):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("a/b", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(a + b, 1.0), obs=y)


def nothing_latent(y):
    numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


MISTAKES = {
    "discrete": (discrete, (Y,), ValueError, "the discrete 'z'"),
    "support of other sites": (dynamic, (Y,), ValueError, "'high'. Draw it on a fixed support"),
    "sites that come and go": (
        branching,
        (Y,),
        ValueError,
        "the same latent sites in every run; got a change in extra",
    ),
    "a site like a scope": (clashing, (Y,), ValueError, "names apart from scopes"),
    "nothing latent": (nothing_latent, (Y,), ValueError, "latent sites in the numpyro model; got none"),
    "y forgotten": (regression, (X,), ValueError, "observed sites in the numpyro model; got none. Give the data"),
    "no model": (3, (Y,), TypeError, "Expected a numpyro model, a function"),
    "arguments": (regression, (X, Y, Y), TypeError, "Expected the arguments of the numpyro model; too many"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("fn", "args", "kind", "words"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_refused_in_words(fn, args, kind, words):
    with pytest.raises(kind, match="Expected") as caught:
        jm.from_numpyro(fn, *args)
    assert words in str(caught.value)


@pytest.mark.usefixtures("unchecked")
def test_traced_arguments_are_refused_in_words():
    with pytest.raises(TypeError, match="to run on the host"):
        jax.jit(lambda y: jm.from_numpyro(improper, y)[0].start)(Y)


def test_double_precision_data_are_told_apart_into_x_and_y():
    """Numpy's default is float64, the model's float32: what is observed is still known."""
    x, y = np.asarray(X, np.float64) / 3, np.asarray(Y, np.float64) / 3
    model, data = jm.from_numpyro(regression, x, y=y)
    assert isinstance(data, tuple)
    assert model.observe is not None


def test_a_subsampling_plate_is_warned_of():
    with pytest.warns(UserWarning, match="'rows' takes 4 of 12 rows"):
        jm.from_numpyro(subsampled, jnp.asarray(X), jnp.asarray(Y))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_start_in_single_precision_lies_in_its_support_in_double(precision, key):
    def correlated(y):
        root = numpyro.sample("root", dist.LKJCholesky(3, 1.0))
        w = numpyro.sample("w", dist.MultivariateNormal(jnp.zeros(3), scale_tril=root))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(w[0] + w[1] - w[2], 1.0), obs=y)

    model, data = jm.from_numpyro(correlated, Y)
    found = jm.fit(key, model, data, jm.MAP(space="unconstrained"), precision=precision)
    assert np.isfinite(found.info.log_joint)
