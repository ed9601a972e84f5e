"""What a solver is: init, step and done over one state, driven by `maximize`.

A solver minimises an `Objective`. The state says where it is; what only one solver needs is in `inner`.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxmap.optimize.objective import Objective

STALLED_AFTER = 5
"""Steps without improvement beyond rounding after which a deterministic solver stops."""


class SolverState(NamedTuple):
    """Where a solver is: coordinates, the loss it last saw, gradients spent (None: one a step), and its memory."""

    z: Any
    value: Float[Array, ""]
    gradients: Any
    inner: Any


@runtime_checkable
class Solver(Protocol):
    """What `maximize` drives."""

    @property
    def steps(self) -> int:
        """The largest number of steps."""
        ...

    @property
    def name(self) -> str:
        """The solver in words."""
        ...

    def init(self, objective: Objective, z: Any) -> SolverState:
        """Begin at z."""
        ...

    def step(self, objective: Objective, state: SolverState) -> SolverState:
        """Move once."""
        ...

    def done(self, state: SolverState) -> Bool[Array, "*members"] | bool:
        """True where another step would not help."""
        ...


def scaled_gradient(gradient: Any, z: Any, value: Any) -> Float[Array, ""]:
    """max_i |g_i| max(1, |z_i|) / max(1, |f|): a gradient without units (Dennis and Schnabel, 1983)."""
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(z), strict=True)
    largest = jnp.stack([jnp.max(jnp.abs(g) * jnp.maximum(1.0, jnp.abs(leaf))) for g, leaf in pairs])
    return jnp.max(largest) / jnp.maximum(1.0, jnp.abs(value))


def rounding(value: Float[Array, ""]) -> Float[Array, ""]:
    """How far two evaluations of a loss may differ for no reason."""
    return 4 * jnp.finfo(value.dtype).eps * jnp.maximum(1.0, jnp.abs(value))


def tolerance_for(given: float | None, dtype: Any, double: float) -> float:
    """A solver's tolerance: what was given, or what the precision can reach."""
    if given is not None:
        return given
    return double if np.dtype(dtype) == np.dtype("float64") else 1e-6
