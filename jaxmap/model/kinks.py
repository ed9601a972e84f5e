"""Priors with a kink: the Laplace prior (L1) and the elastic net, and what solvers need of them.

The log density of such a prior is smooth but for a term -weight |b - center|. A solver follows the smooth part and
takes a proximal step for the rest, which is what makes exact zeros.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float
from numpyro.distributions import (
    Distribution,
    ExpandedDistribution,
    Independent,
    Laplace,
    Normal,
    constraints,
)
from numpyro.distributions.util import promote_shapes

from jaxmap.types import Key


class Kink(NamedTuple):
    """The term -weight |b - center| of a log density; both broadcast to b."""

    weight: Any
    center: Any


class ElasticNet(Distribution):
    """p(b) = exp(-l1 |b| - l2 b^2 / 2) / Z, with Z = 2 sqrt(2 pi / l2) exp(a^2 / 2) Phi(-a) and a = l1 / sqrt(l2).

    The prior of Zou and Hastie's (2005) elastic-net penalty.

    Args:
        l1: > 0, the factor of |b|.
        l2: > 0, the factor of b^2 / 2.
    """

    arg_constraints = {"l1": constraints.positive, "l2": constraints.positive}  # noqa: RUF012
    support: Any = constraints.real

    l1: Any
    l2: Any

    def __init__(self, l1: Any, l2: Any, *, validate_args: bool | None = None):
        self.l1, self.l2 = promote_shapes(l1, l2)
        shape = jnp.broadcast_shapes(jnp.shape(l1), jnp.shape(l2))
        super().__init__(batch_shape=shape, validate_args=validate_args)

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw a sign, and a size t / sqrt(l2) with Phi(-(a + t)) / Phi(-a) uniform, solved for t by Newton."""
        of_sign, of_size = jax.random.split(key)
        shape = sample_shape + self.batch_shape
        dtype = jnp.result_type(float)
        target = jnp.log(jax.random.uniform(of_size, shape, dtype, minval=jnp.finfo(dtype).tiny))
        a = jnp.broadcast_to(self.l1 / jnp.sqrt(self.l2), shape)
        t = jnp.sqrt(a**2 - 2 * target) - a
        for _ in range(6):
            tail = log_ndtr(-(a + t))
            hazard = jnp.exp(-((a + t) ** 2) / 2 - 0.5 * jnp.log(2 * jnp.pi) - tail)
            t = jnp.maximum(t + (tail - log_ndtr(-a) - target) / hazard, 0.0)
        return jax.random.rademacher(of_sign, shape, dtype) * t / jnp.sqrt(self.l2)

    def log_prob(self, value: Any) -> Array:
        """The normalised log density."""
        return -self.l1 * jnp.abs(value) - self.l2 * value**2 / 2 - self.log_norm()

    def log_norm(self) -> Array:
        """Log Z."""
        ratio = self.l1 / jnp.sqrt(self.l2)
        far = jnp.maximum(ratio, 10.0)  # exp(a^2 / 2) Phi(-a), without the cancellation
        x = far**-2
        inside = -x * (1 - 3 * x * (1 - 5 * x * (1 - 7 * x * (1 - 9 * x * (1 - 11 * x)))))
        series = jnp.log1p(inside) - jnp.log(far) - 0.5 * jnp.log(2 * jnp.pi)
        near = jnp.minimum(ratio, 10.0)
        tail = jnp.where(ratio > 10.0, series, near**2 / 2 + log_ndtr(-near))
        return jnp.log(2.0) + 0.5 * jnp.log(2 * jnp.pi / self.l2) + tail


def kink_of(distribution: Any) -> Kink | None:
    """The kink of a prior, None where its log density is smooth."""
    if isinstance(distribution, Independent | ExpandedDistribution):
        return kink_of(distribution.base_dist)
    if isinstance(distribution, Laplace):
        laplace: Any = distribution
        return Kink(1.0 / laplace.scale, laplace.loc)
    if isinstance(distribution, ElasticNet):
        return Kink(distribution.l1, jnp.zeros(()))
    return None


def smooth_log_prob(distribution: Any, value: Any) -> Float[Array, "..."]:
    """The log density without its kink, entry by entry."""
    if isinstance(distribution, Independent | ExpandedDistribution):
        return smooth_log_prob(distribution.base_dist, value)
    if isinstance(distribution, Laplace):
        scale: Any = distribution.scale
        return jnp.broadcast_to(-jnp.log(2.0 * scale), jnp.shape(value))
    if isinstance(distribution, ElasticNet):
        return -distribution.l2 * value**2 / 2 - distribution.log_norm()
    return distribution.log_prob(value)


def soft_threshold(value: Any, kink: Kink, step: Any) -> Array:
    """The proximal map argmin_b |b - value|^2 / (2 step) + weight |b - center|."""
    away = value - kink.center
    reach = step * kink.weight
    return jnp.where(jnp.abs(away) <= reach, kink.center, value - jnp.sign(away) * reach)


def is_log_concave(distribution: Any, *, strongly: bool = False) -> bool:
    """True for a Gaussian and an elastic net, and unless `strongly` for a Laplace prior; False may be ignorance."""
    if isinstance(distribution, Independent | ExpandedDistribution):
        return is_log_concave(distribution.base_dist, strongly=strongly)
    return isinstance(distribution, (Normal, ElasticNet) if strongly else (Normal, ElasticNet, Laplace))
