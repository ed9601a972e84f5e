"""Proximal solvers: for losses with the kinks of an L1 prior, whose minimisers have exact zeros."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from jaxmap.optimize.coordinate_descent import l1_quadratic
from jaxmap.optimize.newton import SECANT_TOLERANCE
from jaxmap.optimize.objective import Objective, flat_kinks
from jaxmap.optimize.solver import STALLED_AFTER, SolverState, rounding, tolerance_for

HALVINGS = 30
"""How often a step is halved before it is given up."""


class Metric(NamedTuple):
    """What the next proximal Newton step needs: the smooth part's gradient and curvature at z."""

    gradient: Float[Array, " p"]
    matrix: Float[Array, "p p"]
    exact: Bool[Array, ""]
    small: Bool[Array, ""]
    stalled: Any


@dataclass(frozen=True)
class ProximalNewton:
    """Proximal Newton (Lee, Sun and Saunders, 2014), for full batches with L1 priors and few parameters.

    Each step minimises the quadratic model of the smooth part plus the penalty, by coordinate descent, and searches
    along the way there. Coordinates are exactly at the kink where the subgradient holds them.

    Attributes:
        steps: the largest number of iterations.
        tolerance: on the decrease that the model still predicts; None: what rounding allows.
        lazy: correct the Hessian by BFGS and compute it anew only where it predicts badly. None: where it is dear.
    """

    steps: int = 300
    tolerance: float | None = None
    lazy: bool | None = None

    @property
    def name(self) -> str:  # noqa: D102
        return "proximal Newton"

    def init(self, objective: Objective, z: Any) -> SolverState:  # noqa: D102
        value, gradient = jax.value_and_grad(objective.smooth)(z)
        flat, _ = ravel_pytree(gradient)
        inner = Metric(flat, objective.hessian(z), jnp.asarray(True), jnp.asarray(False), jnp.asarray(0))
        return SolverState(z, value + objective.penalty(z), jnp.asarray(1 + flat.size), inner)

    def resume(self, objective: Objective, before: Objective, state: SolverState) -> SolverState:
        """Go on with an objective whose prior alone differs from the one before, keeping what is known."""
        value, gradient = jax.value_and_grad(objective.smooth)(state.z)
        matrix = state.inner.matrix + objective.of_prior(state.z) - before.of_prior(state.z)
        no = jnp.asarray(False)
        inner = Metric(ravel_pytree(gradient)[0], matrix, no, no, jnp.asarray(0))
        return SolverState(state.z, value + objective.penalty(state.z), jnp.asarray(1), inner)

    def step(self, objective: Objective, state: SolverState) -> SolverState:  # noqa: D102
        model, value = state.inner, state.value
        flat, unravel = ravel_pytree(state.z)
        weights, centers = flat_kinks(objective.kinks, state.z)
        matrix = _raised(model.matrix)
        goal = l1_quadratic(matrix, model.gradient, flat, weights, centers)
        way = goal - flat
        bend = jnp.sum(weights * (jnp.abs(goal - centers) - jnp.abs(flat - centers)))
        slope = jnp.dot(model.gradient, way) + bend  # what the loss falls by, to first order
        predicted = -(slope + jnp.dot(way, matrix @ way) / 2)
        length, new, gradient, tries = self._search(objective, unravel, flat, goal, value, slope)
        accepted = length > 0
        moved = jnp.where(length == 1, goal, flat + length * way)
        converging = predicted <= self._tolerance(value)
        stalled = jnp.where(converging | ~accepted, model.stalled + 1, 0)
        at_hand = model.exact & ~accepted
        secant, sound = _bfgs(matrix, moved - flat, gradient - model.gradient, accepted)
        poor = ((value - new < 0.5 * predicted) | ~sound) & ~converging
        wanted = poor & ~at_hand if self.lazy else jnp.asarray(True)
        z = unravel(moved)
        matrix = jax.lax.cond(wanted, lambda: objective.hessian(z), lambda: secant)
        inner = Metric(gradient, matrix, wanted | at_hand, converging, stalled)
        value = jnp.where(jnp.all(jnp.isfinite(model.gradient)), new, jnp.nan)
        return SolverState(z, value, state.gradients + tries + jnp.where(wanted, flat.size, 0), inner)

    def done(self, state: SolverState) -> Bool[Array, "*members"]:  # noqa: D102
        return state.inner.small | (state.inner.stalled >= STALLED_AFTER) | ~jnp.isfinite(state.value)

    def _tolerance(self, value: Any) -> Any:
        size = jnp.maximum(1.0, jnp.abs(value))
        if self.tolerance is not None:
            return self.tolerance * size
        return jnp.maximum(rounding(value), SECANT_TOLERANCE * size) if self.lazy else rounding(value)

    def _search(self, objective: Objective, unravel: Any, flat: Any, goal: Any, value: Any, slope: Any) -> Any:
        """Halve the way until the loss falls enough: length (0: nowhere), loss, smooth gradient, tries."""

        def at(length: Any) -> tuple[Any, Any]:
            point = unravel(jnp.where(length == 1, goal, flat + length * (goal - flat)))
            smooth, gradient = jax.value_and_grad(objective.smooth)(point)
            return smooth + objective.penalty(point), ravel_pytree(gradient)[0]

        def bad(length: Any, new: Any) -> Any:
            return ~(jnp.isfinite(new) & (new <= value + 1e-4 * length * slope + rounding(value)))

        def halve(now: Any) -> Any:
            length, _, _, tries = now
            length = jnp.where(tries >= HALVINGS, 0.0, length / 2)
            return length, *at(length), tries + 1

        one = jnp.ones((), flat.dtype)
        first = (one, *at(one), jnp.asarray(1))
        return jax.lax.while_loop(lambda now: bad(now[0], now[1]) & (now[0] > 0), halve, first)


