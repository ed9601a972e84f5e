"""Newton in all its forms: closed forms, hard functions, badly scaled Gaussians, saddles, holes in the density."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmap as jm
from jaxmap.optimize.newton_cg import steihaug
from jaxmap.optimize.trust_region import trust_region_step

KEY = jax.random.key(0)
SOLVERS = {
    "eager": jm.Newton(lazy=False),
    "lazy": jm.Newton(lazy=True),
    "conjugate gradients": jm.NewtonCG(),
    "L-BFGS": jm.LBFGS(),
}
each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def rosenbrock(p):
    return -((1 - p["x"]) ** 2) - 100 * (p["y"] - p["x"] ** 2) ** 2


SCALES = np.array([1e-3, 1.0, 1e3])
COVARIANCE = np.outer(SCALES, SCALES) * (0.9 + 0.1 * np.eye(3))
CENTER = np.array([2e-3, -1.0, 500.0])
PRECISION = np.linalg.inv(COVARIANCE)


def badly_scaled(p):
    away = p["w"] - CENTER
    return -0.5 * away @ (PRECISION @ away)


def with_a_hole(p):
    """A logarithm that is not a number for r <= 0, and one for r >= 4; the mode is 3 at 3/r = 1 + 1/(4 - r) - 1."""
    return 3 * jnp.log(p["r"]) + jnp.log(4 - p["r"])


def two_wells(p):
    return -(p["x"] ** 4) + p["x"] ** 2 - p["y"] ** 2


@functools.cache
def model_of(function):
    """One model per function, so that all solvers share its certificate."""
    starts = {
        rosenbrock: {"x": -1.2, "y": 1.0},
        badly_scaled: {"w": np.zeros(3)},
        with_a_hole: {"r": 0.01},
        two_wells: {"x": 0.0, "y": 0.0},
    }
    return jm.from_log_density(function, init=starts[function])


def climb(function, solver, precision="float64"):
    return jm.fit(KEY, model_of(function), None, jm.MAP(solver), precision=precision)


@each_solver
def test_the_banana_valley(solver):
    point = climb(rosenbrock, solver)
    np.testing.assert_allclose([point.mode["x"], point.mode["y"]], [1.0, 1.0], atol=1e-6)
    assert point.info.status is jm.Status.CONVERGED
    assert len(point.info.history) < 150


@pytest.mark.parametrize("solver", list(SOLVERS.values())[:3], ids=list(SOLVERS)[:3])
def test_a_gaussian_with_scales_of_a_thousandth_and_a_thousand(solver):
    point = climb(badly_scaled, solver)
    np.testing.assert_allclose((point.mode["w"] - CENTER) / SCALES, 0.0, atol=1e-5)
    assert point.info.status is jm.Status.CONVERGED


@each_solver
def test_a_step_never_ends_where_the_density_is_not_finite(solver):
    point = climb(with_a_hole, solver)
    np.testing.assert_allclose(point.mode["r"], 3.0, rtol=1e-6)
    assert point.info.status is jm.Status.CONVERGED


@pytest.mark.parametrize("lazy", [False, True])
def test_newton_leaves_the_saddle_that_it_is_put_on(lazy):
    point = climb(two_wells, jm.Newton(lazy=lazy))
    np.testing.assert_allclose([abs(point.mode["x"]), point.mode["y"]], [0.5**0.5, 0.0], atol=1e-6)
    assert point.info.status is jm.Status.CONVERGED


@pytest.mark.parametrize("solver", [jm.NewtonCG(), jm.LBFGS()], ids=["conjugate gradients", "L-BFGS"])
def test_a_solver_that_stays_on_the_saddle_says_so(solver):
    """Their steps start along the gradient, and there is none."""
    info = climb(two_wells, solver).info
    assert info.status is jm.Status.NOT_A_MAXIMUM or info.log_joint > 0.2499


# Models with outputs.


def regression():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 3))
    return x, x @ np.array([1.0, -2.0, 0.5]) + 0.3 * rng.normal(size=40)


@functools.cache
def curve():
    """A growth curve; its Gauss-Newton matrix is not its Hessian."""
    x = np.linspace(0.0, 4.0, 30)
    y = 3.0 / (1 + np.exp(-2.0 * (x - 1.5))) + 0.05 * np.random.default_rng(0).normal(size=30)
    start = {"height": jnp.asarray(1.0), "rate": jnp.asarray(0.5), "middle": jnp.asarray(0.0)}
    apply = lambda p, x: p["height"] * jax.nn.sigmoid(p["rate"] * (x - p["middle"]))
    return jm.supervised((lambda key: start, apply), jm.Gaussian(scale=0.05)), (x, y)


FORMS = {
    "exact": jm.Newton(curvature="exact", lazy=False),
    "Gauss-Newton": jm.Newton(curvature="ggn", lazy=False),
    "lazy": jm.Newton(lazy=True),
    "lazy Gauss-Newton": jm.Newton(curvature="ggn", lazy=True),
    "conjugate gradients": jm.NewtonCG(),
}


@pytest.mark.parametrize("solver", FORMS.values(), ids=FORMS)
def test_all_forms_find_the_growth_curve(solver):
    from scipy.optimize import curve_fit

    model, (x, y) = curve()
    point = jm.fit(KEY, model, (x, y), jm.MLE(solver), precision="float64")
    exact, _ = curve_fit(lambda x, h, r, m: h / (1 + np.exp(-r * (x - m))), x, y, [3.0, 2.0, 1.5], ftol=1e-15)
    found = [point.mode[name] for name in ("height", "rate", "middle")]
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    assert point.info.status is jm.Status.CONVERGED


def test_newton_solves_least_squares_in_two_steps_and_all_forms_agree():
    x, y = regression()
    model = jm.supervised((lambda key: {"w": jnp.zeros(3)}, lambda p, x: x @ p["w"]), jm.Gaussian(scale=0.3))
    for form in ("exact", "Gauss-Newton", "lazy"):
        point = jm.fit(KEY, model, (x, y), jm.MLE(FORMS[form]), precision="float64")
        np.testing.assert_allclose(point.mode["w"], np.linalg.lstsq(x, y, rcond=None)[0], atol=1e-9)
        assert len(point.info.history) < 12


def test_the_gauss_newton_matrix_needs_a_model_with_outputs():
    with pytest.raises(ValueError, match="Expected a model with outputs for curvature='ggn'"):
        climb(rosenbrock, jm.Newton(curvature="ggn"))


def test_laziness_spends_fewer_gradients_for_the_same_mode():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 20))
    y = (x @ rng.normal(size=20) + rng.logistic(size=200) > 0).astype(int)
    model = jm.supervised(
        (lambda key: {"w": jnp.zeros(20)}, lambda p, x: x @ p["w"]), jm.Bernoulli(), jm.weight_decay(1.0)
    )
    eager, lazy = (
        jm.fit(KEY, model, (x, y), jm.MAP(jm.Newton(lazy=lazy)), precision="float64") for lazy in (False, True)
    )
    np.testing.assert_allclose(lazy.mode["w"], eager.mode["w"], atol=1e-6)
    assert lazy.info.status is eager.info.status is jm.Status.CONVERGED
    assert lazy.info.num_gradients < eager.info.num_gradients


# Truncated conjugate gradients.


def regions():
    rng = np.random.default_rng(0)
    for size in (2, 3):
        for eigenvalues in ([1.0, 2.0, 5.0], [1e-3, 1.0, 1e3], [-1.0, 2.0, 3.0], [-2.0, -1.0, -0.1]):
            basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
            for radius in (0.1, 1.0, 1e4):
                yield (basis * eigenvalues[:size]) @ basis.T, rng.normal(size=size), radius


def test_truncated_conjugate_gradients_stay_inside_and_get_the_exact_step_where_it_is_inside(x64):
    """On the edge they give at least the Cauchy decrease, a half of the best for convex models (Yuan, 2000)."""
    exact_step = jax.jit(trust_region_step)
    truncated = jax.jit(lambda h, g, r: steihaug(lambda v: h @ v, g, r, 50)[0])
    inside = 0
    for matrix, gradient, radius in regions():
        small = gradient * 1e-10  # the accuracy asked for is relative to the root of the gradient's size
        exact, best = exact_step(matrix, small, radius * 1e-10)
        step = np.asarray(truncated(jnp.asarray(matrix), jnp.asarray(small), jnp.asarray(radius * 1e-10)))
        assert np.linalg.norm(step) <= radius * 1e-10 * (1 + 1e-9)
        gain = -(small @ step + step @ matrix @ step / 2)
        convex = np.linalg.eigvalsh(matrix)[0] > 0
        assert gain <= best * (1 + 1e-6)
        assert gain >= 0.5 * best if convex else gain > 0
        if convex and np.linalg.norm(np.linalg.solve(matrix, small)) < radius * 1e-10:
            np.testing.assert_allclose(step, exact, rtol=1e-4, atol=1e-4 * np.linalg.norm(exact))
            inside += 1
        elif not convex:
            np.testing.assert_allclose(np.linalg.norm(step), radius * 1e-10, rtol=1e-9)
    assert inside >= 4


def test_truncated_conjugate_gradients_spend_no_more_products_than_they_may(x64):
    matrix = jnp.asarray(np.diag(np.logspace(0, 6, 30)))
    for limit in (1, 5):
        assert steihaug(lambda v: matrix @ v, jnp.ones(30), jnp.asarray(1e9), limit)[1] == limit
    assert steihaug(lambda v: matrix @ v, jnp.zeros(30), jnp.asarray(1.0), 5)[1] == 0
