"""Optax transformations as solvers."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmap.optimize.objective import Objective
from jaxmap.optimize.solver import SolverState


@dataclass(frozen=True)
class FirstOrder:
    """Any optax transformation; takes all its steps.

    Attributes:
        transformation: minimises.
        steps: how many.
    """

    transformation: Any
    steps: int

    @property
    def name(self) -> str:  # noqa: D102
        return describe_transformation(self.transformation)

    def init(self, objective: Objective, z: Any) -> SolverState:  # noqa: D102
        value = jnp.zeros((), jax.eval_shape(objective, z).dtype)
        return SolverState(z, value, None, self.transformation.init(z))

    def step(self, objective: Objective, state: SolverState) -> SolverState:  # noqa: D102
        value, gradient = jax.value_and_grad(objective.smooth)(state.z)
        update = optax.with_extra_args_support(self.transformation).update
        extra = {"value": value, "grad": gradient, "value_fn": objective.smooth}
        updates, inner = update(gradient, state.inner, state.z, **extra)
        return SolverState(optax.apply_updates(state.z, updates), value, None, inner)

    def done(self, state: SolverState) -> bool:  # noqa: D102
        return False


def describe_transformation(transformation: Any) -> str:
    """Name an optax transformation by the parts that its closures hold: "optax scale_by_adam, scale"."""
    wrappers = ("chain", "with_extra_args_support", "")
    names = [name for name in _closure_names(transformation.update) if name not in wrappers]
    return "optax " + (", ".join(dict.fromkeys(names)) or type(transformation).__name__)


def _closure_names(content: Any) -> list[str]:
    """The factories of the update functions inside, outermost first."""
    if isinstance(content, tuple | list) and not hasattr(content, "update"):
        return [name for part in content for name in _closure_names(part)]
    update = getattr(content, "update", content)
    path = getattr(update, "__qualname__", "").split(".")
    if "update" not in path[-1]:
        return []
    cells = [cell.cell_contents for cell in getattr(update, "__closure__", None) or ()]
    return [path[0] if len(path) > 1 else "", *(name for cell in cells for name in _closure_names(cell))]
