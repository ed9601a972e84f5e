"""What a record keeps for figures: little, the same for every method, and true."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import jaxmap as jm
from jaxmap import Info
from jaxmap.assess import keep
from jaxmap.assess.kept import chosen, ranks

pytestmark = pytest.mark.usefixtures("unchecked", "rank_promotion")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 3))
Y = X @ np.array([1.0, -2.0, 0.5]) + 0.3 * RNG.normal(size=30)
NAMES = {"likelihood/scale", "network/b", "network/w[0,0]", "network/w[1,0]", "network/w[2,0]"}


def model():
    init = lambda key: {"w": 0.1 * jax.random.normal(key, (3, 1)), "b": jnp.zeros(())}
    network = (init, lambda params, x: x @ params["w"] + params["b"])
    return jm.supervised(network, jm.Gaussian(scale=jm.Learned(dist.HalfNormal(1.0))), jm.Prior(dist.Normal(0.0, 1.0)))


@pytest.fixture(scope="module")
def fitted():
    """One posterior of each kind; draws, mixtures and refits are put together from what is cheap."""
    one, key = model(), jax.random.key(0)
    with jax.numpy_rank_promotion("allow"):
        point, adam = (jm.fit(key, one, (X, Y), m) for m in (jm.MAP(), jm.MAP(optax.adam(0.05), steps=400)))
        gaussian = jm.fit(key, one, (X, Y), jm.Laplace())
        tree = jax.tree.map(lambda leaf: RNG.normal(size=(6, 300, *leaf.shape)).astype(np.float32), point.mode)
        refits = jax.tree.map(lambda leaf: leaf[0, :5], tree)
        third = np.log(np.full(3, 1 / 3))
        return {
            "MAP": point,
            "adam": adam,
            "Laplace": gaussian,
            "ensemble": jm.MixturePosterior((point, adam, point), third, point.info),
            "mixture": jm.MixturePosterior((gaussian,) * 3, third, gaussian.info),
            "NUTS": jm.Draws(tree, Info(status=jm.Status.CONVERGED), RNG.normal(size=(6, 300)).astype(np.float32)),
            "bootstrap": jm.Replicates(point, refits, point.info),
        }


def drawn(arrays):
    return {name.removeprefix("draws/"): array for name, array in arrays.items() if name.startswith("draws/")}


@pytest.mark.parametrize(
    ("name", "shape", "curves"),
    [
        ("MAP", (1, 1), 1),
        ("adam", (1, 1), 1),
        ("Laplace", (1, 1000), None),
        ("ensemble", (3, 1), 3),
        ("mixture", (1, 1000), None),
        ("NUTS", (4, 150), 0),
        ("bootstrap", (1, 5), None),
    ],
)
def test_every_method_keeps_the_same_numbers_of_its_own_posterior(fitted, key, name, shape, curves):
    arrays = keep(key, fitted[name])
    assert drawn(arrays).keys() == NAMES
    assert {array.shape for array in drawn(arrays).values()} == {shape}
    assert {array.dtype for array in arrays.values()} == {np.dtype("float32")}
    assert ("trace/log joint" in arrays) == (name == "NUTS")
    history = [array for path, array in arrays.items() if path.startswith("history/")]
    assert curves is None or len(history) == curves
    assert all(curve.shape[0] == 2 and curve.shape[1] <= 100 for curve in history)
    assert sum(array.size for array in arrays.values()) < 7 * 1000 + 200 * 16


def test_points_and_members_are_their_modes(fitted, key):
    arrays = keep(key, fitted["MAP"])
    assert arrays["draws/network/w[1,0]"][0, 0] == fitted["MAP"].mode["network"]["w"][1, 0]
    arrays = keep(key, fitted["ensemble"])
    assert arrays["draws/network/b"][:, 0].tolist() == [
        float(m.mode["network"]["b"]) for m in fitted["ensemble"].members
    ]


def test_draws_of_a_gaussian_have_its_moments(fitted, key):
    """1000 draws: means within 5 standard errors, which a draw of another coordinate would miss."""
    gaussian = fitted["Laplace"]
    arrays = keep(key, gaussian)
    sd = np.sqrt(gaussian.covariance.diagonal())  # of log scale, b, w
    for i in range(3):
        values = arrays[f"draws/network/w[{i},0]"]
        assert abs(values.mean() - gaussian.mode["network"]["w"][i, 0]) < 5 * sd[2 + i] / np.sqrt(1000)
        assert values.std() == pytest.approx(sd[2 + i], rel=0.15)
    assert (arrays["draws/likelihood/scale"] > 0).all()


def test_chains_are_thinned_together_with_their_densities(fitted, key):
    posterior = fitted["NUTS"]
    arrays = keep(key, posterior)
    chains, every = [0, 2, 3, 5], slice(1, None, 2)
    np.testing.assert_array_equal(arrays["trace/log joint"], np.asarray(posterior.log_joint)[chains][:, every])
    np.testing.assert_array_equal(
        arrays["draws/network/w[2,0]"], np.asarray(posterior.draws["network"]["w"])[chains][:, every, 2, 0]
    )


def test_curves_are_the_history_at_some_steps(fitted, key):
    history = fitted["adam"].info.history
    steps, losses = keep(key, fitted["adam"])["history/0"]
    assert (steps[0], steps[-1]) == (1, len(history))
    np.testing.assert_array_equal(losses, history[steps.astype(int) - 1].astype(np.float32))


def test_an_ensemble_of_chains_keeps_one_chain_of_each_member(fitted, key):
    draws = fitted["NUTS"]
    mixture = jm.MixturePosterior((draws,) * 6, np.full(6, -np.log(6)), draws.info)
    arrays = keep(key, mixture)
    assert arrays["trace/log joint"].shape == arrays["draws/network/b"].shape == (4, 150)
    np.testing.assert_array_equal(arrays["trace/log joint"][3], np.asarray(draws.log_joint)[0, 1::2])


def test_a_gaussian_too_large_to_draw_from_keeps_nothing(fitted, key, monkeypatch):
    monkeypatch.setattr("jaxmap.assess.kept.MOST_NUMBERS", 499)
    assert drawn(keep(key, fitted["Laplace"])) == {}
    monkeypatch.setattr("jaxmap.assess.kept.MOST_NUMBERS", 500)
    assert {array.shape for array in drawn(keep(key, fitted["Laplace"])).values()} == {(1, 100)}


def test_single_numbers_come_first_then_one_of_each_array_in_turn():
    assert chosen([(2, 2), (), (3,), (1,), (0,)], most=7) == [
        *((1, ()), (3, (0,))),
        *((0, (0, 0)), (2, (0,))),
        *((0, (0, 1)), (2, (1,))),
        (0, (1, 0)),
    ]
    assert chosen([]) == []


def test_ranks_of_counts_are_level(key):
    """F(y) of a count never lies low; spread evenly over the jump of F there it is uniform."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2000, 1)).astype(np.float32)
    y = rng.poisson(np.exp(0.3 * x[:, 0]))
    network = (lambda key: {"w": jnp.zeros((1, 1))}, lambda params, x: x @ params["w"])
    counts = jm.supervised(network, jm.Poisson(), jm.Prior(dist.Normal(0.0, 1.0)))
    true = {"w": jnp.full((1, 1), 0.3)}
    predictive = jm.predict(key, counts, jm.Point(true, Info(status=jm.Status.CONVERGED), true), x)
    for found, level in ((ranks(key, predictive, y), True), (predictive.cdf(y), False)):
        shares = np.histogram(found, 10, (0, 1))[0] / 2000
        assert (np.abs(shares - 0.1).max() < 5 * np.sqrt(0.1 * 0.9 / 2000)) == level
