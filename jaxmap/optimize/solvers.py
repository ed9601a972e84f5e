"""Solvers: init, step and done over one state, driven by `maximize`.

A solver minimises a loss. The state says where it is; what only one solver needs is in `inner`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from jaxmap.curvature import hessian
from jaxmap.optimize.trust_region import trust_region_step

Loss = Callable[[Any], Float[Array, ""]]

NEWTON_UP_TO = 200
"""More parameters than this, and the automatic choice is L-BFGS."""

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

    def init(self, loss: Loss, z: Any) -> SolverState:
        """Begin at z."""
        ...

    def step(self, loss: Loss, state: SolverState) -> SolverState:
        """Move once."""
        ...

    def done(self, state: SolverState) -> Bool[Array, "*members"] | bool:
        """True where another step would not help."""
        ...


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

    def init(self, loss: Loss, z: Any) -> SolverState:  # noqa: D102
        value = jnp.zeros((), jax.eval_shape(loss, z).dtype)
        return SolverState(z, value, None, self.transformation.init(z))

    def step(self, loss: Loss, state: SolverState) -> SolverState:  # noqa: D102
        value, gradient = jax.value_and_grad(loss)(state.z)
        update = optax.with_extra_args_support(self.transformation).update
        extra = {"value": value, "grad": gradient, "value_fn": loss}
        updates, inner = update(gradient, state.inner, state.z, **extra)
        return SolverState(optax.apply_updates(state.z, updates), value, None, inner)

    def done(self, state: SolverState) -> bool:  # noqa: D102
        return False


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

    def init(self, loss: Loss, z: Any) -> SolverState:  # noqa: D102
        flat, _ = ravel_pytree(z)  # one vector instead of many leaves: a program many times smaller
        inner = (self._transformation().init(flat), jnp.asarray(False), jnp.asarray(0))
        return SolverState(z, loss(z), jnp.asarray(1), inner)

    def step(self, loss: Loss, state: SolverState) -> SolverState:  # noqa: D102
        memory, _, stalled = state.inner
        flat, unravel = ravel_pytree(state.z)

        def of_vector(v: Float[Array, " p"]) -> Float[Array, ""]:
            return loss(unravel(v))

        found: Any = optax.value_and_grad_from_state(of_vector)(flat, state=memory)
        value, gradient = found
        update = self._transformation().update
        updates, memory = update(gradient, memory, flat, value=value, grad=gradient, value_fn=of_vector)
        flat: Any = optax.apply_updates(flat, updates)
        new, gradient = optax.tree.get(memory, "value"), optax.tree.get(memory, "grad")
        stalled = jnp.where(value - new > _rounding(value), 0, stalled + 1)
        small = scaled_gradient(gradient, flat, new) <= _tolerance(self.tolerance, new.dtype)
        searched = optax.tree.get(memory, "num_linesearch_steps")
        return SolverState(unravel(flat), new, state.gradients + searched, (memory, small, stalled))

    def done(self, state: SolverState) -> Bool[Array, "*members"]:  # noqa: D102
        _, small, stalled = state.inner
        return small | (stalled >= STALLED_AFTER) | ~jnp.isfinite(state.value)


@dataclass(frozen=True)
class Newton:
    """Trust-region Newton with the exact Hessian, for full batches and few parameters.

    Each step minimises the quadratic model inside a ball, exactly, through the eigenvalues of the Hessian (More and
    Sorensen, 1983), so that it leaves saddle points and stays put where the loss is not finite.

    Attributes:
        steps: the largest number of iterations.
        tolerance: on the scaled gradient; None: 1e-10 in float64, 1e-6 in float32.
    """

    steps: int = 200
    tolerance: float | None = None

    @property
    def name(self) -> str:  # noqa: D102
        return "trust-region Newton"

    def init(self, loss: Loss, z: Any) -> SolverState:  # noqa: D102
        value = loss(z)
        radius = jnp.asarray(10.0, value.dtype)
        return SolverState(z, value, jnp.asarray(0), (radius, jnp.asarray(False), jnp.asarray(0)))

    def step(self, loss: Loss, state: SolverState) -> SolverState:  # noqa: D102
        radius, _, stalled = state.inner
        flat, unravel = ravel_pytree(state.z)
        value, gradient = jax.value_and_grad(lambda v: loss(unravel(v)))(flat)
        matrix = hessian(loss, state.z)
        diagonal = jnp.abs(jnp.diagonal(matrix))
        scales = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))  # the ball is round where every curvature is one
        inside, predicted = trust_region_step(matrix / (scales[:, None] * scales[None]), gradient / scales, radius)
        move = inside / scales
        new = loss(unravel(flat + move))
        gain = (value - new) / jnp.maximum(predicted, jnp.finfo(value.dtype).tiny)
        rounding = predicted <= _rounding(value)
        accepted = jnp.isfinite(new) & ((gain > 1e-4) | (rounding & (new <= value + _rounding(value))))
        length = jnp.linalg.norm(inside)
        radius = jnp.where(
            accepted & (gain > 0.75) & (length > 0.8 * radius), 3 * radius,
            jnp.where(accepted & (gain > 0.25), radius, 0.25 * length),
        )  # fmt: skip
        z = unravel(jnp.where(accepted, flat + move, flat))
        # At a saddle the gradient is small, but the model still predicts a gain.
        small = rounding & (scaled_gradient(gradient, flat, value) <= _tolerance(self.tolerance, value.dtype, 1e-10))
        stalled = jnp.where(accepted & ~rounding, 0, stalled + 1)
        spent = state.gradients + 2 + flat.size
        value = jnp.where(jnp.all(jnp.isfinite(gradient)), jnp.where(accepted, new, value), jnp.nan)
        return SolverState(z, value, spent, (radius, small, stalled))

    def done(self, state: SolverState) -> Bool[Array, "*members"]:  # noqa: D102
        _, small, stalled = state.inner
        return small | (stalled >= 2 * STALLED_AFTER) | ~jnp.isfinite(state.value)


def scaled_gradient(gradient: Any, z: Any, value: Any) -> Float[Array, ""]:
    """max_i |g_i| max(1, |z_i|) / max(1, |f|): a gradient without units (Dennis and Schnabel, 1983)."""
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(z), strict=True)
    largest = jnp.stack([jnp.max(jnp.abs(g) * jnp.maximum(1.0, jnp.abs(leaf))) for g, leaf in pairs])
    return jnp.max(largest) / jnp.maximum(1.0, jnp.abs(value))


def choose_solver(solver: Any, num_params: int, batch_size: int | None, steps: int | None) -> tuple[Solver, str]:
    """Turn what the user gave into a solver, and say which and why.

    Args:
        solver: None, a solver of ours, or an optax transformation.
        num_params: P, the unconstrained dimensions.
        batch_size: None for full batches.
        steps: the user's limit, None for the solver's own.

    Returns:
        solver, description.

    Raises:
        TypeError: neither.
        ValueError: a deterministic solver on minibatches.
    """
    if solver is None and batch_size is not None:
        count = 5000 if steps is None else steps
        schedule = optax.cosine_decay_schedule(1e-2, count, alpha=1e-3)
        return FirstOrder(optax.adam(schedule), count), "Adam, rate decaying from 0.01 (chosen for minibatches)"
    if solver is None:
        small = num_params <= NEWTON_UP_TO
        chosen = Newton() if small else LBFGS()
        why = f"chosen for full batches and {num_params} parameters"
        return _limited(chosen, steps), f"{chosen.name} ({why})"
    if isinstance(solver, LBFGS | Newton | FirstOrder):
        if batch_size is not None and not isinstance(solver, FirstOrder):
            raise ValueError(
                f"Expected a stochastic solver for batch_size={batch_size}; got {solver.name}. "
                "Use full batches, or an optax transformation."
            )
        return _limited(solver, steps), solver.name
    if isinstance(solver, optax.GradientTransformation) or (hasattr(solver, "init") and hasattr(solver, "update")):
        chosen = FirstOrder(solver, 5000 if steps is None else steps)
        return chosen, chosen.name
    raise TypeError(f"Expected an optax transformation, jm.LBFGS(), jm.Newton() or None as solver; got {solver!r}.")


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


def _limited(solver: Any, steps: int | None) -> Any:
    return solver if steps is None else type(solver)(**{**vars(solver), "steps": steps})


def _rounding(value: Float[Array, ""]) -> Float[Array, ""]:
    return 4 * jnp.finfo(value.dtype).eps * jnp.maximum(1.0, jnp.abs(value))


def _tolerance(given: float | None, dtype: Any, double: float = 1e-9) -> float:
    if given is not None:
        return given
    return double if np.dtype(dtype) == np.dtype("float64") else 1e-6
