"""Diagonals and Kronecker factors layer by layer, against the dense matrix and against loops over examples."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flax import nnx
from scipy import special

import jaxmap as jm
from jaxmap.curvature import (
    LayeredNetwork,
    View,
    assembled,
    ggn,
    kronecker_factors,
    layered_diagonal,
    layered_ggn,
)
from jaxmap.curvature.ggn import root_of
from jaxmap.model import Density

pytestmark = pytest.mark.usefixtures("x64")

N = 7
RNG = np.random.default_rng(8)
ROWS = RNG.normal(size=(N, 3))
WORDS = RNG.normal(size=(N, 4, 3))
IMAGES = RNG.normal(size=(N, 5, 4, 2))
REAL = RNG.normal(size=N)
COUNTS = RNG.integers(0, 6, size=N)
WEIGHTS = np.array([1.0, 0.0, 2.5, 1.0, 0.5, 3.0, 1.0])
POSITIVE = jm.Learned(dist.HalfNormal(1.0))

LIKELIHOODS = {
    "Gaussian": (jm.Gaussian(scale=0.7), 1, REAL),
    "Gaussian of two targets": (jm.Gaussian(scale=0.7), 2, np.stack([REAL, REAL**2], axis=1)),
    "Gaussian, learned scale": (jm.Gaussian(scale=POSITIVE), 2, np.stack([REAL, -REAL], axis=1)),
    "HeteroscedasticGaussian": (jm.HeteroscedasticGaussian(), 2, REAL),
    "StudentT, learned df and scale": (jm.StudentT(df=POSITIVE, scale=POSITIVE), 1, REAL),
    "Bernoulli": (jm.Bernoulli(), 1, COUNTS % 2),
    "Categorical": (jm.Categorical(), 3, COUNTS % 3),
    "Poisson": (jm.Poisson(), 1, COUNTS),
    "NegativeBinomial": (jm.NegativeBinomial(concentration=POSITIVE), 1, COUNTS),
    "a function that returns a Gamma": (lambda u: dist.Gamma(jnp.exp(u[:, 0]), jnp.exp(u[:, 1])), 2, np.abs(REAL)),
    "a function that returns a Cauchy": (lambda u: dist.Cauchy(u, 1.0), 1, 3 * REAL),
}


# Networks: width -> (init, apply) and inputs.


def _values(shapes, width):
    rng = np.random.default_rng(width)
    return {name: 0.7 * rng.normal(size=[width if s == "k" else s for s in shape]) for name, shape in shapes.items()}


def _pair(shapes, width, apply):
    values = _values(shapes, width)
    squeeze = lambda u: u[:, 0] if width == 1 else u
    return (lambda key: jax.tree.map(jnp.asarray, values)), lambda p, x: squeeze(apply(p, x))


def dense(width):
    """Two layers with biases; a gain between them is in no layer."""
    shapes = {"w1": (3, 4), "b1": (4,), "gain": (4,), "w2": (4, "k"), "b2": ("k",)}
    apply = lambda p, x: (jnp.tanh(x @ p["w1"] + p["b1"][None]) * p["gain"][None]) @ p["w2"] + p["b2"][None]
    return _pair(shapes, width, apply), ROWS


def plain(width):
    """Three dense layers and nothing else, one without bias."""
    shapes = {"w1": (3, 4), "b1": (4,), "w2": (4, 2), "w3": (2, "k"), "b3": ("k",)}
    apply = lambda p, x: jnp.tanh(jnp.tanh(x @ p["w1"] + p["b1"][None]) @ p["w2"]) @ p["w3"] + p["b3"][None]
    return _pair(shapes, width, apply), ROWS


def words(width):
    """A kernel applied at four positions of each example, and a head without bias."""
    shapes = {"w": (3, 4), "b": (4,), "v": (4, "k")}
    apply = lambda p, x: jnp.tanh(x @ p["w"] + p["b"][None, None]).mean(1) @ p["v"]
    return _pair(shapes, width, apply), WORDS


def nothing(width):
    """No layer at all: kernels in front of their inputs, used twice, or multiplied."""
    shapes = {"w": ("k", 3), "c": ("k",)}
    apply = lambda p, x: jnp.tanh(p["w"] @ x.T).T + (p["w"] * p["c"][:, None]).sum() * p["c"][None] + p["c"][None]
    return _pair(shapes, width, apply), ROWS


class _Convolution(nnx.Module):
    def __init__(self, rngs, width):
        self.conv = nnx.Conv(2, 3, (2, 2), strides=(2, 1), padding="SAME", rngs=rngs)
        self.head = nnx.Linear(3, width, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(self.conv(x)).mean((1, 2)))


def convolution(width):
    module = _Convolution(nnx.Rngs(0), width)
    module.conv.bias[...] = jnp.asarray([0.1, -0.3, 0.4], jnp.float32)
    return module, IMAGES


NETWORKS = [dense, words, nothing, convolution]


class Case:
    """A model at its start: the network as a function of leaves, and the data."""

    def __init__(self, make, name, leaves=None):
        likelihood, width, y = LIKELIHOODS[name]
        network, x = make(width)
        self.model = jm.supervised(network, likelihood, jm.Prior(jm.flat))
        view, z = View(Density(self.model), leaves), self.model.start_unconstrained(float)
        self.outputs, self.leaves = view.outputs(z), view.of(z)
        self.data = (jnp.asarray(x), jnp.asarray(y))
        self.network = LayeredNetwork.of(self.outputs, self.leaves, self.data[0])

    @property
    def size(self):
        return sum(leaf.size for leaf in self.leaves)

    def dense(self, kind="ggn", weights=None):
        """The whole matrix."""
        program = jax.jit(lambda m, d, w: ggn(self.outputs, self.model.emission, m, d, kind=kind, weights=w))
        return np.asarray(program(self.leaves, self.data, weights))

    def diagonal(self, kind="ggn", weights=None):
        """The same matrix's diagonal, by layers."""
        program = jax.jit(lambda m, d, w: layered_diagonal(self.network, self.model.emission, m, d, kind, w))
        blocks, rest = program(self.leaves, self.data, weights)
        found = np.full(self.size, np.nan)
        found[self.network.rest_positions] = rest
        for places, block in zip(self.network.positions, blocks, strict=True):
            found[places] = block
        return found

    def factors(self, kind="ggn", weights=None):
        program = jax.jit(lambda m, d, w: kronecker_factors(self.network, self.model.emission, m, d, kind, w))
        return program(self.leaves, self.data, weights)


