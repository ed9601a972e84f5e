"""Proximal solvers against scikit-learn and brute force: the same exact zeros, the same numbers elsewhere."""

import functools
import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression

import jaxmap as jm
from jaxmap.optimize import l1_quadratic

KEY = jax.random.key(0)
SOLVERS = [jm.ProximalNewton(lazy=False), jm.ProximalNewton(lazy=True), jm.ProximalGradient()]
each_solver = pytest.mark.parametrize("solver", SOLVERS, ids=["Newton", "lazy Newton", "gradient"])


def network(width):
    return (lambda key: {"b": jnp.zeros(()), "w": jnp.zeros(width)}), (lambda p, x: x @ p["w"] + p["b"])


def design(kind):
    """Data whose truth is sparse."""
    rng = np.random.default_rng(len(kind))
    rows, columns = (20, 40) if kind == "p > n" else (60, 12)
    x = rng.normal(size=(rows, columns))
    if kind == "correlated":
        x = 0.1 * x + x[:, :1] + 0.3 * np.roll(x, 1, axis=1)
    truth = np.zeros(columns)
    truth[:4] = [2.0, -1.5, 1.0, 0.5]
    return x, x @ truth + 0.7 + 0.5 * rng.normal(size=rows)


DESIGNS = ["plain", "correlated", "p > n"]


def same_as_sklearn(point, coef, intercept, tolerance=1e-6):
    """Equal numbers, and zeros that are zeros."""
    np.testing.assert_allclose(point.mode["w"], coef, atol=tolerance)
    np.testing.assert_allclose(point.mode["b"], intercept, atol=tolerance)
    np.testing.assert_array_equal(np.asarray(point.mode["w"]) == 0.0, coef == 0.0)
    assert 0 < np.sum(coef == 0.0) < len(coef)
    assert point.info.status is jm.Status.CONVERGED
    assert point.info.certificate.held == tuple(f"w[{i}]" for i in np.flatnonzero(coef == 0.0))


@functools.cache
def lasso(kind, alpha=0.1):
    """The model, its data, and what scikit-learn finds; one program for the certificates of all solvers."""
    x, y = design(kind)
    theirs = Lasso(alpha=alpha, tol=1e-14, max_iter=1_000_000).fit(x, y)
    penalty = jm.l1(alpha, per="mean", num_examples=len(y), loss="half_mse", noise_scale=0.5)
    model = jm.supervised(network(x.shape[1]), jm.Gaussian(scale=0.5), jm.Prior({"b": jm.flat, "w": penalty}))
    return model, (x, y), theirs


@functools.cache
def sparse_logistic():
    x, y = design("plain")
    label = (y + np.random.default_rng(0).normal(size=len(y)) > 0.7).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the names of scikit-learn's penalties change with every version
        theirs = LogisticRegression(penalty="l1", solver="saga", C=0.25, tol=1e-12, max_iter=1_000_000).fit(x, label)
    prior = jm.Prior({"b": jm.flat, "w": jm.l1(4.0)})
    return jm.supervised(network(x.shape[1]), jm.Bernoulli(), prior), (x, label), theirs


@functools.cache
def correlated_elastic_net():
    x, y = design("correlated")
    alpha, ratio = 0.05, 0.4
    theirs = ElasticNet(alpha=alpha, l1_ratio=ratio, tol=1e-14, max_iter=1_000_000).fit(x, y)
    how = {"per": "mean", "num_examples": len(y), "loss": "half_mse", "noise_scale": 0.5}
    penalty = jm.elastic_net(alpha * ratio, alpha * (1 - ratio), **how)
    prior = jm.Prior({"b": jm.flat, "w": penalty})
    return jm.supervised(network(x.shape[1]), jm.Gaussian(scale=0.5), prior), (x, y), theirs


@pytest.mark.parametrize("kind", DESIGNS)
@each_solver
def test_the_lasso_is_that_of_scikit_learn(solver, kind):
    model, data, theirs = lasso(kind)
    point = jm.fit(KEY, model, data, jm.MAP(solver, steps=50_000), precision="float64")
    same_as_sklearn(point, theirs.coef_, theirs.intercept_)


@each_solver
def test_the_elastic_net_is_that_of_scikit_learn(solver):
    model, data, theirs = correlated_elastic_net()
    point = jm.fit(KEY, model, data, jm.MAP(solver, steps=50_000), precision="float64")
    same_as_sklearn(point, theirs.coef_, theirs.intercept_)


@each_solver
def test_the_sparse_logistic_regression_is_that_of_scikit_learn(solver):
    model, data, theirs = sparse_logistic()
    point = jm.fit(KEY, model, data, jm.MAP(solver), precision="float64")
    same_as_sklearn(point, theirs.coef_[0], theirs.intercept_[0], tolerance=1e-5)


@pytest.mark.parametrize("solver", [None, jm.ProximalGradient()], ids=["Newton", "gradient"])
def test_the_lasso_in_single_precision_has_the_same_zeros_and_is_certified(solver):
    model, (x, y), theirs = lasso("plain")
    point = jm.fit(KEY, model, (x.astype("f"), y.astype("f")), jm.MAP(solver))
    same_as_sklearn(point, theirs.coef_, theirs.intercept_, tolerance=1e-4)


