"""Density: the one log density of a model, in unconstrained coordinates."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmap.data import num_examples
from jaxmap.model.model import Model
from jaxmap.types import Data


@dataclass(frozen=True)
class Density:
    """What a method maximises or samples, as a function of unconstrained coordinates z.

    f(z) = sum over examples of log_likelihood(params(z)) + [prior] log_prior(params(z)) + [jacobian] log |d params/dz|

    Attributes:
        model: the user's model.
        prior: include the prior; without it the mode is the maximum-likelihood estimate.
        jacobian: include the Jacobian; without it the mode is that of the density the user wrote.
    """

    model: Model
    prior: bool = True
    jacobian: bool = True

    @property
    def target(self) -> str:
        """Which density this is, in words."""
        if not self.prior:
            return "log-likelihood"
        if self.model.space.is_real:
            return "log joint density"
        kind = "unconstrained coordinates, Jacobian included" if self.jacobian else "the user's own coordinates"
        return f"log joint density in {kind}"

    def log_likelihoods(self, z: Any, data: Data) -> Float[Array, " n"]:
        """One log-probability per example."""
        return self.model.log_likelihood(self.model.space.constrain(z), data)

    def log_prior(self, z: Any) -> Float[Array, ""]:
        """Everything that does not depend on the data: prior and Jacobian, as the flags say."""
        total = jnp.asarray(0.0)
        if self.prior:
            total = total + self.model.log_prior(self.model.space.constrain(z))
        return total + self.model.space.log_jacobian(z) if self.jacobian else total

    def __call__(self, z: Any, data: Data) -> Float[Array, ""]:
        """The total, in nats."""
        return self.log_prior(z) + jnp.sum(self.log_likelihoods(z, data))

    def mean_loss(
        self, z: Any, data: Data, weights: Float[Array, " batch"] | None = None, total: int | None = None
    ) -> Float[Array, ""]:
        """What optimizers minimise: -f(z) / N; the one place where anything is scaled.

        A batch estimates f by log_prior + N / sum(w) * sum(w * log_likelihood).

        Args:
            z: unconstrained coordinates.
            data: all examples, or a batch of them.
            weights: one per example of the batch, zero for padding, whose rows repeat real examples; ones if left out.
            total: N where `data` is a batch.

        Returns:
            loss: nats per example.
        """
        values = self.log_likelihoods(z, data)
        if weights is None:
            mean = jnp.sum(values) / num_examples(data)
        else:
            weights = weights.astype(values.dtype)
            mean = jnp.sum(weights * values) / jnp.sum(weights)
        return -(mean + self.log_prior(z) / (total or num_examples(data)))
