"""Curvature of the likelihood as a function of vectors: no matrix is formed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxmap.curvature.examples import examples_at_a_time, sum_over_examples
from jaxmap.curvature.ggn import output_curvature
from jaxmap.curvature.view import View
from jaxmap.data import num_examples
from jaxmap.types import Data

EXAMPLES_AT_A_TIME = 256
VECTORS_AT_A_TIME = 8

Product = Callable[[Float[Array, "r p"]], Float[Array, "r p"]]


def likelihood_product(
    view: View, z: Any, data: Data, kind: str = "ggn", weights: Any = None, scales: Any = None
) -> Product:
    """The map v -> H v of row vectors, H the curvature of the negative log-likelihood at z.

    Rows are in ravel order of the moving leaves.

    "exact": the Hessian, forward over reverse. "ggn": J' L J, one tangent and one cotangent through the outputs u, L as
    in `ggn`. "fisher": the empirical Fisher matrix sum_i g_i g_i', g_i the gradient of one log-likelihood: one tangent
    and one cotangent through the log-likelihoods, whatever the model.

    Args:
        view: of the density.
        z: where.
        data: all examples; they are taken 256 at a time, or fewer of large networks.
        kind: as above.
        weights: how often each example counts; once if left out.
        scales: in coordinates x = scales * z the map is that of the curvature along x, H_ij / (s_i s_j).

    Returns:
        product: (r, p) -> (r, p); eight rows are held at a time.
    """
    moving = view.of(z)
    unravel = ravel_pytree(moving)[1]
    chunk = min(EXAMPLES_AT_A_TIME, num_examples(data))
    if chunk == EXAMPLES_AT_A_TIME:  # of large networks fewer
        held = examples_at_a_time(lambda batch: view.log_likelihoods(z)(moving, batch), data)
        chunk = min(chunk, max(1, held // VECTORS_AT_A_TIME))
    one = {"exact": _exact, "ggn": _gauss_newton, "fisher": _fisher}[kind]

    def rows(v: Float[Array, "r p"]) -> Float[Array, "r p"]:
        vectors = v if scales is None else v / scales[None]

        def part(batch: Data, counted: Float[Array, " chunk"]) -> Array:
            examples, given = batch
            counted = (counted if given is None else counted * given).astype(vectors.dtype)
            product = one(view, z, moving, examples, counted)
            return jax.vmap(lambda v: ravel_pytree(product(unravel(v)))[0])(vectors)

        total = sum_over_examples(part, (data, weights), chunk)
        return total if scales is None else total / scales[None]

    def in_parts(vectors: Float[Array, "r p"]) -> Float[Array, "r p"]:
        count = -(-len(vectors) // VECTORS_AT_A_TIME)
        filled = jnp.pad(vectors, ((0, count * VECTORS_AT_A_TIME - len(vectors)), (0, 0)))
        parts = jax.lax.map(rows, filled.reshape(count, VECTORS_AT_A_TIME, -1))
        return parts.reshape(-1, vectors.shape[1])[: len(vectors)]

    return lambda vectors: rows(vectors) if len(vectors) <= VECTORS_AT_A_TIME else in_parts(vectors)


def hutchinson(product: Product, size: int, probes: int, key: Any, dtype: Any) -> Float[Array, " p"]:
    """Estimate the diagonal of H as the mean of v * (H v) over random signs v (Bekas, Kokiopoulou and Saad, 2007).

    The error of entry i has variance sum_{j != i} H_ij^2 / probes; a diagonal H comes out exactly.
    """
    signs = jax.random.rademacher(key, (probes, size), dtype)
    return jnp.mean(signs * product(signs), axis=0)


def _exact(view: View, z: Any, moving: Any, batch: Data, counted: Array) -> Callable[[Any], Any]:
    def loss(m: Any) -> Array:
        values = view.log_likelihoods(z)(m, batch)
        return -jnp.sum(jnp.where(counted > 0, counted * values, 0.0))

    return lambda v: jax.jvp(jax.grad(loss), (moving,), (v,))[1]


def _gauss_newton(view: View, z: Any, moving: Any, batch: Data, counted: Array) -> Callable[[Any], Any]:
    x, y = batch
    outputs = view.outputs(z)
    (made, values), forward = jax.linearize(lambda m: outputs(m, x), moving)
    backward = jax.linear_transpose(forward, moving)
    middle = output_curvature(view.density.model.emission, made, values, y)  # type: ignore[arg-type]
    width = made[0].size
    flat, restore = ravel_pytree(values)

    def product(v: Any) -> Any:
        change, shift = forward(v)
        shared = jnp.broadcast_to(ravel_pytree(shift)[0].astype(made.dtype), (len(made), flat.size))
        tangent = jnp.concatenate([change.reshape(len(made), -1), shared], axis=1)
        image = jnp.einsum("n,nkl,nl->nk", counted, middle, tangent)
        (found,) = backward((image[:, :width].reshape(made.shape), restore(image[:, width:].sum(0))))
        return found

    return product


def _fisher(view: View, z: Any, moving: Any, batch: Data, counted: Array) -> Callable[[Any], Any]:
    def each(m: Any) -> Array:
        return view.log_likelihoods(z)(m, batch)

    _, forward = jax.linearize(each, moving)
    backward = jax.linear_transpose(forward, moving)

    def product(v: Any) -> Any:
        (found,) = backward(jnp.where(counted > 0, counted * forward(v), 0.0))
        return found

    return product
