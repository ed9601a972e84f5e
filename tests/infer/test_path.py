"""Paths: each strength's fit is what a single fit finds, scored as a slow loop by hand scores it."""

import functools
import gc
import weakref
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.linear_model import Lasso, LogisticRegression

import jaxmap as jm
from jaxmap import Status
from jaxmap.infer.problem import named_key
from jaxmap.trees import has_tracers
from tests import reference
from tests.cases import flat

KEY = jax.random.key(0)
RNG = np.random.default_rng(3)
N, P, NOISE = 40, 4, 0.5
X = RNG.normal(size=(N, P))
X[:, 3] = X[:, 0] + 0.3 * RNG.normal(size=N)
Y = X @ [1.0, -2.0, 0.0, 0.3] + NOISE * RNG.normal(size=N)
LABELS = (RNG.random(N) < 1 / (1 + np.exp(-2 * X[:, 0] + X[:, 1]))).astype(int)
CURVE = np.linspace(-2.0, 2.0, 24)[:, None], np.sin(3 * np.linspace(-2.0, 2.0, 24)) + 0.1 * RNG.normal(size=24)

LINEAR = (lambda key: np.zeros(P), lambda b, x: x @ b)
LEARNED = jm.Gaussian(scale=jm.Learned(dist.HalfNormal(1.0)))
STRENGTHS = np.array([40.0, 0.1, 5.0])


def tanh_units(start=None):
    """Three hidden units; drawn afresh from a key, or begun where another fit ended."""

    def init(key):
        if start is not None:
            return start
        one, two = jax.random.split(key)
        return {"in": jax.random.normal(one, (2, 3)), "out": jax.random.normal(two, (3,))}

    return init, lambda p, x: jnp.tanh(x @ p["in"][:1] + p["in"][1:]) @ p["out"]


def network(strength, start=None):
    return jm.supervised(tanh_units(start), jm.Gaussian(0.1), jm.weight_decay(strength))


def noisy(strength):
    """The strength is the noise: only the likelihood depends on it."""
    return jm.supervised(LINEAR, jm.Gaussian(scale=strength), jm.weight_decay(1.0))


TRACED = []
"""True for each time that `ridge` was called in a trace."""


def ridge(strength):
    TRACED.append(has_tracers(strength))
    return jm.supervised(LINEAR, jm.Gaussian(NOISE), jm.weight_decay(strength))


BUILDS = {
    "ridge": (ridge, (X, Y)),
    "lasso": (lambda s: jm.supervised(LINEAR, jm.Gaussian(NOISE), jm.l1(s)), (X, Y)),
    "ridge logistic": (lambda s: jm.supervised(LINEAR, jm.Bernoulli(), jm.weight_decay(s)), (X, LABELS)),
    "noise": (noisy, (X, Y)),
    "tanh units": (network, CURVE),
}


@functools.cache
def path_of(name, select=None, precision="float64"):
    """The path of a build, computed once for all tests."""
    build, data = BUILDS[name]
    strengths = np.array([100.0, 0.1, 0.01]) if name == "tanh units" else STRENGTHS
    return jm.path(KEY, build, data, strengths, precision=precision, select=select, folds=4)


@functools.cache
def fit_of(name, strength, precision="float64"):
    build, data = BUILDS[name]
    return jm.fit(KEY, build(strength), data, jm.MAP(), precision=precision)


# Each strength.


@pytest.mark.parametrize("name", ["ridge logistic", "noise"])
def test_a_path_is_a_fit_per_strength(name):
    path = path_of(name)
    np.testing.assert_array_equal(path.strengths, STRENGTHS)
    alone, point = fit_of(name, STRENGTHS[1]), path[1]
    np.testing.assert_allclose(point.mode, alone.mode, atol=3e-6)
    assert point.info.status is alone.info.status is path.statuses[1] is Status.CONVERGED
    for term in ("log_likelihood", "log_prior", "log_joint"):
        np.testing.assert_allclose(getattr(point.info, term), getattr(alone.info, term), rtol=1e-9)
    assert point.info.target == alone.info.target
    assert path.info.status is Status.CONVERGED
    np.testing.assert_allclose(path.log_joint, [point.info.log_joint for point in path])


def test_ridge_in_closed_form():
    expected = [np.linalg.solve(X.T @ X / NOISE**2 + s * np.eye(P), X.T @ Y / NOISE**2) for s in STRENGTHS]
    np.testing.assert_allclose(path_of("ridge").modes, expected, atol=1e-10)