@functools.cache
def case_of(make, name):
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        return Case(make, name)


def _check(case, kind="ggn", weights=None):
    truth = np.diag(case.dense(kind, weights))
    np.testing.assert_allclose(case.diagonal(kind, weights), truth, rtol=1e-9, atol=1e-11 * truth.max())


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_diagonal_is_that_of_the_matrix_for_every_likelihood(name):
    _check(case_of(dense, name))


@pytest.mark.parametrize(("make", "kind"), [(words, "fisher"), (nothing, "ggn"), (convolution, "ggn")])
def test_the_diagonal_is_that_of_the_matrix_for_every_network(make, kind, rank_promotion):
    _check(case_of(make, "Categorical"), kind)


@pytest.mark.parametrize("name", ["Gaussian, learned scale", "StudentT, learned df and scale"])
def test_the_empirical_diagonal_counts_learned_parameters(name):
    _check(case_of(dense, name), "fisher", jnp.asarray(WEIGHTS))


@pytest.mark.parametrize(("name", "kind", "leaves"), [
    ("Categorical", "ggn", None),
    ("HeteroscedasticGaussian", "fisher", None),
    ("Gaussian, learned scale", "ggn", (1, 2, 3, 4, 5)),  # the scale is held
])  # fmt: skip
def test_the_matrix_of_dense_layers_is_that_of_jacobians(name, kind, leaves):
    case = Case(plain, name, leaves)
    assert case.network.is_dense
    program = jax.jit(lambda m, d: layered_ggn(case.network, case.model.emission, m, d, kind))
    truth = case.dense(kind)
    found = assembled(case.network, program(case.leaves, case.data))
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-11 * np.abs(truth).max())
    np.testing.assert_array_equal(found, found.T)


