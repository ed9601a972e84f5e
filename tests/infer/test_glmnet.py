"""Ridge, lasso and elastic-net fits by glmnet (R), to its own tolerance and with the same exact zeros."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmap as jm

pytestmark = pytest.mark.slow

FAMILIES = [("binomial", 199, 5), *(("gaussian", n, columns) for n in (100, 300) for columns in (2, 3, 5))]
PENALTIES = {"ridge": 0.0, "elastic net": 0.5, "lasso": 1.0}


@pytest.fixture(scope="module")
def fits(reference_data):
    return json.loads((reference_data / "mle" / "elastic_net_reference.json").read_text())


def chosen(fits, family, n, columns, mix):
    """The three fits of one data set with one mixture of penalties."""
    data = "elastic_net_binomial.npz" if family == "binomial" else f"elastic_net_gaussian_{n}.npz"
    return [f for f in fits if f["data"] == data and len(f["params"]) == columns and f["mix"] == mix]


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(("family", "n", "columns"), FAMILIES)
def test_the_same_coefficients_and_zeros(fits, reference_data, family, n, columns, penalty):
    mix = PENALTIES[penalty]
    found = chosen(fits, family, n, columns, mix)
    assert len(found) == 3
    with np.load(reference_data / "mle" / found[0]["data"]) as arrays:
        x, y = arrays["X"][:, :columns], arrays["y"]
    assert len(y) == n
    loss = dict(loss="half_mse", noise_scale=1.0) if family == "gaussian" else {}
    ratio = found[0]["l2"] / found[0]["lambda_"]
    likelihood = jm.Gaussian(scale=1.0) if family == "gaussian" else jm.Bernoulli()

    def build(strength):
        l1, l2 = (share * strength if share else 0.0 for share in (mix, ratio))
        prior = jm.elastic_net(l1, l2, per="mean", num_examples=n, **loss)
        return jm.supervised((lambda key: jnp.zeros(columns), lambda b, x: x @ b), likelihood, prior)

    strengths = np.array([f["lambda_"] for f in found])
    path = jm.path(jax.random.key(0), build, (x, y), strengths, jm.MAP(), precision="float64")
    expected = np.array([f["params"] for f in found])
    np.testing.assert_allclose(path.modes, expected, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(path.modes) == 0, expected == 0)
