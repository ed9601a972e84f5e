"""Ridge regression on house prices: the prior that `jm.weight_decay` makes against the normal equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmap as jm

KEY = jax.random.key(0)
SOUND = (
    *("Lot_Area", "Year_Built", "Year_Remod_Add", "Total_Bsmt_SF", "Gr_Liv_Area", "Full_Bath", "Half_Bath"),
    *("Bedroom_AbvGr", "Fireplaces", "Garage_Area", "Wood_Deck_SF", "Open_Porch_SF", "Longitude", "Latitude"),
)
"""Numeric columns that are not sums of each other."""

NOISE = 0.5


@pytest.fixture(scope="module")
def ames():
    """All columns and the target, standardised, and the names."""
    data = jm.load_dataset("ames")
    x, y = ((v - v.mean(0)) / v.std(0) for v in (data.x, np.log(data.y)))
    return x, y, data.columns


@pytest.fixture(scope="module")
def sound(ames):
    """The well-conditioned columns."""
    x, y, columns = ames
    return x[:, [columns.index(name) for name in SOUND]], y


def linear(x, prior):
    start = {"kernel": jnp.zeros(x.shape[1]), "bias": jnp.zeros(())}
    network = (lambda key: start, lambda p, x: x @ p["kernel"] + p["bias"])
    return jm.supervised(network, jm.Gaussian(scale=NOISE), prior)


def ridge(x, y, penalty, of_bias):
    """Minimise |y - a - X b|^2 + penalty |b|^2 + of_bias a^2; returns (a, b)."""
    rows = np.column_stack([np.ones(len(x)), x])
    return np.linalg.solve(rows.T @ rows + np.diag([of_bias, *[penalty] * x.shape[1]]), rows.T @ y)


def check(point, expected):
    found = np.array([point.mode["bias"], *point.mode["kernel"]])
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
    assert point.info.status is jm.Status.CONVERGED


# A strength, the loss that it was added to, and the penalty per squared error that this makes.
LOSSES = {
    "added to the sum of squared errors": (dict(loss="mse", noise_scale=NOISE), lambda s, n: s / 2),
    "added to the negative log-likelihood": (dict(), lambda s, n: s * NOISE**2),
    "added to the mean squared error": (dict(per="mean", loss="mse", noise_scale=NOISE), lambda s, n: n * s / 2),
}


@pytest.mark.parametrize("name", LOSSES)
def test_map_is_the_ridge_solution(sound, name):
    options, penalty = LOSSES[name]
    x, y = sound
    n = len(x)
    strength = 40.0 if options.get("per") != "mean" else 0.02
    if "per" in options:
        options = options | {"num_examples": n}
    point = jm.fit(KEY, linear(x, jm.weight_decay(strength, **options)), (x, y), jm.MAP(), precision="float64")
    check(point, ridge(x, y, penalty(strength, n), penalty(strength, n)))


def test_a_bias_without_decay(sound):
    x, y = sound
    y = y + 3.0  # an intercept that a penalty would show on
    prior = jm.Prior.by_path({"kernel": jm.weight_decay(500.0, loss="half_mse", noise_scale=NOISE), "bias": jm.flat})
    check(jm.fit(KEY, linear(x, prior), (x, y), jm.MAP(), precision="float64"), ridge(x, y, 500.0, 0.0))


def test_all_columns_by_l_bfgs(ames):
    """314 columns, all levels of all factors: singular without the penalty."""
    x, y, _ = ames
    prior = jm.weight_decay(100.0, loss="half_mse", noise_scale=NOISE)
    point = jm.fit(KEY, linear(x, prior), (x, y), jm.MAP(), precision="float64")
    assert "L-BFGS" in point.info.solver
    check(point, ridge(x, y, 100.0, 100.0))


def test_a_flat_prior_gives_the_mle(sound):
    x, y = sound
    model = linear(x, jm.Prior(jm.flat))
    at_map, mle = (jm.fit(KEY, model, (x, y), method, precision="float64").mode for method in (jm.MAP(), jm.MLE()))
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(at_map[name], mle[name], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose([mle["bias"], *mle["kernel"]], ridge(x, y, 0.0, 0.0), rtol=1e-8, atol=1e-10)