def test_the_matrix_of_dense_layers_does_not_depend_on_the_chunk(monkeypatch):
    case = Case(plain, "Categorical")
    sizes, module = [], importlib.import_module("jaxmap.curvature.layered")
    whole = module.sum_over_examples

    def counted(function, data, chunk):
        sizes.append(chunk)
        return whole(function, data, chunk)

    monkeypatch.setattr(module, "sum_over_examples", counted)
    monkeypatch.setattr(module, "NUMBERS", 3 * (5**2 + 4**2 + 2 * 3 * 9))
    found = assembled(case.network, layered_ggn(case.network, case.model.emission, case.leaves, case.data))
    assert sizes == [3]
    truth = case.dense()
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-11 * np.abs(truth).max())


def test_other_networks_are_not_dense(rank_promotion):
    assert not any(case_of(make, "Categorical").network.is_dense for make in NETWORKS)


def test_every_coordinate_is_in_a_layer_or_in_the_rest(rank_promotion):
    for make in NETWORKS:
        network = case_of(make, "Categorical").network
        places = np.concatenate([*(np.ravel(p) for p in network.positions), network.rest_positions])
        np.testing.assert_array_equal(np.sort(places), np.arange(case_of(make, "Categorical").size))
    assert case_of(nothing, "Categorical").network.layers == ()
    assert len(case_of(convolution, "Categorical").network.rest) == 0


def test_layers_too_wide_stay_in_the_rest():
    case = case_of(dense, "Categorical")
    network = LayeredNetwork.of(case.outputs, case.leaves, case.data[0], limit=3)
    assert network.layers == ()
    assert len(LayeredNetwork.of(case.outputs, case.leaves, case.data[0], limit=4).layers) == 2


