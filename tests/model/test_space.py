"""Constrained and unconstrained coordinates: inverse maps, and Jacobians against automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from numpyro.distributions import constraints

from jaxmap.model.space import Space, describe

RNG = np.random.default_rng(3)
LOWER = np.tril(0.3 * RNG.normal(size=(3, 3)), -1) + np.diag([0.5, 1.5, 2.5])
CORRELATION = np.linalg.cholesky(np.array([[1.0, 0.3, -0.2], [0.3, 1.0, 0.5], [-0.2, 0.5, 1.0]]))

# name: (support, parameters inside it, which entries of each leaf are free)
CASES = {
    "real": (constraints.real, RNG.normal(size=(2, 3)), None),
    "positive scalar": (constraints.positive, np.array(0.3), None),
    "positive vector": (constraints.positive, np.array([0.01, 1.0, 50.0]), None),
    "positive matrix": (constraints.positive, RNG.gamma(2.0, size=(2, 2)), None),
    "greater than 2": (constraints.greater_than(2.0), np.array([2.1, 7.0]), None),
    "greater than -3": (constraints.greater_than(-3.0), np.array([[-2.9], [4.0]]), None),
    "less than -1": (constraints.less_than(-1.0), np.array([-1.5, -20.0]), None),
    "unit interval": (constraints.unit_interval, np.array([0.1, 0.999]), None),
    "interval": (constraints.interval(-1.0, 3.0), np.array([[-0.9, 0.0], [2.9, 1.0]]), None),
    "simplex": (constraints.simplex, np.array([0.2, 0.5, 0.3]), np.s_[:-1]),
    "simplices": (constraints.simplex, RNG.dirichlet(np.ones(4), size=2), np.s_[:, :-1]),
    "ordered": (constraints.ordered_vector, np.array([-2.0, 0.1, 5.0]), None),
    "positive ordered": (constraints.positive_ordered_vector, np.array([0.1, 0.2, 5.0]), None),
    "lower cholesky": (constraints.lower_cholesky, LOWER, np.tril_indices(3)),
    "correlation": (constraints.corr_cholesky, CORRELATION, np.tril_indices(3, -1)),
    "prior's own": (dist.Uniform(1.0, 4.0).support, np.array([1.5, 3.9]), None),
}
each_case = pytest.mark.parametrize("name", CASES)

NESTED_SUPPORT = {
    "scale": constraints.greater_than(1.0),
    "layers": constraints.real,
    "mix": [constraints.simplex, {"rho": constraints.interval(-1.0, 1.0)}],
}
NESTED = {
    "scale": np.array(2.5),
    "layers": {"kernel": RNG.normal(size=(2, 2)), "bias": RNG.normal(size=2)},
    "mix": [np.array([0.2, 0.8]), {"rho": np.array([-0.5, 0.9])}],
}


def arrays(tree):
    return jax.tree.map(jnp.asarray, tree)


def assert_trees_close(a, b, rtol):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=rtol, atol=1e-12), a, b)


@pytest.fixture(autouse=True)
def _foreign_code(rank_promotion):
    """The transforms of numpyro promote ranks."""


def slow_log_jacobian(space, z, free):
    """Log |det| of the free entries of the parameters in the coordinates, by automatic differentiation."""
    flat, unravel = ravel_pytree(z)

    def entries(v):
        leaf = space.constrain(unravel(v))
        return leaf.ravel() if free is None else leaf[free].ravel()

    matrix = jax.jacfwd(entries)(flat)
    assert matrix.shape[0] == matrix.shape[1]
    return np.linalg.slogdet(matrix)[1]


@each_case
def test_the_two_maps_are_inverse(name, x64):
    support, params, _ = CASES[name]
    params = jnp.asarray(params)
    space = Space.of(support, params)
    space.check(params)
    z = space.unconstrain(params)
    assert_trees_close(space.constrain(z), params, rtol=1e-9)
    step = 0.3 * RNG.normal(size=z.shape)
    moved = space.constrain(z + step)
    space.check(moved)  # every coordinate is a point of the support
    assert moved.shape == params.shape
    assert_trees_close(space.unconstrain(moved), z + step, rtol=1e-6)


@each_case
def test_the_log_jacobian_is_that_of_autodiff(name, x64):
    support, params, free = CASES[name]
    space = Space.of(support, jnp.asarray(params))
    z = space.unconstrain(jnp.asarray(params))
    z = z + 0.4
    found, slow = space.log_jacobian(z), slow_log_jacobian(space, z, free)
    assert found.shape == ()
    np.testing.assert_allclose(found, slow, rtol=1e-8, atol=1e-10)
    if name != "real":  # a flipped sign would be seen
        assert abs(-found - slow) > 1e-3


def test_a_nested_tree_is_mapped_leaf_by_leaf(x64):
    params = arrays(NESTED)
    space = Space.of(NESTED_SUPPORT, params)
    z = space.unconstrain(params)
    assert_trees_close(space.constrain(z), params, rtol=1e-9)
    assert jax.tree.structure(z) == jax.tree.structure(params)
    assert z["mix"][0].shape == (1,)  # a simplex of two has one dimension
    np.testing.assert_array_equal(z["layers"]["kernel"], params["layers"]["kernel"])
    np.testing.assert_allclose(z["scale"], np.log(1.5))
    p, rho = params["mix"][0][0], np.asarray(params["mix"][1]["rho"])
    # By hand: exp, the logistic map of a half (one stick to break), the logistic map stretched to a length of 2.
    parts = np.log(1.5) + np.log(p * (1 - p)) + np.sum(np.log(2.0 * (1 + rho) / 2 * (1 - rho) / 2))
    np.testing.assert_allclose(space.log_jacobian(z), parts, rtol=1e-9)


def test_the_log_jacobian_can_be_differentiated_and_jitted(x64):
    params = {"scale": jnp.asarray([2.5, 3.0]), "rho": jnp.asarray(0.5)}
    space = Space.of({"scale": constraints.greater_than(1.0), "rho": constraints.interval(-1.0, 1.0)}, params)
    gradient = jax.jit(jax.grad(space.log_jacobian))(space.unconstrain(params))
    assert_trees_close(gradient, {"scale": jnp.ones(2), "rho": jnp.asarray(1 - 2 * 0.75)}, rtol=1e-12)


def test_real_spaces_are_known_as_such():
    params = arrays(NESTED)
    assert Space.of(constraints.real, params).is_real
    assert not Space.of(NESTED_SUPPORT, params).is_real
    assert float(Space.of(constraints.real, params).log_jacobian(params)) == 0.0
    kernel = dist.Normal(jnp.zeros(2), 1.0).to_event(1)
    assert Space.of(kernel.support, jnp.zeros(2)).is_real  # real, whatever the event


def test_densities_stay_normalised_under_the_map(x64):
    """The integral of p(params(z)) |d params / d z| over z is one: the Jacobian has the right sign and size."""
    z = np.linspace(-30.0, 30.0, 20001)
    for d, inside in ((dist.Gamma(2.0, 3.0), 1.0), (dist.Beta(2.0, 3.0), 0.5), (dist.Pareto(2.0, 3.0), 2.5)):
        space = Space.of(d.support, jnp.asarray(inside))
        log_density = jax.jit(jax.vmap(lambda v, d=d, s=space: d.log_prob(s.constrain(v)) + s.log_jacobian(v)))(z)
        np.testing.assert_allclose(np.trapezoid(np.exp(log_density), z), 1.0, rtol=1e-6)


# errors


@pytest.mark.parametrize(
    ("support", "words"),
    [
        (constraints.boolean, "Expected a continuous support for 'a'"),
        (constraints.nonnegative_integer, "Expected a continuous support for 'a'"),
        ({"a": constraints.positive}, "nothing for b"),
        ({"a": constraints.real, "b": constraints.real, "c": constraints.real}, "'c', which covers nothing"),
        ("positive", "Expected a numpyro constraint"),
        (constraints.greater_than, "Expected a numpyro constraint"),
        ({"a": 0.0, "b": constraints.real}, "Expected a numpyro constraint as the support of 'a'"),
    ],
)
def test_supports_that_do_not_fit_are_refused(support, words):
    with pytest.raises(ValueError, match=words):
        Space.of(support, {"a": jnp.ones(2), "b": jnp.ones(1)})


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ({"a": np.array([1.0, 0.0]), "b": np.ones(1)}, ValueError, r"init\['a'\] inside its support .*got \[1, 0\]"),
        ({"a": np.array([1.0, -2.0]), "b": np.ones(1)}, ValueError, r"init\['a'\] inside its support"),
        ({"a": np.array([1.0, np.nan]), "b": np.ones(1)}, ValueError, r"NaN or infinity in init\['a'\]"),
        ({"a": np.array([1.0, np.inf]), "b": np.ones(1)}, ValueError, r"NaN or infinity in init\['a'\]"),
        ({"a": np.array([1, 2]), "b": np.ones(1)}, TypeError, r"init\['a'\] of dtype int"),
        ({"a": np.array([True]), "b": np.ones(1)}, TypeError, r"init\['a'\] of dtype bool"),
        ({"a": np.ones(2)}, ValueError, "parameters of the model; got a"),
        ([np.ones(2), np.ones(1)], ValueError, "parameters of the model; got 0, 1"),
    ],
)
def test_parameters_outside_are_refused_by_name(params, error, words):
    space = Space.of({"a": constraints.positive, "b": constraints.real}, {"a": jnp.ones(2), "b": jnp.ones(1)})
    with pytest.raises(error, match=r"Expected .*" + words):
        space.check(params)


@pytest.mark.parametrize(
    ("support", "value"),
    [
        (constraints.unit_interval, 0.0),
        (constraints.unit_interval, 1.0),
        (constraints.interval(-1.0, 3.0), 3.0),
        (constraints.nonnegative, 0.0),
        (constraints.less_than(2.0), 2.0),
        (constraints.simplex, np.array([0.0, 1.0])),
    ],
)
def test_a_start_on_the_edge_has_no_coordinates_and_is_refused(support, value):
    space = Space.of(support, jnp.asarray(value))
    with pytest.raises(ValueError, match="Expected init inside its support"):
        space.check(jnp.asarray(value))


def test_a_scalar_tree_has_no_brackets_in_its_message():
    with pytest.raises(ValueError, match=r"Expected start inside its support Positive\(lower_bound=0\); got -1\."):
        Space.of(constraints.positive, jnp.ones(())).check(jnp.asarray(-1.0), name="start")


def test_constraints_are_described_as_readers_know_them():
    assert describe(constraints.greater_than(2.0)) == "GreaterThan(lower_bound=2)"
    assert describe(constraints.interval(0.0, jnp.ones(5))) == (
        "Interval(lower_bound=0, upper_bound=[1, 1, 1, 1, ...])"
    )
    assert describe(constraints.simplex) == "Simplex"
