"""Layers are found in any network, and what enters and leaves them gives every example's gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jaxmap.curvature import find_layers, tap
from jaxmap.model import as_network
from jaxmap.trees import paths

pytestmark = pytest.mark.usefixtures("x64", "rank_promotion")

RNG = np.random.default_rng(4)
ROWS = RNG.normal(size=(4, 3))
WORDS = RNG.normal(size=(4, 5, 3))
IMAGES = RNG.normal(size=(4, 6, 5, 2))


def _values(shapes):
    return {name: RNG.normal(size=shape) for name, shape in shapes.items()}


# Networks as (parameters or module, function or None, inputs, layers as (kernel, bias)).


def _dense():
    params = _values({"w1": (3, 4), "b1": (4,), "w2": (4, 2), "b2": (2,)})
    apply = lambda p, x: jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
    return params, apply, ROWS, [("w1", "b1"), ("w2", "b2")]


def _without_bias():
    params = _values({"w1": (3, 4), "w2": (4, 2)})
    return params, lambda p, x: jnp.tanh(x @ p["w1"]) @ p["w2"], ROWS, [("w1", None), ("w2", None)]


def _bias_in_front():
    """The bias comes first in the sum, has an axis too many, and the kernel is stored transposed."""
    params = _values({"w": (2, 3), "b": (1, 2)})
    return params, lambda p, x: p["b"] + x @ p["w"].T, ROWS, [("w", "b")]


def _one_output():
    params = _values({"w": (3,), "b": ()})
    return params, lambda p, x: x @ p["w"] + p["b"], ROWS, [("w", "b")]


def _scalar_bias_of_many_outputs():
    params = _values({"w": (3, 2), "b": ()})
    return params, lambda p, x: x @ p["w"] + p["b"], ROWS, [("w", None)]


def _bias_per_position():
    """Not a bias of the layer: one number per position, as many positions as outputs."""
    params = _values({"w": (3, 5), "b": (5,)})
    return params, lambda p, x: (x @ p["w"] + p["b"][:, None]).sum(1), WORDS, [("w", None)]


def _subtracted():
    params = _values({"w": (3, 2), "b": (2,)})
    return params, lambda p, x: x @ p["w"] - p["b"], ROWS, [("w", None)]


def _two_biases():
    params = _values({"w": (3, 2), "b": (2,), "c": (2,)})
    return params, lambda p, x: x @ p["w"] + p["b"] + p["c"], ROWS, [("w", "b")]


def _result_used_before_the_bias():
    """The bias sees one of two ways that the kernel sees."""
    params = _values({"w": (3, 2), "b": (2,)})

    def apply(p, x):
        h = x @ p["w"]
        return jnp.tanh(h + p["b"]) + h**2

    return params, apply, ROWS, [("w", None)]


def _two_biases_on_one_result():
    params = _values({"w": (3, 2), "b": (2,), "c": (2,)})

    def apply(p, x):
        h = x @ p["w"]
        return jnp.tanh(h + p["b"]) * jnp.sin(h + p["c"])

    return params, apply, ROWS, [("w", None)]


def _bias_used_twice():
    params = _values({"w": (3, 2), "b": (2,)})
    return params, lambda p, x: jnp.tanh(x @ p["w"] + p["b"]) + p["b"], ROWS, [("w", None)]


def _shared_bias():
    params = _values({"v": (3, 2), "w": (3, 2), "b": (2,)})
    apply = lambda p, x: jnp.tanh(x @ p["v"] + p["b"]) * (x @ p["w"] + p["b"])
    return params, apply, ROWS, [("v", None), ("w", None)]


def _tied():
    params = _values({"w": (3, 3), "v": (3, 2)})
    apply = lambda p, x: jnp.tanh(jnp.tanh(x @ p["w"]) @ p["w"].T) @ p["v"]
    return params, apply, ROWS, [("v", None)]


def _penalised():
    """The kernel is used once as a kernel and once as a number."""
    params = _values({"w": (3, 2)})
    return params, lambda p, x: x @ p["w"] + jnp.sum(p["w"] ** 2), ROWS, []


def _scaled_kernel():
    params = _values({"w": (3, 2), "g": (), "v": (2, 2)})
    return params, lambda p, x: jnp.tanh(x @ (p["w"] * p["g"])) @ p["v"], ROWS, [("v", None)]


def _kernel_first():
    """W @ x for columns x: the examples are not in front."""
    params = _values({"w": (4, 3), "v": (4, 2)})
    return params, lambda p, x: jnp.tanh(p["w"] @ x.T).T @ p["v"], ROWS, [("v", None)]


def _one_example_mapped():
    params = _values({"w": (4, 3), "b": (4,), "v": (4, 2)})
    apply = lambda p, x: jax.vmap(lambda row: jnp.tanh(p["w"] @ row + p["b"]))(x) @ p["v"]
    return params, apply, ROWS, [("v", None)]


def _constant_in_front():
    """Four examples and four positions: a constant's rows are no examples."""
    places = jnp.asarray(RNG.normal(size=(4, 3)))
    params = _values({"w": (3, 2), "v": (3, 2)})
    apply = lambda p, x: x @ p["v"] + jnp.sum(jnp.tanh(places @ p["w"]) ** 2, axis=0)
    return params, apply, ROWS, [("v", None)]