# Kinks elsewhere.


@pytest.mark.parametrize("solver", [jm.ProximalNewton(), jm.ProximalGradient()], ids=["Newton", "gradient"])
def test_a_kink_with_another_centre_holds_coordinates_there(solver):
    """A shift of the parameters: what is a zero there is 1.5 here, exactly."""
    x, y = design("plain")
    flat_rules = {"b": dist.Normal(0.0, 1.0)}
    there, here = (
        jm.supervised(network(12), jm.Gaussian(scale=0.5), jm.Prior({**flat_rules, "w": dist.Laplace(loc, 0.02)}))
        for loc in (0.0, 1.5)
    )
    a = jm.fit(KEY, there, (x, y), jm.MAP(solver), precision="float64")
    b = jm.fit(KEY, here, (x, y + x @ np.full(12, 1.5)), jm.MAP(solver), precision="float64")
    np.testing.assert_allclose(b.mode["w"] - 1.5, a.mode["w"], atol=1e-7)
    np.testing.assert_array_equal(b.mode["w"] == 1.5, a.mode["w"] == 0.0)
    assert a.info.certificate.held == b.info.certificate.held != ()
    assert b.info.status is jm.Status.CONVERGED


def test_only_leaves_with_an_l1_prior_have_zeros_and_bounded_ones_stay_inside():
    x, y = design("plain")
    rules = {"b": jm.l1(500.0), "w": dist.Normal(0.0, 1.0), "s": dist.HalfNormal(1.0)}
    model = jm.Model(
        observe=lambda p, x: dist.Normal(x @ p["w"] + p["b"], p["s"]),
        log_prior=jm.Prior(rules),
        init={"b": 0.3, "w": np.zeros(12), "s": 1.0},
    )
    point = jm.fit(KEY, model, (x, y), jm.MAP(), precision="float64")
    assert point.mode["b"] == 0.0
    assert np.all(np.asarray(point.mode["w"]) != 0.0)
    assert point.mode["s"] > 0
    assert point.info.certificate.held == ("b",)
    assert point.info.status is jm.Status.CONVERGED


def tanh_network():
    def init(key):
        a, b = jax.random.split(key)
        return {"in": jax.random.normal(a, (3, 4)), "out": jax.random.normal(b, (4,))}

    return init, lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"]


