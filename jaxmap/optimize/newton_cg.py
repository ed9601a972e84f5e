"""Trust-region Newton with Hessian-vector products, for many parameters."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from jaxmap.optimize.objective import Objective
from jaxmap.optimize.solver import STALLED_AFTER, SolverState, rounding, scaled_gradient, tolerance_for


class Ball(NamedTuple):
    """What the next step needs: the gradient at z and how far the quadratic model is trusted."""

    gradient: Float[Array, " p"]
    radius: Float[Array, ""]
    small: Bool[Array, ""]
    stalled: Any


class Conjugate(NamedTuple):
    """The state of the inner conjugate gradients: step, residual, direction, products spent, ended."""

    step: Float[Array, " p"]
    residual: Float[Array, " p"]
    direction: Float[Array, " p"]
    count: Any
    ended: Bool[Array, ""]


@dataclass(frozen=True)
class NewtonCG:
    """Trust-region Newton whose steps come from truncated conjugate gradients, for full batches and many parameters.

    The quadratic model is followed by conjugate gradients until they are accurate enough, leave the ball, or meet
    negative curvature, along which the step then goes to the edge (Steihaug, 1983). Memory stays at a few vectors.

    Attributes:
        steps: the largest number of iterations.
        tolerance: on the scaled gradient; None: 1e-10 in float64, 1e-6 in float32.
        products: the largest number of Hessian-vector products per iteration.
    """

    steps: int = 300
    tolerance: float | None = None
    products: int = 200

    @property
    def name(self) -> str:  # noqa: D102
        return "trust-region Newton-CG"

    def init(self, objective: Objective, z: Any) -> SolverState:  # noqa: D102
        value, gradient = jax.value_and_grad(objective.smooth)(z)
        flat, _ = ravel_pytree(gradient)
        point, _ = ravel_pytree(z)
        radius = jnp.maximum(jnp.linalg.norm(point), jnp.ones((), point.dtype))
        return SolverState(z, value, jnp.asarray(1), Ball(flat, radius, jnp.asarray(False), jnp.asarray(0)))

    def step(self, objective: Objective, state: SolverState) -> SolverState:  # noqa: D102
        value, ball = state.value, state.inner
        flat, unravel = ravel_pytree(state.z)
        of_vector = jax.grad(lambda v: objective.smooth(unravel(v)))

        def product(v: Any) -> Any:
            return jax.jvp(of_vector, (flat,), (v,))[1]

        move, spent = steihaug(product, ball.gradient, ball.radius, self.products)
        predicted = -(jnp.dot(ball.gradient, move) + jnp.dot(move, product(move)) / 2)
        new, gradient = jax.value_and_grad(objective.smooth)(unravel(flat + move))
        gradient, _ = ravel_pytree(gradient)
        gain = (value - new) / jnp.maximum(predicted, jnp.finfo(value.dtype).tiny)
        converging = predicted <= rounding(value)
        fine = jnp.isfinite(new) & jnp.all(jnp.isfinite(gradient))
        accepted = fine & ((gain > 1e-4) | (converging & (new <= value + rounding(value))))
        length = jnp.linalg.norm(move)
        far = accepted & (gain > 0.75) & (length > 0.8 * ball.radius)
        kept = accepted & ((gain > 0.25) | converging)
        radius = jnp.where(far, 3 * ball.radius, jnp.where(kept, ball.radius, 0.25 * length))
        small = scaled_gradient(ball.gradient, flat, value) <= tolerance_for(self.tolerance, value.dtype, 1e-10)
        idle = converging | jnp.all(flat + move == flat)
        stalled = jnp.where(idle, ball.stalled + 1, jnp.where(accepted, 0, ball.stalled))
        z = unravel(jnp.where(accepted, flat + move, flat))
        inner = Ball(jnp.where(accepted, gradient, ball.gradient), radius, small & converging, stalled)
        ended = jnp.where(jnp.all(jnp.isfinite(ball.gradient)), jnp.where(accepted, new, value), jnp.nan)
        return SolverState(z, ended, state.gradients + 4 + 3 * spent, inner)

    def done(self, state: SolverState) -> Bool[Array, "*members"]:  # noqa: D102
        return state.inner.small | (state.inner.stalled >= STALLED_AFTER) | ~jnp.isfinite(state.value)


def steihaug(product: Any, gradient: Any, radius: Any, limit: int) -> tuple[Array, Any]:
    """Minimise g's + s'Hs/2 over |s| <= radius by truncated conjugate gradients.

    Args:
        product: v -> H v.
        gradient: g.
        radius: of the ball.
        limit: the largest number of products.

    Returns:
        step, products spent.
    """
    size = jnp.linalg.norm(gradient)
    enough = jnp.minimum(0.1, jnp.sqrt(size)) * size

    def to_edge(step: Any, direction: Any) -> Any:
        a, b, c = jnp.dot(direction, direction), jnp.dot(step, direction), jnp.dot(step, step) - radius**2
        return (
            step + (-b + jnp.sqrt(jnp.maximum(b**2 - a * c, 0.0))) / jnp.maximum(a, jnp.finfo(a.dtype).tiny) * direction
        )

    def advance(now: Conjugate) -> Conjugate:
        image = product(now.direction)
        curvature = jnp.dot(now.direction, image)
        square = jnp.dot(now.residual, now.residual)
        length = square / jnp.where(curvature > 0, curvature, 1.0)
        step = now.step + length * now.direction
        leaves = (curvature <= 0) | (jnp.linalg.norm(step) >= radius)
        residual = now.residual + length * image
        new_square = jnp.dot(residual, residual)
        direction = -residual + new_square / jnp.maximum(square, jnp.finfo(square.dtype).tiny) * now.direction
        step = jnp.where(leaves, to_edge(now.step, now.direction), step)
        return Conjugate(step, residual, direction, now.count + 1, leaves | (jnp.sqrt(new_square) <= enough))

    begin = Conjugate(jnp.zeros_like(gradient), gradient, -gradient, jnp.asarray(0), size <= 0)
    end = jax.lax.while_loop(lambda now: ~now.ended & (now.count < limit), advance, begin)
    return end.step, end.count
