"""The estimators for scikit-learn: its own checks, and its own linear models as truth."""

import copy
import io
import sys
from unittest import SkipTest

import jax
import joblib
import numpy as np
import numpyro.distributions as dist
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import BayesianRidge, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import jaxmap as jm
from jaxmap.sklearn import BayesClassifier, BayesRegressor

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)) * [1.0, 2.0, 0.5]
Y = X @ [1.0, -0.5, 2.0] + 0.7 * RNG.normal(size=40) + 3.0
LABELS = np.where(Y > 3.0, "high", "low")

QUICK = {
    "check_no_attributes_set_in_init",
    "check_estimators_unfitted",
    "check_estimators_pickle",
    "check_supervised_y_2d",
    "check_methods_subset_invariance",
    "check_dict_unchanged",
    "check_classifiers_one_label",
    "check_requires_y_none",
}

pytestmark = pytest.mark.usefixtures("unchecked", "rank_promotion")


def free_bias(scale):
    """N(0, scale) on the coefficients, the intercept as in scikit-learn."""
    return jm.Prior.by_path({"*/kernel": dist.Normal(0.0, scale), "*/bias": jm.flat})


def run_checks(estimator, chosen, before=lambda: None):
    """Run the checks of scikit-learn that are chosen by name; it skips those that do not concern this machine."""
    ran = 0
    for made, check in estimator_checks_generator(estimator):
        if chosen(check.func.__name__):
            before()
            try:
                check(made)
            except SkipTest:
                continue
            ran += 1
    return ran


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [BayesRegressor, pytest.param(BayesClassifier, marks=pytest.mark.slow)])
def test_some_checks_of_scikit_learn(kind):
    assert run_checks(kind(()), QUICK.__contains__) >= 7


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [BayesRegressor, BayesClassifier])
@pytest.mark.parametrize("hidden", [(), (50,)])
def test_all_checks_of_scikit_learn(kind, hidden, room_for_programs):
    """None is excepted; (50,) is the default constructor."""
    estimator = kind() if hidden == (50,) else kind(hidden)
    assert run_checks(estimator, lambda name: True, room_for_programs) >= 45


def test_a_linear_map_estimate_is_ridge_regression():
    """Minimising |y - Xb|^2 / (2 s^2) + |b|^2 / (2 t^2) is ridge regression with alpha = s^2 / t^2."""
    noise, scale = 0.8, 0.5
    ours = BayesRegressor((), jm.MAP(), free_bias(scale), jm.Gaussian(noise), standardize=False).fit(X, Y)
    ridge = Ridge(alpha=noise**2 / scale**2).fit(X, Y)
    np.testing.assert_allclose(ours.posterior_.mode["layers"][0]["kernel"][:, 0], ridge.coef_, rtol=1e-5)
    np.testing.assert_allclose(ours.posterior_.mode["layers"][0]["bias"], ridge.intercept_, rtol=1e-5)
    np.testing.assert_allclose(ours.predict(X), ridge.predict(X), rtol=1e-5)
    np.testing.assert_allclose(ours.score(X, Y), ridge.score(X, Y), rtol=1e-6)


def test_the_predictive_deviation_is_that_of_bayesian_ridge():
    """Its intercept is exact; ours adds noise^2 / n on centred columns."""
    centred = X - X.mean(0)
    theirs = BayesianRidge().fit(centred, Y)
    noise, scale = theirs.alpha_**-0.5, theirs.lambda_**-0.5
    ours = BayesRegressor((), jm.Laplace(), free_bias(scale), jm.Gaussian(noise), standardize=False).fit(centred, Y)
    mean, std = ours.predict(centred, return_std=True)
    expected, spread = theirs.predict(centred, return_std=True)
    np.testing.assert_allclose(mean, expected, rtol=1e-6)
    np.testing.assert_allclose(std, np.sqrt(spread**2 + noise**2 / len(X)), rtol=1e-6)


