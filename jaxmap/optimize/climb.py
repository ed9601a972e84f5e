"""climb(): all steps of a solver as one piece of a larger program."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxmap.optimize.objective import Objective
from jaxmap.optimize.solver import Solver, SolverState
from jaxmap.trees import all_finite


def climb(objective: Objective, solver: Solver, state: SolverState) -> tuple[SolverState, Any]:
    """Step until the solver is done, its steps are used up, or a number is not finite; pure and vmappable.

    `maximize` is for one climb that a person watches; this is for the many climbs of a path or a bootstrap.

    Args:
        objective: what is minimised.
        solver: what moves.
        state: where it begins.

    Returns:
        state, steps: the last finite state and the steps taken.
    """
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), state)  # strong types, as steps return

    def going(carry: Any) -> Any:
        i, state, failed = carry
        return (i < solver.steps) & ~failed & ~jnp.asarray(solver.done(state))

    def step(carry: Any) -> Any:
        i, state, _ = carry
        new = solver.step(objective, state)
        fine = all_finite((new.z, new.value))
        new = jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, state)
        return jnp.where(fine, i + 1, i), new, ~fine

    steps, state, _ = jax.lax.while_loop(going, step, (jnp.asarray(0), state, ~all_finite((state.z, state.value))))
    return state, steps
