"""CONVERGED is said at maxima, however badly scaled, and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import jaxmap as jm
from jaxmap import Status
from jaxmap.model import Density
from jaxmap.optimize import slope_at
from jaxmap.optimize.certificate import within_reach

KEY = jax.random.key(0)


def judge(log_density, params, precision="float64", support=None):
    """Certify given parameters of a density."""
    model = jm.from_log_density(log_density, init=params, support=support)
    return jm.fit(KEY, model, None, jm.Given(params), precision=precision).info


def gaussian(center, covariance):
    """A Gaussian over two scalars, a and b."""
    precision = np.linalg.inv(covariance)

    def log_density(p):
        away = jnp.stack([p["a"] - center[0], p["b"] - center[1]])
        return -0.5 * away @ (precision @ away)

    return log_density


def pair(a, b):
    return {"a": np.asarray(a, np.float64), "b": np.asarray(b, np.float64)}


SCALES = np.array([1e-4, 1e4])
STRETCHED = np.outer(SCALES, SCALES) * np.array([[1.0, 0.9999], [0.9999, 1.0]])
CENTER = np.array([3e-4, -2e4])


# True maxima.


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_maximum_is_certified_however_badly_scaled(precision):
    info = judge(gaussian(CENTER, STRETCHED), pair(*CENTER), precision)
    assert info.status is Status.CONVERGED
    assert info.certificate.decrement < (1e-8 if precision == "float64" else 0.1)
    np.testing.assert_allclose(info.certificate.smallest_curvature, 1e-4, rtol=1e-3)
    assert info.certificate.flat == ()


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("solver", [jm.Newton(), jm.LBFGS()], ids=["Newton", "L-BFGS"])
def test_solvers_reach_a_badly_scaled_maximum_and_are_certified(solver, precision):
    """Standard deviations of 1e-2 and 1e2 and a correlation of 0.99."""
    scales = np.array([1e-2, 1e2])
    covariance = np.outer(scales, scales) * np.array([[1.0, 0.99], [0.99, 1.0]])
    center = np.array([0.5, -300.0])
    model = jm.from_log_density(gaussian(center, covariance), init=pair(0.0, 0.0))
    point = jm.fit(KEY, model, None, jm.MAP(solver), precision=precision)
    away = (np.array([point.mode["a"], point.mode["b"]]) - center) / scales
    np.testing.assert_allclose(away, 0.0, atol=1e-6 if precision == "float64" else 2e-2)
    assert point.info.status is Status.CONVERGED


def test_newton_climbs_a_gaussian_of_scales_1e_minus_4_and_1e4():
    model = jm.from_log_density(gaussian(CENTER, STRETCHED), init=pair(0.0, 0.0))
    point = jm.fit(KEY, model, None, jm.MAP(jm.Newton()), precision="float64")
    np.testing.assert_allclose([point.mode["a"], point.mode["b"]], CENTER, rtol=1e-6)
    assert point.info.status is Status.CONVERGED


def test_a_maximum_is_certified_whatever_constant_the_density_carries():
    for constant in (-1e6, 0.0, 1e6):
        info = judge(lambda x, c=constant: c - 0.5 * (x - 2.0) ** 2, np.asarray(2.0))
        assert info.status is Status.CONVERGED


def test_a_constrained_maximum_is_certified():
    info = judge(lambda r: 3 * jnp.log(r) - r, np.asarray(3.0), support=dist.constraints.positive)
    assert info.status is Status.CONVERGED


# What is not a maximum.

NOT_MAXIMA = {
    "a saddle": (lambda p: p["a"] ** 2 - p["b"] ** 2, ("a",)),
    "a minimum": (lambda p: p["a"] ** 2 + p["b"] ** 2, ("a", "b")),
    "a minimum in one direction, badly scaled": (lambda p: 1e-8 * p["a"] ** 2 - 1e8 * p["b"] ** 2, ("a",)),
    "a slanted saddle": (lambda p: 4 * p["a"] * p["b"] - p["a"] ** 2 - p["b"] ** 2, ("a", "b")),
    "a flat ridge along the diagonal": (lambda p: -((p["a"] + p["b"]) ** 2), ("a", "b")),
    "a parameter without effect": (lambda p: -(p["a"] ** 2) + 0.0 * p["b"], ("b",)),
    "a fourth power": (lambda p: -(p["a"] ** 2) - p["b"] ** 4, ("b",)),
    "a plateau": (lambda p: 0.0 * (p["a"] + p["b"]), ("a", "b")),
}


@pytest.mark.parametrize("name", NOT_MAXIMA)
def test_what_is_not_a_maximum_is_not_certified_and_the_paths_are_named(name):
    log_density, paths = NOT_MAXIMA[name]
    info = judge(log_density, pair(0.0, 0.0))
    assert info.status is Status.NOT_A_MAXIMUM
    assert sorted(info.certificate.flat) == sorted(paths)


def test_the_entries_of_an_array_are_named():
    """Two equal columns of a design: only the sum of their weights is known."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(20, 2)))[:, [0, 1, 1]]
    info = judge(lambda p: -0.5 * jnp.sum((x @ p["layer"]["w"]) ** 2), {"layer": {"w": np.zeros(3)}})
    assert info.status is Status.NOT_A_MAXIMUM
    assert sorted(info.certificate.flat) == ["layer/w[1]", "layer/w[2]"]


