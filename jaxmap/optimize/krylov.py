"""What Hessian-vector products alone can tell: smallest curvature and Newton decrement of many parameters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

VECTORS_NUMBERS = 2**25
"""How many numbers the Lanczos basis may hold."""

MOST_VECTORS = 300

MOST_PRODUCTS = 1000
"""For the conjugate gradients."""


class Extremes(NamedTuple):
    """The ends of a spectrum: smallest and largest Ritz value, the vector of the smallest and its residual norm."""

    smallest: Float[Array, ""]
    largest: Float[Array, ""]
    vector: Float[Array, " p"]
    residual: Float[Array, ""]


def vectors_of(size: int, total: int) -> int:
    """How many vectors the Lanczos iterations make in a space of dimension `size` of `total`."""
    return max(2, min(size, MOST_VECTORS, VECTORS_NUMBERS // total))


def lanczos(product: Any, start: Float[Array, " p"], size: int) -> Extremes:
    """Lanczos iterations with full reorthogonalisation (Golub and Van Loan, section 10.1).

    Args:
        product: v -> H v, H symmetric.
        start: a random vector; what lies in no direction of it is not seen.
        size: the dimension of the space that is searched, at most p.

    Returns:
        extremes: there is an eigenvalue within `residual` of `smallest`.
    """
    count = vectors_of(size, start.size)

    def expand(carry: Any, i: Any) -> tuple[Any, Any]:
        basis, vector = carry
        basis = basis.at[i].set(vector)
        image = product(vector)
        alpha = jnp.dot(vector, image)
        for _ in range(2):
            image = image - basis.T @ (basis @ image)
        beta = jnp.linalg.norm(image)
        return (basis, image / jnp.maximum(beta, jnp.finfo(image.dtype).tiny)), (alpha, beta)

    basis = jnp.zeros((count, start.size), start.dtype)
    first = start / jnp.linalg.norm(start)
    (basis, _), (alphas, betas) = jax.lax.scan(expand, (basis, first), jnp.arange(count))
    # The space is exhausted where beta vanishes; what follows is rounding and is cut off.
    alive = jnp.cumprod(jnp.concatenate([jnp.ones(1), betas[:-1] > 1e-12 * jnp.max(jnp.abs(alphas))]))
    links = betas[:-1] * alive[1:]
    diagonal = jnp.where(alive > 0, alphas, alphas[0])
    values, vectors = jnp.linalg.eigh(jnp.diag(diagonal) + jnp.diag(links, 1) + jnp.diag(links, -1))
    ended = jnp.any(betas <= 1e-12 * jnp.max(jnp.abs(alphas)))
    residual = jnp.where(ended, 0.0, betas[-1] * jnp.abs(vectors[-1, 0]))
    return Extremes(values[0], values[-1], basis.T @ vectors[:, 0], residual)


def decrement(
    product: Any, gradient: Float[Array, " p"], most: Any = None
) -> tuple[Float[Array, ""], Float[Array, " p"], Any]:
    """sqrt(g' H^-1 g) by conjugate gradients, with at most so many products (1000).

    Returns:
        decrement: NaN where H turned out not to be positive definite, or the products were used up.
        step: H^-1 g.
        spent: products.
    """
    size, limit = jnp.linalg.norm(gradient), MOST_PRODUCTS if most is None else most

    def advance(now: Any) -> Any:
        step, residual, direction, count, _ = now
        image = product(direction)
        curvature = jnp.dot(direction, image)
        square = jnp.dot(residual, residual)
        length = square / jnp.where(curvature > 0, curvature, 1.0)
        after = residual - length * image
        turned = after + jnp.dot(after, after) / jnp.maximum(square, jnp.finfo(square.dtype).tiny) * direction
        return step + length * direction, after, turned, count + 1, curvature <= 0

    def going(now: Any) -> Any:
        return (jnp.linalg.norm(now[1]) > 1e-4 * size) & ~now[4] & (now[3] < limit)

    begin = (jnp.zeros_like(gradient), gradient, gradient, jnp.asarray(0), jnp.asarray(False))
    step, residual, _, spent, negative = jax.lax.while_loop(going, advance, begin)
    solved = ~negative & (jnp.linalg.norm(residual) <= 1e-4 * size)
    return jnp.where(solved, jnp.sqrt(jnp.maximum(jnp.dot(gradient, step), 0.0)), jnp.nan), step, spent