def _scanned():
    params = _values({"w": (3, 3), "v": (3, 2)})

    def apply(p, x):
        return jax.lax.scan(lambda h, _: (jnp.tanh(h @ p["w"]), None), x, None, length=3)[0] @ p["v"]

    return params, apply, ROWS, [("v", None)]


def _stacked_scan():
    """One kernel per step, sliced from one leaf."""
    params = _values({"w": (2, 3, 3), "v": (3, 2)})

    def apply(p, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"])[0] @ p["v"]

    return params, apply, ROWS, [("v", None)]


def _compiled_and_rematerialised():
    params = _values({"w1": (3, 4), "b1": (4,), "w2": (4, 2), "b2": (2,)})
    first = jax.jit(lambda w, b, x: jnp.tanh(x @ w + b))
    second = jax.checkpoint(lambda w, b, x: jax.jit(jnp.dot)(x, w) + b)
    apply = lambda p, x: second(p["w2"], p["b2"], first(p["w1"], p["b1"], x))
    return params, apply, ROWS, [("w1", "b1"), ("w2", "b2")]


def _compiled_once_used_twice():
    params = _values({"w": (3, 3), "v": (3, 2)})
    again = jax.jit(lambda w, x: jnp.tanh(x @ w))
    return params, lambda p, x: again(p["w"], again(p["w"], x)) @ p["v"], ROWS, [("v", None)]


def _with_its_own_gradient():
    """Operations with custom derivatives between the layers; a kernel inside one is no layer."""
    params = _values({"w": (3, 4), "u": (4, 4), "v": (4, 2)})

    @jax.custom_jvp
    def inside(w, x):
        return x @ w

    inside.defjvp(lambda primals, tangents: (inside(*primals), primals[1] @ tangents[0] + tangents[1] @ primals[0]))
    apply = lambda p, x: jax.nn.silu(inside(p["u"], jax.nn.relu(x @ p["w"]))) @ p["v"]
    return params, apply, ROWS, [("w", None), ("v", None)]


def _words():
    """A kernel applied at five positions of each example."""
    params = _values({"w": (3, 4), "b": (4,), "v": (4, 2)})
    return params, lambda p, x: jnp.tanh(x @ p["w"] + p["b"]).mean(1) @ p["v"], WORDS, [("w", "b"), ("v", None)]


def _several_axes():
    """Contracted over two axes, in another order than the input's."""
    params = _values({"w": (3, 5, 2, 2), "b": (2, 2)})
    apply = lambda p, x: (jnp.tanh(jnp.einsum("nts,stpq->npq", x, p["w"]) + p["b"])).reshape(len(x), 4)
    return params, apply, WORDS, [("w", "b")]


def _heads():
    """The outputs of a kernel come before its inputs."""
    params = _values({"w": (2, 3, 4)})
    return params, lambda p, x: jnp.einsum("nts,hsd->nhd", jnp.tanh(x), p["w"]).sum(2), WORDS, [("w", None)]


def _grouped_convolution():
    params = _values({"w": (2, 2, 1, 4), "v": (4, 2)})

    def apply(p, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        h = jax.lax.conv_general_dilated(x, p["w"], (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=2)
        return jnp.tanh(h).mean((1, 2)) @ p["v"]

    return params, apply, IMAGES, [("v", None)]


def _channels_first():
    params = _values({"w": (3, 2, 2, 2), "v": (3, 2)})

    def apply(p, x):
        h = jax.lax.conv_general_dilated(jnp.moveaxis(x, -1, 1), p["w"], (1, 1), "VALID")
        return jnp.tanh(h).mean((2, 3)) @ p["v"]

    return params, apply, IMAGES, [("v", None)]


def _embedding():
    params = _values({"table": (5, 3), "w": (3, 2)})
    return params, lambda p, x: p["table"][x] @ p["w"], np.array([0, 3, 1, 0]), [("w", None)]


class _Convolutions(nnx.Module):
    """Stride, padding and dilation, then a dense layer."""

    def __init__(self, rngs, **settings):
        self.first = nnx.Conv(2, 3, (3, 2), rngs=rngs, **settings)
        self.second = nnx.Conv(3, 2, (2, 2), use_bias=False, rngs=rngs)
        self.head = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(self.second(jnp.tanh(self.first(x)))).mean((1, 2)))


def _convolutions(**settings):
    expected = [("first/kernel", "first/bias"), ("second/kernel", None), ("head/kernel", "head/bias")]
    return functools.partial(_Convolutions, **settings), None, IMAGES, expected


class _Normed(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.LayerNorm(name="norm")(linen.gelu(linen.Dense(4, name="a")(x)))
        x = linen.DenseGeneral((2, 3), name="b")(x)
        return linen.DenseGeneral(2, axis=(-2, -1), name="c")(jnp.tanh(x))


def _normed():
    return _Normed(), None, ROWS, [(f"{name}/kernel", f"{name}/bias") for name in "abc"]


class _Attention(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(3, rngs=rngs)
        self.attend = nnx.MultiHeadAttention(2, 3, 4, decode=False, rngs=rngs)
        self.head = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        return self.head((x + self.attend(self.norm(x))).mean(1))


def _attention():
    names = [f"attend/{part}" for part in ("query", "key", "value", "out")] + ["head"]
    return _Attention, None, WORDS, [(f"{name}/kernel", f"{name}/bias") for name in names]


NETWORKS = [
    _dense,
    _without_bias,
    _bias_in_front,
    _one_output,
    _scalar_bias_of_many_outputs,
    _bias_per_position,
    _subtracted,
    _two_biases,
    _result_used_before_the_bias,
    _two_biases_on_one_result,
    _bias_used_twice,
    _shared_bias,
    _tied,
    _penalised,
    _scaled_kernel,
    _kernel_first,
    _one_example_mapped,
    _constant_in_front,
    _scanned,
    _stacked_scan,
    _compiled_and_rematerialised,
    _compiled_once_used_twice,
    _with_its_own_gradient,
    _words,
    _several_axes,
    _heads,
    _grouped_convolution,
    _channels_first,
    _embedding,
    _normed,
    _attention,
    *(functools.partial(_convolutions, **settings) for settings in (
        {"padding": "VALID"},
        {"padding": "SAME", "strides": (2, 1)},
        {"padding": ((0, 1), (2, 0)), "strides": (1, 2)},
        {"padding": "SAME", "kernel_dilation": (2, 1)},
        {"padding": ((1, 1), (0, 2)), "input_dilation": (1, 2)},
        {"padding": "CIRCULAR"},
    )),
]  # fmt: skip


def _name(make):
    settings = getattr(make, "keywords", {})
    return " ".join([getattr(make, "func", make).__name__.strip("_"), *map(str, settings.values())])


each = pytest.mark.parametrize("make", NETWORKS, ids=_name)


@functools.cache
def built(make):
    """Parameters, function, inputs, the layers that are expected and those that are found; in double precision."""
    source, apply, x, expected = make()
    x = jnp.asarray(x)
    if apply is None:
        network = as_network(source, x[:1] if isinstance(source, linen.Module) else None)
        source, apply = network.init(jax.random.key(1)), network.apply
        source = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), source)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), source)
    return params, apply, x, expected, find_layers(apply, params, x)


