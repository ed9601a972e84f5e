"""Quadratic functions with an L1 penalty, minimised by coordinate descent."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

SWEEPS = 100
"""The most sweeps over all coordinates."""


class Sweep(NamedTuple):
    """Where coordinate descent is: the point, the gradient of the quadratic there, its last move, sweeps."""

    point: Float[Array, " p"]
    slope: Float[Array, " p"]
    moved: Float[Array, ""]
    count: Any


def l1_quadratic(
    matrix: Float[Array, "p p"],
    gradient: Float[Array, " p"],
    start: Float[Array, " p"],
    weights: Float[Array, " p"],
    centers: Float[Array, " p"],
) -> Float[Array, " p"]:
    """Minimise g'(b - a) + (b - a)'H(b - a)/2 + sum w |b - c| over b, starting from a.

    Coordinate descent (Friedman, Hastie and Tibshirani, 2010) finds which coordinates lie at their kink and the signs
    of the others; given these the minimiser solves a linear system. It ends as soon as that solution is optimal.

    Args:
        matrix: H, positive definite.
        gradient: g, at a.
        start: a.
        weights: w >= 0.
        centers: c.

    Returns:
        b.
    """
    diagonal = jnp.maximum(jnp.diagonal(matrix), jnp.finfo(matrix.dtype).tiny)

    def coordinate(j: Any, now: Sweep) -> Sweep:
        value, scale = now.point[j], diagonal[j]
        away = value - now.slope[j] / scale - centers[j]
        new = centers[j] + jnp.sign(away) * jnp.maximum(jnp.abs(away) - weights[j] / scale, 0.0)
        change = new - value
        slope = now.slope + matrix[j] * change
        return Sweep(now.point.at[j].set(new), slope, jnp.maximum(now.moved, change**2 * scale), now.count)

    def sweep(now: Sweep) -> Sweep:
        now = jax.lax.fori_loop(0, len(start), coordinate, now._replace(moved=jnp.zeros_like(now.moved)))
        return now._replace(count=now.count + 1)

    def polished(now: Sweep) -> tuple[Any, Any]:
        return _polished(matrix, gradient, start, now.point, weights, centers)

    def going(carry: Any) -> Any:
        now, _, optimal = carry
        return ~optimal & (now.count < SWEEPS) & (now.moved > 0)

    def improve(carry: Any) -> Any:
        now = sweep(carry[0])
        exact, optimal = polished(now)
        # On the face where the sweep ended, go towards its minimiser as far as the signs last: sweeps alone creep.
        way = exact - now.point
        crossing = (weights > 0) & ((now.point - centers) * (exact - centers) < 0)
        reach = jnp.where(crossing, (centers - now.point) / jnp.where(crossing, way, 1.0), 1.0)
        length = jnp.min(reach)
        point = jnp.where(crossing & (reach <= length), centers, now.point + length * way)
        fine = jnp.all(jnp.isfinite(point))
        point = jnp.where(fine, point, now.point)
        now = now._replace(point=point, slope=gradient + matrix @ (point - start))
        return now, exact, optimal

    # Along a path the kinks and signs of the start are mostly right already: then no sweep is needed at all.
    first = Sweep(start, gradient, jnp.asarray(jnp.inf, matrix.dtype), jnp.asarray(0))
    now, exact, optimal = jax.lax.while_loop(going, improve, (first, *polished(first)))
    return jnp.where(optimal, exact, now.point)


def _polished(matrix: Any, gradient: Any, start: Any, found: Any, weights: Any, centers: Any) -> tuple[Any, Any]:
    """Solve for the free coordinates with their signs held: the point, and whether it is the minimiser."""
    held = (found == centers) & (weights > 0)
    signs = jnp.where(held, 0.0, jnp.sign(found - centers))
    base = jnp.where(held, centers - start, 0.0)  # the part of the move that is settled
    right = jnp.where(held, 0.0, -(gradient + weights * signs + matrix @ base))
    free = ~held
    system = jnp.where(free[:, None] & free[None, :], matrix, jnp.diag(jnp.where(held, 1.0, 0.0)))
    move = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(system), right) + base
    point = jnp.where(held, centers, start + move)
    kept = (weights == 0) | held | (jnp.sign(point - centers) == signs)
    slope = gradient + matrix @ (point - start)
    inside = ~held | (jnp.abs(slope) <= weights * (1 + 1e-12))
    return point, jnp.all(jnp.isfinite(point)) & jnp.all(kept & inside)
