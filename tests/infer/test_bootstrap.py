"""The bootstrap: each refit is a weighted fit done slowly; their spread is what theory says it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from sklearn.linear_model import Lasso, LogisticRegression

import jaxmap as jm
from jaxmap import Status
from jaxmap.infer.bootstrap import RESAMPLE, resampled
from jaxmap.infer.problem import named_key
from jaxmap.trees import has_tracers
from tests.cases import flat

KEY = jax.random.key(0)
RNG = np.random.default_rng(1)
N, P, NOISE = 50, 3, 0.5
X = RNG.normal(size=(N, P))
Y = X @ [1.0, -2.0, 0.0] + NOISE * (0.3 + np.abs(X[:, 0])) * RNG.normal(size=N)
LABELS = (RNG.random(N) < 1 / (1 + np.exp(-X[:, 0] + X[:, 1]))).astype(int)
GRID = np.linspace(-1.0, 1.0, 12)[:, None], np.repeat([0, 1], 6)[[0, 1, 2, 3, 4, 6, 5, 7, 8, 9, 10, 11]]
STRENGTH = 20.0

LINEAR = (lambda key: np.zeros(P), lambda b, x: x @ b)
SLOPE = (lambda key: np.zeros(1), lambda b, x: x @ b)
LEARNED = jm.Gaussian(scale=jm.Learned(dist.HalfNormal(1.0)))

TRACED = []
"""True for each time that the regression's likelihood was called in a trace."""


def normal(outputs):
    TRACED.append(has_tracers(outputs))
    return dist.Normal(outputs, NOISE)


MODELS = {
    "regression": (lambda: jm.supervised(LINEAR, normal), (X, Y), jm.MLE()),
    "lasso": (lambda: jm.supervised(LINEAR, jm.Gaussian(NOISE), jm.l1(STRENGTH)), (X, Y), jm.MAP()),
    "learned scale": (lambda: jm.supervised(LINEAR, LEARNED), (X, Y), jm.MLE()),
    "logistic": (lambda: jm.supervised(LINEAR, jm.Bernoulli(), jm.weight_decay(1.0)), (X, LABELS), jm.MAP()),
    "nearly separable": (lambda: jm.supervised(SLOPE, jm.Bernoulli()), GRID, jm.MLE()),
}


@functools.cache
def model_of(name):
    return MODELS[name][0]()


@functools.cache
def refits(name, count=30, precision="float64", seed=0):
    """A bootstrap of one of the models, computed once for all tests."""
    _, data, of = MODELS[name]
    method = jm.Bootstrap(of, replicates=count)
    return jm.fit(jax.random.key(seed), model_of(name), data, method, precision=precision)


def counts_of(n, count):
    """How often each example is drawn in each sample, as the method draws them."""
    return resampled(jax.random.fold_in(named_key(KEY, "fit"), RESAMPLE), n, count)


# Each refit.


def test_each_refit_is_weighted_least_squares():
    boot = refits("regression")
    for weights, found in zip(counts_of(N, 30), boot.replicates, strict=True):
        weighted = X * weights[:, None]
        expected = np.linalg.solve(weighted.T @ X, weighted.T @ Y)
        np.testing.assert_allclose(found, expected, atol=1e-9)
    assert boot.info.status is Status.CONVERGED
    assert boot.info.members == (Status.CONVERGED,) * 30
    assert boot.info.notes == ("30 of 30 refits are certified maxima.",)


def test_each_refit_of_a_lasso_is_that_of_scikit_learn():
    boot = refits("lasso")
    slow = Lasso(STRENGTH * NOISE**2 / N, fit_intercept=False, tol=1e-14, max_iter=100_000)
    expected = [slow.fit(X, Y, sample_weight=w.astype(float)).coef_ for w in counts_of(N, 30)]
    np.testing.assert_allclose(boot.replicates, expected, atol=1e-7)
    zeros = np.equal(expected, 0)
    np.testing.assert_array_equal(boot.replicates == 0, zeros)
    assert zeros.any()
    assert not zeros.all()
    assert set(boot.info.members) == {Status.CONVERGED}


