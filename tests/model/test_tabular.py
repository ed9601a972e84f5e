"""The model of a table: units, prior, and densities in the target's own units."""

import json

import jax
import numpy as np
import pytest
from scipy import stats

import jaxmap as jm
from jaxmap.model import Design

X = np.array([[0.5, -1.0], [1.5, 0.3], [-0.7, 0.2], [0.1, 1.1]])
Y = {
    "gaussian": np.array([10.0, 12.0, 9.0, 30.0]),
    "log_gaussian": np.array([1e4, 2e4, 5e4, 9e5]),
    "poisson": np.array([0, 3, 2, 9]),
    "negative_binomial": np.array([0, 3, 2, 40]),
    "bernoulli": np.array([0, 1, 1, 0]),
    "categorical": np.array([0, 1, 2, 0]),
}
CLASSES = {"bernoulli": 2, "categorical": 3}


def made(family, **options):
    told = {"family": family, "inputs": 2, "sources": 4, "widths": (), "classes": CLASSES.get(family, 0)}
    return Design.of(Y[family], **told | options)


@pytest.mark.parametrize("family", Y)
def test_densities_are_finite_and_plain_values_make_the_same_model(family):
    design = made(family)
    again = Design.from_plain(json.loads(json.dumps(design.plain())))
    assert again == design
    params = design.model().start
    values = [np.asarray(d.model().log_likelihood(params, (X, Y[family]))) for d in (design, again)]
    assert np.isfinite(values[0]).all()
    np.testing.assert_array_equal(*values)
    assert design.size == sum(leaf.size for leaf in jax.tree.leaves(params.get("network", params)))


def test_the_log_scale_keeps_its_jacobian(x64):
    design = made("log_gaussian")
    model, y = design.model(), Y["log_gaussian"]
    params = jax.tree.map(np.asarray, model.start)
    outputs = np.asarray(model.apply(params, X))
    scale = float(params["likelihood"]["scale"])
    logs = np.log(y)
    expected = stats.norm.logpdf(logs, logs.mean() + logs.std() * outputs, logs.std() * scale) - logs
    np.testing.assert_allclose(model.log_likelihood(params, (X, y)), expected, rtol=1e-6)


def test_counts_begin_at_their_mean():
    model = made("poisson").model()
    zero = jax.tree.map(np.zeros_like, model.start)
    np.testing.assert_allclose(model.observe(zero, X).mean, np.full(4, 3.5), rtol=1e-6)


def test_the_prior_is_shared_among_the_columns():
    assert made("gaussian").weight_scale == 0.5
    assert made("bernoulli").weight_scale == 1.0
    assert made("gaussian", widths=(3,)).weight_scale == 1.0
    assert made("gaussian", widths=(3,), sources=32).weight_scale == 0.5
    assert made("gaussian", weight_scale=0.1).weight_scale == 0.1
    model = made("gaussian", weight_scale=0.01).model()
    params = jax.tree.map(np.zeros_like, model.start)
    params["network"] = jax.tree.map(lambda leaf: leaf + 0.02, params["network"])
    params["likelihood"]["scale"] = np.ones(())
    expected = 2 * stats.norm.logpdf(0.02, 0, 0.01) + stats.norm.logpdf(0.02) + stats.halfnorm.logpdf(1)
    np.testing.assert_allclose(model.log_prior(params), expected, rtol=1e-5)


@pytest.mark.usefixtures("unchecked", "rank_promotion")
def test_a_mixture_never_exceeds_one(key):
    members = jm.Ensemble(jm.MAP(), members=3)
    model = made("log_gaussian").model()
    predictive = jm.predict(key, model, jm.fit(key, model, (X, Y["log_gaussian"]), members), X)
    assert predictive.cdf(np.full(4, 1e30)).max() <= 1.0
