"""Fisher information of observation distributions, in closed form.

Each family gives its natural coordinates and the expected negative Hessian in them; the chain rule does the rest.
The coordinates make the matrices simple: a Gaussian is described by (mean, log scale), a count by its log mean.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln, polygamma
from jaxtyping import Array, Float
from numpyro.distributions.discrete import BernoulliLogits, BernoulliProbs, CategoricalLogits


class Coordinates(NamedTuple):
    """A family in coordinates theta of shape (*batch, k), with information of shape (*batch, k, k)."""

    theta: Float[Array, "*batch k"]
    information: Float[Array, "*batch k k"]


def information(distribution: dist.Distribution) -> Coordinates | None:
    """The coordinates of a distribution and their Fisher information E[-d^2 log p / d theta^2].

    Independent and transformed distributions are looked through: a bijection of y changes neither.

    Returns:
        coordinates: or None where the family is not known in closed form.
    """
    while isinstance(distribution, dist.Independent | dist.TransformedDistribution | dist.ExpandedDistribution):
        if type(distribution) is dist.LogNormal:
            break
        distribution = distribution.base_dist
    for family, rule in _FAMILIES.items():
        if isinstance(distribution, family):
            return rule(distribution)
    return None


def _stack(*entries: Array) -> Array:
    return jnp.stack(jnp.broadcast_arrays(*entries), axis=-1)


def _diagonal(*entries: Array) -> Array:
    return jnp.vectorize(jnp.diag, signature="(k)->(k,k)")(_stack(*entries))


def _normal(d: Any) -> Coordinates:
    loc, scale = jnp.broadcast_arrays(d.loc, d.scale)
    return Coordinates(_stack(loc, jnp.log(scale)), _diagonal(scale**-2.0, jnp.full_like(scale, 2.0)))


def _student(d: Any) -> Coordinates:
    """Lange, Little and Taylor (1989), appendix B, with the scale in logarithms."""
    df, loc, scale = jnp.broadcast_arrays(d.df, d.loc, d.scale)
    zero = jnp.zeros_like(loc)
    of_df = (polygamma(1, df / 2) - polygamma(1, (df + 1) / 2)) / 4 - (df + 5) / (2 * df * (df + 1) * (df + 3))
    cross = -2.0 / ((df + 1) * (df + 3))
    rows = [
        _stack((df + 1) / ((df + 3) * scale**2), zero, zero),
        _stack(zero, 2 * df / (df + 3), cross),
        _stack(zero, cross, of_df),
    ]
    return Coordinates(_stack(loc, jnp.log(scale), df), jnp.stack(rows, axis=-2))


def _bernoulli(d: Any) -> Coordinates:
    p = d.probs
    return Coordinates(_stack(d.logits), (p * (1 - p))[..., None, None])


def _categorical(d: Any) -> Coordinates:
    p = d.probs
    eye = jnp.eye(p.shape[-1], dtype=p.dtype).reshape((1,) * (p.ndim - 1) + (p.shape[-1],) * 2)
    return Coordinates(d.logits, p[..., None] * eye - p[..., :, None] * p[..., None, :])


def _poisson(d: Any) -> Coordinates:
    return Coordinates(_stack(jnp.log(d.rate)), d.rate[..., None, None])


def _gamma_poisson(d: Any) -> Coordinates:
    """Negative binomial in (log mean, concentration); the two are orthogonal."""
    r, rate = jnp.broadcast_arrays(d.concentration, d.rate)
    mean = r / rate
    of_r = polygamma(1, r) - _mean_trigamma(r, mean) - mean / (r * (r + mean))
    return Coordinates(_stack(jnp.log(mean), r), _diagonal(r * mean / (r + mean), of_r))


def _mean_trigamma(r: Array, mean: Array, points: int = 512) -> Array:
    """E[trigamma(y + r)] for y negative binomial: a sum over the window that holds its mass, in strides."""
    high = mean + 16 * jnp.sqrt(mean + mean**2 / r) + 16
    stride = jnp.ceil(high / points)
    grid = jnp.arange(points, dtype=mean.dtype).reshape((points,) + (1,) * mean.ndim)
    y = grid * stride[None]
    r, mean = r[None], mean[None]
    log_p = gammaln(y + r) - gammaln(r) - gammaln(y + 1) + r * jnp.log(r / (r + mean)) + y * jnp.log(mean / (r + mean))
    weights = jax.nn.softmax(log_p, axis=0)
    return jnp.sum(weights * polygamma(1, y + r), axis=0)


def _gamma(d: Any) -> Coordinates:
    """Shape and log rate."""
    shape, rate = jnp.broadcast_arrays(d.concentration, d.rate)
    one = jnp.ones_like(shape)
    rows = [_stack(polygamma(1, shape), -one), _stack(-one, shape)]
    return Coordinates(_stack(shape, jnp.log(rate)), jnp.stack(rows, axis=-2))


def _exponential(d: Any) -> Coordinates:
    return Coordinates(_stack(jnp.log(d.rate)), jnp.ones_like(d.rate)[..., None, None])


_FAMILIES: dict[type, Callable[..., Coordinates]] = {
    dist.Normal: _normal,
    dist.LogNormal: _normal,
    dist.StudentT: _student,
    BernoulliLogits: _bernoulli,
    BernoulliProbs: _bernoulli,
    CategoricalLogits: _categorical,
    dist.Poisson: _poisson,
    dist.GammaPoisson: _gamma_poisson,
    dist.Gamma: _gamma,
    dist.Exponential: _exponential,
}
