"""Curvature as products with vectors, and what is made of them: diagonals by random signs, leading eigenpairs."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import jaxmap as jm
from jaxmap.curvature import View, ggn, hessian, hutchinson, leading_eigenpairs, likelihood_product
from jaxmap.model import Density, weighted_sum

pytestmark = pytest.mark.usefixtures("x64")

N = 7
RNG = np.random.default_rng(9)
X = jnp.asarray(RNG.normal(size=(N, 3)))
REAL = jnp.asarray(RNG.normal(size=N))
CLASSES = jnp.asarray(RNG.integers(0, 3, size=N))
WEIGHTS = jnp.asarray([1.0, 0.0, 2.5, 1.0, 0.5, 3.0, 1.0])
POSITIVE = jm.Learned(dist.HalfNormal(1.0))


def _network(width):
    rng = np.random.default_rng(width)
    values = {"w": 0.7 * rng.normal(size=(3, 4)), "b": 0.3 * rng.normal(size=4), "v": rng.normal(size=(4, width))}
    init = lambda key: jax.tree.map(jnp.asarray, values)
    apply = lambda p, x: jnp.tanh(x @ p["w"] + p["b"][None]) @ p["v"]
    return init, (lambda p, x: apply(p, x)[:, 0] if width == 1 else apply(p, x))


def _categorical():
    return jm.supervised(_network(3), jm.Categorical(), jm.Prior(jm.flat)), (X, CLASSES)


def _student():
    """Two learned parameters beside the network."""
    likelihood = jm.StudentT(df=POSITIVE, scale=POSITIVE)
    return jm.supervised(_network(1), likelihood, jm.Prior(jm.flat)), (X, REAL)


MODELS = {"Categorical": _categorical, "StudentT": _student}


class Case:
    def __init__(self, make, leaves=None):
        self.model, self.data = make()
        self.view = View(Density(self.model), leaves)
        self.z = self.model.start_unconstrained(float)

    def rows(self, kind, vectors, weights=None):
        program = jax.jit(lambda z, d, v, w: likelihood_product(self.view, z, d, kind, w)(v))
        return np.asarray(program(self.z, self.data, vectors, weights))

    def matrix(self, kind, weights=None):
        """The dense matrix: second derivatives, J' L J, or scores one example after the other."""
        moving, likelihoods = self.view.of(self.z), self.view.log_likelihoods(self.z)
        counted = jnp.ones(N) if weights is None else weights
        if kind == "exact":
            return np.asarray(hessian(lambda m: -weighted_sum(counted, likelihoods(m, self.data)), moving))
        if kind == "ggn":
            outputs, emission = self.view.outputs(self.z), self.model.emission
            return np.asarray(jax.jit(lambda m, d: ggn(outputs, emission, m, d, weights=weights))(moving, self.data))
        score = jax.jit(jax.grad(lambda m, x, y: likelihoods(m, (x[None], y[None]))[0]))
        total = 0.0
        for x, y, weight in zip(*self.data, counted, strict=True):
            g = np.concatenate([np.ravel(leaf) for leaf in score(moving, x, y)])
            total = total + weight * np.outer(g, g)
        return total


@pytest.mark.parametrize("kind", ["ggn", "exact", "fisher"])
@pytest.mark.parametrize("name", MODELS)
def test_products_with_units_are_the_rows_of_the_matrix(name, kind, monkeypatch):
    """More vectors than are held at a time, chunks with a ragged end, weights."""
    case = Case(MODELS[name])
    monkeypatch.setattr(importlib.import_module("jaxmap.curvature.products"), "EXAMPLES_AT_A_TIME", 3)
    truth = case.matrix(kind, WEIGHTS)
    assert len(truth) > 16
    found = case.rows(kind, jnp.eye(len(truth)), WEIGHTS)
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-11 * np.abs(truth).max())


@pytest.mark.parametrize("kind", ["ggn", "exact", "fisher"])
def test_products_of_some_leaves_are_a_block_of_the_matrix(kind):
    case, some = Case(_categorical), Case(_categorical, leaves=(0, 2))
    kept = some.view.positions(some.z)
    assert len(kept) == 4 + 12
    vectors = np.random.default_rng(1).normal(size=(3, len(kept)))
    truth = vectors @ case.matrix(kind)[np.ix_(kept, kept)]
    np.testing.assert_allclose(some.rows(kind, jnp.asarray(vectors)), truth, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["exact", "fisher"])