@pytest.mark.parametrize(("make", "examples"), [(dense, 1), (dense, 3), (words, 2)])
def test_chunks_and_weights(make, examples, monkeypatch):
    """Seven examples: the last chunk is ragged; an example of weight two counts twice, one of zero not at all."""
    case, weights = case_of(make, "Categorical"), jnp.asarray(WEIGHTS)
    truth, (layers, rest) = np.diag(case.dense("ggn", weights)), case.factors("ggn", weights)
    module = importlib.import_module("jaxmap.curvature.layered")
    chunk = lambda **options: case.network.chunk(case.leaves, case.data[0], **options)
    assert chunk(jacobians=True) == N
    for jacobians in (False, True):
        monkeypatch.setattr(module, "NUMBERS", 1)
        while chunk(jacobians=jacobians) < examples:
            monkeypatch.setattr(module, "NUMBERS", module.NUMBERS + 1)
        if jacobians:
            np.testing.assert_allclose(case.diagonal("ggn", weights), truth, rtol=1e-10, atol=1e-12)
            continue
        found, of_rest = case.factors("ggn", weights)
        for one, other in zip(found, layers, strict=True):
            np.testing.assert_allclose(one.inputs, other.inputs, rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(one.outputs, other.outputs, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(of_rest, rest, rtol=1e-10, atol=1e-12)


def test_only_some_leaves_move():
    """The head of the words network alone: its block of the matrix, its factors, and nothing else."""
    whole, head = case_of(words, "Categorical"), Case(words, "Categorical", leaves=(1,))
    assert [layer.leaves for layer in head.network.layers] == [(0,)]
    _check(head)
    kept = np.arange(4, 4 + 12)  # b (4), v (4, 3), w
    np.testing.assert_allclose(head.dense(), whole.dense()[np.ix_(kept, kept)], atol=1e-12)
    found, expected = head.factors()[0][0], whole.factors()[0][1]
    np.testing.assert_allclose(found.inputs, expected.inputs, atol=1e-13)
    np.testing.assert_allclose(found.outputs, expected.outputs, atol=1e-13)


# Kronecker factors, one example after the other, by hand.


def _curvatures(name, u, y, kind):
    """L of one example, in the network's outputs."""
    if name == "Categorical":
        p = special.softmax(u)
        slope = np.eye(3)[y] - p
        return np.outer(slope, slope) if kind == "fisher" else np.diag(p) - np.outer(p, p)
    slope = (y - u) / 0.49
    return np.outer(slope, slope) if kind == "fisher" else np.eye(len(u)) / 0.49


@pytest.mark.parametrize("kind", ["ggn", "fisher"])
@pytest.mark.parametrize("name", ["Categorical", "Gaussian of two targets"])
def test_factors_of_dense_layers_are_the_loop_over_examples(name, kind):
    """A = mean a a', G = sum g g' with g g' = J' L J, J the Jacobian of the outputs in the layer's result."""
    case = case_of(dense, name)
    p = {k: np.asarray(v) for k, v in case.model.start.items()}
    width = p["b2"].size
    truth = [[np.zeros((4, 4)), np.zeros((4, 4))], [np.zeros((5, 5)), np.zeros((width, width))]]
    rest = np.zeros(4)
    for x, y, weight in zip(ROWS, np.asarray(case.data[1]), WEIGHTS, strict=True):
        hidden = np.tanh(x @ p["w1"] + p["b1"])
        seen = hidden * p["gain"]
        middle = weight * _curvatures(name, seen @ p["w2"] + p["b2"], y, kind)
        of_first = p["w2"].T * (1 - hidden**2) * p["gain"]
        of_gain = p["w2"].T * hidden
        for sums, a, j in zip(truth, (x, seen), (of_first, np.eye(width)), strict=True):
            a = np.append(a, 1.0)
            sums[0] += weight * np.outer(a, a) / WEIGHTS.sum()
            sums[1] += j.T @ middle @ j
        rest += np.diag(of_gain.T @ middle @ of_gain)
    layers, found = case.factors(kind, jnp.asarray(WEIGHTS))
    for layer, (inputs, outputs) in zip(layers, truth, strict=True):
        np.testing.assert_allclose(layer.inputs, inputs, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(layer.outputs, outputs, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(found, rest, rtol=1e-10, atol=1e-12)


def test_positions_count_as_examples_in_a_convolution():
    """A = mean over examples and positions of a a', G = sum over both of g g'."""
    case = case_of(words, "Categorical")
    p = {k: np.asarray(v) for k, v in case.model.start.items()}
    inputs, outputs = np.zeros((4, 4)), np.zeros((4, 4))
    for x in WORDS:
        hidden = np.tanh(x @ p["w"] + p["b"])
        middle = _curvatures("Categorical", hidden.mean(0) @ p["v"], 0, "ggn")
        for t in range(4):
            a, j = np.append(x[t], 1.0), p["v"].T * (1 - hidden[t] ** 2) / 4
            inputs += np.outer(a, a) / (4 * N)
            outputs += j.T @ middle @ j
    found = case.factors()[0][0]
    np.testing.assert_allclose(found.inputs, inputs, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.outputs, outputs, rtol=1e-10, atol=1e-12)


def test_a_convolution_of_one_position_is_a_dense_layer():
    """A window as large as the image: the patches are the inputs, in the order of the kernel."""

    def convolved(p, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, p["w"], (1, 1), "VALID", dimension_numbers=numbers)[:, 0, 0]

    def flat(p, x):
        return x.reshape(len(x), -1) @ p["w"]

    kernel, data, found = RNG.normal(size=(5, 4, 2, 3)), (jnp.asarray(IMAGES), jnp.asarray(COUNTS % 3)), []
    for function, shape in ((convolved, kernel.shape), (flat, (40, 3))):
        params = {"w": jnp.asarray(kernel.reshape(shape))}
        model = jm.supervised((lambda key, p=params: p, function), jm.Categorical(), jm.Prior(jm.flat))
        view, z = View(Density(model)), model.start_unconstrained(float)
        network = LayeredNetwork.of(view.outputs(z), view.of(z), data[0])
        (factors,), _ = kronecker_factors(network, model.emission, view.of(z), data)
        places = np.argsort(network.positions[0].ravel())
        found.append(np.kron(factors.inputs, factors.outputs)[np.ix_(places, places)])
    np.testing.assert_allclose(*found, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [1, 3])
def test_the_root_of_a_curvature_may_be_singular(size):
    rows = RNG.normal(size=(4, size, max(1, size - 1)))
    curvature = jnp.asarray(rows @ rows.swapaxes(1, 2))
    root = root_of(curvature)
    np.testing.assert_allclose(jnp.einsum("nik,njk->nij", root, root), curvature, atol=1e-12)
