"""Which solver: what the user gave, or what the problem asks for."""

from dataclasses import dataclass, replace
from typing import Any

import optax

from jaxmap.optimize.first_order import FirstOrder, metric_of
from jaxmap.optimize.lbfgs import LBFGS
from jaxmap.optimize.newton import Newton
from jaxmap.optimize.newton_cg import NewtonCG
from jaxmap.optimize.proximal import ProximalGradient, ProximalNewton
from jaxmap.optimize.solver import Solver

NEWTON_UP_TO = 200
"""More parameters than this, and the automatic choice is L-BFGS."""

PROXIMAL_NEWTON_UP_TO = 1500
"""The same for L1 priors, where the alternative needs thousands of steps."""

LAZY_FROM = 100_000
"""Numbers in the design (examples x parameters) from which a Hessian is dear beside a gradient."""

DETERMINISTIC = (LBFGS, Newton, NewtonCG, ProximalNewton, ProximalGradient)


@dataclass(frozen=True)
class Task:
    """What a solver is chosen for.

    Attributes:
        num_params: P, the unconstrained dimensions.
        num_examples: N.
        members: climbs in one program.
        kinked: True for an L1 prior.
        batch_size: None for full batches.
        steps: the user's limit, None for the solver's own.
        noisy: True where the loss of one step is not that of another, as of a network in training mode.
    """

    num_params: int = 0
    num_examples: int = 1
    members: int = 1
    kinked: bool = False
    batch_size: int | None = None
    steps: int | None = None
    noisy: bool = False


def choose_solver(solver: Any, task: Task) -> tuple[Solver, str]:
    """Turn what the user gave into a solver, and say which and why.

    Args:
        solver: None, a solver of ours, or an optax transformation.
        task: what for.

    Returns:
        solver, description.

    Raises:
        TypeError: neither.
        ValueError: a deterministic solver on minibatches or a noisy loss, or a smooth one beside an L1 prior.
    """
    if task.noisy and (isinstance(solver, DETERMINISTIC) or (solver is None and task.batch_size is None)):
        name = "none" if solver is None else solver.name
        raise ValueError(
            f"Expected an optax transformation for a network in training mode, whose loss is noisy; got {name}. Write "
            "jm.MAP(optax.adam(1e-3), steps=..., batch_size=...)."
        )
    if solver is None:
        return _chosen(task)
    if isinstance(solver, DETERMINISTIC):
        if task.batch_size is not None:
            raise ValueError(
                f"Expected a stochastic solver for batch_size={task.batch_size}; got {solver.name}. "
                "Use full batches, or an optax transformation."
            )
        if task.kinked and isinstance(solver, LBFGS | Newton | NewtonCG):
            raise ValueError(
                f"Expected a proximal solver for an L1 prior, which is not smooth; got {solver.name}. "
                "Use jm.ProximalNewton(), jm.ProximalGradient() or solver=None."
            )
        return _fitted(solver, task), solver.name
    if isinstance(solver, FirstOrder):
        return _fitted(solver, task), solver.name
    if isinstance(solver, optax.GradientTransformation) or (hasattr(solver, "init") and hasattr(solver, "update")):
        chosen = FirstOrder(solver, 5000 if task.steps is None else task.steps)
        if task.kinked:
            metric_of(solver)
        return chosen, chosen.name
    raise TypeError(f"Expected an optax transformation, jm.LBFGS(), jm.Newton() or None as solver; got {solver!r}.")


def _chosen(task: Task) -> tuple[Solver, str]:
    if task.batch_size is not None:
        count = 5000 if task.steps is None else task.steps
        schedule = optax.cosine_decay_schedule(1e-2, count, alpha=1e-3)
        return FirstOrder(optax.adam(schedule), count), "Adam, rate decaying from 0.01 (chosen for minibatches)"
    if task.kinked:
        chosen = ProximalNewton() if task.num_params <= PROXIMAL_NEWTON_UP_TO else ProximalGradient()
        why = f"chosen for full batches, {task.num_params} parameters and an L1 prior"
    else:
        chosen = Newton() if task.num_params <= NEWTON_UP_TO else LBFGS()
        why = f"chosen for full batches and {task.num_params} parameters"
    return _fitted(chosen, task), f"{chosen.name} ({why})"


def _fitted(solver: Any, task: Task) -> Any:
    """Set what the user left open: the limit of steps, and whether Hessians are dear."""
    if task.steps is not None:
        solver = replace(solver, steps=task.steps)
    if isinstance(solver, Newton | ProximalNewton) and solver.lazy is None:
        dear = task.members == 1 and task.num_examples * task.num_params >= LAZY_FROM
        solver = replace(solver, lazy=dear)  # under vmap both branches of a choice are computed
    return solver