@pytest.mark.parametrize("solver", [jm.ProximalNewton(), jm.ProximalGradient()], ids=["Newton", "gradient"])
def test_a_network_with_an_l1_prior_ends_where_the_subgradient_vanishes(solver):
    """Not convex: the end is judged by its own optimality, and by steps to both sides of every coordinate."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 3))
    y = np.tanh(2 * x[:, 0]) + 0.1 * rng.normal(size=50)
    model = jm.supervised(tanh_network(), jm.Gaussian(scale=0.1), jm.l1(20.0))
    point = jm.fit(KEY, model, (x, y), jm.MAP(solver, restarts=2), precision="float64")
    assert point.info.status is jm.Status.CONVERGED
    flat, unravel = jax.flatten_util.ravel_pytree(point.mode)
    assert 0 < np.sum(np.asarray(flat) == 0.0) < flat.size
    with jax.enable_x64(True):
        joint = jax.jit(jax.vmap(lambda v: model.log_joint(unravel(v), (jnp.asarray(x), jnp.asarray(y)))))
        moves = np.concatenate([1e-4 * np.eye(flat.size), -1e-4 * np.eye(flat.size), np.zeros((1, flat.size))])
        values = np.asarray(joint(np.asarray(flat) + moves))
    assert np.all(values[:-1] < values[-1])


def test_laziness_changes_the_way_but_not_the_end():
    model, data, _ = sparse_logistic()
    eager, lazy = (
        jm.fit(KEY, model, data, jm.MAP(jm.ProximalNewton(lazy=lazy)), precision="float64") for lazy in (False, True)
    )
    np.testing.assert_allclose(lazy.mode["w"], eager.mode["w"], atol=1e-6)
    np.testing.assert_array_equal(lazy.mode["w"] == 0, eager.mode["w"] == 0)
    assert lazy.info.status is eager.info.status is jm.Status.CONVERGED
    assert lazy.info.num_gradients < eager.info.num_gradients


def test_a_smooth_first_order_solver_says_where_it_stands_beside_a_kink():
    """Adam on a kink never rests at it: it may not be called converged with the wrong zeros."""
    x, y = design("plain")
    model = jm.supervised(network(12), jm.Gaussian(scale=0.5), jm.Prior({"b": jm.flat, "w": jm.l1(30.0)}))
    point = jm.fit(KEY, model, (x, y), jm.MAP(optax.adam(1e-2), steps=500), precision="float64")
    exact = jm.fit(KEY, model, (x, y), jm.MAP(), precision="float64")
    if point.info.status is jm.Status.CONVERGED:
        np.testing.assert_allclose(point.mode["w"], exact.mode["w"], atol=1e-3)
    assert point.info.log_joint <= exact.info.log_joint + 1e-9


# The quadratic with a penalty.


def by_signs(matrix, gradient, start, weights, centers):
    """The minimum over all patterns of signs: below, at, or above each centre."""
    best, where = np.inf, None
    for pattern in itertools.product((-1, 0, 1), repeat=len(start)):
        signs = np.array(pattern, float)
        free = signs != 0
        point = centers.copy()
        if free.any():
            base = np.where(free, 0.0, centers - start)
            right = -(gradient + weights * signs + matrix @ base)[free]
            try:
                point[free] = start[free] + np.linalg.solve(matrix[np.ix_(free, free)], right)
            except np.linalg.LinAlgError:
                continue
        move = point - start
        value = gradient @ move + move @ matrix @ move / 2 + weights @ np.abs(point - centers)
        if value < best:
            best, where = value, point
    return best, where


def quadratics():
    rng = np.random.default_rng(7)
    for size, ridge in itertools.product((1, 2, 3, 4, 6), (1.0, 1e-3, 1e-8)):
        for k in range(6 if size < 6 else 2):
            root = rng.normal(size=(size, max(1, size - 1) if ridge < 1 else size))
            matrix = root @ root.T + ridge * np.eye(size)
            weights = rng.choice([0.0, 0.1, 1.0, 5.0], size=size)
            if ridge < 1e-3:
                weights = np.maximum(weights, 0.1)  # else the minimum may lie at 1e8
            centers = rng.choice([0.0, 1.5], size=size) if k % 2 else np.zeros(size)
            start = centers.copy() if k % 3 == 0 else rng.normal(size=size)
            yield matrix, rng.normal(size=size) * 3, start, weights, centers


def test_the_penalised_quadratic_is_minimised_as_by_trying_all_signs(x64):
    """At once where it is well conditioned, else after some repetitions, as proximal Newton repeats it anyway."""
    solve = jax.jit(l1_quadratic)
    count = 0
    for problem in quadratics():
        matrix, gradient, start, weights, centers = problem
        best, where = by_signs(*problem)
        easy = np.linalg.cond(matrix) < 1e3

        def value(point, problem=problem):
            matrix, gradient, start, weights, centers = problem
            move = point - start
            return gradient @ move + move @ matrix @ move / 2 + weights @ np.abs(point - centers)

        found, values = start, [value(start)]
        for _ in range(1 if easy else 30):
            here = gradient + matrix @ (found - start)
            found = np.asarray(solve(*map(jnp.asarray, (matrix, here, found, weights, centers))))
            values.append(value(found))
        assert np.all(np.diff(values) <= 1e-7 * (1 + np.abs(best))), "it never climbs"
        assert values[-1] <= best + 1e-7 * (1 + abs(best)), (problem, found, where)
        if easy:
            np.testing.assert_allclose(found, where, atol=1e-7)
            np.testing.assert_array_equal((found == centers) & (weights > 0), (where == centers) & (weights > 0))
        count += easy
    assert count > 20


def test_a_flipped_soft_threshold_would_be_seen(x64):
    """The brute force is no echo: away from the minimum it is larger."""
    problem = next(itertools.islice(quadratics(), 20, None))
    matrix, gradient, start, weights, centers = problem
    best, where = by_signs(*problem)
    for nudge in (0.01, -0.01):
        move = where + nudge - start
        assert gradient @ move + move @ matrix @ move / 2 + weights @ np.abs(where + nudge - centers) > best


REFUSED = {
    "Adam, accumulated": optax.MultiSteps(optax.adam(1e-2), 4),
    "Adam, clipped": optax.chain(optax.clip_by_global_norm(10.0), optax.adam(1e-2)),
    "Adam, each entry clipped": optax.chain(optax.clip(10.0), optax.adam(1e-2)),
    "SGD, clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1e-2)),
    "SGD, clipped far out": optax.chain(optax.clip_by_global_norm(1000.0), optax.sgd(1e-2, momentum=0.9)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_gradients_that_the_step_at_a_kink_cannot_follow_are_refused(name):
    """Adam under MultiSteps dropped the prior, Adam after clipping minimised another loss, without a word."""
    model, data, _ = lasso("plain")
    with pytest.raises(ValueError, match="beside an L1 prior"):
        jm.fit(KEY, model, data, jm.MAP(REFUSED[name], steps=2, batch_size=20), precision="float64")


def test_accumulated_gradients_of_sgd_lead_to_the_lasso():
    model, data, theirs = lasso("plain")
    rate = optax.cosine_decay_schedule(0.02, 1500)
    point = jm.fit(
        KEY, model, data, jm.MAP(optax.MultiSteps(optax.sgd(rate), 3), steps=4500, batch_size=20), precision="float64"
    )
    np.testing.assert_allclose(point.mode["w"], theirs.coef_, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(point.mode["w"]) == 0.0, theirs.coef_ == 0.0)