def test_each_refit_of_a_logistic_regression_is_that_of_scikit_learn():
    slow = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-12, solver="newton-cholesky")
    expected = [slow.fit(X, LABELS, sample_weight=w).coef_[0] for w in counts_of(N, 30)]
    np.testing.assert_allclose(refits("logistic").replicates, expected, atol=3e-6)


def test_a_learned_scale_is_refitted_too():
    """The maximum-likelihood scale of a sample is the root mean square of its residuals."""
    boot = refits("learned scale")
    scales, slopes = boot.replicates["likelihood"]["scale"], boot.replicates["network"]
    np.testing.assert_allclose(slopes, refits("regression").replicates, atol=1e-8)
    squares = (Y - slopes @ X.T) ** 2
    np.testing.assert_allclose(scales, np.sqrt(np.sum(counts_of(N, 30) * squares, axis=1) / N), rtol=1e-8)
    labels = [row["parameter"] for row in boot.summary().rows]
    assert labels == ["likelihood/scale", "network[0]", "network[1]", "network[2]"]


def test_single_precision_finds_the_same():
    boot = refits("logistic", precision="float32")
    assert boot.replicates.dtype == jnp.float32
    np.testing.assert_allclose(boot.replicates, refits("logistic").replicates, atol=1e-4)
    assert set(boot.info.members) == {Status.CONVERGED}


def test_the_estimate_is_the_fit_to_the_data_as_they_are():
    alone = jm.fit(KEY, model_of("logistic"), (X, LABELS), jm.MAP(), precision="float64")
    boot = refits("logistic")
    np.testing.assert_array_equal(boot.mode, alone.mode)
    np.testing.assert_array_equal(boot.estimate.mode, alone.mode)
    assert boot.estimate.info.status is Status.CONVERGED
    assert boot.info.num_gradients > alone.info.num_gradients


def test_a_sample_that_is_separable_is_counted_and_not_called_a_maximum():
    """Of the rows 5 and 6, which alone are out of order, a sample has to hold one at least."""
    boot = refits("nearly separable")
    weights = counts_of(12, 30)
    lost = (weights[:, 5] == 0) & (weights[:, 6] == 0)
    assert 0 < lost.sum() < 15
    assert [status is not Status.CONVERGED for status in boot.info.members] == lost.tolist()
    assert f"{30 - lost.sum()} of 30 refits are certified maxima." in boot.info.notes
    assert boot.info.status is not Status.CONVERGED
    assert np.all(np.isfinite(boot.replicates))
    assert np.all(boot.replicates[lost] > 2 * boot.replicates[~lost].max())


def test_a_refit_goes_where_only_left_out_examples_are_impossible():
    """log_likelihood = log(c - t) + 3 t is -inf or NaN beyond the smallest c; without it the maximum lies there."""
    edges = np.array([1.0, 2.0, 3.0, 4.0])
    model = jm.Model(log_likelihood=lambda p, c: jnp.log(c - p["t"]) + 3 * p["t"], init={"t": 0.0})
    boot = jm.fit(KEY, model, edges, jm.Bootstrap(replicates=12), precision="float64")
    t = np.linspace(0.0, 4.0, 40_001)[:-1]
    for weights, found in zip(counts_of(4, 12), boot.replicates["t"], strict=True):
        inside = t[t < edges[weights > 0].min()]
        total = sum(w * (np.log(c - inside) + 3 * inside) for w, c in zip(weights, edges, strict=True) if w)
        np.testing.assert_allclose(found, inside[np.argmax(total)], atol=1.01e-4)
    assert np.max(boot.replicates["t"]) > 1.0
    assert boot.info.status is Status.CONVERGED


# All of them.


