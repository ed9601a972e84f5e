"""numpyro's distributions with what it leaves out: right slopes, fast class probabilities, moments of a shifted y."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

FEW_CLASSES = 256
"""Up to here the logit of a class is found by comparing, not by looking it up, whose gradient is a scatter."""


class BernoulliByLogit(dist.BernoulliLogits):
    """numpyro's Bernoulli with the right gradient at logit zero, where every linear model starts.

    numpyro 0.22 writes log p as a clip at zero, whose derivative there is 1 instead of 1/2.
    """

    def log_prob(self, value: Any) -> Any:
        """Evaluate y l - log(1 + e^l)."""
        return value * self.logits - softplus(self.logits)


@jax.custom_jvp
def softplus(x: Any) -> Any:
    """log(1 + e^x) to an absolute error of one rounding, in half the time of `jnp.logaddexp`."""
    return jnp.maximum(x, 0.0) + jnp.log(1.0 + jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    return softplus(primals[0]), jax.nn.sigmoid(primals[0]) * tangents[0]


def widened(values: Any) -> Any:
    """Integers of 8 or 16 bits in 32: in jax uint8 takes 256 for 0 when it is compared with it, int8 200 for -56."""
    values = jnp.asarray(values)
    few = jnp.issubdtype(values.dtype, jnp.integer) and values.dtype.itemsize < 4
    return values.astype(jnp.int32) if few else values


class CategoricalByLogits(dist.CategoricalLogits):
    """numpyro's Categorical; for few classes its gradient is a fused loop, not a scatter.

    There the largest logit is taken away first: large logits close to each other keep their digits in float32.
    """

    def log_prob(self, value: Any) -> Any:
        """Evaluate (l_y - m) - log sum_c e^(l_c - m), m the largest logit."""
        classes = jnp.shape(self.logits)[-1]
        if classes > FEW_CLASSES or not jnp.issubdtype(jnp.result_type(value), jnp.integer):
            return super().log_prob(value)  # which refuses labels that are no integers
        batch = jax.lax.broadcast_shapes(jnp.shape(value), self.batch_shape)
        shape, y = (*batch, classes), jnp.broadcast_to(widened(value), batch)
        chosen = jnp.broadcast_to(y[..., None], shape) == jax.lax.broadcasted_iota(y.dtype, shape, len(batch))
        logits = jnp.broadcast_to(self.logits, shape)
        below = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
        found = jnp.sum(jnp.where(chosen, below, 0.0), axis=-1) - jnp.log(jnp.sum(jnp.exp(below), axis=-1))
        return jnp.where((y >= 0) & (y < classes), found, jnp.nan)  # a label that is no class has no probability


class Affine(dist.TransformedDistribution):
    """loc + scale * y with the moments that numpyro leaves out."""

    def __init__(self, base: dist.Distribution, loc: Any, scale: Any):
        self.loc, self.scale = loc, scale
        super().__init__(base, dist.transforms.AffineTransform(loc, scale))

    @property
    def mean(self) -> Any:
        """Loc + scale * E[y]."""
        return self.loc + self.scale * self.base_dist.mean

    @property
    def variance(self) -> Any:
        """scale^2 * Var[y]."""
        return self.scale**2 * self.base_dist.variance
