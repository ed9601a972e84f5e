"""Diagonals and Kronecker factors of the Gauss-Newton and Fisher matrices, layer by layer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxmap.curvature.examples import sum_over_examples
from jaxmap.curvature.ggn import output_curvature, root_of
from jaxmap.curvature.layer import Layer
from jaxmap.curvature.layers import Taps, find_layers, tap
from jaxmap.data import num_examples, take_examples
from jaxmap.types import Data

NUMBERS = 2**24
"""How many numbers of activations, gradients and per-example Jacobians are held at a time."""

CACHED = 2**20
"""How many numbers stay in a processor's cache."""

Outputs = Callable[[Any, Any], tuple[Any, Any]]
Emission = Callable[[Any, Any], Any]


class LayeredNetwork(NamedTuple):
    """The outputs of a network as a function of a list of leaves, and the layers found in it.

    Attributes:
        outputs: (leaves, x) -> (network outputs, learned likelihood parameters).
        layers: in the order in which they are applied.
        rest: numbers of the leaves that belong to no layer.
        positions: where the entries of each layer's matrix lie in ravel order.
        rest_positions: where the rest lies.
    """

    outputs: Outputs
    layers: tuple[Layer, ...]
    rest: tuple[int, ...]
    positions: tuple[np.ndarray, ...]
    rest_positions: np.ndarray

    @classmethod
    def of(cls, outputs: Outputs, leaves: list[Any], x: Any, *, limit: int | None = None) -> "LayeredNetwork":
        """Look for layers.

        Args:
            outputs: (leaves, x) -> (network outputs, learned likelihood parameters).
            leaves: where; only shapes are used.
            x: one or more examples; only shapes are used.
            limit: layers with more inputs or outputs than this stay in the rest.
        """
        found = find_layers(lambda m, x: outputs(m, x)[0], leaves, x)
        layers = tuple(layer for layer in found if limit is None or max(layer.width) <= limit)
        sizes = [int(np.size(leaf)) for leaf in leaves]
        begins = np.cumsum([0, *sizes])
        taken = {k for layer in layers for k in layer.leaves}
        rest = tuple(k for k in range(len(leaves)) if k not in taken)
        places = [begins[k] + np.arange(sizes[k]) for k in rest]
        rest_positions = np.concatenate(places) if places else np.zeros(0, int)
        return cls(outputs, layers, rest, tuple(layer.places(begins) for layer in layers), rest_positions)

    @property
    def is_dense(self) -> bool:
        """True where all leaves belong to dense layers that are applied once per example."""
        return not self.rest and all(layer.positions == 1 for layer in self.layers)

    def tap(self, leaves: list[Any], x: Any) -> Taps:
        """Run the network on a batch and open it at its layers."""
        return tap(lambda m, x: self.outputs(m, x)[0], leaves, x, self.layers)

    def rest_jacobian(self, leaves: list[Any], x: Any) -> Float[Array, "n k m"]:
        """The Jacobian of each example's (outputs, learned parameters) in the rest."""
        flat, unravel = ravel_pytree([leaves[k] for k in self.rest])

        def one(v: Array, example: Any) -> Array:
            moved = list(leaves)
            for k, leaf in zip(self.rest, unravel(v), strict=True):
                moved[k] = leaf
            made, values = self.outputs(moved, jax.tree.map(lambda leaf: leaf[None], example))
            return jnp.concatenate([ravel_pytree(made)[0], ravel_pytree(values)[0].astype(made.dtype)])

        return jax.vmap(lambda example: jax.jacrev(one)(flat, example))(x)

    def width(self, leaves: list[Any], x: Any) -> int:
        """How many numbers an example's outputs and the learned parameters are."""
        one = take_examples(x, jnp.zeros(1, int))
        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(self.outputs, leaves, one)))

    def chunk(self, leaves: list[Any], x: Any, *, jacobians: bool) -> int:
        """How many examples to hold at a time."""
        width = self.width(leaves, x)
        numbers = width * (len(self.rest_positions) + 1)
        for layer in self.layers:
            inside, out = layer.width
            numbers += layer.positions * (inside + 1 + 2 * out)
            numbers += (inside + 1) * out if jacobians and layer.positions > 1 else 0
        return max(1, min(num_examples(x), NUMBERS // numbers))


class Factors(NamedTuple):
    """The Kronecker factors of one layer: its part of the matrix is about inputs x outputs, sums over all examples.

    Attributes:
        inputs: A, the mean of a a' over examples and positions.
        outputs: G, the sum of g g' over examples and positions.
    """

    inputs: Float[Array, "i i"]
    outputs: Float[Array, "o o"]


def kronecker_factors(
    network: LayeredNetwork, emission: Emission, leaves: list[Any], data: Data, kind: str = "ggn", weights: Any = None
) -> tuple[list[Factors], Float[Array, " m"]]:
    """K-FAC: each layer's block of sum J' L J as A x G, and the exact diagonal of the rest.

    G takes all columns of a root of L, so that nothing is sampled; a bias is one more input that is always one. The
    product is exact for one dense layer of a Gaussian with a fixed scale. Positions of a convolution count as examples
    ("expand"). Martens and Grosse (2015); Grosse and Martens (2016); Eschenhagen et al. (2023).

    Args:
        network: outputs and layers.
        emission: (outputs, learned parameters) -> distribution of y.
        leaves: where.
        data: (x, y).
        kind: "ggn" or "fisher", as for `output_curvature`.
        weights: how often each example counts; once if left out.

    Returns:
        factors: one pair per layer.
        diagonal: of the rest.
    """

    def part(batch: Data, counted: Float[Array, " chunk"]) -> Any:
        (x, y), given = batch
        counted = counted if given is None else counted * given
        taps, middle = _opened(network, emission, leaves, x, y, kind, counted)
        of_inputs = [
            jnp.einsum("n,nti,ntj->ij", counted.astype(a.dtype), a, a) / layer.positions
            for a, layer in zip(taps.activations, network.layers, strict=True)
        ]

        def square(gradients: list[Array], _: Any) -> list[Array]:
            return [jnp.einsum("nto,ntp->op", g, g) for g in gradients]

        of_outputs = _over_columns(taps, middle, network, square)
        return of_inputs, of_outputs, _rest_diagonal(network, leaves, x, middle)

    chunk = network.chunk(leaves, data[0], jacobians=False)
    of_inputs, of_outputs, rest = sum_over_examples(part, (data, weights), chunk)
    total = num_examples(data) if weights is None else jnp.sum(weights)
    return [Factors(a / total, g) for a, g in zip(of_inputs, of_outputs, strict=True)], rest


def layered_diagonal(
    network: LayeredNetwork, emission: Emission, leaves: list[Any], data: Data, kind: str = "ggn", weights: Any = None
) -> tuple[list[Float[Array, "i o"]], Float[Array, " m"]]:
    """The exact diagonal of sum J' L J: one matrix per layer, and the rest.

    A dense layer that is applied once per example needs no Jacobian: the square of a g' is a^2 g^2'.

    The arguments are those of `kronecker_factors`.
    """

    def part(batch: Data, counted: Float[Array, " chunk"]) -> Any:
        (x, y), given = batch
        counted = counted if given is None else counted * given
        taps, middle = _opened(network, emission, leaves, x, y, kind, counted)

        def square(gradients: list[Array], activations: list[Array]) -> list[Array]:
            return [_squared_sum(a, g) for a, g in zip(activations, gradients, strict=True)]

        return _over_columns(taps, middle, network, square), _rest_diagonal(network, leaves, x, middle)

    return sum_over_examples(part, (data, weights), network.chunk(leaves, data[0], jacobians=True))


def layered_ggn(
    network: LayeredNetwork, emission: Emission, leaves: list[Any], data: Data, kind: str = "ggn"
) -> list[Float[Array, "q r"]]:
    """Sum J' L J of a network of dense layers alone, without a Jacobian: one block per pair of layers, for `assembled`.

    Its entries are sums over the examples of a_i a_j M_op, with M = g' L g: one product of matrices between the pairs
    (i, j) and the pairs (o, p). Within a layer a pair and its mirror image are one.

    The arguments are those of `kronecker_factors`, the network one that `is_dense`.
    """

    def part(batch: Data, counted: Float[Array, " chunk"]) -> list[Array]:
        x, y = batch
        taps, middle = _opened(network, emission, leaves, x, y, kind, counted)
        gradients = taps.columns()
        bent = [jnp.einsum("knto,nkl->lno", g, middle[:, : len(g), : len(g)]) for g in gradients]

        def block(k: int, m: int) -> Array:
            a, b, among = taps.activations[k][:, 0], taps.activations[m][:, 0], gradients[m][:, :, 0]
            if k != m:
                products = jnp.einsum("ni,nj->nij", a, b).reshape(len(a), -1)
                return products.T @ jnp.einsum("lno,lnp->nop", bent[k], among).reshape(len(a), -1)
            (i, j, _), (o, p, _) = _halves(a.shape[1]), _halves(among.shape[2])
            return (a[:, i] * a[:, j]).T @ jnp.einsum("lno,lnp->nop", bent[k], among)[:, o, p]

        return [block(k, m) for k, m in _pairs(network)]

    inside, out = (max(layer.width[k] for layer in network.layers) for k in (0, 1))
    gradients = network.width(leaves, data[0]) * sum(layer.width[1] for layer in network.layers)
    numbers = (inside + 1) ** 2 + out**2 + 2 * gradients
    chunk = min(max(CACHED // numbers, 128), NUMBERS // numbers, num_examples(data))
    return sum_over_examples(part, data, max(1, chunk))


def assembled(network: LayeredNetwork, blocks: list[Any]) -> Float[np.ndarray, "p p"]:
    """The matrix of `layered_ggn`, in ravel order."""
    size = sum(places.size for places in network.positions)
    found = np.empty((size, size))
    for (k, m), block in zip(_pairs(network), blocks, strict=True):
        rows, columns = network.positions[k], network.positions[m]
        if k == m:
            i, o = (_halves(count)[2] for count in rows.shape)
            part = np.asarray(block)[i[:, None, :, None], o[None, :, None, :]]
        else:
            part = np.asarray(block).reshape(len(rows), len(columns), rows.shape[1], -1).swapaxes(1, 2)
        part = part.reshape(rows.size, columns.size)
        found[np.ix_(rows.ravel(), columns.ravel())] = part
        if k != m:
            found[np.ix_(columns.ravel(), rows.ravel())] = part.T
    return found


def _pairs(network: LayeredNetwork) -> list[tuple[int, int]]:
    count = len(network.layers)
    return [(k, m) for k in range(count) for m in range(k, count)]


def _halves(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs (i, j) with i <= j, and where each pair or its mirror image stands among them."""
    i, j = np.triu_indices(size)
    where = np.empty((size, size), int)
    where[i, j] = where[j, i] = np.arange(len(i))
    return i, j, where


def _squared_sum(a: Float[Array, "n t i"], g: Float[Array, "n t o"]) -> Float[Array, "i o"]:
    """Sum over examples of (sum_t a_t g_t')^2, entry by entry."""
    if a.shape[1] == 1:
        return jnp.einsum("ni,no->io", a[:, 0] ** 2, g[:, 0] ** 2)
    return jnp.sum(jnp.einsum("nti,nto->nio", a, g) ** 2, axis=0)


def _opened(
    network: LayeredNetwork, emission: Emission, leaves: list[Any], x: Any, y: Any, kind: str, counted: Array
) -> tuple[Taps, Float[Array, "n k k"]]:
    """The taps at a batch, and L of each example times how often it counts."""
    taps = network.tap(leaves, x)
    values = network.outputs(leaves, x)[1]
    middle = output_curvature(emission, taps.outputs, values, y, kind)
    return taps, middle * counted.astype(middle.dtype)[:, None, None]


def _over_columns(taps: Taps, middle: Array, network: LayeredNetwork, function: Any) -> list[Array]:
    """Sum function(gradients, activations) over the columns of a root of L, one backward pass each."""
    if not network.layers:
        return []
    width = taps.outputs[0].size
    root = root_of(middle[:, :width, :width])

    def one(column: Float[Array, "n k"]) -> list[Array]:
        return function(taps.pull(column.reshape(taps.outputs.shape)), taps.activations)

    first = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(one, root[:, :, 0]))
    return jax.lax.scan(
        lambda sums, column: (jax.tree.map(jnp.add, sums, one(column)), None), first, root.T.swapaxes(1, 2)
    )[0]


def _rest_diagonal(network: LayeredNetwork, leaves: list[Any], x: Any, middle: Array) -> Float[Array, " m"]:
    if not network.rest:
        return jnp.zeros(0, middle.dtype)
    jacobian = network.rest_jacobian(leaves, x)
    return jnp.einsum("nkm,nkl,nlm->m", jacobian, middle, jacobian)
