"""Optax transformations as solvers."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmap.optimize.objective import Objective
from jaxmap.optimize.solver import SolverState


@dataclass(frozen=True)
class FirstOrder:
    """Any optax transformation; takes all its steps.

    Beside an L1 prior each step is followed by the proximal step in the metric of the transformation (`metric_of`), so
    that exact zeros appear, also on minibatches.

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
        inner = self.transformation.init(z)
        shadow = self.transformation.init(z) if objective.kinks is not None else None
        return SolverState(z, value, None, (inner, shadow, jnp.asarray(0)))

    def step(self, objective: Objective, state: SolverState) -> SolverState:  # noqa: D102
        inner, shadow, count = state.inner
        value, gradient, moved_on = _slope(objective, state.z)
        update = optax.with_extra_args_support(self.transformation).update
        extra = {"value": value, "grad": gradient, "value_fn": objective.smooth}
        updates, inner = update(gradient, inner, state.z, **extra)
        z = optax.apply_updates(state.z, updates)
        if objective.kinks is not None:
            value = value + objective.penalty(state.z)
            decay = metric_of(self.transformation)
            if decay is None:  # linear: what a gradient of ones would move is the metric
                moved, shadow = update(jax.tree.map(jnp.ones_like, gradient), shadow, state.z, **extra)
                metric = jax.tree.map(lambda v: -v, moved)
            else:
                metric = _adaptive_metric(updates, optax.tree.get(inner, "mu"), 1.0 - decay ** (count + 1))
            z = objective.proximal(z, metric)
        if moved_on is not None:
            z = moved_on(z)  # batch statistics follow the network's own rule, not the gradient
        return SolverState(z, value, None, (inner, shadow, count + 1))

    def done(self, state: SolverState) -> bool:  # noqa: D102
        return False


def _slope(objective: Objective, z: Any) -> tuple[Any, Any, Any]:
    """Loss, gradient, and what moves batch statistics on: None where there are none."""
    if objective.training is None:
        return *jax.value_and_grad(objective.smooth)(z), None
    (value, state), gradient = jax.value_and_grad(objective.training, has_aux=True)(z, objective.key)
    return value, gradient, None if state is None else lambda z: z | {"state": state}


def _adaptive_metric(updates: Any, momentum: Any, weight: Any) -> Any:
    """The step per unit of averaged gradient, of transformations that divide a momentum by a scale (Adam)."""

    def one(u: Any, m: Any) -> Any:
        return jnp.where(m == 0, 0.0, -u * weight / jnp.where(m == 0, 1.0, m))

    return jax.tree.map(one, updates, momentum)


def metric_of(transformation: Any) -> float | None:
    """How a transformation measures steps, found by trying it on three numbers.

    Returns:
        decay: the decay of the momentum for the family of Adam, whose state holds it as `mu`; None for transformations
            that are linear in the gradients (SGD, momentum, schedules).

    Raises:
        ValueError: any other, whose proximal step is not known; so also where gradients are accumulated or clipped on
            their way to the momentum, which then is not the average that the step is divided by.
    """
    with jax.ensure_compile_time_eval():
        params, gradient = jnp.zeros(3), jnp.asarray([1.0, -0.5, 2.0])
        update = optax.with_extra_args_support(transformation).update

        def moves(factor: float) -> np.ndarray:
            state, seen = transformation.init(params), []
            for i in range(PROBE_STEPS):
                moved, state = update(factor * gradient * (1 + i % 3), state, params)
                seen.append(np.asarray(moved))
            return np.stack(seen)

        try:
            if np.allclose(moves(LOUD), LOUD * moves(1.0), rtol=1e-4, atol=0):
                return None
            quiet, loud = (
                optax.tree.get(update(factor * gradient, transformation.init(params), params)[1], "mu") / factor
                for factor in (1.0, LOUD)
            )
            if not (np.all(quiet != 0) and np.allclose(quiet, loud, rtol=1e-4, atol=0)):
                raise ValueError("accumulated or clipped before the momentum")
            return float(1.0 - quiet[0] / gradient[0])
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(_no_metric(transformation)) from error


def _no_metric(transformation: Any) -> str:
    return (
        "Expected SGD, momentum or a member of the Adam family beside an L1 prior, whose proximal step is known, "
        "without clipped gradients, and Adam without accumulated ones; "
        f"got {describe_transformation(transformation)}. Use one of these alone, a larger batch_size, or solver=None."
    )


PROBE_STEPS, LOUD = 6, 1e8
"""Steps of a trial; a factor on its gradients at which any clipping shows."""


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