@pytest.mark.parametrize("noise", [0.01, 0.7, 5.0, 50.0])
def test_the_noise_is_the_one_of_the_largest_evidence(noise):
    """Against the evidence of the linear model in closed form, log N(y | 0, X X' + 1 1' + s^2)."""
    target = X @ [1.0, -0.5, 2.0] + noise * RNG.normal(size=40)
    ours = BayesRegressor((), random_state=0).fit(X, target)
    x, y = (X - X.mean(0)) / X.std(0), (target - target.mean()) / target.std()
    noises = np.geomspace(0.001, 2.0, 4000)

    def log_evidence(noise):
        covariance = x @ x.T + 1.0 + noise**2 * np.eye(len(x))
        return -0.5 * (np.linalg.slogdet(covariance)[1] + y @ np.linalg.solve(covariance, y))

    best = noises[np.argmax([log_evidence(noise) for noise in noises])]
    np.testing.assert_allclose(ours.noise_, best * target.std(), rtol=0.03)


@pytest.mark.slow
def test_the_noise_of_a_network_does_not_vanish():
    """Fifty units can pass through all forty points: the mode of weights and noise together then has none."""
    ours = BayesRegressor(random_state=0).fit(X, Y)
    assert 0.3 < ours.noise_ < 1.4
    fresh = np.random.default_rng(1).normal(size=(400, 3)) * [1.0, 2.0, 0.5]
    truth = fresh @ [1.0, -0.5, 2.0] + 0.7 * np.random.default_rng(2).normal(size=400) + 3.0
    low, high = ours.predict_quantiles(fresh).T
    assert np.mean((low <= truth) & (truth <= high)) > 0.85


def test_quantiles_enclose_their_share():
    ours = BayesRegressor((), random_state=0).fit(X, Y)
    mean, std = ours.predict(X, return_std=True)
    low, middle, high = ours.predict_quantiles(X, (0.05, 0.5, 0.95)).T
    np.testing.assert_allclose(middle, mean, rtol=1e-6)
    np.testing.assert_allclose((high - low) / std, 2 * 1.6448536, rtol=1e-5)
    assert ours.predict_quantiles(X[:7]).shape == (7, 2)


@pytest.mark.parametrize("strength", [0.1, 10.0])
def test_a_linear_map_classifier_is_logistic_regression(strength):
    theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=1000).fit(X, LABELS)
    ours = BayesClassifier((), jm.MAP(), free_bias(strength**0.5), standardize=False).fit(X, LABELS)
    np.testing.assert_allclose(ours.posterior_.mode["layers"][0]["kernel"][:, 0], theirs.coef_[0], rtol=1e-4)
    np.testing.assert_allclose(ours.posterior_.mode["layers"][0]["bias"], theirs.intercept_, rtol=1e-4)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-4)
    assert ours.classes_.tolist() == ["high", "low"]
    assert np.array_equal(ours.predict(X), theirs.predict(X))


def test_laplace_is_less_sure_of_classes_than_the_point():
    point = BayesClassifier((), jm.MAP(), random_state=0).fit(X, LABELS).predict_proba(X)
    ours = BayesClassifier((), random_state=0).fit(X, LABELS).predict_proba(X)
    assert np.all(ours.max(1) < point.max(1))
    assert np.array_equal(ours.argmax(1), point.argmax(1))


def test_the_posterior_and_the_model_are_ours_in_raw_units():
    ours = BayesRegressor((), random_state=0).fit(X, Y)
    mean, std = ours.predict(X, return_std=True)
    predictive = jm.predict(jax.random.key(0), ours.model_, ours.posterior_, X)
    np.testing.assert_allclose(predictive.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(predictive.variance), std, rtol=1e-6)
    assert isinstance(ours.posterior_, jm.GaussianPosterior)


def test_other_likelihoods():
    counts = RNG.poisson(np.exp(0.5 * X[:, 0] + 1.0))
    poisson = BayesRegressor((), likelihood=jm.Poisson(), random_state=0).fit(X, counts)
    seen, std = poisson.predict(X, return_std=True)
    assert np.corrcoef(seen, np.exp(0.5 * X[:, 0] + 1.0))[0, 1] > 0.9
    assert np.all(std > np.sqrt(seen) * 0.99)
    with pytest.raises(ValueError, match="support"):
        poisson.fit(X, counts - 0.5)


@pytest.mark.slow
def test_a_likelihood_with_two_outputs():
    both = BayesRegressor((), jm.MAP(), likelihood=jm.HeteroscedasticGaussian()).fit(X, Y)
    assert both.score(X, Y) > 0.7
    assert not hasattr(both, "noise_")