def per_example(apply, params, x, cotangent):
    """The gradient of cotangent_i . f(x_i) for every example on its own, leaves stacked."""
    return jax.vmap(
        lambda row, c: jax.grad(lambda p: jnp.sum(apply(p, row[None])[0] * c))(params),
    )(x, cotangent)


@each
def test_the_layers_are_found_with_their_biases(make):
    params, _, _, expected, layers = built(make)
    names = paths(params)
    found = [(names[layer.kernel], None if layer.bias is None else names[layer.bias]) for layer in layers]
    assert sorted(found, key=str) == sorted(expected, key=str)


@each
def test_activations_and_gradients_give_the_gradient_of_every_example(make):
    """sum_t a_t g_t' is the gradient in the layer's matrix, its last row that of the bias."""
    params, apply, x, _, layers = built(make)
    cotangent = jnp.asarray(np.random.default_rng(0).normal(size=apply(params, x).shape))

    @jax.jit
    def both(params, x):
        taps = tap(apply, params, x, layers)
        return taps.outputs, taps.activations, taps.pull(cotangent), per_example(apply, params, x, cotangent)

    outputs, activations, gradients, truth = both(params, x)
    np.testing.assert_allclose(outputs, apply(params, x), rtol=1e-12, atol=1e-12)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(truth)]
    for layer, a, g in zip(layers, activations, gradients, strict=True):
        assert a.shape[:2] == g.shape[:2] == (len(x), layer.positions)
        for i in range(len(x)):
            bias = None if layer.bias is None else np.asarray(leaves[layer.bias][i])
            expected = layer.matrix(leaves[layer.kernel][i], bias)
            np.testing.assert_allclose(a[i].T @ g[i], expected, rtol=1e-9, atol=1e-10)


@each
def test_the_places_of_a_layer_are_those_of_ravel_order(make):
    params, _, _, _, layers = built(make)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    begins = np.cumsum([0, *(leaf.size for leaf in leaves)])
    flat = np.concatenate([np.ravel(leaf) for leaf in leaves])
    for layer in layers:
        bias = None if layer.bias is None else leaves[layer.bias]
        np.testing.assert_array_equal(flat[layer.places(begins)], layer.matrix(leaves[layer.kernel], bias))


def test_kernels_used_at_other_numbers_of_examples_are_found_alike():
    params, apply, x, _, layers = built(_words)
    assert layers == find_layers(apply, params, x[:1]) == find_layers(apply, params, x[:3])


def test_finding_layers_runs_nothing():
    """Shapes alone are enough."""
    params, apply, x, _, layers = built(_dense)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, x))
    assert find_layers(apply, *shapes) == layers