class Momentum(NamedTuple):
    """What the next accelerated step needs."""

    ahead: Float[Array, " p"]
    momentum: Float[Array, ""]
    rate: Float[Array, ""]
    small: Bool[Array, ""]


@dataclass(frozen=True)
class ProximalGradient:
    """Accelerated proximal gradients (Beck and Teboulle, 2009), for full batches with L1 priors, many parameters.

    The rate is found by backtracking and may grow again; the momentum is dropped where it points uphill (O'Donoghue
    and Candes, 2015).

    Attributes:
        steps: the largest number of iterations.
        tolerance: on the scaled proximal gradient; None: 1e-9 in float64, 1e-6 in float32.
    """

    steps: int = 20_000
    tolerance: float | None = None

    @property
    def name(self) -> str:  # noqa: D102
        return "accelerated proximal gradients"

    def init(self, objective: Objective, z: Any) -> SolverState:  # noqa: D102
        flat, _ = ravel_pytree(z)
        one = jnp.ones((), flat.dtype)
        return SolverState(z, objective(z), jnp.asarray(1), Momentum(flat, one, one, jnp.asarray(False)))

    def step(self, objective: Objective, state: SolverState) -> SolverState:  # noqa: D102
        now = state.inner
        flat, unravel = ravel_pytree(state.z)
        smooth, gradient = jax.value_and_grad(lambda v: objective.smooth(unravel(v)))(now.ahead)

        def candidate(rate: Any) -> tuple[Any, Any]:
            point = objective.proximal(unravel(now.ahead - rate * gradient), rate)
            return ravel_pytree(point)[0], objective.smooth(point)

        def too_long(carry: Any) -> Any:
            rate, point, new = carry
            away = point - now.ahead
            above = smooth + jnp.dot(gradient, away) + jnp.dot(away, away) / (2 * rate) + rounding(smooth)
            return ~(new <= above) & (rate > 1e-30)

        def shorten(carry: Any) -> Any:
            rate = carry[0] / 2
            return rate, *candidate(rate)

        rate = now.rate * 1.1
        rate, point, new = jax.lax.while_loop(too_long, shorten, (rate, *candidate(rate)))
        uphill = jnp.dot(now.ahead - point, point - flat) > 0
        momentum = jnp.where(uphill, 1.0, (1 + jnp.sqrt(1 + 4 * now.momentum**2)) / 2)
        ahead = point + jnp.where(uphill, 0.0, (now.momentum - 1) / momentum) * (point - flat)
        z = unravel(point)
        residual = (now.ahead - point) / rate
        scale = jnp.maximum(1.0, jnp.abs(point)) / jnp.maximum(1.0, jnp.abs(new))
        small = jnp.max(jnp.abs(residual) * scale) <= tolerance_for(self.tolerance, new.dtype, 1e-9)
        value = new + objective.penalty(z)
        return SolverState(z, value, state.gradients + 2, Momentum(ahead, momentum, rate, small))

    def done(self, state: SolverState) -> Bool[Array, "*members"]:  # noqa: D102
        return state.inner.small | ~jnp.isfinite(state.value)


def _raised(matrix: Float[Array, "p p"]) -> Float[Array, "p p"]:
    """The matrix where it is safely positive definite, else with the absolute values of its scaled eigenvalues."""
    diagonal = jnp.abs(jnp.diagonal(matrix))
    eps = jnp.finfo(matrix.dtype).eps
    largest = jnp.maximum(jnp.max(diagonal), jnp.finfo(matrix.dtype).tiny)
    scales = jnp.sqrt(jnp.maximum(diagonal, eps**0.5 * largest))
    scaled = matrix / (scales[:, None] * scales[None])
    floor = eps**0.75

    def turned() -> Any:
        values, vectors = jnp.linalg.eigh(scaled)
        fixed = (vectors * jnp.maximum(jnp.abs(values), floor)[None]) @ vectors.T
        return fixed * (scales[:, None] * scales[None])

    sound = jnp.all(jnp.isfinite(jnp.linalg.cholesky(scaled - floor * jnp.eye(len(scales), dtype=matrix.dtype))))
    return jax.lax.cond(sound, lambda: matrix, turned)


def _bfgs(matrix: Array, move: Array, change: Array, accepted: Any) -> tuple[Array, Any]:
    """The BFGS update of a positive definite matrix, and whether the change shows the curvature that it needs."""
    image = matrix @ move
    old, new = jnp.dot(move, image), jnp.dot(move, change)
    sound = accepted & (new > 1e-8 * old) & (old > 0)
    update = jnp.outer(change, change) / jnp.where(sound, new, 1.0) - jnp.outer(image, image) / jnp.where(
        sound, old, 1.0
    )
    return jnp.where(sound, matrix + update, matrix), sound
