"""The covariance of linearised outputs, in every structure: J C J' with J and C written out."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import jaxmap as jm
from jaxmap.curvature import (
    Conditional,
    Diagonal,
    Full,
    LayeredNetwork,
    LowRank,
    View,
    kronecker_factors,
    kronecker_precision,
    output_covariance,
    spread_of,
)
from jaxmap.model import Density

pytestmark = pytest.mark.usefixtures("x64")

N = 7
RNG = np.random.default_rng(13)
WORDS = RNG.normal(size=(N, 4, 3))
SHAPES = {"w": (3, 4), "b": (4,), "gain": (4,), "u": (4, 3), "v": (3, 2)}
VALUES = {name: RNG.normal(size=shape) for name, shape in SHAPES.items()}


def apply(p, x):
    """A kernel at four positions, a gain outside all layers, two dense layers."""
    hidden = jnp.tanh(x @ p["w"] + p["b"][None, None]).mean(1) * p["gain"][None]
    return jnp.tanh(hidden @ p["u"]) @ p["v"]


class Case:
    """A network of two outputs with a learned scale; some of its leaves move."""

    def __init__(self, leaves=None):
        likelihood = jm.Gaussian(scale=jm.Learned(dist.LogNormal(0.0, 1.0)))
        init = lambda key: jax.tree.map(jnp.asarray, VALUES)
        self.model = jm.supervised((init, apply), likelihood, jm.Prior(dist.Normal(0.0, 1.0)))
        view, z = View(Density(self.model), leaves), self.model.start_unconstrained(float)
        self.outputs, self.leaves, self.x = view.outputs(z), view.of(z), jnp.asarray(WORDS)
        self.network = LayeredNetwork.of(self.outputs, self.leaves, self.x)
        self.size = sum(leaf.size for leaf in self.leaves)

    @functools.cached_property
    def truth(self):
        """Outputs and learned scale of each example, and its Jacobian, one example after the other."""

        def one(leaves, row):
            made, shared = self.outputs(leaves, row[None])
            return jnp.concatenate([made[0], *map(jnp.ravel, jax.tree.leaves(shared))])

        rows = [jax.jit(one)(self.leaves, row) for row in self.x]
        jacobian = jax.jit(jax.jacfwd(one))
        blocks = [[np.reshape(j, (3, -1)) for j in jacobian(self.leaves, row)] for row in self.x]
        return np.stack(rows), np.stack([np.concatenate(block, axis=1) for block in blocks])

    def kronecker(self):
        rng = np.random.default_rng(0)
        data = (self.x, jnp.asarray(rng.normal(size=(N, 2))))
        found, rest = jax.tree.map(np.asarray, kronecker_factors(self.network, self.model.emission, self.leaves, data))
        return kronecker_precision(self.network, found, rest, np.full(self.size, 0.3), lambda k: ())[0]

    def precision(self, structure):
        rng = np.random.default_rng(1)
        if structure == "full":
            root = rng.normal(size=(self.size, 2 * self.size))
            return Full(np.linalg.cholesky(root @ root.T))
        if structure == "kronecker":
            return self.kronecker()
        scales = np.exp(rng.normal(size=self.size))
        if structure == "diagonal":
            return Diagonal(scales)
        basis = np.linalg.qr(rng.normal(size=(self.size, 4)))[0]
        return LowRank(scales, basis, np.array([30.0, 4.0, 0.5, -0.4]))


@functools.cache
def case_of(leaves=None):
    with jax.enable_x64(True):
        return Case(leaves)


def check(case, precision, inner):
    spread = spread_of(precision, case.network, float)
    program = jax.jit(lambda m, x, s: output_covariance(case.outputs, m, x, s, case.network))
    mean, covariance = program(case.leaves, case.x, spread)
    rows, jacobian = case.truth
    dense = jacobian @ inner.solve(np.eye(case.size)) @ jacobian.swapaxes(1, 2)
    np.testing.assert_allclose(mean, rows, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(covariance, dense, rtol=1e-9, atol=1e-10 * dense.max())


STRUCTURES = ["full", "diagonal", "low_rank", "kronecker"]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_covariance_of_outputs_is_that_of_the_jacobian(structure):
    case = case_of()
    assert len(case.network.layers) == 3
    assert len(case.network.rest) == 2  # the gain and the learned scale
    precision = case.precision(structure)
    check(case, precision, precision)


@pytest.mark.parametrize("structure", ["full", "kronecker"])
def test_where_only_some_leaves_move_the_others_add_nothing(structure):
    """The last layer and the gain move; all of the network moves through them."""
    case = case_of((2, 4))
    precision = case.precision(structure)
    check(case, Conditional(np.arange(5, 5 + case.size), precision, 60), precision)


@pytest.mark.parametrize(("structure", "examples"), [("full", 2), ("low_rank", 3), ("kronecker", 1)])
def test_the_covariance_of_outputs_does_not_depend_on_the_chunk(structure, examples, monkeypatch):
    """Seven examples: the last chunk is ragged."""
    case = case_of()
    module = importlib.import_module("jaxmap.curvature.layered")
    monkeypatch.setattr(
        importlib.import_module("jaxmap.curvature.functional"), "JACOBIAN_NUMBERS", examples * 3 * case.size
    )
    monkeypatch.setattr(module, "NUMBERS", 1)
    while case.network.chunk(case.leaves, case.x, jacobians=True) < examples:
        monkeypatch.setattr(module, "NUMBERS", module.NUMBERS + 1)
    precision = case.precision(structure)
    check(case, precision, precision)
