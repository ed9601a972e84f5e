"""Functional variance: the covariance of a network's outputs, linearised, under a Gaussian over its parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxmap.curvature.examples import map_over_examples
from jaxmap.curvature.layered import LayeredNetwork
from jaxmap.curvature.precision import Conditional, Diagonal, Full, Kronecker, LowRank, Precision
from jaxmap.data import num_examples

JACOBIAN_NUMBERS = 2**22
"""How many numbers of per-example Jacobians are held at a time."""


class Spread(NamedTuple):
    """A precision as arrays that a compiled program takes.

    Attributes:
        root: R with C = R R', where the precision is full.
        layers: (B, U, h) per layer with C = (B x U) / h (B x U)'; B and U are None where they are the identity.
        rest: variances outside the layers.
        directions: (r, p), and `shrink` (r,): what is subtracted, sum_r shrink d d'.
    """

    root: Any = None
    layers: Any = ()
    rest: Any = None
    directions: Any = None
    shrink: Any = None


def spread_of(precision: Precision, network: LayeredNetwork | None, dtype: Any) -> Spread:
    """Write a precision as arrays.

    Args:
        precision: over the network's leaves.
        network: None for a full precision.
        dtype: of the arrays.
    """

    def device(array: Any) -> Array:
        return jnp.asarray(array, dtype)

    if isinstance(precision, Conditional):
        return spread_of(precision.inner, network, dtype)
    if isinstance(precision, Full) or network is None:
        return Spread(root=device(precision.root))  # type: ignore[union-attr]
    if isinstance(precision, Kronecker):
        layers = [(device(b.inputs), device(b.outputs), device(b.precisions)) for b in precision.blocks]
        return Spread(layers=layers, rest=device(1.0 / precision.diagonal))
    diagonal = precision.diagonal if isinstance(precision, Diagonal) else precision.scales**2  # type: ignore[union-attr]
    layers = [(None, None, device(diagonal[places])) for places in network.positions]
    spread = Spread(layers=layers, rest=device(1.0 / diagonal[network.rest_positions]))
    if not isinstance(precision, LowRank):
        return spread
    directions = (precision.basis / precision.scales[:, None]).T
    return spread._replace(directions=device(directions), shrink=device(precision.values / (1.0 + precision.values)))


def output_covariance(
    outputs: Callable[[Any, Any], tuple[Any, Any]],
    leaves: list[Any],
    x: Any,
    spread: Spread,
    network: LayeredNetwork | None = None,
) -> tuple[Float[Array, "n k"], Float[Array, "n k k"]]:
    """U = (network outputs, shared numbers) of each example, and J C J' with J its Jacobian in the leaves.

    No array of n x n or P x P is formed, and none of n x P: examples come in chunks, and a dense layer needs only its
    activations and the gradients at its result.

    Args:
        outputs: (leaves, x) -> (network outputs, shared numbers).
        leaves: the mean.
        x: inputs.
        spread: of the covariance C.
        network: layers of `outputs`, where the spread has layers.

    Returns:
        mean: u, raveled per example.
        covariance: one matrix per example.
    """

    def whole(m: Any, batch: Any) -> Array:
        made, shared = outputs(m, batch)
        flat = ravel_pytree(shared)[0].astype(made.dtype)
        return jnp.concatenate([made.reshape(len(made), -1), jnp.broadcast_to(flat, (len(made), flat.size))], axis=1)

    def chunk_of(batch: Any) -> tuple[Array, Array]:
        if spread.root is not None:
            jacobian = _jacobian(whole, leaves, batch) @ spread.root
            return whole(leaves, batch), jnp.einsum("nkp,nlp->nkl", jacobian, jacobian)
        return whole(leaves, batch), _layered(whole, leaves, batch, spread, network)  # type: ignore[arg-type]

    if network is None:
        one = jax.eval_shape(lambda b: whole(leaves, b), jax.tree.map(lambda leaf: leaf[:1], x))
        chunk = max(1, JACOBIAN_NUMBERS // (one.size * sum(leaf.size for leaf in leaves)))
    else:
        chunk = network.chunk(leaves, x, jacobians=True)
    return map_over_examples(chunk_of, x, min(chunk, num_examples(x)))


def _jacobian(whole: Any, leaves: list[Any], batch: Any) -> Float[Array, "n k p"]:
    flat, unravel = ravel_pytree(leaves)

    def one(v: Array, example: Any) -> Array:
        return whole(unravel(v), jax.tree.map(lambda leaf: leaf[None], example))[0]

    return jax.vmap(lambda example: jax.jacrev(one)(flat, example))(batch)


def _layered(whole: Any, leaves: list[Any], batch: Any, spread: Spread, network: LayeredNetwork) -> Array:
    taps = network.tap(leaves, batch)
    count, width = len(taps.outputs), taps.outputs[0].size
    units = jnp.broadcast_to(jnp.eye(width, dtype=taps.outputs.dtype)[:, None], (width, count, width))
    gradients = jax.lax.map(lambda unit: taps.pull(unit.reshape(taps.outputs.shape)), units)
    found = jnp.zeros((count, width, width), taps.outputs.dtype)
    for a, g, (inputs, turned, precisions) in zip(taps.activations, gradients, spread.layers, strict=True):
        found = found + _of_layer(a, g, inputs, turned, precisions)
    total = network.width(leaves, batch)
    found = jnp.pad(found, ((0, 0), (0, total - width), (0, total - width)))
    if network.rest:
        jacobian = network.rest_jacobian(leaves, batch)
        found = found + jnp.einsum("nkm,m,nlm->nkl", jacobian, spread.rest, jacobian)
    if spread.directions is None:
        return found
    unravel = ravel_pytree(leaves)[1]
    along = jax.lax.map(lambda d: jax.jvp(lambda m: whole(m, batch), (leaves,), (unravel(d),))[1], spread.directions)
    return found - jnp.einsum("rnk,r,rnl->nkl", along, spread.shrink, along)


def _of_layer(a: Array, g: Array, inputs: Any, turned: Any, precisions: Array) -> Float[Array, "n k k"]:
    """One layer's part, from activations (n, t, i) and gradients (k, n, t, o)."""
    a = a if inputs is None else a @ inputs
    g = g if turned is None else g @ turned
    if a.shape[1] == 1:
        weights = (a[:, 0] ** 2) @ (1.0 / precisions)
        return jnp.einsum("kno,lno,no->nkl", g[:, :, 0], g[:, :, 0], weights)
    jacobian = jnp.einsum("nti,knto->knio", a, g)
    return jnp.einsum("knio,lnio->nkl", jacobian / precisions, jacobian)
