"""Likelihoods: a registry of families, each against scipy, and each a distribution."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import special, stats

import jaxmap as jm
from jaxmap.model.likelihoods import affine, as_likelihood, class_probabilities, gaussian, gaussian_parts, marginal


def kind_of(value):
    """A name for a test's id that does not depend on the process."""
    return str(value) if isinstance(value, int | float | str | np.ndarray | None) else type(value).__name__


RNG = np.random.default_rng(17)
N, K = 4, 3
COUNTS = np.arange(400.0)
REALS = np.linspace(-80.0, 80.0, 32001)


def heteroscedastic(y, outputs):
    mean, log_scale = np.split(outputs, 2, axis=-1)
    if mean.shape[-1] == 1:
        mean, log_scale = mean[..., 0], log_scale[..., 0]
    return stats.norm.logpdf(y, mean, np.exp(log_scale))


def negative_binomial(y, outputs, r):
    return stats.nbinom.logpmf(y, r, r / (r + np.exp(outputs)))


def categorical(y, outputs):
    return np.take_along_axis(special.log_softmax(outputs, axis=-1), y[..., None].astype(int), axis=-1)[..., 0]


@dataclass(frozen=True)
class Family:
    """A likelihood, its log-probability per entry by scipy, and how outputs are shaped like y.

    Attributes:
        likelihood: with fixed parameters.
        truth: (y, outputs) -> log p of every entry of y.
        outputs: shape of y -> shape of the outputs.
        grid: values of y over which the probabilities sum, or integrate, to one.
        learned: the same likelihood with learned parameters, and the values that make it equal.
    """

    likelihood: Any
    truth: Any
    outputs: Any = staticmethod(lambda shape: shape)
    grid: Any = None
    learned: Any = None
    values: Any = None


def doubled(shape):
    return (*shape[:-1], 2 * shape[-1]) if len(shape) > 1 else (*shape, 2)


POSITIVE = jm.Learned(dist.HalfNormal(1.0))
FAMILIES = {
    "gaussian": Family(
        jm.Gaussian(0.7),
        lambda y, f: stats.norm.logpdf(y, f, 0.7),
        grid=REALS,
        learned=jm.Gaussian(POSITIVE),
        values={"scale": 0.7},
    ),
    "heteroscedastic": Family(jm.HeteroscedasticGaussian(), heteroscedastic, outputs=doubled, grid=REALS),
    "student t": Family(
        jm.StudentT(df=4.5, scale=0.7),
        lambda y, f: stats.t.logpdf(y, 4.5, f, 0.7),
        grid=REALS,
        learned=jm.StudentT(df=POSITIVE, scale=POSITIVE),
        values={"df": 4.5, "scale": 0.7},
    ),
    "bernoulli": Family(
        jm.Bernoulli(), lambda y, f: stats.bernoulli.logpmf(y, special.expit(f)), grid=np.array([0.0, 1.0])
    ),
    "categorical": Family(
        jm.Categorical(), categorical, outputs=lambda shape: (*shape, K), grid=np.arange(K, dtype=np.int32)
    ),
    "poisson": Family(jm.Poisson(), lambda y, f: stats.poisson.logpmf(y, np.exp(f)), grid=COUNTS),
    "negative binomial": Family(
        jm.NegativeBinomial(2.5),
        lambda y, f: negative_binomial(y, f, 2.5),
        grid=COUNTS,
        learned=jm.NegativeBinomial(POSITIVE),
        values={"concentration": 2.5},
    ),
    "any function": Family(lambda f: dist.Laplace(f, 0.5), lambda y, f: stats.laplace.logpdf(y, f, 0.5), grid=REALS),
}
SHAPES = {"scalar": (N,), "one column of many": (N, 1), "vector": (N, 2), "matrix": (N, 2, 3)}
each_family = pytest.mark.parametrize("name", FAMILIES)


def drawn(name, shape):
    """Outputs, and targets that the family allows."""
    family = FAMILIES[name]
    outputs = RNG.normal(size=family.outputs(shape))
    grid = family.grid
    y = RNG.normal(size=shape) if grid is REALS else RNG.choice(grid[:6], size=shape)
    return outputs, y


