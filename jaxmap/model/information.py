"""Fisher information of observation distributions, in closed form.

Each family gives its natural coordinates and the expected negative Hessian in them; the chain rule does the rest.
The coordinates make the matrices simple: a Gaussian is described by (mean, log scale), a count by its log mean.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import polygamma
from jaxtyping import Array, Float
from numpyro.distributions.discrete import BernoulliLogits, BernoulliProbs, CategoricalLogits

from jaxmap.model.distributions import Affine, BernoulliByLogit, CategoricalByLogits


class Coordinates(NamedTuple):
    """A family in coordinates theta of shape (*batch, k), with information of shape (*batch, k, k)."""

    theta: Float[Array, "*batch k"]
    information: Float[Array, "*batch k k"]


def information(distribution: dist.Distribution) -> Coordinates | None:
    """The coordinates of a distribution and their Fisher information E[-d^2 log p / d theta^2].

    Independent and expanded distributions are looked through; transformed ones only where their map has no arguments,
    which could depend on the parameters.

    Returns:
        coordinates: or None where the family is not known in closed form.
    """
    inner: Any = distribution
    if isinstance(distribution, dist.ExpandedDistribution):
        found = information(inner.base_dist)
        return None if found is None else _expanded(found, distribution.shape())
    fixed = type(distribution) is dist.TransformedDistribution and not jax.tree.leaves(distribution.transforms)
    if fixed or isinstance(distribution, dist.Independent | Affine):  # the arguments of an Affine are constants
        return information(inner.base_dist)
    for family, rule in _FAMILIES.items():
        if type(distribution) is family or (family is dist.GammaPoisson and isinstance(distribution, family)):
            return rule(distribution)
    return None


def _expanded(inner: Coordinates, shape: tuple[int, ...]) -> Coordinates:
    k = inner.theta.shape[-1]
    batch = shape if inner.theta.ndim <= len(shape) + 1 else shape[: inner.theta.ndim - 1]
    theta = jnp.broadcast_to(inner.theta, (*batch, k)) if batch else inner.theta
    return Coordinates(theta, jnp.broadcast_to(inner.information, (*theta.shape, k)))


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
    of_r = _concentration_information(r, mean) - mean / (r * (r + mean))
    return Coordinates(_stack(jnp.log(mean), r), _diagonal(r * mean / (r + mean), of_r))


def _concentration_information(r: Array, mean: Array, points: int = 400) -> Array:
    """trigamma(r) - E[trigamma(y + r)] for y negative binomial, with q = mean / (r + mean).

    As an integral over t of t e^(-r t) / (1 - e^-t) * (1 - ((1 - q) / (1 - q e^-t))^r), from the integral of the
    trigamma function and the generating function of y; by the trapezoidal rule in log t, which converges exponentially.
    """
    log_rest = -jnp.log1p(mean / r)  # log(1 - q)
    high = jnp.log(60.0 / r)
    low = jnp.minimum(log_rest, high) - 25.0
    fraction = jnp.linspace(0.0, 1.0, points, dtype=mean.dtype).reshape((points,) + (1,) * mean.ndim)
    t = jnp.exp(low[None] + fraction * (high - low)[None])
    r_, odds = r[None], (mean / r)[None]
    gap = -jnp.expm1(-t)
    inside = -jnp.expm1(-r_ * jnp.log1p(odds * gap))  # 1 - ((1 - q) / (1 - q e^-t))^r, since odds = q / (1 - q)
    values = t**2 * jnp.exp(-r_ * t) / gap * inside  # one t from dt = t d log t
    return jnp.trapezoid(values, axis=0) * (high - low) / (points - 1)


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
    BernoulliByLogit: _bernoulli,
    BernoulliLogits: _bernoulli,
    BernoulliProbs: _bernoulli,
    CategoricalByLogits: _categorical,
    CategoricalLogits: _categorical,
    dist.Poisson: _poisson,
    dist.GammaPoisson: _gamma_poisson,
    dist.Gamma: _gamma,
    dist.Exponential: _exponential,
}
