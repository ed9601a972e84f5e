"""The generalised Gauss-Newton matrix."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxmap.curvature.examples import sum_over_examples
from jaxmap.data import num_examples
from jaxmap.model import information
from jaxmap.types import Data

JACOBIAN_NUMBERS = 2**23
"""How many numbers of per-example Jacobians are held at a time."""

PAIRS_NUMBERS = 2**20
"""How many products of two entries of them."""


def ggn(
    outputs: Callable[[Any, Any], tuple[Any, Any]],
    emission: Callable[[Any, Any], Any],
    z: Any,
    data: Data,
    *,
    weights: Any = None,
    kind: str = "ggn",
    diagonal: bool = False,
) -> Float[Array, "p p"] | Float[Array, " p"]:
    """Sum J' L J over the examples: the curvature of the negative log-likelihood with the network linearised.

    J is the Jacobian of u = (network outputs, learned likelihood parameters) with respect to z, L the Fisher
    information of y in u. For a Gaussian mean, logits and log rates L is also the exact Hessian in u, whatever y.
    Families without a closed form use the Hessian in u at the observed y, its negative eigenvalues set to zero.

    Args:
        outputs: (z, x) -> (network outputs (n, ...), learned likelihood parameters).
        emission: the two -> distribution of y.
        z: where, p numbers.
        data: (x, y).
        weights: how often each example counts; once if left out.
        kind: what L is, as for `output_curvature`. With "exact", where u is affine in z, it is the exact Hessian.
        diagonal: only the diagonal, without forming the matrix.

    Returns:
        matrix: in ravel order; positive semi-definite unless exact; or its diagonal.
    """
    flat, unravel = ravel_pytree(z)

    def one(v: Float[Array, " p"], x: Any) -> Array:
        made, values = outputs(unravel(v), jax.tree.map(lambda leaf: leaf[None], x))
        return jnp.concatenate([ravel_pytree(made)[0], ravel_pytree(values)[0].astype(made.dtype)])

    size = num_examples(data)

    def part(batch: Data, counted: Float[Array, " chunk"]) -> Array:
        (x, y), given = batch
        jacobian = jax.vmap(lambda example: jax.jacrev(one)(flat, example))(x)
        middle = output_curvature(emission, *outputs(z, x), y, kind)
        middle = middle * (counted if given is None else counted * given).astype(flat.dtype)[:, None, None]
        if diagonal:
            return jnp.einsum("nkp,nkl,nlp->p", jacobian, middle, jacobian)
        if jacobian.size * width * flat.size <= PAIRS_NUMBERS:
            # Pairs of columns first: for a linear model they do not depend on z, and members of a vmap share them.
            pairs = jnp.einsum("nkp,nlq->nklpq", jacobian, jacobian)
            return jnp.einsum("nkl,nklpq->pq", middle, pairs)
        left = jnp.einsum("nkp,nkl->lpn", jacobian, middle)
        return jnp.einsum("lpn,nlq->pq", left, jacobian)

    width = jax.eval_shape(one, flat, jax.tree.map(lambda leaf: leaf[0], data[0])).size
    chunk = max(1, JACOBIAN_NUMBERS // (width * flat.size))
    total = sum_over_examples(part, (data, weights), min(chunk, size))
    return total if diagonal else (total + total.T) / 2


KINDS = ("ggn", "exact", "fisher")


def output_curvature(
    emission: Callable[[Any, Any], Any], made: Any, values: Any, y: Any, kind: str = "ggn"
) -> Float[Array, "n k k"]:
    """The curvature L of -log p(y | u) of each example in u = (network outputs, learned likelihood parameters).

    Args:
        emission: (network outputs, learned likelihood parameters) -> distribution of y.
        made: network outputs, (n, ...).
        values: learned likelihood parameters.
        y: targets.
        kind: "ggn", the Fisher information in closed form or else the Hessian, its negative eigenvalues set to zero;
            "exact", the Hessian; "fisher", the product g g' of the gradient with itself (the empirical Fisher).
    """
    one = {"ggn": _information, "exact": _hessian, "fisher": _square}[kind]

    def each(row: Any, target: Any) -> Array:
        return one(emission, jax.tree.map(lambda leaf: leaf[None], row), values, target)

    return jax.vmap(each)(made, y)


def root_of(curvature: Float[Array, "n k k"]) -> Float[Array, "n k k"]:
    """S with S S' = L for positive semi-definite L."""
    if curvature.shape[-1] == 1:
        return jnp.sqrt(jnp.maximum(curvature, 0.0))
    values, vectors = jnp.linalg.eigh(curvature)
    return vectors * jnp.sqrt(jnp.maximum(values, 0.0))[:, None]


def _information(emission: Callable[[Any, Any], Any], made: Any, values: Any, y: Any) -> Array:
    """The curvature L of -log p(y | u) for one example, shape (k, k), k the size of u."""
    u, unravel = ravel_pytree((made, values))

    def coordinates(u: Array) -> Array:
        return information(emission(*unravel(u))).theta  # type: ignore[union-attr]

    known = information(emission(made, values))
    if known is not None:
        chain = jax.jacfwd(coordinates)(u)
        chain = chain.reshape(-1, chain.shape[-2], u.size)
        middle = jnp.broadcast_to(known.information, (*known.theta.shape, known.theta.shape[-1]))
        return jnp.einsum("ekp,ekl,elq->pq", chain, middle.reshape(-1, *middle.shape[-2:]), chain)
    exact = _hessian(emission, made, values, y)
    values_, vectors = jnp.linalg.eigh(exact)
    return (vectors * jnp.maximum(values_, 0.0)[None]) @ vectors.T


def _hessian(emission: Callable[[Any, Any], Any], made: Any, values: Any, y: Any) -> Array:
    """The Hessian of -log p(y | u) in u for one example, shape (k, k)."""
    u, unravel = ravel_pytree((made, values))
    target = jax.tree.map(lambda leaf: leaf[None], y)
    return jax.hessian(lambda u: -jnp.sum(emission(*unravel(u)).log_prob(target)))(u)


def _square(emission: Callable[[Any, Any], Any], made: Any, values: Any, y: Any) -> Array:
    """G g', g the gradient of log p(y | u) in u for one example."""
    u, unravel = ravel_pytree((made, values))
    target = jax.tree.map(lambda leaf: leaf[None], y)
    gradient = jax.grad(lambda u: jnp.sum(emission(*unravel(u)).log_prob(target)))(u)
    return jnp.outer(gradient, gradient)
