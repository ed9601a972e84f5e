"""ArviZ: the draws arrive by name, and its leave-one-out densities are those of a slow computation."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import special, stats

import jaxmap as jm
from jaxmap.interop import arviz as bridge
from jaxmap.statistics import pareto_smooth

az = pytest.importorskip("arviz")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto"),  # few draws have long tails
    pytest.mark.filterwarnings("ignore:The inplace keyword"),  # ArviZ 0.23 on pandas 3.1
]

RNG = np.random.default_rng(3)
X = RNG.normal(size=(20, 2)).astype(np.float32)
Y = (X @ np.array([1.0, -0.5]) + 0.5 * RNG.normal(size=20)).astype(np.float32)
INFO = jm.Info(jm.Status.CONVERGED, method="NUTS()", seconds=1.5, versions={"jaxmap": "0.1"})


def linear(columns):
    def log_likelihood(params, batch):
        x, y = batch
        return dist.Normal(x[:, :columns] @ params["line"]["b"], params["scale"]).log_prob(y)

    prior = jm.Prior({"line": {"b": dist.Normal(0.0, 2.0)}, "scale": dist.HalfNormal(1.0)})
    return jm.Model(
        log_likelihood=log_likelihood, log_prior=prior, init={"line": {"b": np.zeros(columns)}, "scale": 1.0}
    )


def made_up(columns=2, chains=2, count=50):
    """Draws near the truth, without a sampler."""
    rng = np.random.default_rng(8)
    b = np.array([1.0, -0.5])[:columns] + 0.1 * rng.normal(size=(chains, count, columns))
    tree = {"line": {"b": b.astype(np.float32)}, "scale": rng.uniform(0.4, 0.6, (chains, count)).astype(np.float32)}
    return jm.Draws(tree, INFO, rng.normal(size=(chains, count)))


def log_density(draws, columns=2):
    """(chain, draw, example), one number at a time."""
    tree = draws.draws
    found = np.empty((*draws.shape, len(Y)))
    for chain, draw, row in np.ndindex(found.shape):
        mean = X[row, :columns].astype(float) @ tree["line"]["b"][chain, draw].astype(float)
        found[chain, draw, row] = stats.norm(mean, tree["scale"][chain, draw]).logpdf(Y[row])
    return found


def test_draws_arrive_by_name():
    draws = made_up()
    data = draws.to_arviz()
    assert set(data.posterior.data_vars) == {"line.b", "scale"}
    assert data.posterior["line.b"].dims == ("chain", "draw", "line.b_dim_0")
    np.testing.assert_array_equal(data.posterior["line.b"], draws.draws["line"]["b"])
    np.testing.assert_array_equal(data.sample_stats["lp"], draws.log_joint)
    assert data.posterior.attrs["status"] == "CONVERGED"
    assert not hasattr(data, "log_likelihood")
    assert not hasattr(data, "observed_data")


def test_the_log_likelihood_is_that_of_each_draw_and_example():
    """100 draws, in parts of 32: no part is lost, and none is put elsewhere."""
    draws = made_up()
    data = draws.to_arviz(model=linear(2), data=(X, Y))
    assert data.log_likelihood["y"].dims == ("chain", "draw", "example")
    np.testing.assert_allclose(data.log_likelihood["y"], log_density(draws), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(data.observed_data["y"], Y)
    np.testing.assert_array_equal(data.constant_data["x"], X)
    assert data.constant_data["x"].dims[0] == "example"


def test_few_draws_are_one_part():
    data = made_up(chains=1, count=7).to_arviz(model=linear(2), data=(X, Y))
    np.testing.assert_allclose(data.log_likelihood["y"], log_density(made_up(chains=1, count=7)), rtol=1e-4, atol=1e-4)


def elpd(found):
    """Of ArviZ before and from 1.0 on."""
    return found.elpd_loo if hasattr(found, "elpd_loo") else found.elpd


@pytest.mark.slow
def test_loo_is_that_of_a_slow_computation(key):
    model = linear(2)
    draws = jm.fit(key, model, (X, Y), jm.NUTS(chains=2, warmup=200, draws=200))
    found = az.loo(draws.to_arviz(model=model, data=(X, Y)), pointwise=True, reff=1.0)
    values = log_density(draws).reshape(-1, len(Y))
    by_hand = []
    for row in values.T:
        log_weights = np.asarray(pareto_smooth(-row.astype(float)).log_weights, np.float64)
        by_hand.append(special.logsumexp(row + log_weights - special.logsumexp(log_weights)))
    np.testing.assert_allclose(elpd(found), np.sum(by_hand), atol=0.02)
    np.testing.assert_allclose(found.loo_i if hasattr(found, "loo_i") else found.elpd_i, by_hand, atol=0.02)


def test_compare_ranks_models():
    full, half = (made_up(columns).to_arviz(model=linear(columns), data=(X, Y)) for columns in (2, 1))
    table = az.compare({"both": full, "one": half})
    assert list(table.index) == ["both", "one"]


@pytest.mark.usefixtures("rank_promotion")
def test_numpyro_models_go_through():
    def normal(x, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        with numpyro.plate("rows", x.shape[0]):
            numpyro.sample("obs", dist.Normal(x @ b, 0.5), obs=y)

    model, data = jm.from_numpyro(normal, X, y=Y)
    posterior = jm.fit(jax.random.key(1), model, data, jm.Laplace())
    made = posterior.to_arviz(jax.random.key(2), 40, model=model, data=data)
    assert made.posterior["b"].shape == (1, 40, 2)
    assert made.log_likelihood["y"].shape == (1, 40, 20)
    assert np.isfinite(elpd(az.loo(made)))


@pytest.mark.parametrize(("chains", "count"), [(1, 30), (2, 19), (2, 32)])
def test_what_the_model_derives_stands_beside_the_parameters(chains, count):
    """As ArviZ shows the deterministic sites of numpyro; 32 draws go at a time, whatever their number."""
    draws = made_up(chains=chains, count=count)
    model = replace(
        linear(2), derived=lambda p, data: {"ratio": p["line"]["b"][0] / p["scale"], "fit": data[0] @ p["line"]["b"]}
    )
    posterior = draws.to_arviz(model=model, data=(X, Y)).posterior
    b = np.asarray(posterior["line.b"])
    np.testing.assert_allclose(posterior["ratio"], b[..., 0] / np.asarray(posterior["scale"]), rtol=1e-5)
    np.testing.assert_allclose(posterior["fit"], b @ X.T, rtol=1e-4, atol=1e-5)
    assert posterior["ratio"].dims == ("chain", "draw")
    assert set(draws.to_arviz().posterior) == {"line.b", "scale"}


def test_a_derived_quantity_with_the_name_of_a_parameter_is_refused():
    model = replace(linear(2), derived=lambda p, data: {"scale": 2 * p["scale"]})
    with pytest.raises(ValueError, match="names of their own; got 'scale'"):
        made_up().to_arviz(model=model, data=(X, Y))


@pytest.mark.slow
def test_gaussians_and_mixtures_are_drawn_from(key):
    model = linear(2)
    mixture = jm.fit(key, model, (X, Y), jm.Ensemble(jm.Laplace(), members=2))
    for posterior in (mixture, mixture.members[0]):
        made = posterior.to_arviz(key, 30)
        assert made.posterior["scale"].shape == (1, 30)
        np.testing.assert_array_equal(made.posterior["scale"][0], posterior.sample(key, 30)["scale"])


def test_other_data_are_observed_by_their_own_names():
    model = jm.Model(
        log_likelihood=lambda params, batch: dist.Poisson(params * batch["animals"]).log_prob(batch["deaths"]),
        log_prior=lambda params: -params,
        init=1.0,
    )
    draws = jm.Draws(jnp.ones((2, 5)), INFO, np.zeros((2, 5)))
    data = draws.to_arviz(model=model, data={"animals": np.array([5.0, 4.0]), "deaths": np.array([1, 2])})
    assert set(data.observed_data.data_vars) == {"animals", "deaths"}
    assert set(data.log_likelihood.data_vars) == {"examples"}
    assert set(data.posterior.data_vars) == {"params"}


def test_a_parameter_called_y_keeps_its_dimensions():
    model = jm.Model(log_likelihood=lambda p, batch: -((batch[1] - p["y"].sum()) ** 2), init={"y": np.zeros(3)})
    draws = jm.Draws({"y": np.zeros((2, 5, 3))}, INFO, np.zeros((2, 5)))
    assert draws.to_arviz(model=model, data=(X, Y)).posterior["y"].dims == ("chain", "draw", "y_dim_0")


def test_version_1_gets_the_groups_as_one_mapping():
    asked = {}
    future = SimpleNamespace(
        __version__="1.2.0", from_dict=lambda groups, **options: asked.update(options, groups=groups)
    )
    bridge._convert(future, {"posterior": {"a": np.zeros((1, 2))}}, {}, {"status": "CONVERGED"})
    assert list(asked["groups"]) == ["posterior"]
    assert asked["attrs"] == {"posterior": {"status": "CONVERGED"}}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: made_up().to_arviz(model=linear(2)), "model= and data= together"),
        (lambda: made_up().to_arviz(data=(X, Y)), "model= and data= together"),
        (lambda: made_up().to_arviz(model=linear(1), data=(X, Y)), "one over other parameters"),
        (lambda: made_up(count=0).to_arviz(), "at least one draw"),
        (
            lambda: jm.Draws({"a": {"b": np.zeros((1, 2))}, "a.b": np.zeros((1, 2))}, INFO, None).to_arviz(),
            "'a.b' twice",
        ),
    ],
    ids=["no data", "no model", "another model", "no draws", "names alike"],
)
def test_mistakes_are_refused_in_words(call, words):
    with pytest.raises(ValueError, match="Expected") as caught:
        call()
    assert words in str(caught.value)


def test_a_missing_arviz_is_said_in_words(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxmap\[arviz\]'"):
        made_up().to_arviz()