def test_standard_errors_are_those_of_the_sandwich():
    """The noise grows with |x_0|: the textbook formula, which takes it for constant, is far off."""
    boot = refits("regression", 4000)
    inverse = np.linalg.inv(X.T @ X)
    residuals = Y - X @ boot.mode
    sandwich = np.sqrt(np.diag(inverse @ (X.T * residuals**2) @ X @ inverse))
    textbook = np.sqrt(np.diag(inverse) * np.mean(residuals**2))
    errors = [row["std err"] for row in boot.summary().rows]
    np.testing.assert_allclose(errors, boot.replicates.std(axis=0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(errors, sandwich, rtol=0.12)
    assert errors[0] > 1.25 * textbook[0]


def test_the_table_holds_percentiles():
    boot = refits("regression")
    for level, names in ((0.95, ("[0.025", "0.975]")), (0.5, ("[0.25", "0.75]"))):
        rows = boot.summary(level=level).rows
        expected = np.quantile(boot.replicates, [(1 - level) / 2, (1 + level) / 2], axis=0)
        np.testing.assert_allclose([[row[name] for row in rows] for name in names], expected)
    assert [row["estimate"] for row in rows] == boot.mode.tolist()
    np.testing.assert_allclose([row["bias"] for row in rows], boot.replicates.mean(axis=0) - boot.mode)
    assert "30 of 30 refits are certified maxima." in str(boot.summary())
    assert repr(boot) == "Replicates(30 refits; Bootstrap(replicates=30), CONVERGED)"


def test_equal_keys_give_equal_bits_and_other_keys_other_ones():
    _, data, of = MODELS["regression"]
    again = jm.fit(KEY, model_of("regression"), data, jm.Bootstrap(of, replicates=30), precision="float64")
    np.testing.assert_array_equal(again.replicates, refits("regression").replicates)
    other = refits("regression", seed=1)
    assert np.all(other.replicates != again.replicates)
    np.testing.assert_allclose(other.mode, again.mode, atol=1e-12)


def test_samples_are_of_the_size_of_the_data():
    counts = resampled(KEY, 7, 3000)
    assert counts.shape == (3000, 7)
    np.testing.assert_array_equal(counts.sum(axis=1), 7)
    error = np.sqrt(7 * (1 / 7) * (6 / 7) / 3000)
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=4 * error)
    np.testing.assert_allclose(counts.var(axis=0), 6 / 7, atol=0.1)
    np.testing.assert_allclose(np.cov(counts.T)[0, 1], -1 / 7, atol=0.08)


def test_draws_are_replicates():
    boot = refits("regression")
    drawn = boot.sample(KEY, 200)
    rows = {tuple(row) for row in boot.replicates.tolist()}
    assert drawn.shape == (200, P)
    assert {tuple(row) for row in drawn.tolist()} <= rows
    assert len({tuple(row) for row in drawn.tolist()}) > 25
    np.testing.assert_array_equal(drawn, boot.sample(KEY, 200))


def test_predictions_mix_the_refits():
    boot, model = refits("regression"), model_of("regression")
    lines = X[:5] @ boot.replicates.T
    predictive = jm.predict(KEY, model, boot, X[:5])
    np.testing.assert_allclose(predictive.mean, lines.mean(axis=1), atol=1e-10)
    np.testing.assert_allclose(predictive.epistemic, lines.var(axis=1), rtol=1e-8)
    np.testing.assert_allclose(predictive.aleatoric, NOISE**2, rtol=1e-10)
    few = jm.predict(KEY, model, boot, X[:5], draws=10)
    np.testing.assert_allclose(few.mean, lines[:, :10].mean(axis=1), atol=1e-10)


@pytest.mark.parametrize("name", ["regression", "learned scale", "nearly separable"])
def test_a_saved_bootstrap_comes_back_bit_for_bit(name, tmp_path):
    boot = refits(name)
    loaded = jm.load(boot.save(tmp_path / "boot"))
    assert isinstance(loaded, jm.Replicates)
    for mine, theirs in ((boot.replicates, loaded.replicates), (boot.mode, loaded.mode)):
        assert jax.tree.structure(mine) == jax.tree.structure(theirs)
        np.testing.assert_array_equal(flat(mine), flat(theirs))
    assert loaded.info.members == boot.info.members
    assert loaded.info.certificate == boot.info.certificate
    assert str(loaded.summary()) == str(boot.summary())
    assert repr(loaded) == repr(boot)


def test_refits_of_an_estimate_that_is_no_maximum_are_not_called_converged():
    refits("logistic")  # its program must not be taken for that of one step
    method = jm.Bootstrap(jm.MAP(steps=1), replicates=30)
    boot = jm.fit(KEY, model_of("logistic"), (X, LABELS), method, precision="float64")
    assert boot.estimate.info.status is Status.STEPS_EXHAUSTED
    assert boot.info.status is Status.STEPS_EXHAUSTED
    assert Status.STEPS_EXHAUSTED in boot.info.members
    assert "The estimate itself is not" in str(boot.summary())


def test_nothing_is_traced_again_for_new_data_or_a_new_key():
    method = jm.Bootstrap(replicates=30)
    refits.__wrapped__("regression")  # here and now: programs may have been let go of since another test's fit
    first = sum(TRACED)
    assert first > 0
    again = jm.fit(jax.random.key(5), model_of("regression"), (X, Y[::-1].copy()), method, precision="float64")
    assert sum(TRACED) == first
    np.testing.assert_allclose(again.mode, np.linalg.lstsq(X, Y[::-1])[0], atol=1e-9)


# What users get wrong.


def boot(method, model=None, data=(X, Y)):
    return jm.fit(KEY, model or model_of("regression"), data, method)


MISTAKES = {
    "no replicates": (lambda: jm.Bootstrap(replicates=0), "replicates to be a positive integer; got 0"),
    "one replicate": (lambda: jm.Bootstrap(replicates=1), "at least two replicates, to have a spread; got 1"),
    "half a replicate": (lambda: jm.Bootstrap(replicates=2.5), "replicates to be a positive integer; got 2.5"),
    "the class of a method": (lambda: jm.Bootstrap(jm.MLE), "as `of`; got <class"),
    "Laplace": (lambda: jm.Bootstrap(jm.Laplace()), r"Expected jm.MLE\(\) or jm.MAP\(\) as `of`; got Laplace"),
    "a fitted posterior": (lambda: jm.Bootstrap(refits("logistic")), "as `of`; got Replicates"),
    "minibatches": (lambda: jm.Bootstrap(jm.MAP(batch_size=8)), "full batches for a bootstrap"),
    "optax": (lambda: boot(jm.Bootstrap(jm.MAP(optax.adam(0.1), steps=3))), "a deterministic solver for a bootstrap"),
    "a smooth solver for L1": (
        lambda: boot(jm.Bootstrap(jm.MAP(jm.Newton())), model_of("lasso")),
        "a proximal solver for an L1 prior",
    ),
    "no data": (
        lambda: boot(jm.Bootstrap(), jm.from_log_density(lambda b: -jnp.sum(b**2), init=np.zeros(2)), None),
        "data to resample; got None",
    ),
    "the class": (lambda: boot(jm.Bootstrap), r"got the class Bootstrap. Write jm.Bootstrap\(\)"),
    "Laplace at refits": (lambda: boot(jm.Laplace(refits("regression"))), "as `at`; got Replicates"),
    "NUTS from a bootstrap": (lambda: boot(jm.NUTS(start=jm.Bootstrap(replicates=5))), "as `start`; got a bootstrap"),
    "NUTS from refits": (lambda: boot(jm.NUTS(start=refits("regression"))), "as `start`; got"),
    "an ensemble of bootstraps": (lambda: boot(jm.Ensemble(jm.Bootstrap(replicates=5), members=2)), "got jm.Bootstrap"),
    "an ensemble of refits": (lambda: boot(jm.Ensemble(refits("regression"))), "as `of`; got"),
    "a level above one": (lambda: refits("regression").summary(level=2.0), "level between 0 and 1"),
    "a level in words": (lambda: refits("regression").summary(level="95%"), "level between 0 and 1"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_refused_in_words(mistake):
    make, words = MISTAKES[mistake]
    with pytest.raises((TypeError, ValueError), match=words) as raised:
        make()
    assert str(raised.value).startswith("Expected")
