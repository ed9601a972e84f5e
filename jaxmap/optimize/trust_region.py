"""The trust-region subproblem, solved exactly."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def trust_region_step(
    matrix: Float[Array, "p p"], gradient: Float[Array, " p"], radius: Float[Array, ""]
) -> tuple[Float[Array, " p"], Float[Array, ""]]:
    """Minimise g's + s'Hs/2 over |s| <= radius.

    Returns:
        step: s; and the decrease that the model predicts.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    g = vectors.T @ gradient
    eps = jnp.finfo(g.dtype).eps
    floor = eps * jnp.maximum(jnp.max(jnp.abs(values)), jnp.finfo(g.dtype).tiny)

    def length(shift: Array) -> Array:
        return jnp.linalg.norm(g / (values + shift))

    low = jnp.maximum(0.0, floor - values[0])
    high = low + jnp.linalg.norm(g) / radius + floor

    def bisect(carry: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
        i, low, high = carry
        middle = jnp.where(low > 0, jnp.sqrt(low * high), (low + high) / 2)
        outside = length(middle) > radius
        return i + 1, jnp.where(outside, middle, low), jnp.where(outside, high, middle)

    inside = length(low) <= radius  # no search then, which is most of the time
    _, _, shift = jax.lax.while_loop(lambda carry: ~inside & (carry[0] < 60), bisect, (jnp.asarray(0), low, high))
    shift = jnp.where(inside, low, shift)
    s = -g / (values + shift)
    # The hard case: the gradient has no part along the lowest, negative curvature. Follow it to the edge.
    # Its square is what the others leave of the radius: near the hard case s[0] itself is all rounding.
    along = jnp.sqrt(jnp.maximum(radius**2 - jnp.sum(s[1:] ** 2), 0.0))
    s = s.at[0].set(jnp.where(values[0] < -floor, jnp.where(g[0] > 0, -along, along), s[0]))
    s = s * jnp.minimum(1.0, radius / jnp.maximum(jnp.linalg.norm(s), jnp.finfo(g.dtype).tiny))
    predicted = -(jnp.dot(g, s) + jnp.dot(values, s**2) / 2)
    return vectors @ s, predicted


def shortened_newton_step(
    matrix: Float[Array, "p p"], gradient: Float[Array, " p"], radius: Float[Array, ""]
) -> tuple[Float[Array, " p"], Float[Array, ""], Float[Array, "p p"]]:
    """-H^-1 g, shortened to the radius: for convex functions, at the price of one Cholesky factor.

    Args:
        matrix: H, positive semi-definite with a unit diagonal; raised by rounding where it is singular.
        gradient: g.
        radius: of the ball.

    Returns:
        step, the decrease that the model predicts, and the factor, lower triangular.
    """
    floor = len(gradient) * jnp.finfo(gradient.dtype).eps
    root = jnp.linalg.cholesky(matrix + floor * jnp.eye(len(gradient), dtype=matrix.dtype))
    half = jax.scipy.linalg.solve_triangular(root, gradient, lower=True)
    step = -jax.scipy.linalg.solve_triangular(root, half, lower=True, trans=1)
    step = step * jnp.minimum(1.0, radius / jnp.maximum(jnp.linalg.norm(step), jnp.finfo(step.dtype).tiny))
    return step, -(jnp.dot(gradient, step) + jnp.dot(step, matrix @ step) / 2), root