FAMILIES_AND_SHAPES = [(f, k) for f in FAMILIES for k in ("scalar", "vector", "matrix")]
FAMILIES_AND_SHAPES += [("gaussian", "one column of many"), ("categorical", "one column of many")]
OVER_REALS = [name for name, family in FAMILIES.items() if family.grid is REALS]


@pytest.mark.parametrize(("name", "kind"), FAMILIES_AND_SHAPES)
def test_log_prob_is_that_of_scipy_per_example(name, kind, x64, rank_promotion):
    family, shape = FAMILIES[name], SHAPES[kind]
    outputs, y = drawn(name, shape)
    distribution = as_likelihood(family.likelihood)(jnp.asarray(outputs), {})
    assert distribution.batch_shape == (N,)
    assert distribution.shape() == shape
    found = distribution.log_prob(jnp.asarray(y))
    assert found.shape == (N,)
    expected = family.truth(y, outputs).reshape(N, -1).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


@each_family
def test_probabilities_sum_to_one_and_have_the_moments_they_say(name, x64):
    family = FAMILIES[name]
    outputs, _ = drawn(name, (N,))
    distribution = as_likelihood(family.likelihood)(jnp.asarray(outputs), {})
    grid = jnp.asarray(family.grid)
    log_probs = jax.jit(jax.vmap(lambda y: distribution.log_prob(jnp.full(N, y))))(grid)
    weights = np.exp(log_probs) * (family.grid[1] - family.grid[0])  # a Riemann sum, or the sum itself
    rtol = 1e-4 if name == "any function" else 1e-5  # a kink between two grid points
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, rtol=rtol)
    if name != "categorical":
        mean = np.sum(weights * family.grid[:, None], axis=0)
        variance = np.sum(weights * (family.grid[:, None] - mean) ** 2, axis=0)
        np.testing.assert_allclose(distribution.mean, mean, rtol=rtol, atol=1e-8)
        np.testing.assert_allclose(distribution.variance, variance, rtol=2e-2 if name == "student t" else rtol)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.learned])
@pytest.mark.parametrize("kind", ["scalar", "vector"])
def test_learned_parameters_take_the_place_of_numbers(name, kind, x64, rank_promotion):
    family = FAMILIES[name]
    outputs, y = (jnp.asarray(part) for part in drawn(name, SHAPES[kind]))
    values = {field: jnp.asarray(value) for field, value in family.values.items()}
    assert set(family.learned.learned()) == set(values)
    assert not family.likelihood.learned()
    np.testing.assert_allclose(
        family.learned(outputs, values).log_prob(y), family.likelihood(outputs, {}).log_prob(y), rtol=1e-12
    )
    doubled_values = jax.tree.map(lambda v: 2 * v, values)
    assert not np.allclose(
        family.learned(outputs, doubled_values).log_prob(y), family.learned(outputs, values).log_prob(y)
    )


@each_family
def test_gradients_in_the_outputs_match_differences(name, x64):
    family = FAMILIES[name]
    outputs, y = drawn(name, (N,))

    def total(f):
        return jnp.sum(as_likelihood(family.likelihood)(f, {}).log_prob(jnp.asarray(y)))

    gradient, h = jax.grad(total)(jnp.asarray(outputs)), 1e-5
    for place in np.ndindex(outputs.shape):
        ahead, behind = outputs.copy(), outputs.copy()
        ahead[place], behind[place] = outputs[place] + h, outputs[place] - h
        slope = (family.truth(y, ahead).sum() - family.truth(y, behind).sum()) / (2 * h)
        np.testing.assert_allclose(gradient[place], slope, atol=1e-6)


def test_a_scale_per_output_belongs_to_the_columns(x64, rank_promotion):
    outputs, y = drawn("gaussian", (N, 3))
    scales = np.array([0.1, 1.0, 10.0])
    found = jm.Gaussian(scales)(jnp.asarray(outputs), {}).log_prob(jnp.asarray(y))
    np.testing.assert_allclose(found, stats.norm.logpdf(y, outputs, scales).sum(axis=1), rtol=1e-12)


