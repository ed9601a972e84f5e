"""Limited-memory BFGS."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from jaxmap.optimize.objective import Objective
from jaxmap.optimize.solver import STALLED_AFTER, SolverState, rounding, scaled_gradient, tolerance_for


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS with a zoom line search (optax), for full batches.

    Stops when the scaled gradient max |g_i| max(1, |z_i|) / max(1, |loss|) is below `tolerance`, or after several
    steps without improvement beyond rounding.

    Attributes:
        steps: the largest number of iterations.
        tolerance: None: 1e-9 in float64, 1e-6 in float32.
        memory: how many past steps shape the metric.
    """

    steps: int = 2000
    tolerance: float | None = None
    memory: int = 10

    @property
    def name(self) -> str:  # noqa: D102
        return "L-BFGS"

    def _transformation(self) -> optax.GradientTransformationExtraArgs:
        return optax.lbfgs(memory_size=self.memory)

    def init(self, objective: Objective, z: Any) -> SolverState:  # noqa: D102
        flat, _ = ravel_pytree(z)  # one vector instead of many leaves: a program many times smaller
        inner = (self._transformation().init(flat), jnp.asarray(False), jnp.asarray(0))
        return SolverState(z, objective.smooth(z), jnp.asarray(1), inner)

    def step(self, objective: Objective, state: SolverState) -> SolverState:  # noqa: D102
        memory, _, stalled = state.inner
        flat, unravel = ravel_pytree(state.z)

        def of_vector(v: Float[Array, " p"]) -> Float[Array, ""]:
            return objective.smooth(unravel(v))

        found: Any = optax.value_and_grad_from_state(of_vector)(flat, state=memory)
        value, gradient = found
        update = self._transformation().update
        updates, memory = update(gradient, memory, flat, value=value, grad=gradient, value_fn=of_vector)
        flat: Any = optax.apply_updates(flat, updates)
        new, gradient = optax.tree.get(memory, "value"), optax.tree.get(memory, "grad")
        stalled = jnp.where(value - new > rounding(value), 0, stalled + 1)
        small = scaled_gradient(gradient, flat, new) <= tolerance_for(self.tolerance, new.dtype, 1e-9)
        searched = optax.tree.get(memory, "num_linesearch_steps")
        return SolverState(unravel(flat), new, state.gradients + searched, (memory, small, stalled))

    def done(self, state: SolverState) -> Bool[Array, "*members"]:  # noqa: D102
        _, small, stalled = state.inner
        return small | (stalled >= STALLED_AFTER) | ~jnp.isfinite(state.value)