def test_products_without_a_network(kind):
    """Counts without outputs: gradients (y / r - 1) r in log r, second derivative -r."""
    y = jnp.asarray([3.0, 1.0, 4.0])
    model = jm.Model(
        log_likelihood=lambda p, y: dist.Poisson(p["rate"] * jnp.ones_like(y)).log_prob(y),
        log_prior=jm.Prior(dist.Gamma(2.0, 1.0)),
        init={"rate": 2.0},
    )
    product = likelihood_product(View(Density(model)), {"rate": jnp.log(2.0)}, y, kind)
    expected = 6.0 if kind == "exact" else np.sum((np.asarray(y) - 2) ** 2)
    np.testing.assert_allclose(product(jnp.ones((1, 1))), [[expected]], rtol=1e-12)


# Products -> diagonals and eigenpairs, of any symmetric matrix.


def _product(matrix):
    return lambda rows: rows @ jnp.asarray(matrix)


def _symmetric(values):
    basis = np.linalg.qr(np.random.default_rng(2).normal(size=(len(values), len(values))))[0]
    return (basis * values) @ basis.T, basis


def test_random_signs_find_a_diagonal_matrix_exactly(key):
    values = np.exp(RNG.normal(size=9))
    np.testing.assert_allclose(hutchinson(_product(np.diag(values)), 9, 1, key, float), values, rtol=1e-13)


def test_the_diagonal_from_random_signs_is_unbiased_with_the_error_of_the_formula(key):
    matrix, _ = _symmetric(np.linspace(-1.0, 4.0, 6))
    found = jax.vmap(lambda k: hutchinson(_product(matrix), 6, 10, k, float))(jax.random.split(key, 4000))
    variance = (np.sum(matrix**2, axis=1) - np.diag(matrix) ** 2) / 10
    np.testing.assert_array_less(np.abs(found.mean(0) - np.diag(matrix)), 4 * np.sqrt(variance / 4000))
    np.testing.assert_allclose(found.var(0), variance, rtol=5 * np.sqrt(2 / 4000))


@pytest.mark.parametrize("rank", [8, 3, 20])
def test_eigenpairs_are_exact_where_all_directions_are_taken(rank, key):
    """Eight dimensions are spanned by rank + 8 directions; those of largest absolute value come first."""
    values = np.array([5.0, -4.0, 3.0, 2.0, -1.0, 0.5, 0.1, 0.0])
    matrix, basis = _symmetric(values)
    vectors, found = leading_eigenpairs(_product(matrix), 8, rank, key, float)
    count = min(rank, 8)
    np.testing.assert_allclose(found, values[:count], atol=1e-12)
    np.testing.assert_allclose(np.abs(vectors.T @ basis), np.eye(8)[:count], atol=1e-10)
    if rank >= 8:
        np.testing.assert_allclose((vectors * found[None]) @ vectors.T, matrix, atol=1e-12)


def test_eigenpairs_of_a_matrix_of_low_rank_are_exact(key):
    values = np.zeros(60)
    values[:4] = 100.0, -30.0, 7.0, 1.0
    matrix, _ = _symmetric(values)
    vectors, found = leading_eigenpairs(_product(matrix), 60, 4, key, float)
    np.testing.assert_allclose(found, values[:4], rtol=1e-9)
    np.testing.assert_allclose((vectors * found[None]) @ vectors.T, matrix, atol=1e-9)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(4), atol=1e-12)


def test_a_second_pass_sharpens_the_leading_eigenpairs(key):
    """A slowly falling spectrum: with each pass the space turns towards the leading directions."""
    values = 1 / np.arange(1.0, 101.0)
    matrix, _ = _symmetric(values)
    away = [
        np.abs(leading_eigenpairs(_product(matrix), 100, 5, key, float, passes=p)[1] - values[:5]).max()
        for p in (1, 2, 4)
    ]
    assert away[2] < away[1] / 10 < away[0] / 10
    assert away[1] < 0.1