@pytest.mark.slow
def test_nuts_sees_the_noise_as_a_parameter():
    ours = BayesRegressor((), jm.NUTS(warmup=100, draws=100, chains=2), random_state=0).fit(X, Y)
    assert ours.posterior_.draws["likelihood"]["scale"].shape == (2, 100)
    mean, _ = ours.predict(X, return_std=True)
    np.testing.assert_allclose(mean, BayesRegressor((), random_state=0).fit(X, Y).predict(X), atol=0.3)


@pytest.mark.parametrize("kind", [BayesRegressor, BayesClassifier])
def test_fitted_estimators_survive_copies_and_files(kind):
    y = Y if kind is BayesRegressor else LABELS
    ours = kind((), random_state=0).fit(X, y)
    file = io.BytesIO()
    joblib.dump(ours, file)
    file.seek(0)
    for again in (joblib.load(file), copy.deepcopy(ours)):
        assert np.array_equal(again.predict(X), ours.predict(X))
        assert again.posterior_.info.status is ours.posterior_.info.status
        jm.predict(jax.random.key(0), again.model_, again.posterior_, X)
    joblib.dump(kind(), io.BytesIO())


def test_a_pickle_has_the_model_that_was_fitted():
    ours = BayesRegressor((), random_state=0).fit(X, Y).set_params(hidden=(4,))
    assert np.array_equal(copy.deepcopy(ours).predict(X), ours.predict(X))


@pytest.mark.slow
def test_grid_search_and_pipelines():
    search = GridSearchCV(BayesRegressor(random_state=0), {"hidden": [(), (2,)]}, cv=2).fit(X, Y)
    assert search.best_params_["hidden"] == ()
    assert search.best_estimator_.score(X, Y) > 0.8
    pipe = make_pipeline(StandardScaler(), BayesClassifier((), random_state=0)).fit(X, LABELS)
    assert pipe.score(X, LABELS) > 0.8
    assert pipe[-1].n_features_in_ == 3


def test_equal_shapes_are_compiled_for_once():
    """New data of a shape that was seen take the programs that are there: the model is the same object."""
    from jaxmap.sklearn import _inner

    ours = BayesRegressor((), random_state=0).fit(X, Y)
    before = dict(_inner(ours._recipe).programs)
    other = clone(ours).fit(X[::-1] * 3.0, Y * 5.0)
    assert _inner(other._recipe) is _inner(ours._recipe)
    assert dict(_inner(other._recipe).programs).keys() == before.keys()


def test_column_names_are_kept():
    pandas = pytest.importorskip("pandas")
    ours = BayesRegressor((), random_state=0).fit(pandas.DataFrame(X, columns=["a", "b", "c"]), Y)
    assert ours.feature_names_in_.tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("hidden", [3, (0,), (2.0,), "50", (True,)])
def test_bad_widths_are_refused(hidden):
    with pytest.raises(ValueError, match=r"Expected hidden=\(50,\)"):
        BayesRegressor(hidden).fit(X, Y)


def test_a_prior_may_be_what_prior_takes():
    tight = BayesClassifier((), jm.MAP(), dist.Normal(0.0, 0.1)).fit(X, LABELS)
    wide = BayesClassifier((), jm.MAP(), {"layers": dist.Normal(0.0, 10.0)}).fit(X, LABELS)
    assert np.all(tight.predict_proba(X).max(1) < wide.predict_proba(X).max(1))


def test_bad_input_is_refused_in_words():
    with pytest.raises(ValueError, match="one class, 'high'"):
        BayesClassifier().fit(X, np.full(40, "high"))
    with pytest.raises(TypeError, match=r"Write jm\.MAP\(\)"):
        BayesRegressor((), jm.MAP).fit(X, Y)
    with pytest.raises(ValueError, match="precision='float32'"):
        BayesRegressor((), precision="half").fit(X, Y)
    with pytest.raises(NotFittedError):
        BayesClassifier().predict(X)
    with pytest.raises(ValueError, match="quantile levels"):
        BayesRegressor((), random_state=0).fit(X, Y).predict_quantiles(X, [1.0])


def test_without_scikit_learn_the_import_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn" or name == "jaxmap.sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"jaxmap\[sklearn\]"):
        import jaxmap.sklearn  # noqa: F401
