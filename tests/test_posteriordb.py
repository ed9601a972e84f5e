"""The formulas of experiments/posteriordb.py against the draws that came with them."""

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from experiments import posteriordb


@pytest.fixture(scope="module", params=posteriordb.CASES)
def case(request, reference_data):
    return posteriordb.load(reference_data, request.param)


def test_columns_and_params_are_inverse(case):
    columns = case.draws[:50]
    np.testing.assert_allclose(case.to_columns(case.to_params(columns)), columns, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(case.draws.mean(axis=0), case.mean, atol=1e-3 * case.sd.max(), rtol=1e-3)


@pytest.mark.slow
def test_gradients_average_to_zero_and_with_coordinates_to_minus_identity(case, x64):
    """By parts, E[grad log p(z)] = 0 and E[grad log p(z) (z - c)'] = -I in unconstrained coordinates."""
    space = case.model.space
    z = jax.vmap(space.unconstrain)(jax.tree.map(np.asarray, case.to_params(case.draws)))

    def log_density(z):
        params = space.constrain(z)
        return case.model.log_joint(params, case.data) + space.log_jacobian(z)

    gradients = jax.jit(lambda z: jax.lax.map(jax.grad(log_density), z, batch_size=100))(z)
    z, g = (np.asarray(jax.vmap(lambda t: ravel_pytree(t)[0])(tree)) for tree in (z, gradients))
    g, z = g * z.std(axis=0), (z - z.mean(axis=0)) / z.std(axis=0)
    products = g[:, :, None] * z[:, None, :]
    for found, expected in ((g, np.zeros(z.shape[1])), (products, -np.eye(z.shape[1]))):
        error = found.std(axis=0) / np.sqrt(len(z))
        assert np.all(np.abs(found.mean(axis=0) - expected) < 5 * error)
