"""Second derivatives against differences, Gauss-Newton against loops, and the ladder that makes a Gaussian of them."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import special, stats

import jaxmap as jm
from jaxmap.curvature import (
    SingularCurvatureError,
    factorize,
    ggn,
    hessian,
    map_over_examples,
    scaled_spectrum,
    sum_over_examples,
    unconstrained_outputs,
)
from tests import reference

pytestmark = pytest.mark.usefixtures("x64")


# Hessians.


def test_hessian_is_that_of_differences_in_ravel_order():
    def function(tree):
        a, (b, c) = tree["a"], tree["b"]
        return jnp.sum(jnp.sin(a) * b) + jnp.exp(0.3 * c) * jnp.sum(a**3) + jnp.prod(b)

    def of_vector(v):
        a, b, c = v[:2], v[2:4], v[4]
        return np.sum(np.sin(a) * b) + np.exp(0.3 * c) * np.sum(a**3) + np.prod(b)

    point = np.array([0.3, -0.7, 1.1, 0.4, -0.9])
    tree = {"b": [jnp.asarray(point[2:4]), jnp.asarray(point[4])], "a": jnp.asarray(point[:2])}
    found = np.asarray(hessian(function, tree))
    np.testing.assert_allclose(found, reference.hessian(of_vector, point), atol=1e-6)
    np.testing.assert_array_equal(found, found.T)


def test_hessian_of_more_columns_than_are_held_at_a_time():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(70, 70))
    found = hessian(lambda v: 0.5 * v @ (root @ (root.T @ v)), jnp.zeros(70))
    np.testing.assert_allclose(found, root @ root.T, atol=1e-12)


# Gauss-Newton.


@dataclass(frozen=True)
class GgnCase:
    """A likelihood, and what it says in scipy's words.

    Attributes:
        likelihood: of jaxmap.
        width: outputs of the network per example.
        learned: unconstrained values of the learned parameters, in the order of their names; all are positive.
        log_prob: (u, y) -> log p(y | u), u = (outputs, learned parameters).
        grid: u -> the y that the expectation runs over, and their weights.
        y: targets.
    """

    likelihood: Any
    width: int
    learned: tuple[float, ...]
    log_prob: Callable[[np.ndarray, np.ndarray], np.ndarray]
    grid: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    y: np.ndarray


def _counts(most: int):
    return lambda u: (np.arange(most), np.ones(most))


REAL = np.array([0.3, -1.2, 4.0, 0.1, -0.4])
COUNTS = np.array([0, 3, 1, 7, 2])
POSITIVE = jm.Learned(dist.HalfNormal(1.0))

GGN = {
    "Gaussian": GgnCase(
        jm.Gaussian(scale=0.7),
        1,
        (),
        lambda u, y: stats.norm.logpdf(y, u[0], 0.7),
        lambda u: reference.real_line(u[0], 0.7),
        REAL,
    ),
    "Gaussian, learned scale": GgnCase(
        jm.Gaussian(scale=POSITIVE),
        1,
        (-0.3,),
        lambda u, y: stats.norm.logpdf(y, u[0], u[1]),
        lambda u: reference.real_line(u[0], u[1]),
        REAL,
    ),
    "HeteroscedasticGaussian": GgnCase(
        jm.HeteroscedasticGaussian(),
        2,
        (),
        lambda u, y: stats.norm.logpdf(y, u[0], np.exp(u[1])),
        lambda u: reference.real_line(u[0], np.exp(u[1])),
        REAL,
    ),
    "StudentT, learned scale": GgnCase(
        jm.StudentT(df=4.0, scale=POSITIVE),
        1,
        (0.2,),
        lambda u, y: stats.t.logpdf(y, 4.0, u[0], u[1]),
        lambda u: reference.real_line(u[0], u[1]),
        REAL,
    ),
    "StudentT, learned df and scale": GgnCase(
        jm.StudentT(df=POSITIVE, scale=POSITIVE),
        1,
        (1.1, 0.2),
        lambda u, y: stats.t.logpdf(y, u[1], u[0], u[2]),
        lambda u: reference.real_line(u[0], u[2]),
        REAL,
    ),
    "Bernoulli": GgnCase(
        jm.Bernoulli(), 1, (), lambda u, y: special.log_expit((2 * y - 1) * u[0]), _counts(2), COUNTS % 2
    ),
    "Categorical": GgnCase(jm.Categorical(), 3, (), lambda u, y: special.log_softmax(u)[y], _counts(3), COUNTS % 3),
    "Poisson": GgnCase(jm.Poisson(), 1, (), lambda u, y: stats.poisson.logpmf(y, np.exp(u[0])), _counts(100), COUNTS),
    "NegativeBinomial": GgnCase(
        jm.NegativeBinomial(concentration=POSITIVE),
        1,
        (0.4,),
        lambda u, y: stats.nbinom.logpmf(y, u[1], u[1] / (u[1] + np.exp(u[0]))),
        _counts(600),
        COUNTS,
    ),
    "a function that returns a Gamma": GgnCase(
        lambda outputs: dist.Gamma(jnp.exp(outputs[:, 0]), jnp.exp(outputs[:, 1])),
        2,
        (),
        lambda u, y: stats.gamma.logpdf(y, np.exp(u[0]), scale=np.exp(-u[1])),
        lambda u: reference.half_line(),
        np.abs(REAL),
    ),
}

X = np.random.default_rng(3).normal(size=(5, 2))


def _network(width: int):
    """Two inputs, `width` outputs, kernel and bias; nonlinear in both."""
    rng = np.random.default_rng(width)
    values = {"kernel": 0.6 * rng.normal(size=(2, width)), "bias": 0.4 * rng.normal(size=width)}
    return (lambda key: jax.tree.map(jnp.asarray, values)), (
        lambda p, x: jnp.tanh(x @ p["kernel"]) * (1 + p["bias"][None] ** 2) + p["bias"][None]
    )


def _outputs(z: np.ndarray, i: int, width: int) -> np.ndarray:
    """The same in numpy for example i, z = (bias, kernel) in ravel order."""
    bias, kernel = z[:width], z[width:].reshape(2, width)
    return np.tanh(X[i] @ kernel) * (1 + bias**2) + bias


def _at(case: GgnCase, scaling: Any = None):
    """The model, and the coordinates at which its curvature is taken: learned values first, as in ravel order."""
    init, apply = _network(case.width)
    model = jm.supervised((init, apply), case.likelihood, jm.Prior(jm.flat), scaling=scaling)
    network = init(None)
    z = network if not case.learned else {
        "network": network,
        "likelihood": dict(zip(sorted(case.likelihood.learned()), map(jnp.asarray, case.learned), strict=True)),
    }  # fmt: skip
    return model, z


def _matrix(model: jm.Model, z: Any, data: Any) -> np.ndarray:
    program = jax.jit(lambda z, data: ggn(unconstrained_outputs(model), model.emission, z, data))
    return np.asarray(program(z, jax.tree.map(jnp.asarray, data)))


def _slow(case: GgnCase, curvature: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    many, width = len(case.learned), case.width

    def outputs(v: np.ndarray, i: int) -> np.ndarray:
        return np.concatenate([_outputs(v[many:], i, width), np.exp(v[:many])])

    values = _network(width)[0](None)
    z = np.concatenate([case.learned, np.ravel(values["bias"]), np.ravel(values["kernel"])])
    return reference.ggn(outputs, curvature, z, len(X))


@pytest.mark.parametrize("name", GGN)
def test_ggn_is_the_loop_over_examples_with_the_fisher_information_by_quadrature(name):
    case = GGN[name]
    model, z = _at(case)
    expected = _slow(case, lambda u, i: reference.fisher(case.log_prob, u, *case.grid(u)))
    found = _matrix(model, z, (X, case.y))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    assert np.linalg.eigvalsh(found)[0] > -1e-12 * np.abs(found).max()
    np.testing.assert_array_equal(found, found.T)


def test_ggn_of_several_targets_adds_their_information():
    """y of shape (n, 2) with one learned scale: each target gives the scale its own share."""
    case = GgnCase(jm.Gaussian(scale=POSITIVE), 2, (0.3,), None, None, np.stack([REAL, -REAL], axis=1))
    model, z = _at(case)

    def curvature(u, i):
        return np.diag([u[2] ** -2, u[2] ** -2, 2 * 2 * u[2] ** -2])

    np.testing.assert_allclose(_matrix(model, z, (X, case.y)), _slow(case, curvature), rtol=1e-7, atol=1e-8)


def test_ggn_does_not_depend_on_the_units_of_y():
    """Scaling y moves and stretches the distribution; the information about the outputs stays."""
    case = GGN["Gaussian, learned scale"]
    scaling = jm.Scaling(np.zeros(2), np.ones(2), np.asarray(40.0), np.asarray(7.0))
    plain, scaled = _at(case), _at(case, scaling)
    np.testing.assert_allclose(
        _matrix(*scaled, (X, 40 + 7 * case.y)), _matrix(*plain, (X, case.y)), rtol=1e-12, atol=1e-12
    )


def test_ggn_of_an_unknown_family_is_the_hessian_at_y_without_its_negative_part():
    """Cauchy: -log p = log(1 + r^2), whose second derivative 2 (1 - r^2) / (1 + r^2)^2 is negative beyond r = 1."""
    case = GgnCase(lambda outputs: dist.Cauchy(outputs, 1.0), 1, (), None, None, REAL)
    model, z = _at(case)

    def curvature(u, i):
        square = (case.y[i] - u[0]) ** 2
        return np.array([[max(0.0, 2 * (1 - square) / (1 + square) ** 2)]])

    expected = _slow(case, curvature)
    np.testing.assert_allclose(_matrix(model, z, (X, case.y)), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ["Gaussian", "Bernoulli", "Categorical", "Poisson"])
def test_ggn_is_the_hessian_where_the_network_is_linear_and_the_link_canonical(name):
    case = GGN[name]
    params = {"kernel": jnp.asarray(0.3 * np.random.default_rng(1).normal(size=(2, case.width)))}
    model = jm.supervised((lambda key: params, lambda p, x: x @ p["kernel"]), case.likelihood, jm.Prior(jm.flat))
    data = (jnp.asarray(X), jnp.asarray(case.y))
    exact = hessian(lambda p: -jnp.sum(model.log_likelihood(p, data)), params)
    np.testing.assert_allclose(_matrix(model, params, data), exact, atol=1e-12)


def test_ggn_adds_over_splits_and_chunks(monkeypatch):
    case = GGN["Categorical"]
    model, z = _at(case)
    whole = _matrix(model, z, (X, case.y))
    parts = _matrix(model, z, (X[:2], case.y[:2])) + _matrix(model, z, (X[2:], case.y[2:]))
    np.testing.assert_allclose(whole, parts, atol=1e-13)
    for examples in (2, 3, 4):  # 5 examples: the last chunk is ragged
        monkeypatch.setattr(importlib.import_module("jaxmap.curvature.ggn"), "JACOBIAN_NUMBERS", examples * 3 * 9)
        np.testing.assert_allclose(_matrix(model, z, (X, case.y)), whole, atol=1e-13)


# Sums over examples.


@pytest.mark.parametrize("chunk", [1, 3, 4, 5, 9, 10, 11])
def test_sums_over_examples_do_not_depend_on_the_chunk(chunk):
    rng = np.random.default_rng(0)
    data = {"x": jnp.asarray(rng.normal(size=(10, 2))), "y": jnp.arange(10)}

    def function(batch, weights):
        each = weights * jnp.exp(batch["x"][:, 0])
        return {"sum": jnp.sum(each), "outer": (weights[:, None] * batch["x"]).T @ batch["x"], "n": jnp.sum(weights)}

    x = np.asarray(data["x"])
    total = sum_over_examples(function, data, chunk)
    np.testing.assert_allclose(total["sum"], np.exp(x[:, 0]).sum(), rtol=1e-14)
    np.testing.assert_allclose(total["outer"], x.T @ x, rtol=1e-12)
    assert total["n"] == 10


@pytest.mark.parametrize("chunk", [1, 3, 4, 5, 9, 10, 11])
def test_rows_of_examples_do_not_depend_on_the_chunk(chunk):
    data = {"x": jnp.arange(20.0).reshape(10, 2), "y": jnp.arange(10)}
    found = map_over_examples(lambda batch: {"sum": batch["x"].sum(1) + batch["y"], "row": batch["x"]}, data, chunk)
    np.testing.assert_array_equal(found["row"], data["x"])
    np.testing.assert_array_equal(found["sum"], np.sum(data["x"], axis=1) + np.arange(10))


# From curvature to a Gaussian.

NAMES = ["a", "b[0]", "b[1]"]


def test_a_factor_is_that_of_the_precision_however_badly_scaled():
    """Scales from 1e-6 to 1e6 and a correlation of 0.9999: not singular."""
    correlation = np.array([[1.0, 0.9999, 0.1], [0.9999, 1.0, 0.1], [0.1, 0.1, 1.0]])
    scales = np.array([1e-6, 1.0, 1e6])
    matrix = correlation * np.outer(scales, scales)
    factor, added = factorize(matrix, lambda: NAMES)
    covariance = factor.root @ factor.root.T
    np.testing.assert_allclose(factor.chol_prec @ factor.chol_prec.T, matrix, rtol=1e-12)
    np.testing.assert_allclose(covariance * np.outer(scales, scales), np.linalg.inv(correlation), rtol=1e-9)
    np.testing.assert_allclose(factor.log_det, np.linalg.slogdet(correlation)[1], rtol=1e-9)
    assert added == 0.0


def test_colored_noise_has_the_covariance():
    matrix = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 4.0]])
    factor, _ = factorize(matrix, lambda: NAMES)
    noise = np.random.default_rng(0).normal(size=(3, 20_000))
    drawn = factor.color(noise)
    covariance = np.linalg.inv(matrix)
    spread = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(spread, spread)
    found = np.cov(drawn, bias=True) / np.outer(spread, spread)
    np.testing.assert_array_less(np.abs(found - correlation), 4 * np.sqrt((1 + correlation**2) / 20_000))


def test_a_flat_direction_is_an_error_that_names_it():
    """a and b[1] only enter through their sum."""
    matrix = np.array([[1.0, 0.0, 1.0], [0.0, 2.0, 0.0], [1.0, 0.0, 1.0]])
    for clip in (False, True):
        with pytest.raises(SingularCurvatureError, match=r"1 flat direction\(s\) along (a, b\[1\]|b\[1\], a)\."):
            factorize(matrix, lambda: NAMES, clip=clip)


def test_a_parameter_without_any_curvature_is_flat():
    with pytest.raises(SingularCurvatureError, match=r"along b\[0\]\."):
        factorize(np.diag([1.0, 0.0, 3.0]), lambda: NAMES)


def test_a_negative_direction_is_an_error_that_names_it():
    with pytest.raises(SingularCurvatureError, match=r"1 direction\(s\) of negative curvature along b\[1\]\."):
        factorize(np.diag([1.0, 2.0, -3.0]), lambda: NAMES)


def test_clipping_turns_negative_eigenvalues_positive_and_says_how_much():
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    matrix = (basis * [3.0, 1.0, -0.5]) @ basis.T
    matrix += np.diag(1.0 - np.diag(matrix))  # a unit diagonal, so that scaling changes nothing
    values, vectors = np.linalg.eigh(matrix)
    assert values[0] < 0 < values[1]
    factor, added = factorize(matrix, lambda: NAMES, clip=True)
    expected = (vectors * np.abs(values)) @ vectors.T
    np.testing.assert_allclose(factor.chol_prec @ factor.chol_prec.T, expected, atol=1e-12)
    np.testing.assert_allclose(added, -2 * values[0], rtol=1e-10)
    np.testing.assert_allclose(factor.log_det, np.sum(np.log(np.abs(values))), rtol=1e-10)
    assert np.all(np.diag(factor.chol_prec) > 0)
    assert np.allclose(np.triu(factor.chol_prec, 1), 0.0)


def test_clipping_commutes_with_scaling():
    """Stretching a coordinate stretches the clipped precision with it."""
    matrix = np.array([[1.0, 1.5, 0.2], [1.5, 1.0, 0.0], [0.2, 0.0, 1.0]])
    stretch = np.array([1e-3, 1.0, 1e4])
    plain, scaled = (
        factorize(m, lambda: NAMES, clip=True)[0].chol_prec for m in (matrix, matrix * np.outer(stretch, stretch))
    )
    np.testing.assert_allclose(scaled @ scaled.T, plain @ plain.T * np.outer(stretch, stretch), rtol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_curvature_that_is_not_finite_is_refused(bad):
    with pytest.raises(SingularCurvatureError, match="NaN or infinity"):
        scaled_spectrum(np.diag([1.0, bad]))