def test_extreme_outputs_stay_finite():
    far = jnp.asarray([-80.0, 80.0])
    assert bool(jnp.all(jnp.isfinite(jm.Bernoulli()(far, {}).log_prob(jnp.asarray([1.0, 0.0])))))
    logits = jnp.asarray([[1000.0, 0.0, 0.0], [0.0, -1000.0, 0.0]])
    assert bool(jnp.all(jnp.isfinite(jm.Categorical()(logits, {}).log_prob(jnp.asarray([1, 1])))))


# learned parameters


@pytest.mark.parametrize(
    ("prior", "start"),
    [
        (dist.HalfNormal(2.0), 2.0 * np.sqrt(2 / np.pi)),
        (dist.Gamma(2.0, 4.0), 0.5),
        (dist.LogNormal(0.0, 1.0), np.exp(0.5)),
        (dist.HalfNormal(np.ones(3)), np.full(3, np.sqrt(2 / np.pi))),
        (dist.Uniform(1.0, 4.0), 2.5),
        (dist.HalfCauchy(1.0), 1.0),  # no mean: the image of zero
        (dist.InverseGamma(1.0, 1.0), 1.0),
        (dist.Pareto(2.0, 0.5), 3.0),
        (dist.TransformedDistribution(dist.Normal(0.0, 1.0), dist.transforms.ExpTransform()), 1.0),
    ],
    ids=kind_of,
)
def test_a_learned_parameter_starts_at_the_mean_of_its_prior_or_at_the_image_of_zero(prior, start, x64):
    found = jm.Learned(prior).start()
    assert found.shape == prior.shape()
    np.testing.assert_allclose(found, start, rtol=1e-6)
    assert bool(jnp.all(prior.support(found)))


@pytest.mark.parametrize("prior", [1.0, None, dist.HalfNormal, "halfnormal"])
def test_a_learned_parameter_needs_a_distribution(prior, unchecked):
    with pytest.raises(TypeError, match=r"Expected jm.Learned\(a numpyro distribution\); got"):
        jm.Learned(prior)


def test_a_learned_parameter_needs_a_continuous_distribution():
    with pytest.raises(ValueError, match="Expected a continuous prior; got Poisson"):
        jm.Learned(dist.Poisson(1.0))


@pytest.mark.parametrize(
    ("make", "prior"),
    [
        (jm.Gaussian, dist.Normal(1.0, 1.0)),
        (jm.NegativeBinomial, dist.Uniform(-1.0, 2.0)),
        (jm.StudentT, dist.StudentT(3.0, 1.0, 1.0)),
    ],
    ids=["Gaussian", "NegativeBinomial", "StudentT"],
)
def test_a_learned_scale_whose_prior_allows_negative_values_is_refused(make, prior):
    """The search would cross zero, where the likelihood is not a number."""
    with pytest.raises(ValueError, match="Expected"):
        make(jm.Learned(prior))


# fields


@pytest.mark.parametrize(
    "make", [jm.Gaussian, jm.NegativeBinomial, lambda v: jm.StudentT(df=v), lambda v: jm.StudentT(scale=v)]
)
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, np.array([1.0, -1.0])], ids=kind_of)
def test_parameters_that_are_not_positive_are_refused(make, value):
    with pytest.raises(ValueError, match=r"Expected .* > 0; got"):
        make(value)


@pytest.mark.parametrize(
    "value", ["1", None, dist.HalfNormal(1.0), jm.Prior(dist.HalfNormal(1.0)), [1.0, "a"]], ids=kind_of
)
def test_parameters_of_another_kind_are_refused(value, unchecked):
    with pytest.raises((TypeError, ValueError), match="Expected"):
        jm.Gaussian(value)


@pytest.mark.parametrize(
    "likelihood", [jm.Gaussian, jm.Categorical, "gaussian", 1.0, None, dist.Normal(0.0, 1.0)], ids=kind_of
)
def test_what_is_not_a_likelihood_is_refused(likelihood, unchecked):
    with pytest.raises(TypeError, match="Expected a likelihood"):
        as_likelihood(likelihood)


