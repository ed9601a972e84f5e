"""What Hessian-vector products tell, against numpy; and the certificates of many parameters that rest on them."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import jaxmap as jm
from jaxmap import Status
from jaxmap.optimize import krylov, lanczos

KEY = jax.random.key(0)


def symmetric(seed, eigenvalues):
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))[0]
    return (basis * eigenvalues) @ basis.T


SPECTRA = {
    "well conditioned": np.linspace(1.0, 10.0, 40),
    "one negative": np.append(-0.5, np.linspace(1.0, 10.0, 39)),
    "one flat": np.append(0.0, np.linspace(1.0, 10.0, 39)),
    "all equal": np.full(40, 3.0),
    "two values": np.repeat([1.0, 4.0], 20),
    "badly conditioned": np.logspace(-6, 2, 40),
    "negative definite": -np.linspace(1.0, 10.0, 40),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_lanczos_finds_the_ends_of_the_spectrum(name, x64):
    matrix = symmetric(0, SPECTRA[name])
    noise = jnp.asarray(np.random.default_rng(1).normal(size=40))
    ends = lanczos(lambda v: jnp.asarray(matrix) @ v, noise, 40)
    low, high = np.min(SPECTRA[name]), np.max(SPECTRA[name])
    size = np.max(np.abs(SPECTRA[name]))
    np.testing.assert_allclose([ends.smallest, ends.largest], [low, high], atol=1e-9 * size)
    vector = np.asarray(ends.vector)
    np.testing.assert_allclose(np.linalg.norm(vector), 1.0, rtol=1e-9)
    np.testing.assert_allclose(matrix @ vector, low * vector, atol=1e-6 * size)


@pytest.mark.parametrize("steps", [3, 8, 20])
def test_an_unfinished_lanczos_run_bounds_its_own_error(steps, x64):
    """There is an eigenvalue within `residual` of the Ritz value, and that is ||H v - value v||."""
    values = np.logspace(-3, 3, 60)
    matrix = symmetric(2, values)
    noise = jnp.asarray(np.random.default_rng(3).normal(size=60))
    ends = lanczos(lambda v: jnp.asarray(matrix) @ v, noise, steps)
    vector = np.asarray(ends.vector)
    away = np.linalg.norm(matrix @ vector - float(ends.smallest) * vector)
    np.testing.assert_allclose(ends.residual, away, rtol=1e-6, atol=1e-9)
    assert np.min(np.abs(values - float(ends.smallest))) <= float(ends.residual) * (1 + 1e-9)
    assert ends.smallest >= values[0] * (1 - 1e-9)


@pytest.mark.parametrize("name", ["well conditioned", "all equal", "two values"])
def test_the_decrement_is_that_of_numpy(name, x64):
    matrix = symmetric(4, SPECTRA[name])
    gradient = np.random.default_rng(5).normal(size=40)
    found, step, spent = krylov.decrement(lambda v: jnp.asarray(matrix) @ v, jnp.asarray(gradient))
    np.testing.assert_allclose(found, np.sqrt(gradient @ np.linalg.solve(matrix, gradient)), rtol=1e-4)
    np.testing.assert_allclose(step, np.linalg.solve(matrix, gradient), atol=1e-3)
    assert 0 < spent <= 41


def test_there_is_no_decrement_where_the_curvature_is_negative_or_the_products_run_out(x64, monkeypatch):
    gradient = jnp.asarray(np.random.default_rng(5).normal(size=40))
    for name in ("one negative", "negative definite"):
        matrix = jnp.asarray(symmetric(4, SPECTRA[name]))
        assert np.isnan(krylov.decrement(lambda v, m=matrix: m @ v, gradient)[0])
    matrix = jnp.asarray(symmetric(4, SPECTRA["badly conditioned"]))
    monkeypatch.setattr(krylov, "MOST_PRODUCTS", 3)
    assert np.isnan(krylov.decrement(lambda v: matrix @ v, gradient)[0])


def test_the_decrement_of_no_gradient_is_zero(x64):
    assert krylov.decrement(lambda v: 2 * v, jnp.zeros(5))[0] == 0.0


# Certificates of many parameters.


@pytest.fixture
def few_are_many(monkeypatch):
    """Judge by products from eleven parameters on."""
    monkeypatch.setattr(importlib.import_module("jaxmap.optimize.certificate"), "DENSE_UP_TO", 10)


def judged(log_density, w):
    model = jm.from_log_density(lambda p: log_density(p["w"]), init={"w": w})
    return jm.fit(KEY, model, None, jm.Given({"w": w}), precision="float64").info


CENTER = np.random.default_rng(8).normal(size=1600)
WIDTHS = np.linspace(0.5, 2.0, 1600)


def wide_gaussian(w):
    return -0.5 * jnp.sum(((w - CENTER) / WIDTHS) ** 2)


def test_sixteen_hundred_parameters_are_certified_at_their_mode_and_not_a_tenth_away():
    model = jm.from_log_density(lambda p: wide_gaussian(p["w"]), init={"w": np.zeros(1600)})
    shift = WIDTHS / np.sqrt(1600)  # one posterior standard deviation in all
    at = lambda distance: jm.fit(KEY, model, None, jm.Given({"w": CENTER + distance * shift}), precision="float64").info
    assert at(0.0).status is Status.CONVERGED
    assert at(0.001).status is Status.CONVERGED
    np.testing.assert_allclose(at(0.001).certificate.decrement, 0.001, rtol=1e-3)
    assert at(0.1).status is not Status.CONVERGED


@pytest.mark.slow
def test_a_logistic_regression_of_sixteen_hundred_parameters_is_climbed_and_certified():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 1600)) / 40
    y = (x @ rng.normal(size=1600) > 0).astype(int)
    model = jm.supervised((lambda key: {"w": jnp.zeros(1600)}, lambda p, x: x @ p["w"]), jm.Bernoulli(),
                          jm.Prior(dist.Normal(0.0, 1.0)))  # fmt: skip
    point = jm.fit(KEY, model, (x, y), jm.MAP(), precision="float64")
    assert point.info.status is Status.CONVERGED
    w = np.asarray(point.mode["w"])
    slope = x.T @ (y - 1 / (1 + np.exp(-x @ w))) - w
    assert np.abs(slope).max() < 1e-5


@pytest.mark.usefixtures("few_are_many")
@pytest.mark.parametrize("size", [12, 30])
def test_by_products_a_saddle_a_flat_direction_and_a_plateau_are_no_maxima(size):
    basis = symmetric(3, np.linspace(1.0, 4.0, size))
    _, vectors = np.linalg.eigh(basis)
    for lowest in (-1e-3, 0.0):
        values = np.append(lowest, np.linspace(1.0, 4.0, size - 1))
        matrix = (vectors * values) @ vectors.T
        info = judged(lambda w, m=matrix: -0.5 * w @ (m @ w), np.zeros(size))
        assert info.status is Status.NOT_A_MAXIMUM
        assert info.certificate.flat
    assert judged(lambda w: 0.0 * jnp.sum(w), np.zeros(size)).status is not Status.CONVERGED


@pytest.mark.slow
@pytest.mark.usefixtures("few_are_many")
@pytest.mark.parametrize("shape", [(60, 12), (30, 20)])
def test_by_products_separated_classes_are_never_certified(shape):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    y = (x @ rng.normal(size=shape[1]) > 0).astype(int)
    size = shape[1]
    model = jm.supervised((lambda key: {"w": jnp.zeros(size)}, lambda p, x: x @ p["w"]), jm.Bernoulli())
    for solver in (jm.Newton(), jm.LBFGS(), jm.NewtonCG()):
        info = jm.fit(KEY, model, (x, y), jm.MLE(solver), precision="float64").info
        assert info.status is not Status.CONVERGED, solver.name


@pytest.mark.usefixtures("few_are_many")
def test_by_products_a_run_away_beside_sound_coordinates_is_never_certified():
    def log_density(w):
        return -0.5 * jnp.sum(w[1:] ** 2) - jax.nn.sigmoid(w[0]) * (1 + 0.1 * jnp.sum(w[1:]))

    for place in (-12.0, -20.0, -30.0):
        assert judged(log_density, np.append(place, np.zeros(14))).status is not Status.CONVERGED


@pytest.mark.usefixtures("few_are_many")
def test_by_products_held_coordinates_are_named_and_the_free_ones_judged():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 30))
    y = x[:, :14] @ np.full(14, 2.0) + 0.3 * rng.normal(size=50)
    model = jm.supervised((lambda key: {"w": jnp.zeros(30)}, lambda p, x: x @ p["w"]), jm.Gaussian(scale=0.3),
                          jm.l1(30.0))  # fmt: skip
    point = jm.fit(KEY, model, (x, y), jm.MAP(jm.ProximalNewton()), precision="float64")
    held = np.flatnonzero(np.asarray(point.mode["w"]) == 0.0)
    assert 0 < len(held) < 20
    assert point.info.status is Status.CONVERGED
    assert point.info.certificate.held == tuple(f"w[{i}]" for i in held)