def test_laplace_refuses_a_ridge_and_names_it():
    model = jm.from_log_density(NOT_MAXIMA["a flat ridge along the diagonal"][0], init=pair(0.3, 0.1))
    with pytest.raises(jm.FitError, match=r"flat or grows along (a, b|b, a)\."):
        jm.fit(KEY, model, None, jm.Laplace(), precision="float64")


# Too early to tell.


DIRECTIONS = [np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([0.6, -0.8])]


def test_a_tenth_of_a_standard_deviation_is_too_far():
    root = np.linalg.cholesky(STRETCHED)
    for direction in DIRECTIONS:
        info = judge(gaussian(CENTER, STRETCHED), pair(*(CENTER + root @ (0.1 * direction))))
        assert info.status is Status.STEPS_EXHAUSTED


def test_the_decrement_is_the_distance_in_standard_deviations():
    """Near enough for a Hessian: a density that carries a large constant has a small scaled gradient."""
    covariance = np.array([[4.0, 1.0], [1.0, 0.5]])
    root = np.linalg.cholesky(covariance)
    density = gaussian(np.array([1.0, -1.0]), covariance)
    for direction in DIRECTIONS:
        for distance, status in ((0.1, Status.STEPS_EXHAUSTED), (0.001, Status.CONVERGED)):
            place = pair(*(np.array([1.0, -1.0]) + root @ (distance * direction)))
            info = judge(lambda p: density(p) - 1e4, place)
            assert info.status is status
            np.testing.assert_allclose(info.certificate.decrement, distance, rtol=1e-6)


def test_one_step_is_too_few():
    model = jm.from_log_density(lambda p: -((1 - p["x"]) ** 2) - 100 * (p["y"] - p["x"] ** 2) ** 2,
                                init={"x": -1.2, "y": 1.0})  # fmt: skip
    for solver in (jm.Newton(), optax.adam(0.1)):
        assert jm.fit(KEY, model, None, jm.MAP(solver, steps=1)).info.status is Status.STEPS_EXHAUSTED


# Densities without a maximum.


def _separated():
    x = np.array([-2.0, -1.0, -0.5, 0.4, 1.0, 3.0])
    model = jm.supervised(
        (lambda key: {"bias": jnp.zeros(()), "slope": jnp.zeros(())}, lambda p, x: p["bias"] + p["slope"] * x),
        jm.Bernoulli(),
    )
    return model, (x, (x > 0).astype(int))


def _collapsing():
    """A mean that fits its one value exactly: the density grows without end as the scale goes to zero."""
    model = jm.Model(
        observe=lambda p, x: dist.Normal(p["mean"] * jnp.ones_like(x), p["scale"]),
        init={"mean": 0.5, "scale": 1.0},
        support={"mean": dist.constraints.real, "scale": dist.constraints.positive},
    )
    return model, (np.zeros(3), np.full(3, 2.0))


@pytest.mark.parametrize(
    ("solver", "precision"),
    [(None, "float64"), (jm.LBFGS(), "float32"), (optax.adam(0.05), "float32")],
    ids=["Newton", "L-BFGS", "Adam"],
)
@pytest.mark.parametrize("problem", [_separated, _collapsing], ids=["separated classes", "scale to zero"])
def test_a_density_without_a_maximum_is_never_certified(problem, solver, precision):
    model, data = problem()
    steps = 300 if isinstance(solver, optax.GradientTransformation) else None
    try:
        info = jm.fit(KEY, model, data, jm.MLE(solver, steps=steps), precision=precision).info
    except jm.FitError:
        return  # it ran out of the finite numbers, and said so
    assert info.status is not Status.CONVERGED


@pytest.mark.parametrize("solver", [jm.Newton(), jm.LBFGS()], ids=["Newton", "L-BFGS"])
def test_a_mode_on_the_edge_of_the_support_is_said_to_be_there(solver):
    """exp(-r) on r > 0 is highest at zero, which its logarithm never reaches."""
    model = jm.from_log_density(lambda r: -r, init=1.0, support=dist.constraints.positive)
    info = jm.fit(KEY, model, None, jm.MAP(solver), precision="float64").info
    assert info.status is Status.AT_BOUNDARY


def test_a_curvature_that_does_not_last_is_no_certificate():
    """Near the mode of exp(-w^4) the curvature 12 w^2 vanishes: a Gaussian of it would have a width of thousands."""
    model = jm.from_log_density(lambda w: -(w**4), init=0.5)
    assert jm.fit(KEY, model, None, jm.MAP(), precision="float64").info.status is not Status.CONVERGED


def test_only_what_can_be_certified_is_worth_float64():
    assert within_reach(1500, worth=1.0)
    assert not within_reach(10_000, worth=1.5)
    assert within_reach(10_000, worth=np.inf)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_slope_in_the_precision_of_the_fit_is_the_same_to_rounding(streamed):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 3)).astype(np.float32), rng.integers(0, 2, 300)
    linear = (lambda key: jnp.zeros(3), lambda b, x: x @ b)
    density = Density(jm.supervised(linear, jm.Bernoulli(), jm.Prior(dist.Normal(0.0, 1.0))))
    data = jm.Stream.of_arrays((x, y)).in_dtype(np.dtype("float32")) if streamed else (x, y)
    z = jnp.array([0.5, -1.0, 2.0])
    double, single = (slope_at(density, z, data, double=double) for double in (True, False))
    assert double.value.dtype == np.float64
    for a, b in zip(double, single, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4)