def test_a_function_that_returns_no_distribution_is_refused(unchecked):
    with pytest.raises(TypeError, match="Expected the likelihood function to return a numpyro distribution; got"):
        as_likelihood(lambda outputs: outputs)(jnp.ones(3), {})


@pytest.mark.parametrize(
    ("likelihood", "shape"),
    [(jm.Categorical(), (N,)), (jm.HeteroscedasticGaussian(), (N,)), (jm.HeteroscedasticGaussian(), (N, 3))],
    ids=kind_of,
)
def test_outputs_of_an_impossible_width_are_refused(likelihood, shape, unchecked):
    with pytest.raises(ValueError, match="Expected outputs"):
        likelihood(jnp.ones(shape), {})


# distributions: affine maps and views


@pytest.mark.parametrize("name", OVER_REALS)
@pytest.mark.parametrize("kind", ["scalar", "vector"])
def test_affine_is_the_change_of_variables(name, kind, x64, rank_promotion):
    family, shape = FAMILIES[name], SHAPES[kind]
    outputs, y = drawn(name, shape)
    shift, scale = (
        (np.array(40.0), np.array(7.0)) if kind == "scalar" else (np.array([40.0, -3.0]), np.array([7.0, 0.2]))
    )
    inner = as_likelihood(family.likelihood)(jnp.asarray(outputs), {})
    moved = affine(inner, shift, scale)
    assert moved.shape() == shape
    assert moved.batch_shape == (N,)
    expected = inner.log_prob(jnp.asarray(y)) - np.sum(np.broadcast_to(np.log(scale), shape[1:]))
    np.testing.assert_allclose(moved.log_prob(jnp.asarray(shift + scale * y)), expected, rtol=1e-10)
    np.testing.assert_allclose(moved.mean, shift + scale * np.asarray(inner.mean), rtol=1e-10)
    np.testing.assert_allclose(moved.variance, scale**2 * np.asarray(inner.variance), rtol=1e-10)


def test_gaussians_stay_gaussians_under_affine_maps(rank_promotion):
    outputs = jnp.ones((N, 2))
    for family, kind in ((jm.Gaussian(0.5), dist.Normal), (jm.StudentT(), dist.StudentT)):
        assert type(marginal(affine(family(outputs, {}), jnp.ones(2), jnp.ones(2)))) is kind


def test_gaussian_parts_are_known_only_for_gaussians():
    outputs = jnp.arange(6.0).reshape(3, 2)
    loc, scale = gaussian_parts(jm.Gaussian(0.5)(outputs, {}))
    np.testing.assert_array_equal(loc, outputs)
    np.testing.assert_array_equal(scale, jnp.full((3, 2), 0.5))
    np.testing.assert_array_equal(gaussian(loc, scale).log_prob(loc), jm.Gaussian(0.5)(outputs, {}).log_prob(outputs))
    for other in (jm.StudentT(), jm.Bernoulli(), jm.Poisson()):
        assert gaussian_parts(other(outputs, {})) is None
    assert gaussian_parts(dist.LogNormal(outputs, 1.0)) is None


def test_class_probabilities_are_known_only_for_classes(x64):
    logits = jnp.asarray(RNG.normal(size=(N, K)))
    np.testing.assert_allclose(class_probabilities(jm.Categorical()(logits, {})), special.softmax(logits, axis=-1))
    two = class_probabilities(jm.Bernoulli()(logits[:, 0], {}))
    np.testing.assert_allclose(two, np.stack([special.expit(-logits[:, 0]), special.expit(logits[:, 0])], axis=-1))
    np.testing.assert_allclose(class_probabilities(dist.Categorical(probs=jax.nn.softmax(logits))).sum(-1), 1.0)
    assert class_probabilities(jm.Gaussian()(logits[:, 0], {})) is None


def test_marginal_has_one_distribution_per_entry():
    joined = jm.Gaussian(0.5)(jnp.ones((N, 2, 3)), {})
    assert joined.event_shape == (2, 3)
    assert marginal(joined).batch_shape == (N, 2, 3)
