"""The leading part of a matrix that is known by its products."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmap.curvature.products import Product

OVERSAMPLING = 8
"""Random directions beyond the rank."""


def leading_eigenpairs(
    product: Product, size: int, rank: int, key: Any, dtype: Any, *, passes: int = 2
) -> tuple[Float[Array, "p r"], Float[Array, " r"]]:
    """Eigenvectors and eigenvalues of largest absolute value, by randomised subspace iteration.

    The images of rank + 8 random directions are made orthonormal, `passes - 1` times, and the matrix is solved in the
    space that they span (Halko, Martinsson and Tropp, 2011, algorithms 4.4 and 5.3). With rank = size it is exact.

    Args:
        product: v -> H v for the rows v, H symmetric.
        size: p.
        rank: r.
        key: for the directions.
        dtype: of the vectors.
        passes: how often the products of all directions are taken.

    Returns:
        basis: orthonormal columns.
        values: the eigenvalues, largest absolute value first.
    """
    count = min(size, rank + OVERSAMPLING)
    basis = jnp.eye(size, dtype=dtype)
    if count < size:
        keys = jax.random.split(key, count)  # one direction at a time: random bits take three times the room
        basis = jax.lax.map(lambda key: jax.random.normal(key, (size,), dtype), keys).T
        if passes == 1:
            basis = jnp.linalg.qr(basis)[0]
        for _ in range(passes - 1):
            basis = jnp.linalg.qr(product(basis.T).T)[0]
    inner = basis.T @ product(basis.T).T
    values, vectors = jnp.linalg.eigh((inner + inner.T) / 2)
    order = jnp.argsort(-jnp.abs(values))[: min(rank, size)]
    return basis @ vectors[:, order], values[order]