def test_scikit_learn_finds_the_same_lasso_and_the_same_zeros():
    """The elastic net stands in test_glmnet.py."""
    path = path_of("lasso")
    for k, strength in enumerate(STRENGTHS):
        expected = Lasso(strength * NOISE**2 / N, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(X, Y).coef_
        np.testing.assert_allclose(path.modes[k], expected, atol=1e-8)
        np.testing.assert_array_equal(path.modes[k] == 0, expected == 0)
        assert path.certificates[k].held == tuple(f"[{i}]" for i in np.flatnonzero(expected == 0))
    counts = [row["nonzero"] for row in path.summary().rows]
    assert counts == [int(np.count_nonzero(mode)) for mode in path.modes]
    assert min(counts) < P == max(counts)


def test_ridge_logistic_is_that_of_scikit_learn():
    for strength, mode in zip(STRENGTHS, path_of("ridge logistic").modes, strict=True):
        slow = LogisticRegression(C=1 / strength, fit_intercept=False, tol=1e-12, solver="newton-cholesky")
        np.testing.assert_allclose(mode, slow.fit(X, LABELS).coef_[0], atol=3e-6)


@pytest.mark.slow
def test_each_strength_begins_where_the_stronger_one_ended():
    """A fit by hand from there ends at the same mode; one from a fresh start ends at a lower one."""
    path = path_of("tanh units")
    start = jax.tree.map(lambda leaf: leaf[1], path.modes)
    slow = jm.fit(KEY, network(path.strengths[2], start), CURVE, jm.MAP(), precision="float64")
    np.testing.assert_allclose(flat(path[2].mode), flat(slow.mode), rtol=1e-5, atol=1e-6)
    cold = jm.fit(jax.random.key(3), network(path.strengths[2]), CURVE, jm.MAP(), precision="float64")
    assert path.statuses[2] is cold.info.status is Status.CONVERGED
    assert cold.info.log_joint < path.log_joint[2] - 1


def test_single_precision_finds_the_same():
    single, double = path_of("lasso", precision="float32"), path_of("lasso")
    assert jax.tree.leaves(single.modes)[0].dtype == jnp.float32
    np.testing.assert_allclose(single.modes, double.modes, atol=1e-4)
    np.testing.assert_array_equal(single.modes == 0, double.modes == 0)
    assert single.statuses == double.statuses
    np.testing.assert_allclose(single.log_joint, double.log_joint, rtol=1e-6)


def test_the_order_of_the_strengths_is_the_users():
    order = [2, 0, 1]
    path = jm.path(KEY, ridge, (X, Y), STRENGTHS[order].tolist(), precision="float64")
    np.testing.assert_array_equal(path.strengths, STRENGTHS[order])
    np.testing.assert_array_equal(path.modes, path_of("ridge").modes[order])


def test_one_strength_is_a_path_too():
    path = jm.path(KEY, ridge, (X, Y), [5.0], precision="float64")
    assert len(path) == 1
    np.testing.assert_allclose(path.modes[0], path_of("ridge").modes[2], atol=1e-10)


def test_equal_strengths_have_equal_fits():
    path = jm.path(KEY, ridge, (X, Y), [2.0, 0.1, 2.0], precision="float64")
    np.testing.assert_allclose(path.modes[0], path.modes[2], atol=1e-12)


# What a person is told.


def test_a_separable_problem_is_certified_only_where_its_prior_holds_it():
    """At w > 0 the slope of the log density is sum |x| / (1 + exp(w |x|)) - strength: its root is the only maximum."""
    x, y = np.linspace(-1.0, 1.0, 20)[:, None], np.repeat([0, 1], 10)
    size, strengths = np.abs(x[:, 0]), np.array([1e-12, 0.01, 100.0])

    def build(strength):
        return jm.supervised((lambda key: np.zeros(1), lambda b, x: x @ b), jm.Bernoulli(), jm.l1(strength))

    path = jm.path(KEY, build, (x, y), strengths, precision="float64")
    assert path.statuses[1:] == (Status.CONVERGED, Status.CONVERGED)
    assert path.certificates[2].held == ("[0]",)
    assert path.modes[2] == 0.0
    for strength, status, mode in zip(strengths[:2], path.statuses, path.modes[:, 0], strict=False):
        exact = brentq(lambda w, s=strength: np.sum(size * expit(-w * size)) - s, 0.0, 1e4, xtol=1e-12)
        spread = np.sum(size**2 * expit(exact * size) * expit(-exact * size)) ** -0.5
        assert (status is Status.CONVERGED) == (abs(mode - exact) < 0.01 * spread)
    assert path.info.members == path.statuses
    sure = path.statuses.count(Status.CONVERGED)
    assert path.info.status is path.statuses[0]
    assert repr(path) == f"Path(3 strengths, {sure} certified)"
    assert [row["status"] for row in path.summary().rows] == [status.name for status in path.statuses]


def test_a_flat_direction_is_named_at_every_strength():
    def log_likelihood(p, batch):
        return dist.Normal(p["both"][0] + p["both"][1] + p["slope"] * batch[0], 1.0).log_prob(batch[1])

    def build(strength):
        prior = jm.Prior({"both": jm.flat, "slope": jm.weight_decay(strength)})
        init = {"both": jnp.zeros(2), "slope": jnp.zeros(())}  # made in the trace, where zeros are no numbers
        return jm.Model(log_likelihood=log_likelihood, log_prior=prior, init=init)

    path = jm.path(KEY, build, (X[:, 0], Y), [0.1, 1.0], precision="float64")
    assert path.statuses == (Status.NOT_A_MAXIMUM,) * 2
    for certificate in path.certificates:
        assert set(certificate.flat) == {"both[0]", "both[1]"}


def test_the_last_point_of_a_walk_that_is_too_short_is_not_certified():
    build, data = BUILDS["ridge logistic"]
    path = jm.path(KEY, build, data, [0.01], jm.MAP(steps=1), precision="float64")
    assert path.statuses == (Status.STEPS_EXHAUSTED,)
    assert jm.path(KEY, build, data, [0.01], precision="float64").statuses == (Status.CONVERGED,)


def test_the_table_has_a_row_per_strength():
    path = path_of("lasso", "cv")
    table = path.summary()
    assert [float(row["strength"]) for row in table.rows] == STRENGTHS.tolist()
    for name, values in (("score", path.scores), ("se", path.scores_se), ("log_likelihood", path.log_likelihood)):
        assert [row[name] for row in table.rows] == values.tolist()
    said = f"highest score (held-out log-likelihood per example) at strength {path.best_strength:g}"
    assert said in str(path) == str(table)


# One of them.


def test_a_member_is_a_point(tmp_path):
    path, build = path_of("ridge logistic"), BUILDS["ridge logistic"][0]
    point, alone = path[1], fit_of("ridge logistic", STRENGTHS[1])
    for row, expected in zip(point.summary().rows, alone.summary().rows, strict=True):
        assert row.pop("parameter") == expected.pop("parameter")
        assert row == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert "Strength 0.1, from a path of 3." in str(point.summary())
    loaded = jm.load(point.save(tmp_path / "point"))
    np.testing.assert_array_equal(loaded.mode, point.mode)
    assert loaded.info.certificate == path.certificates[1]
    model = build(STRENGTHS[1])
    means = jm.predict(KEY, model, point, X[:3]).mean
    np.testing.assert_allclose(means, 1 / (1 + np.exp(-X[:3] @ point.mode)), rtol=1e-6)
    around = jm.fit(KEY, model, (X, LABELS), jm.Laplace(point), precision="float64")
    np.testing.assert_allclose(around.mode, point.mode, atol=1e-7)


def test_members_are_counted_as_a_sequence_counts():
    path = path_of("ridge")
    assert len(path) == 3
    assert len(list(path)) == 3
    np.testing.assert_array_equal(path[-1].mode, path[2].mode)
    with pytest.raises(IndexError):
        path[3]
    np.testing.assert_array_equal(path[np.argmax(STRENGTHS)].mode, path.modes[0])


# Selection.


def folds_of(count):
    """The parts of the data, as `path` deals them."""
    part = np.empty(N, int)
    part[np.asarray(jax.random.permutation(named_key(KEY, "path"), N))] = np.arange(N) % count
    return part


def by_hand(fit, log_likelihood, folds):
    """Mean held-out log-likelihood and its standard error, per strength, by loops."""
    part, means, errors = folds_of(folds), [], []
    for strength in STRENGTHS:
        each = []
        for fold in range(folds):
            out = part == fold
            b = fit(X[~out], ~out, strength)
            each.append(np.mean(log_likelihood(X[out] @ b, out)))
        counts = np.bincount(part)
        means.append(np.average(each, weights=counts))
        errors.append(np.sqrt(np.average((each - means[-1]) ** 2, weights=counts) / (folds - 1)))
    return means, errors


def normal_log_density(means, rows):
    return -0.5 * ((Y[rows] - means) / NOISE) ** 2 - np.log(NOISE) - 0.5 * np.log(2 * np.pi)


def check_scores(path, scores):
    means, errors = scores
    np.testing.assert_allclose(path.scores, means, rtol=1e-6)
    np.testing.assert_allclose(path.scores_se, errors, rtol=1e-5)
    assert path.best_index == np.argmax(means)
    assert path.best_strength == STRENGTHS[np.argmax(means)]
    np.testing.assert_array_equal(path.best.mode, path[path.best_index].mode)


def test_cross_validation_of_ridge_by_hand():
    def fit(x, rows, strength):
        return np.linalg.solve(x.T @ x / NOISE**2 + strength * np.eye(P), x.T @ Y[rows] / NOISE**2)

    check_scores(path_of("ridge", "cv"), by_hand(fit, normal_log_density, 4))


def test_cross_validation_of_a_lasso_by_scikit_learn():
    def fit(x, rows, strength):
        alpha = strength * NOISE**2 / len(x)
        return Lasso(alpha, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(x, Y[rows]).coef_

    check_scores(path_of("lasso", "cv"), by_hand(fit, normal_log_density, 4))


def test_a_selection_leaves_the_fits_alone():
    np.testing.assert_array_equal(path_of("ridge", "cv").modes, path_of("ridge").modes)


def test_the_evidence_of_ridge_in_closed_form():
    path = path_of("ridge", "evidence")
    exact = [reference.linear_gaussian(X, Y, np.zeros(P), np.eye(P) / s, NOISE).log_evidence for s in STRENGTHS]
    np.testing.assert_allclose(path.scores, exact, rtol=1e-10)
    assert path.scores_se is None
    assert path.best_strength == STRENGTHS[np.argmax(exact)]


def test_the_evidence_is_that_of_laplace():
    """In unconstrained coordinates, where a learned scale has a Jacobian."""
    build = lambda s: jm.supervised(LINEAR, LEARNED, jm.weight_decay(s))
    method = jm.MAP(space="unconstrained")
    path = jm.path(KEY, build, (X, Y), [1.0, 5.0], method, select="evidence", precision="float64")
    gaussian = jm.fit(KEY, build(5.0), (X, Y), jm.Laplace(method, hessian="exact"), precision="float64")
    np.testing.assert_allclose(flat(path[1].mode), flat(gaussian.mode), atol=1e-7)
    np.testing.assert_allclose(path.scores[1], gaussian.log_evidence, rtol=1e-9)


# One program.


def test_nothing_is_traced_again_for_the_same_build():
    path_of.__wrapped__("ridge", "cv")  # here and now: programs may have been let go of since another test's path
    first = sum(TRACED)
    assert first > 0
    x = X + 0.1
    again = jm.path(jax.random.key(7), ridge, (x, Y), 2 * STRENGTHS, precision="float64", select="cv", folds=3)
    assert sum(TRACED) == first, "new data of the same shape, new strengths, a new key, other folds"
    expected = [np.linalg.solve(x.T @ x / NOISE**2 + s * np.eye(P), x.T @ Y / NOISE**2) for s in 2 * STRENGTHS]
    np.testing.assert_allclose(again.modes, expected, atol=1e-10)
    jm.path(KEY, ridge, (X, Y), [5.0, 1.0], precision="float64")
    assert sum(TRACED) > first, "another number of strengths"


def test_a_build_that_is_let_go_takes_its_programs_with_it():
    build = lambda s: jm.supervised(LINEAR, jm.Gaussian(NOISE), jm.weight_decay(s))
    gone = weakref.ref(build)
    jm.path(KEY, build, (X, Y), STRENGTHS)
    del build
    gc.collect()
    assert gone() is None


@dataclass
class Unhashable:
    """A build that is compared by value and so has no hash."""

    scale: float

    def __call__(self, strength):
        return ridge(self.scale * strength)


def test_a_build_needs_no_hash():
    path = jm.path(KEY, Unhashable(2.0), (X, Y), STRENGTHS / 2, precision="float64")
    np.testing.assert_allclose(path.modes, path_of("ridge").modes, atol=1e-10)


# What users get wrong.


def walk(build=ridge, strengths=STRENGTHS, data=(X, Y), method=jm.MAP(), key=KEY, **options):
    return jm.path(key, build, data, strengths, method, **options)


def compute_in_numpy(strength):
    return ridge(np.log1p(strength))


MISTAKES = {
    "a number for build": (lambda: walk(3.0), "Expected build to be a function"),
    "a model for build": (lambda: walk(ridge(1.0)), "Expected build to be a function"),
    "build returns nothing": (lambda: walk(lambda s: None), "to return a jm.Model; got NoneType"),
    "build returns a prior": (lambda: walk(jm.weight_decay), "to return a jm.Model; got Prior"),
    "float() of the strength": (
        lambda: walk(lambda s: ridge(float(s))),
        "that jax can trace",
    ),
    "a branch on the strength": (
        lambda: walk(lambda s: ridge(s if s > 1 else 1.0)),
        "that jax can trace",
    ),
    "numpy on the strength": (lambda: walk(compute_in_numpy), "that jax can trace"),
    "zero": (lambda: walk(strengths=[0.0, 1.0]), "positive numbers; got"),
    "negative": (lambda: walk(strengths=[1.0, -1.0]), "positive numbers; got"),
    "NaN": (lambda: walk(strengths=[1.0, np.nan]), "positive numbers; got"),
    "infinity": (lambda: walk(strengths=[np.inf]), "positive numbers; got"),
    "no strengths": (lambda: walk(strengths=[]), "positive numbers; got"),
    "a matrix of strengths": (lambda: walk(strengths=np.ones((2, 2))), "positive numbers; got"),
    "one number": (lambda: walk(strengths=1.0), "positive numbers; got"),
    "nothing for strengths": (lambda: walk(strengths=None), "positive numbers; got"),
    "words for strengths": (lambda: walk(strengths=["weak", "strong"]), "positive numbers; got"),
    "strengths of two lengths": (lambda: walk(strengths=[[1.0], [1.0, 2.0]]), "positive numbers; got"),
    "complex strengths": (lambda: walk(strengths=[1.0 + 1j]), "positive numbers; got"),
    "a generator of strengths": (lambda: walk(strengths=(s for s in (1.0, 2.0))), "positive numbers; got"),
    "traced strengths": (lambda: jax.jit(lambda s: walk(strengths=s).modes)(np.ones(2)), "Expected"),
    "traced data": (lambda: jax.jit(lambda x: walk(data=(x, Y)).modes)(X), "Expected jm.path to run on the host"),
    "a traced key": (lambda: jax.jit(lambda key: walk(key=key).modes)(KEY), "Expected jm.path to run on the host"),
    "a seed for the key": (lambda: walk(key=0), "Expected a key such as"),
    "MLE": (lambda: walk(method=jm.MLE()), r"Expected jm.MAP\(...\) as the method of a path; got MLE"),
    "Laplace": (lambda: walk(method=jm.Laplace()), r"Expected jm.MAP\(...\) as the method of a path; got Laplace"),
    "the class": (lambda: walk(method=jm.MAP), r"Expected jm.MAP\(...\)"),
    "a solver for the method": (lambda: walk(method=jm.Newton()), r"Expected jm.MAP\(...\)"),
    "optax": (lambda: walk(method=jm.MAP(optax.adam(0.1))), "Expected a deterministic solver"),
    "restarts": (lambda: walk(method=jm.MAP(restarts=2)), "one start for a path"),
    "minibatches": (lambda: walk(method=jm.MAP(batch_size=8)), "Expected full batches"),
    "an unknown selection": (lambda: walk(select="loo"), "Expected select='cv', 'evidence' or None; got 'loo'"),
    "a list of selections": (lambda: walk(select=["cv"]), "Expected select="),
    "one fold": (lambda: walk(select="cv", folds=1), "Expected folds"),
    "half a fold": (lambda: walk(select="cv", folds=2.5), "Expected folds"),
    "more folds than examples": (lambda: walk(select="cv", folds=N + 1), "Expected at least one example per fold"),
    "several members at once": (lambda: path_of("ridge")[0:2], "Expected the index of one strength; got slice"),
    "a name for a member": (lambda: path_of("ridge")["best"], "Expected the index of one strength; got 'best'"),
    "digits": (lambda: walk(strengths=["1", "2"]), "positive numbers; got"),
    "truths": (lambda: walk(strengths=[True]), "positive numbers; got"),
    "the evidence of a kink": (lambda: walk(BUILDS["lasso"][0], select="evidence"), "Expected a smooth prior"),
    "the evidence of a bounded parameter": (
        lambda: walk(lambda s: jm.supervised(LINEAR, LEARNED, jm.weight_decay(s)), select="evidence"),
        r"Expected unconstrained modes .* Use jm.MAP\(space='unconstrained'\)",
    ),
    "another precision": (lambda: walk(precision="float16"), "Expected precision="),
    "no data": (lambda: walk(data=None), "log_likelihood that accepts this data"),
    "lengths differ": (lambda: walk(data=(X, Y[1:])), "different lengths: x has 40, y has 39"),
    "the best of no selection": (lambda: path_of("ridge").best, r"Use jm.path\(..., select='cv'\)"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_refused_in_words(mistake):
    make, words = MISTAKES[mistake]
    with pytest.raises((TypeError, ValueError), match=words) as raised:
        make()
    assert str(raised.value).startswith("Expected")
    assert not isinstance(raised.value, jax.errors.JAXTypeError)
