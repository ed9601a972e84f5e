"""A density seen along some of its parameter leaves, the others held where they are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmap.curvature.negative_hessian import unconstrained_outputs
from jaxmap.model import Density, Prior
from jaxmap.types import Data


@dataclass(frozen=True)
class View:
    """A density as a function of the list of its moving leaves.

    Attributes:
        density: of everything.
        leaves: numbers of the moving leaves in flattening order; None for all.
    """

    density: Density
    leaves: tuple[int, ...] | None = None

    def of(self, z: Any) -> list[Any]:
        """The moving leaves."""
        leaves = jax.tree.leaves(z)
        return leaves if self.leaves is None else [leaves[k] for k in self.leaves]

    def into(self, z: Any, moving: Sequence[Any]) -> Any:
        """Z with the moving leaves in their places."""
        leaves, treedef = jax.tree.flatten(z)
        for k, leaf in zip(range(len(leaves)) if self.leaves is None else self.leaves, moving, strict=True):
            leaves[k] = leaf
        return treedef.unflatten(leaves)

    def positions(self, z: Any) -> Int[np.ndarray, " m"]:
        """Where the moving coordinates lie in ravel order."""
        sizes = [int(np.size(leaf)) for leaf in jax.tree.leaves(z)]
        begins = np.cumsum([0, *sizes])
        chosen = range(len(sizes)) if self.leaves is None else self.leaves
        return np.concatenate([begins[k] + np.arange(sizes[k]) for k in chosen])

    def outputs(self, z: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
        """(moving, x) -> (network outputs, learned likelihood parameters)."""
        whole = unconstrained_outputs(self.density.model)
        return lambda moving, x: whole(self.into(z, moving), x)

    def log_prior(self, z: Any) -> Callable[[Any], Float[Array, ""]]:
        """What does not depend on the data, as a function of the moving leaves."""
        return lambda moving: self.density.log_prior(self.into(z, moving))

    def log_likelihoods(self, z: Any) -> Callable[[Any, Data], Float[Array, " n"]]:
        """One log-probability per example, as a function of the moving leaves and the data."""
        return lambda moving, data: self.density.log_likelihoods(self.into(z, moving), data)

    def held_log_prior(self, z: Any) -> Float[Array, ""]:
        """The prior's part that belongs to the held leaves, Jacobian included; zero where it cannot be told apart."""
        density = self.density
        if self.leaves is None or not density.prior or not isinstance(density.model.log_prior, Prior):
            return jnp.asarray(0.0)
        terms = density.model.log_prior.terms(density.model.space.constrain(z))
        if density.jacobian:
            terms = [a + b for a, b in zip(terms, density.model.space.log_jacobians(z), strict=True)]
        return sum((term for k, term in enumerate(terms) if k not in self.leaves), start=jnp.asarray(0.0))
