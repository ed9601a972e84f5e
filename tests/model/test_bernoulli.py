"""The Bernoulli log-likelihood to second order, where numpyro's own is wrong or not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import jaxmap as jm

LOGITS = [0.0, -0.0, 1e-30, 1e-3, -1e-3, 2.0, -2.0, 40.0, -40.0, 800.0, -800.0]


def terms(dtype):
    """log p(y | logit), its first and second derivative, for y = 0 and 1 at all logits at once."""

    def log_prob(logit, y):
        return jm.Bernoulli()(logit[None], {}).log_prob(y[None])[0]

    with jax.enable_x64(dtype == "float64"):
        logits = jnp.asarray(np.repeat(LOGITS, 2), dtype)
        y = jnp.asarray(np.tile([0.0, 1.0], len(LOGITS)), dtype)
        made = [log_prob, jax.grad(log_prob), jax.grad(jax.grad(log_prob)), jax.jacfwd(jax.grad(log_prob))]
        found = jax.jit(lambda u, y: [jax.vmap(f)(u, y) for f in made])(logits, y)
        assert all(v.dtype == dtype for v in found)
        return np.asarray(logits, np.float64), np.asarray(y, np.float64), [np.asarray(v, np.float64) for v in found]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_value_gradient_and_hessian_are_the_closed_forms_at_every_logit(dtype):
    logits, y, (value, slope, bend, forward) = terms(dtype)
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    exact = special.expit(logits)
    np.testing.assert_allclose(value, special.log_expit((2 * y - 1) * logits), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(slope, y - exact, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(bend, -exact * special.expit(-logits), rtol=10 * tolerance, atol=tolerance)
    np.testing.assert_array_equal(bend, forward)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_at_logit_zero_the_slope_is_a_half_and_the_curvature_a_quarter(dtype):
    logits, y, (value, slope, bend, _) = terms(dtype)
    zero = logits == 0
    np.testing.assert_array_equal(slope[zero], y[zero] - 0.5)
    np.testing.assert_array_equal(bend[zero], -0.25)
    np.testing.assert_allclose(value[zero], -np.log(2), rtol=1e-7)


def test_the_curvature_of_a_logistic_regression_at_its_start_is_a_quarter_of_the_gram_matrix(x64):
    """The start of every linear model is logit zero."""
    x = np.random.default_rng(0).normal(size=(20, 3))
    model = jm.supervised((lambda key: {"w": jnp.zeros(3)}, lambda p, x: x @ p["w"]), jm.Bernoulli())
    y = (x[:, 0] > 0).astype(int)

    def loss(w):
        return -jnp.sum(model.log_likelihood({"w": w}, (jnp.asarray(x), jnp.asarray(y))))

    np.testing.assert_allclose(jax.hessian(loss)(jnp.zeros(3)), x.T @ x / 4, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(loss)(jnp.zeros(3)), -x.T @ (y - 0.5), rtol=1e-12)
