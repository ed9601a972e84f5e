"""What is affine, what is concave: never wrongly so. And the short way to a Hessian is the Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from flax import nnx

import jaxmap as jm
from jaxmap.curvature import hessian, is_affine, is_concave, is_linear, negative_hessian
from jaxmap.model import Density

pytestmark = pytest.mark.usefixtures("x64", "rank_promotion")

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)), RNG.normal(size=12)
Z = {"w": jnp.zeros(3), "b": jnp.zeros(())}


def linear(z, x):
    return x @ z["w"] + z["b"]


def by_scan(z, x):
    """x @ w, by a loop over its columns."""
    return jax.lax.scan(lambda total, column: (total + column[0] * column[1], None), 0.0 * x[:, 0], (z["w"], x.T))[0]


AFFINE = {
    "linear": linear,
    "scaled inputs": lambda z, x: (x - 1.0) / 3.0 @ z["w"],
    "nonlinear in x": lambda z, x: jnp.exp(x) @ z["w"] + jnp.where(x[:, 0] > 0, 1.0, z["b"]),
    "a quadratic constant": lambda z, x: x @ z["w"] + jnp.sum(x**2, axis=1),
    "inside jit": jax.jit(linear),
    "gathered": lambda z, x: z["w"][jnp.argsort(x[:, 0]) % 3],
    "constant": lambda z, x: x[:, 0],
    "dict of outputs": lambda z, x: {"mean": linear(z, x), "other": -z["b"]},
}


@pytest.mark.parametrize("name", AFFINE)
def test_affine_functions_are_recognised(name):
    assert is_affine(AFFINE[name], Z, jnp.asarray(X))


def network(z, x):
    return jnp.tanh(x * z["w"]) @ jnp.ones(3)


NOT_AFFINE = {
    "relu": lambda z, x: jax.nn.relu(linear(z, x)),
    "tanh": network,
    "two linear layers": lambda z, x: (x @ z["w"]) * z["b"],
    "a square": lambda z, x: x[:, 0] * z["b"] ** 2,
    "an exponential of one part": lambda z, x: x @ z["w"] + jnp.exp(z["b"]),
    "an absolute value": lambda z, x: x @ jnp.abs(z["w"]),
    "where on parameters": lambda z, x: jnp.where(z["w"] > 0, z["w"], 0.1 * z["w"]) @ x.T,
    "a maximum": lambda z, x: jnp.maximum(x @ z["w"], z["b"]),
    "a sort": lambda z, x: x @ jnp.sort(z["w"]),
    "a gather by parameters": lambda z, x: x @ jnp.roll(z["w"], jnp.argmax(z["w"])),
    "cond on parameters": lambda z, x: jax.lax.cond(z["b"] > 0, lambda: x @ z["w"], lambda: -x @ z["w"]),
    "scan of products": lambda z, x: jax.lax.scan(lambda c, w: (c * w, None), 1.0, z["w"])[0] * x[:, 0],
    "while on parameters": lambda z, x: (
        jax.lax.while_loop(lambda v: v < 10.0, lambda v: 2 * v + 1, jax.lax.stop_gradient(z["b"])) * (x @ z["w"])
    ),
    "inside jit": lambda z, x: jax.jit(network)(z, x),
    "normalised parameters": lambda z, x: x @ z["w"] / jnp.linalg.norm(z["w"]),
}


@pytest.mark.parametrize("name", NOT_AFFINE)
def test_what_is_not_affine_is_never_called_affine(name):
    assert not is_affine(NOT_AFFINE[name], Z, jnp.asarray(X))


STEPS = {
    "a threshold": lambda z, x: x @ z["w"] + jnp.where(x[:, 0] > z["b"], 1.0, 0.0),
    "rounding": lambda z, x: x @ jnp.round(z["w"]),
    "a floor": lambda z, x: x @ (jnp.floor(z["w"]) + z["w"]),
    "a sign": lambda z, x: x @ jnp.sign(z["w"]),
    "integers": lambda z, x: x @ z["w"].astype(int).astype(float),
    "an index": lambda z, x: x[:, 0] * jnp.argmax(z["w"]),
    "straight through": lambda z, x: x @ (z["w"] + jax.lax.stop_gradient(jnp.round(z["w"]) - z["w"])),
    "a stopped square": lambda z, x: x @ (z["w"] + jax.lax.stop_gradient(z["w"]) ** 2),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_whose_derivative_hides_them_are_not_affine(name):
    """Their derivative does not depend on z, and yet they are no affine functions."""
    assert not is_affine(STEPS[name], Z, jnp.asarray(X))


def test_a_loop_is_affine_or_unknown_but_its_values_never_matter():
    """The claim may be missed (a scan is not read), but is the same whatever the numbers."""
    claims = {is_affine(by_scan, jax.tree.map(lambda v, s=s: v + s, Z), jnp.asarray(X)) for s in (0.0, 1.0)}
    assert len(claims) == 1


def random_program(seed):
    """A random composition of affine and other steps, and whether any other step was taken on a live path."""
    rng = np.random.default_rng(seed)
    linear_steps = [lambda v: 2.0 * v - 1.0, lambda v: v[::-1], jnp.cumsum, lambda v: jnp.pad(v, 1)[1:-1] - 3.0]
    others = [jnp.sin, jax.nn.relu, lambda v: v * v[::-1], lambda v: jnp.where(v > 0, v, 2 * v)]
    chosen = [rng.integers(4) for _ in range(4)]
    bent = rng.integers(5)
    steps = [linear_steps[k] for k in chosen]
    if bent < 4:
        steps.insert(int(rng.integers(5)), others[bent])

    def function(v):
        for step in steps:
            v = step(v)
        return v

    return function, bent == 4


@pytest.mark.parametrize("seed", range(20))
def test_random_programs_are_affine_exactly_where_differences_say_so(seed):
    function, expected = random_program(seed)
    assert is_affine(function, jnp.zeros(4)) == expected
    a, b = (jnp.asarray(np.random.default_rng([seed, k]).normal(size=4)) for k in range(2))
    midpoint = function((a + b) / 2) - (function(a) + function(b)) / 2
    assert not expected or np.abs(midpoint).max() < 1e-12


# Models.


GAUSSIAN = jm.Prior(dist.Normal(0.0, 1.0))


def pure(width=None):
    shape = (3,) if width is None else (3, width)
    return (lambda key: {"w": jnp.full(shape, 0.1), "b": jnp.full(shape[1:], 0.2)}), linear


def bent():
    return (lambda key: {"w": jnp.full(3, 0.1), "b": jnp.asarray(0.2)}), network


LINEAR_MODELS = {
    "pure functions": lambda: jm.supervised(pure(), jm.Gaussian(scale=0.5), GAUSSIAN),
    "nnx.Linear": lambda: jm.supervised(
        lambda rngs: nnx.Linear(3, 1, rngs=rngs, param_dtype=jnp.float64), jm.Gaussian(scale=0.5), GAUSSIAN
    ),
    "scaling": lambda: jm.supervised(pure(), jm.Gaussian(scale=0.5), GAUSSIAN, scaling=jm.standardize((X, Y))),
    "logistic": lambda: jm.supervised(pure(), jm.Bernoulli(), jm.l1(1.0)),
    "Poisson": lambda: jm.supervised(pure(), jm.Poisson(), jm.elastic_net(1.0, 1.0)),
    "softmax": lambda: jm.supervised(pure(4), jm.Categorical(), GAUSSIAN),
    "two targets": lambda: jm.supervised(pure(2), jm.Gaussian(scale=0.5), GAUSSIAN),
}
TARGETS = {
    "logistic": (Y > 0).astype(int),
    "Poisson": np.abs(Y).astype(int),
    "softmax": np.arange(12) % 4,
    "two targets": np.stack([Y, -Y], 1),
}


def checked(model, y, weights=None):
    """Compare `negative_hessian` with jax.hessian of the smooth part, as it stands."""
    density = Density(model)
    data = (jnp.asarray(X), jnp.asarray(y))
    z = jax.tree.map(lambda v: v + 0.3, model.start_unconstrained(np.float64))

    def loss(v):
        values = density.log_likelihoods(v, data)
        return -jnp.sum(values if weights is None else weights * values) - density.smooth_log_prior(v)

    exact = np.asarray(jax.jit(lambda z: hessian(loss, z))(z))
    flat, unravel = jax.flatten_util.ravel_pytree(z)
    np.testing.assert_allclose(exact, jax.hessian(lambda v: loss(unravel(v)))(flat), atol=1e-10)
    found = jax.jit(lambda z: negative_hessian(density, z, data, weights))(z)
    np.testing.assert_allclose(found, exact, rtol=1e-10, atol=1e-10)
    return density, data


@pytest.mark.parametrize("name", LINEAR_MODELS)
def test_generalised_linear_models_are_linear_concave_and_their_short_hessian_is_exact(name):
    model, y = LINEAR_MODELS[name](), TARGETS.get(name, Y)
    density, data = checked(model, y, weights=jnp.asarray(RNG.poisson(1.0, size=12).astype(float)))
    assert is_linear(model, data)
    assert is_concave(density, data)
    assert is_concave(density, data, strongly=True) == (name != "logistic")  # a Laplace prior has no curvature
    assert not is_concave(Density(model, prior=False), data, strongly=True)


LEARNED = jm.Learned(dist.HalfNormal(1.0))
OTHER_MODELS = {
    "relu": lambda: jm.supervised(
        (pure()[0], lambda p, x: jax.nn.relu(linear(p, x))), jm.Gaussian(scale=0.5), GAUSSIAN
    ),
    "tanh": lambda: jm.supervised(bent(), jm.Gaussian(scale=0.5), GAUSSIAN),
    "a learned scale": lambda: jm.supervised(pure(), jm.Gaussian(scale=LEARNED), GAUSSIAN),
    "a product": lambda: jm.supervised(
        (pure()[0], lambda p, x: p["b"] * linear(p, x)), jm.Gaussian(scale=0.5), GAUSSIAN
    ),
    "heavy tails": lambda: jm.supervised(pure(), jm.StudentT(df=3.0, scale=0.5), GAUSSIAN),
    "a learned log scale": lambda: jm.supervised(pure(2), jm.HeteroscedasticGaussian(), GAUSSIAN),
    "a prior with two modes": lambda: jm.supervised(pure(), jm.Gaussian(scale=0.5), jm.Prior(dist.Cauchy(0.0, 1.0))),
    "a bounded parameter": lambda: jm.supervised(
        pure(), jm.Gaussian(scale=0.5), jm.Prior({"w": dist.Normal(0.0, 1.0), "b": dist.HalfNormal(1.0)})
    ),
    "a custom likelihood": lambda: jm.supervised(pure(), lambda m: dist.Cauchy(m, 1.0), GAUSSIAN),
}


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_other_models_are_not_concave_and_their_hessian_is_exact(name):
    model = OTHER_MODELS[name]()
    density, data = checked(model, Y)
    assert not is_concave(density, data)
    bent_outputs = name in ("relu", "tanh", "a product", "a bounded parameter", "a learned scale")
    assert is_linear(model, data) != bent_outputs


def test_a_hierarchical_prior_is_not_concave():
    prior = jm.Prior({"w": lambda p: dist.Normal(0.0, jnp.exp(p["b"])), "b": dist.Normal(0.0, 1.0)})
    density, data = checked(jm.supervised(pure(), jm.Gaussian(scale=0.5), prior), Y)
    assert is_linear(density.model, data)
    assert not is_concave(density, data)
