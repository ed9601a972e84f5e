"""Fisher information: closed forms against E[-Hessian], by quadrature over quantiles or by summation."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import special, stats

from jaxmap.model import information

NODES, WEIGHTS = np.polynomial.legendre.leggauss(2000)
LEVELS, WEIGHTS = (NODES + 1) / 2, WEIGHTS / 2


@dataclass(frozen=True)
class Family:
    """A family in the coordinates that `information` uses.

    Attributes:
        make: theta, one vector -> distribution of one y, in jax.
        log_prob: (y, theta) -> log density, by scipy.
        thetas: where it is tested.
        quantile: (levels, theta) -> values of y; None where y is counted out by `values`.
        values: theta -> all y that matter.
    """

    make: Any
    log_prob: Any
    thetas: Any
    quantile: Any = None
    values: Any = None


def counts(t):
    mean = np.exp(t[0])
    return np.arange(int(mean + 40 * np.sqrt(mean + (mean**2 / t[1] if len(t) > 1 else 0)) + 100))


def negative_binomial(thetas):
    return Family(
        lambda t: dist.NegativeBinomial2(jnp.exp(t[0]), t[1]),
        lambda y, t: stats.nbinom.logpmf(y, t[1], t[1] / (t[1] + np.exp(t[0]))),
        thetas,
        values=counts,
    )


def bernoulli(make, thetas):
    return Family(
        make, lambda y, t: stats.bernoulli.logpmf(y, special.expit(t[0])), thetas, values=lambda t: np.arange(2)
    )


FAMILIES = {
    "Normal": Family(
        lambda t: dist.Normal(t[0], jnp.exp(t[1])),
        lambda y, t: stats.norm.logpdf(y, t[0], np.exp(t[1])),
        [(0.0, 0.0), (-3.0, 1.5)],
        lambda u, t: stats.norm.ppf(u, t[0], np.exp(t[1])),
    ),
    "LogNormal": Family(
        lambda t: dist.LogNormal(t[0], jnp.exp(t[1])),
        lambda y, t: stats.lognorm.logpdf(y, np.exp(t[1]), scale=np.exp(t[0])),
        [(0.5, -1.0)],
        lambda u, t: stats.lognorm.ppf(u, np.exp(t[1]), scale=np.exp(t[0])),
    ),
    "StudentT": Family(
        lambda t: dist.StudentT(t[2], t[0], jnp.exp(t[1])),
        lambda y, t: stats.t.logpdf(y, t[2], t[0], np.exp(t[1])),
        [(0.0, 0.0, 4.0), (2.0, -1.0, 1.5), (-1.0, 2.0, 30.0)],
        lambda u, t: stats.t.ppf(u, t[2], t[0], np.exp(t[1])),
    ),
    "Gamma": Family(
        lambda t: dist.Gamma(t[0], jnp.exp(t[1])),
        lambda y, t: stats.gamma.logpdf(y, t[0], scale=np.exp(-t[1])),
        [(2.0, 0.0), (0.7, 1.5), (30.0, -1.0)],
        lambda u, t: stats.gamma.ppf(u, t[0], scale=np.exp(-t[1])),
    ),
    "Exponential": Family(
        lambda t: dist.Exponential(jnp.exp(t[0])),
        lambda y, t: stats.expon.logpdf(y, scale=np.exp(-t[0])),
        [(0.0,), (2.0,)],
        lambda u, t: stats.expon.ppf(u, scale=np.exp(-t[0])),
    ),
    "Bernoulli": bernoulli(lambda t: dist.Bernoulli(logits=t[0]), [(0.0,), (-3.0,), (5.0,)]),
    "Bernoulli of probabilities": bernoulli(lambda t: dist.Bernoulli(probs=jax.nn.sigmoid(t[0])), [(0.3,), (-3.0,)]),
    "Categorical": Family(
        lambda t: dist.Categorical(logits=t),
        lambda y, t: special.log_softmax(t)[y],
        [(0.0, 0.0, 0.0), (1.0, -2.0, 0.5)],
        values=lambda t: np.arange(3),
    ),
    "Poisson": Family(
        lambda t: dist.Poisson(jnp.exp(t[0])),
        lambda y, t: stats.poisson.logpmf(y, np.exp(t[0])),
        [(-3.0,), (0.0,), (5.0,)],
        values=counts,
    ),
    "GammaPoisson": negative_binomial([(np.log(0.01), 2.0), (0.0, 0.1), (np.log(30.0), 2.5), (3.0, 50.0)]),
    "GammaPoisson, wide": negative_binomial([(np.log(100.0), 0.5), (np.log(1000.0), 0.1), (np.log(1000.0), 2.0)]),
}
CASES = [(name, np.array(theta)) for name, family in FAMILIES.items() for theta in family.thetas]
each_case = pytest.mark.parametrize(
    ("name", "theta"), CASES, ids=[f"{name} {np.round(theta, 2).tolist()}" for name, theta in CASES]
)


def expected_information(family, theta):
    """E[-d^2 log p / d theta^2]: second differences for every y, averaged."""
    if family.quantile is None:
        y = family.values(theta)
        weights = np.exp(family.log_prob(y, theta))
        np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-4)
    else:
        y, weights = family.quantile(LEVELS, theta), WEIGHTS
    steps = np.diag(1e-3 * np.maximum(1.0, np.abs(theta)))
    found = np.zeros((len(theta), len(theta)))
    for i, j in np.ndindex(found.shape):
        corners = [(a * b, family.log_prob(y, theta + a * steps[i] + b * steps[j])) for a in (1, -1) for b in (1, -1)]
        found[i, j] = -weights @ sum(sign * value for sign, value in corners) / (4 * steps[i, i] * steps[j, j])
    return found


@each_case
def test_information_is_the_expected_curvature(name, theta, x64):
    family = FAMILIES[name]
    found = information(family.make(jnp.asarray(theta)))
    assert found is not None
    np.testing.assert_allclose(found.theta, theta, rtol=1e-12, atol=1e-14)
    size = len(theta)
    assert found.information.shape == (size, size)
    expected = expected_information(family, theta)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))  # the corner entries differ by orders of magnitude
    np.testing.assert_allclose(found.information / scale, expected / scale, atol=2e-3)
    assert np.linalg.eigvalsh(found.information).min() > -1e-9 * np.trace(found.information)
    for entry in np.ndindex(size, size):  # a flipped sign would be seen
        mutant = np.array(found.information)
        mutant[entry] *= -1
        if abs(expected[entry] / scale[entry]) > 1e-2:
            assert np.max(np.abs(mutant - expected) / scale) > 1e-2


def test_the_rest_is_unknown():
    for d in (dist.Laplace(0.0, 1.0), dist.Beta(2.0, 2.0), dist.VonMises(0.0, 1.0)):
        assert information(d) is None


def test_batches_are_kept_and_arguments_broadcast(x64):
    for d, k in (
        (dist.Normal(jnp.arange(3.0), 2.0), 2),
        (dist.StudentT(4.0, jnp.arange(3.0), 2.0), 3),
        (dist.Gamma(2.0, jnp.arange(1.0, 4.0)), 2),
        (dist.Poisson(jnp.arange(1.0, 4.0)), 1),
        (dist.Categorical(logits=jnp.zeros((3, 4))), 4),
        (dist.Bernoulli(logits=jnp.zeros(3)), 1),
    ):
        found = information(d)
        assert found.theta.shape == (3, k), d
        assert found.information.shape == (3, k, k), d
        if k == 3:
            one = information(dist.StudentT(4.0, 1.0, 2.0))
            np.testing.assert_allclose(
                [found.theta[1], *found.information[1]], [one.theta, *one.information], rtol=1e-12
            )


def test_events_and_fixed_bijections_are_looked_through():
    base = dist.Normal(jnp.zeros((3, 2)), jnp.full((3, 2), 0.5))
    for d in (base.to_event(1), dist.TransformedDistribution(base, dist.transforms.ExpTransform())):
        np.testing.assert_array_equal(information(d).information, information(base).information)


def test_an_expanded_distribution_has_the_coordinates_of_every_copy():
    assert information(dist.Normal(0.0, 1.0).expand([3])).theta.shape == (3, 2)


def test_a_map_that_is_no_bijection_is_not_looked_through():
    assert information(dist.FoldedDistribution(dist.Normal(jnp.zeros(3), 1.0))) is None


def test_a_bijection_that_depends_on_the_parameters_is_not_looked_through():
    """The location sits in the transform: the base distribution knows nothing of it."""

    def located(f):
        return dist.TransformedDistribution(dist.Normal(jnp.zeros(3), 1.0), dist.transforms.AffineTransform(f, 1.0))

    found = information(located(jnp.ones(3)))
    if found is not None:
        jacobian = jax.jacobian(lambda f: information(located(f)).theta)(jnp.ones(3))
        assert np.abs(jacobian).max() > 0
