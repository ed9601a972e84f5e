"""Density: the one log density of a model, in unconstrained coordinates."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmap.data import num_examples, shared
from jaxmap.model.kinks import Kink
from jaxmap.model.model import Model
from jaxmap.model.prior import Prior
from jaxmap.model.space import is_real
from jaxmap.types import Data, Key


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

    @property
    def is_prior_separable(self) -> bool:
        """True where `log_prior` is known to be a sum over single coordinates, so that its Hessian is diagonal."""
        return self.model.programs.made(("separable prior", self), self._look_at_prior)

    def _look_at_prior(self) -> bool:
        model, space = self.model, self.model.space
        alone = not self.prior or (isinstance(model.log_prior, Prior) and model.log_prior.is_separable(model.start))
        return alone and space.is_elementwise

    def log_likelihoods(self, z: Any, data: Data) -> Float[Array, " n"]:
        """One log-probability per example."""
        return self.model.log_likelihood(self.model.space.constrain(z), shared(data))

    def log_prior(self, z: Any) -> Float[Array, ""]:
        """Everything that does not depend on the data: prior and Jacobian, as the flags say."""
        total = jnp.asarray(0.0)
        if self.prior:
            total = total + self.model.log_prior(self.model.space.constrain(z))
        return total + self.model.space.log_jacobian(z) if self.jacobian else total

    def smooth_log_prior(self, z: Any) -> Float[Array, ""]:
        """`log_prior` without the kinks of L1 priors, which `kinks` holds."""
        if self.kinks(z) is None:
            return self.log_prior(z)
        prior = self.model.log_prior.smooth(self.model.space.constrain(z))  # type: ignore[attr-defined]
        return prior + self.model.space.log_jacobian(z) if self.jacobian else prior

    def kinks(self, z: Any) -> list[Kink | None] | None:
        """The terms -weight |z - center| of the log density, one per leaf; None where it is smooth everywhere.

        They are known for a `Prior` on leaves that are their own coordinates; a bounded leaf cannot cross its kink.
        """
        if not self.prior or not isinstance(self.model.log_prior, Prior):
            return None
        params, space = self.model.space.constrain(z), self.model.space
        found = self.model.log_prior.kinks(params)
        kept = [kink if is_real(support) else None for kink, support in zip(found, space.supports, strict=True)]
        return kept if any(kink is not None for kink in kept) else None

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
        return self.mean_nll(z, data, weights) - self.log_prior(z) / (total or num_examples(data))

    def mean_nll(self, z: Any, data: Data, weights: Float[Array, " batch"] | None = None) -> Float[Array, ""]:
        """The data's part of `mean_loss`."""
        return _mean_of(self.log_likelihoods(z, data), weights)

    def training_nll(
        self, z: Any, key: Key, data: Data, weights: Float[Array, " batch"] | None = None
    ) -> tuple[Float[Array, ""], Any]:
        """The data's part of the loss of a network in training mode, and its statistics after the batch or None."""
        values, state = self.model.train(self.model.space.constrain(z), key, shared(data))  # type: ignore[misc]
        return _mean_of(values, weights), state


def _mean_of(values: Float[Array, " n"], weights: Float[Array, " n"] | None) -> Float[Array, ""]:
    """Minus the weighted mean."""
    if weights is None:
        return -jnp.sum(values) / len(values)
    weights = weights.astype(values.dtype)
    return -weighted_sum(weights, values) / jnp.sum(weights)


def weighted_sum(weights: Float[Array, " n"], values: Float[Array, " n"]) -> Float[Array, ""]:
    """Sum weights * values; an example of weight zero counts as absent, also where its value is not finite."""
    return jnp.sum(jnp.where(weights > 0, weights * jnp.where(weights > 0, values, 0.0), 0.0))
