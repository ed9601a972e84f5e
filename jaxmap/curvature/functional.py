"""Functional variance: the covariance of a network's outputs, linearised, under a Gaussian over its parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxmap.curvature.examples import map_over_examples
from jaxmap.curvature.kronecker import Kronecker
from jaxmap.curvature.layered import LayeredNetwork
from jaxmap.curvature.precision import Conditional, Diagonal, Full, LowRank, Precision
from jaxmap.data import num_examples

JACOBIAN_NUMBERS = 2**22
"""How many numbers of per-example Jacobians are held at a time."""


class Spread(NamedTuple):
    """A precision as arrays that a compiled program takes, cut at the layers of a network.

    Attributes:
        roots: R with C = R R', where the precision is full: its rows per layer, (inputs, outputs, p), and the rest's.
        layers: (B, U, h) per layer with C = (B x U) / h (B x U)'; B and U are None where they are the identity.
        rest: variances outside the layers.
        directions: (r, p), and `shrink` (r,): what is subtracted, sum_r shrink d d'.
    """

    roots: Any = None
    layers: Any = ()
    rest: Any = None
    directions: Any = None
    shrink: Any = None


def spread_of(precision: Precision, network: LayeredNetwork, dtype: Any) -> Spread:
    """Write a precision as arrays.

    Args:
        precision: over the network's leaves.
        network: what the rows are cut at.
        dtype: of the arrays.
    """

    def array(values: Any) -> np.ndarray:
        return np.asarray(values, dtype)

    if isinstance(precision, Conditional):
        return spread_of(precision.inner, network, dtype)
    if isinstance(precision, Full):
        root = precision.root.astype(dtype)
        return Spread(roots=[array(root[places]) for places in (*network.positions, network.rest_positions)])
    if isinstance(precision, Kronecker):
        layers = [(array(b.inputs), array(b.outputs), array(b.precisions)) for b in precision.blocks]
        return Spread(layers=layers, rest=array(1.0 / precision.diagonal))
    assert isinstance(precision, Diagonal | LowRank)
    diagonal = precision.diagonal if isinstance(precision, Diagonal) else precision.scales**2
    layers = [(None, None, array(diagonal[places])) for places in network.positions]
    spread = Spread(layers=layers, rest=array(1.0 / diagonal[network.rest_positions]))
    if isinstance(precision, Diagonal):
        return spread
    directions = (precision.basis / precision.scales[:, None]).T
    return spread._replace(directions=array(directions), shrink=array(precision.values / (1.0 + precision.values)))


def output_covariance(
    outputs: Callable[[Any, Any], tuple[Any, Any]], leaves: list[Any], x: Any, spread: Spread, network: LayeredNetwork
) -> tuple[Float[Array, "n k"], Float[Array, "n k k"]]:
    """U = (network outputs, shared numbers) of each example, and J C J' with J its Jacobian in the leaves.

    No array of n x n or P x P is formed, and none of n x P: examples come in chunks, and a dense layer needs only its
    activations and the gradients at its result.

    Args:
        outputs: (leaves, x) -> (network outputs, shared numbers).
        leaves: the mean.
        x: inputs.
        spread: of the covariance C.
        network: layers of `outputs`.

    Returns:
        mean: u, raveled per example.
        covariance: one matrix per example.
    """

    def whole(m: Any, batch: Any) -> Array:
        made, shared = outputs(m, batch)
        flat = ravel_pytree(shared)[0].astype(made.dtype)
        return jnp.concatenate([made.reshape(len(made), -1), jnp.broadcast_to(flat, (len(made), flat.size))], axis=1)

    def chunk_of(batch: Any) -> tuple[Array, Array]:
        opened = _opened(leaves, batch, network)
        if spread.roots is None:
            return whole(leaves, batch), _layered(whole, leaves, batch, spread, opened)
        colored = _colored(spread.roots, opened)
        return whole(leaves, batch), jnp.einsum("nkp,nlp->nkl", colored, colored)

    chunk = network.chunk(leaves, x, jacobians=True)
    if spread.roots is not None:
        size, wide = sum(leaf.size for leaf in leaves), max([layer.width[1] for layer in network.layers], default=1)
        chunk = min(chunk, max(1, JACOBIAN_NUMBERS // (size * max(wide, network.width(leaves, x)))))
    return map_over_examples(chunk_of, x, min(chunk, num_examples(x)))


class _Opened(NamedTuple):
    """Jacobians of a batch, cut at the layers.

    Attributes:
        layers: activations (n, t, i) and gradients (k, n, t, o) of each; a row of the Jacobian is sum_t a_t g_t'.
        rest: (n, k, m).
    """

    layers: list[tuple[Array, Array]]
    rest: Array


def _opened(leaves: list[Any], batch: Any, network: LayeredNetwork) -> _Opened:
    taps = network.tap(leaves, batch)
    count, width = len(taps.outputs), taps.outputs[0].size
    more = network.width(leaves, batch) - width  # of the shared numbers no layer knows
    padded = [jnp.pad(g, ((0, more), (0, 0), (0, 0), (0, 0))) for g in taps.columns()]
    rest = jnp.zeros((count, width + more, 0), taps.outputs.dtype)
    if network.rest:
        rest = network.rest_jacobian(leaves, batch)
    return _Opened(list(zip(taps.activations, padded, strict=True)), rest)


def _colored(roots: list[Array], opened: _Opened) -> Float[Array, "n k p"]:
    """J R, R cut into rows."""
    found = _of_rest(opened.rest, lambda rest: rest @ roots[-1], roots[-1].shape[-1])
    for (a, g), root in zip(opened.layers, roots[:-1], strict=True):
        if a.shape[1] == 1:
            found = found + jnp.einsum("kno,nop->nkp", g[:, :, 0], jnp.einsum("ni,iop->nop", a[:, 0], root))
        else:
            found = found + jnp.einsum("nkio,iop->nkp", jnp.einsum("nti,knto->nkio", a, g), root)
    return found


def _of_rest(rest: Array, function: Callable[[Array], Array], width: int) -> Array:
    """function(rest), and zeros (n, k, width) where all parameters lie in layers.

    XLA (as of jax 0.11.2) crashes on a sum over nothing where a program is cut over devices.
    """
    return function(rest) if rest.shape[-1] else jnp.zeros((*rest.shape[:-1], width), rest.dtype)


def _layered(whole: Any, leaves: list[Any], batch: Any, spread: Spread, opened: _Opened) -> Float[Array, "n k k"]:
    own = lambda rest: jnp.einsum("nkm,m,nlm->nkl", rest, spread.rest, rest)  # noqa: E731
    found = _of_rest(opened.rest, own, opened.rest.shape[1])
    for (a, g), (inputs, turned, precisions) in zip(opened.layers, spread.layers, strict=True):
        found = found + _of_layer(a, g, inputs, turned, precisions)
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
    jacobian = jnp.einsum("nti,knto->nkio", a, g)
    return jnp.einsum("nkio,nlio->nkl", jacobian / precisions[None, None], jacobian)
