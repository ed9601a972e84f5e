"""Solvers against brute force, and on functions that are known to be hard."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmap as jm
from jaxmap.optimize import Task, choose_solver
from jaxmap.optimize.trust_region import trust_region_step
from tests import reference

KEY = jax.random.key(0)


# The trust-region step.


def _spheres(seed: int, size: int, eigenvalues: list[float]) -> np.ndarray:
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]
    return (basis * eigenvalues) @ basis.T


REGIONS = {
    "interior minimum": (np.diag([2.0, 5.0]), np.array([0.1, -0.2]), 10.0),
    "on the edge": (np.diag([2.0, 5.0]), np.array([4.0, -3.0]), 0.5),
    "indefinite": (_spheres(0, 3, [-1.0, 0.5, 3.0]), np.array([0.3, -1.0, 0.7]), 2.0),
    "negative definite": (_spheres(1, 3, [-3.0, -2.0, -0.1]), np.array([0.3, 0.2, -0.4]), 1.5),
    "the hard case": (np.diag([-2.0, 1.0]), np.array([0.0, 0.1]), 1.0),
    "the hard case, rotated": (_spheres(2, 3, [-2.0, 1.0, 4.0]), None, 3.0),
    "almost the hard case": (np.diag([-2.0, 1.0]), np.array([1e-9, 0.1]), 1.0),
    "on a saddle": (np.diag([-2.0, 1.0]), np.zeros(2), 0.7),
    "one dimension, concave": (np.array([[-2.0]]), np.array([0.5]), 0.3),
    "a flat direction downhill": (np.diag([0.0, 1.0]), np.array([1.0, 1.0]), 5.0),
    "tiny numbers": (1e-9 * np.diag([-1.0, 2.0]), 1e-9 * np.array([0.5, 1.0]), 2.0),
    "a small ball": (np.diag([1e4, 1.0]), np.array([1.0, 1.0]), 1e-4),
}


def _region(name: str):
    matrix, gradient, radius = REGIONS[name]
    if gradient is None:  # orthogonal to the lowest curvature, and too short to reach the edge
        _, vectors = np.linalg.eigh(matrix)
        gradient = 0.3 * vectors[:, 1] - 0.2 * vectors[:, 2]
    return matrix, gradient, radius


@pytest.mark.parametrize("name", REGIONS)
def test_a_trust_region_step_is_the_best_point_of_the_ball(name, x64):
    matrix, gradient, radius = _region(name)
    step, predicted = jax.jit(trust_region_step)(jnp.asarray(matrix), jnp.asarray(gradient), jnp.asarray(radius))
    step = np.asarray(step)
    value = gradient @ step + 0.5 * step @ matrix @ step
    scale = np.abs(gradient).max() * radius + np.abs(matrix).max() * radius**2
    assert np.linalg.norm(step) <= radius * (1 + 1e-6)
    assert value <= reference.trust_region_minimum(matrix, gradient, radius) + 1e-7 * scale
    np.testing.assert_allclose(predicted, -value, atol=1e-9 * scale)


@pytest.mark.parametrize("name", REGIONS)
def test_a_trust_region_step_in_single_precision(name):
    matrix, gradient, radius = _region(name)
    single = (jnp.asarray(v, jnp.float32) for v in (matrix, gradient, radius))
    step, predicted = jax.jit(trust_region_step)(*single)
    step = np.asarray(step, np.float64)
    scale = np.abs(gradient).max() * radius + np.abs(matrix).max() * radius**2
    value = gradient @ step + 0.5 * step @ matrix @ step
    assert np.linalg.norm(step) <= radius * (1 + 1e-3)
    assert value <= reference.trust_region_minimum(matrix, gradient, radius) + 1e-4 * scale
    assert np.isfinite(predicted)


# Functions that are known to be hard.


def _fit(log_density, init, method, **options):
    return jm.fit(KEY, jm.from_log_density(log_density, init=init), None, method, **options)


def rosenbrock(p):
    return -((1 - p["x"]) ** 2) - 100 * (p["y"] - p["x"] ** 2) ** 2


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("solver", [jm.Newton(), jm.LBFGS()], ids=["Newton", "L-BFGS"])
def test_the_banana_valley(solver, precision):
    point = _fit(rosenbrock, {"x": -1.2, "y": 1.0}, jm.MAP(solver), precision=precision)
    tolerance = 1e-7 if precision == "float64" else 2e-3
    np.testing.assert_allclose([point.mode["x"], point.mode["y"]], [1.0, 1.0], atol=tolerance)
    assert point.info.status is jm.Status.CONVERGED
    assert len(point.info.history) < 100


SADDLES = {
    "two wells": (lambda p: -(p["x"] ** 4) + p["x"] ** 2 - p["y"] ** 2, 0.25),
    "two wide wells": (lambda p: -1e-4 * p["x"] ** 4 + p["x"] ** 2 - p["y"] ** 2, 2500.0),
    "two leaning wells": (lambda p: p["x"] * p["y"] - p["x"] ** 4 - p["y"] ** 4, 0.125),
}


@pytest.mark.parametrize(
    ("name", "y", "precision"),
    [
        ("two wells", 0.0, "float64"),
        ("two wells", 0.0, "float32"),
        ("two wells", 0.7, "float64"),
        ("two wide wells", 0.0, "float64"),
        ("two leaning wells", 0.0, "float64"),
    ],
)
def test_newton_leaves_a_saddle(name, y, precision):
    """At (0, 0) the gradient vanishes; from (0, 0.7) the first steps run straight into it."""
    log_density, best = SADDLES[name]
    point = _fit(log_density, {"x": 0.0, "y": y}, jm.MAP(jm.Newton()), precision=precision)
    np.testing.assert_allclose(point.info.log_joint, best, rtol=1e-5)
    assert point.info.status is jm.Status.CONVERGED


def test_newton_steps_back_from_where_the_density_is_not_finite():
    """A step from 0.01 would jump beyond zero, where the logarithm is not a number."""
    model = jm.from_log_density(lambda r: 3 * jnp.log(r) - r, init=0.01)
    for solver in (jm.Newton(), jm.LBFGS()):
        point = jm.fit(KEY, model, None, jm.MAP(solver), precision="float64")
        np.testing.assert_allclose(point.mode, 3.0, rtol=1e-7)


def test_the_solver_is_chosen_by_the_problem_and_said():
    for task, expected in [
        (Task(3), "trust-region Newton (chosen for full batches and 3 parameters)"),
        (Task(200), "trust-region Newton (chosen for full batches and 200 parameters)"),
        (Task(201), "L-BFGS (chosen for full batches and 201 parameters)"),
        (Task(3, batch_size=10), "Adam, rate decaying from 0.01 (chosen for minibatches)"),
        (Task(3, kinked=True), "proximal Newton (chosen for full batches, 3 parameters and an L1 prior)"),
        (Task(1500, kinked=True), "proximal Newton (chosen for full batches, 1500 parameters and an L1 prior)"),
        (
            Task(1501, kinked=True),
            "accelerated proximal gradients (chosen for full batches, 1501 parameters and an L1 prior)",
        ),
    ]:
        assert choose_solver(None, task)[1] == expected


def test_a_dear_hessian_is_kept_by_secants_unless_members_share_a_program():
    """Under vmap both branches of a choice are computed, so that laziness would save nothing."""
    dear = Task(100, num_examples=1000)
    for solver in (None, jm.Newton(), jm.ProximalNewton()):
        assert choose_solver(solver, dear)[0].lazy
        assert not choose_solver(solver, Task(100, num_examples=999))[0].lazy
        assert not choose_solver(solver, Task(100, num_examples=1000, members=2))[0].lazy
    assert not choose_solver(jm.Newton(lazy=False), dear)[0].lazy
    assert choose_solver(jm.Newton(lazy=True), Task(1))[0].lazy


@pytest.mark.parametrize("solver", [jm.LBFGS(), jm.Newton(), jm.NewtonCG()])
def test_a_smooth_solver_is_refused_beside_an_l1_prior(solver):
    with pytest.raises(ValueError, match="Expected a proximal solver for an L1 prior"):
        choose_solver(solver, Task(3, kinked=True))


def test_an_unknown_curvature_is_refused(unchecked):
    with pytest.raises(ValueError, match="Expected curvature='exact', 'ggn' or None; got 'fisher'"):
        jm.Newton(curvature="fisher")


def test_a_limit_on_the_steps_reaches_every_solver():
    task = Task(3, steps=17)
    proximal = (jm.ProximalNewton(), jm.ProximalGradient())
    for solver in (None, jm.Newton(), jm.LBFGS(memory=4), jm.NewtonCG(), optax.sgd(0.1), *proximal):
        chosen, _ = choose_solver(solver, task)
        assert chosen.steps == 17
    assert choose_solver(jm.LBFGS(memory=4, tolerance=1e-3), task)[0] == jm.LBFGS(17, 1e-3, 4)


@pytest.mark.parametrize(
    ("solver", "name"),
    [
        (optax.adam(1e-3), "optax scale_by_adam"),
        (optax.sgd(0.1, momentum=0.9), "trace"),
        (optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)), "clip_by_global_norm"),
        (optax.adam(optax.cosine_decay_schedule(1e-2, 100)), "scale_by_adam"),
        (optax.MultiSteps(optax.adam(1e-3), 4), "MultiSteps"),
        (jm.LBFGS(), "L-BFGS"),
        (jm.Newton(), "trust-region Newton"),
        (jm.Newton(curvature="ggn"), "Levenberg-Marquardt (Gauss-Newton)"),
        (jm.NewtonCG(), "trust-region Newton-CG"),
        (jm.ProximalNewton(), "proximal Newton"),
        (jm.ProximalGradient(), "accelerated proximal gradients"),
    ],
)
def test_a_given_solver_is_described(solver, name):
    assert name in choose_solver(solver, Task(3))[1]


@pytest.mark.parametrize("solver", ["adam", 1e-3, optax.adam, jm.LBFGS, object()])
def test_what_is_not_a_solver_is_refused(solver, unchecked):
    with pytest.raises(TypeError, match=r"Expected an optax transformation, jm\.LBFGS"):
        choose_solver(solver, Task(3))


@pytest.mark.parametrize(
    "solver", [jm.LBFGS(), jm.Newton(), jm.NewtonCG(), jm.ProximalNewton(), jm.ProximalGradient()], ids=lambda s: s.name
)
def test_a_deterministic_solver_refuses_minibatches(solver):
    with pytest.raises(ValueError, match="Expected a stochastic solver for batch_size=8"):
        choose_solver(solver, Task(3, batch_size=8))
