"""Laplace in every structure: closed forms where a structure is exact, words where there is no Gaussian."""

import functools
import importlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import jaxmap as jm
from jaxmap.curvature import Conditional, Full
from tests import reference
from tests.cases import COUNTS, LINEAR, TOLERANCE, as_tree, as_vectors, check_counts, check_gaussian, flat

KEY = jax.random.key(7)
RNG = np.random.default_rng(21)
BY_NAME = {case.name: case for case in LINEAR}


def fit(model, data, method, precision="float64"):
    return jm.fit(KEY, model, data, method, precision=precision)


def dense(posterior):
    """H, over all coordinates."""
    return np.linalg.inv(posterior.covariance.dense())


# Linear-Gaussian models in every structure that is exact for them.


def orthogonal(case):
    """The case with inputs that are orthogonal to each other and to the constant: H is diagonal."""
    columns = np.column_stack([np.ones(len(case.x)), case.x])
    x = np.sqrt(len(case.x)) * np.linalg.qr(columns)[0][:, 1:]
    return replace(case, x=x)


def two_scales(case):
    """The case with other prior scales and means of kernel and bias."""
    scales, means = {"kernel": 2.0, "bias": 0.1}, {"kernel": -0.5, "bias": 3.0}
    fill = lambda values: {name: np.full(leaf.shape, values[name]) for name, leaf in case.start.items()}
    return replace(case, prior_scale=fill(scales), prior_mean=fill(means))


CASES = {
    "scalar": (BY_NAME["scalar"], ("diagonal", "low_rank")),
    "vector": (BY_NAME["vector"], ("low_rank",)),
    "matrix": (BY_NAME["matrix"], ("kronecker", "low_rank")),
    "two scales": (two_scales(BY_NAME["matrix"]), ("kronecker",)),
    "orthogonal": (orthogonal(BY_NAME["matrix"]), ("diagonal",)),
    "nested": (BY_NAME["nested"], ("low_rank",)),
    "shifted": (BY_NAME["shifted"], ("kronecker", "low_rank")),
    "standardized": (BY_NAME["standardized"], ("kronecker",)),
}


@functools.cache
def model_of(name):
    return CASES[name][0].supervised()


@functools.cache
def mode_of(name):
    """The exact mode, certified: what finds it is tested elsewhere."""
    case = CASES[name][0]
    return fit(model_of(name), case.data, jm.Given(as_tree(case, case.exact.mean)))


@functools.cache
def laplace_of(name, structure, hessian=None):
    return fit(model_of(name), CASES[name][0].data, jm.Laplace(mode_of(name), structure, hessian, grade=0))


def check_predictive(case, predictive):
    """One Gaussian per input: N(X mean, X C X' + noise^2), and what of it is epistemic."""
    mean, variance = case.predictive
    noise = np.broadcast_to(case.noise_of_y**2, variance.shape)
    assert predictive.size == 1
    np.testing.assert_allclose((predictive.mean - mean) / np.sqrt(variance), 0.0, atol=TOLERANCE)
    np.testing.assert_allclose(predictive.variance, variance, rtol=TOLERANCE)
    np.testing.assert_allclose(predictive.aleatoric, noise, rtol=1e-6)
    np.testing.assert_allclose(predictive.epistemic, variance - noise, atol=1e-8 * variance.max())
    log_prob = stats.norm.logpdf(case.y_new, mean, np.sqrt(variance)).reshape(len(mean), -1).sum(1)
    np.testing.assert_allclose(predictive.log_prob(case.y_new), log_prob, rtol=TOLERANCE)


@pytest.mark.parametrize(("name", "structure"), [(n, s) for n, (_, many) in CASES.items() for s in many])
def test_an_exact_structure_is_the_posterior(name, structure):
    case, posterior = CASES[name][0], laplace_of(name, structure)
    check_gaussian(case, posterior)
    np.testing.assert_allclose(posterior.covariance.diagonal(), np.diag(case.exact.covariance), rtol=TOLERANCE)
    check_predictive(case, jm.predict(KEY, model_of(name), posterior, case.x_new))


def test_samples_of_a_structure_have_its_moments():
    case, n = CASES["matrix"][0], 4000
    drawn = as_vectors(laplace_of("matrix", "kronecker").sample(KEY, n), 1)
    spread = np.sqrt(np.diag(case.exact.covariance))
    white, correlation = (drawn - case.exact.mean) / spread, case.exact.covariance / np.outer(spread, spread)
    np.testing.assert_array_less(np.abs(white.mean(0)), 4 / np.sqrt(n))
    np.testing.assert_array_less(np.abs(white.T @ white / n - correlation), 4 * np.sqrt((1 + correlation**2) / n))


def test_the_density_of_a_structure_is_that_of_scipy():
    case, posterior = CASES["matrix"][0], laplace_of("matrix", "kronecker")
    exact = stats.multivariate_normal(case.exact.mean, case.exact.covariance)
    for point in RNG.multivariate_normal(case.exact.mean, case.exact.covariance, 2):
        np.testing.assert_allclose(posterior.log_prob(as_tree(case, point)), exact.logpdf(point), rtol=1e-7)


def test_a_flat_bias_has_the_precision_of_the_data():
    """No prior on the bias: H = X'X / s^2 + diag(0, 1 / scale^2), and an evidence up to the prior's constant."""
    case = BY_NAME["matrix"]
    model = case.supervised({"kernel": dist.Normal(0.0, 0.5), "bias": jm.flat})
    precision = case.matrix.T @ case.matrix / case.noise**2 + np.diag([0.0] * 3 + [4.0] * 6)
    mean = np.linalg.solve(precision, case.matrix.T @ case.targets / case.noise**2)
    joint = stats.norm.logpdf(case.targets, case.matrix @ mean, case.noise).sum()
    joint += stats.norm.logpdf(mean[3:], 0.0, 0.5).sum()
    evidence = joint + 4.5 * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(precision)[1]
    for structure in ("full", "kronecker"):
        posterior = fit(model, case.data, jm.Laplace(jm.Given(as_tree(case, mean)), structure, grade=0))
        np.testing.assert_allclose(dense(posterior), precision, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(posterior.log_evidence, evidence, rtol=TOLERANCE)


def test_a_structure_keeps_what_it_can_of_a_matrix():
    """Not exact: the diagonal is that of H; without layers in common the blocks are those of H."""
    exact = np.linalg.inv(CASES["nested"][0].exact.covariance)
    np.testing.assert_allclose(dense(laplace_of("nested", "diagonal")), np.diag(np.diag(exact)), rtol=1e-9)
    found, own = dense(laplace_of("nested", "kronecker")), ~np.isclose(dense(laplace_of("nested", "kronecker")), 0.0)
    np.testing.assert_allclose(found[own], exact[own], rtol=1e-8)
    assert own.sum() > len(exact)


def test_the_rank_says_how_much_is_kept():
    """Fewer directions: the leading ones of the likelihood's curvature, the prior in the others."""
    case, model = CASES["vector"][0], model_of("vector")
    posterior = fit(model, case.data, jm.Laplace(mode_of("vector"), "low_rank", rank=1, grade=0))
    values, vectors = np.linalg.eigh(case.matrix.T @ case.matrix / case.noise**2)
    expected = np.eye(3) + values[2] * np.outer(vectors[:, 2], vectors[:, 2])
    np.testing.assert_allclose(dense(posterior), expected, rtol=1e-8, atol=1e-8)
    assert "part of rank 1 of the Gauss-Newton" in " ".join(posterior.info.notes)


@pytest.mark.parametrize("structure", ["full", "diagonal", "kronecker", "low_rank"])
def test_the_empirical_fisher_matrix_is_that_of_the_scores(structure):
    """g_i = x_i (y_i - x_i w) / s^2, one input: every structure holds the whole matrix."""
    case = CASES["scalar"][0]
    posterior = laplace_of("scalar", structure, "fisher")
    scores = case.matrix[:, 0] * (case.targets - case.matrix @ case.exact.mean) / case.noise**2
    np.testing.assert_allclose(dense(posterior), [[np.sum(scores**2) + 1.0]], rtol=1e-7)
    assert "empirical Fisher matrix" in " ".join(posterior.info.notes)


# Parameters with a support.


def check_positive(structures):
    """A log density alone, in z = log r: one dimension, in which every structure is exact."""
    model = COUNTS.model()
    constrained, point = (fit(model, COUNTS.data, jm.MAP(space=s)) for s in ("constrained", "unconstrained"))
    for structure in structures:
        posterior = fit(model, COUNTS.data, jm.Laplace(point, structure, grade=0))
        check_counts(COUNTS, constrained.mode, posterior.mode, posterior)


def test_a_positive_parameter():
    check_positive(["full", "diagonal", "low_rank"])


POSITIVE = jm.Learned(dist.HalfNormal(1.0))


def learned_scale():
    network = (lambda key: {"w": jnp.zeros(3)}, lambda p, x: x @ p["w"])
    return jm.supervised(network, jm.Gaussian(scale=POSITIVE), jm.Prior(dist.Normal(0.0, 1.0)))


SCALED_X = np.sqrt(20) * np.linalg.qr(RNG.normal(size=(20, 3)))[0]
SCALED = (SCALED_X, SCALED_X @ [1.0, -0.5, 0.2] + 0.4 * RNG.normal(size=20))


def test_a_learned_scale():
    """z = (log s, w): Gauss-Newton is diag(2n + 2 s^2, X'X / s^2 + 1) with the prior, in every structure the same."""
    model = learned_scale()
    point = fit(model, SCALED, jm.MAP(space="unconstrained"))
    s, w = (np.asarray(point.mode[part][name]) for part, name in (("likelihood", "scale"), ("network", "w")))
    expected = np.diag([40 + 2 * s**2, *[20 / s**2 + 1] * 3])
    joint = stats.norm.logpdf(SCALED[1], SCALED_X @ w, s).sum() + stats.norm.logpdf(w).sum()
    joint += stats.halfnorm.logpdf(s) + np.log(s)
    for structure in ("full", "diagonal", "kronecker", "low_rank"):
        posterior = fit(model, SCALED, jm.Laplace(point, structure, grade=0))
        np.testing.assert_allclose(dense(posterior), expected, rtol=1e-8, atol=1e-8)
        evidence = joint + 2 * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(expected)[1]
        np.testing.assert_allclose(posterior.log_evidence, evidence, rtol=TOLERANCE)

    def minus(z):
        scale = np.exp(z[0])
        of_data = stats.norm.logpdf(SCALED[1], SCALED_X @ z[1:], scale).sum()
        return -(of_data + stats.norm.logpdf(z[1:]).sum() + stats.halfnorm.logpdf(scale) + z[0])

    truth = reference.hessian(minus, np.append(np.log(s), w))
    for structure, own in (("full", truth), ("diagonal", np.diag(np.diag(truth)))):
        posterior = fit(model, SCALED, jm.Laplace(point, structure, "exact", grade=0))
        np.testing.assert_allclose(dense(posterior), own, atol=1e-5 * np.abs(truth).max())


# Some leaves move, the others stay.


def conditioned(case, moving):
    """The posterior of some coordinates given the others at the mode, and the density of y given these."""
    held, mean, scale = (
        np.setdiff1d(np.arange(len(case.exact.mean)), moving),
        flat(case.prior_mean),
        flat(case.prior_scale),
    )
    y = case.targets - case.matrix[:, held] @ case.exact.mean[held]
    return reference.linear_gaussian(case.matrix[:, moving], y, mean[moving], np.diag(scale[moving] ** 2), case.noise)


SUBSETS = [
    ("matrix", "bias", np.arange(3), ("full", "diagonal", "kronecker", "low_rank")),
    ("matrix", ["*/kernel"], np.arange(3, 9), ("full", "kronecker")),
    ("nested", ["steps/*", "body/offset"], np.array([0, 3, 4, 5]), ("full", "low_rank")),
]


@pytest.mark.parametrize(("name", "subset", "moving", "structures"), SUBSETS, ids=["bias", "kernel", "several"])
def test_a_subset_is_the_conditional_gaussian(name, subset, moving, structures):
    case, model = CASES[name][0], model_of(name)
    exact = conditioned(case, moving)
    np.testing.assert_allclose(exact.mean, case.exact.mean[moving], rtol=1e-9)  # at the mode all agree
    covariance = np.zeros((len(case.exact.mean),) * 2)
    covariance[np.ix_(moving, moving)] = exact.covariance
    for structure in structures:
        posterior = fit(model, case.data, jm.Laplace(mode_of(name), structure, subset=subset))
        assert isinstance(posterior.precision, Conditional)
        np.testing.assert_allclose(posterior.covariance.dense(), covariance, atol=1e-9 * covariance.max())
        np.testing.assert_allclose(posterior.covariance.diagonal(), np.diag(covariance), atol=1e-9 * covariance.max())
        np.testing.assert_allclose(posterior.log_evidence, exact.log_evidence, rtol=TOLERANCE)
        assert posterior.grade.k_hat == -np.inf
        np.testing.assert_allclose(posterior.grade.log_evidence, exact.log_evidence, rtol=TOLERANCE)
        predictive = jm.predict(KEY, model, posterior, case.x_new)
        rows = case.design(case.x_new)
        variance = np.einsum("np,pq,nq->n", rows, covariance, rows).reshape(case.y_new.shape) + case.noise**2
        np.testing.assert_allclose(predictive.variance, variance, rtol=TOLERANCE)
        drawn = as_vectors(posterior.sample(KEY, 5), 1)
        held = np.setdiff1d(np.arange(drawn.shape[1]), moving)
        np.testing.assert_array_equal(drawn[:, held], np.broadcast_to(flat(posterior.mode)[held], (5, len(held))))
        assert any("stays at the mode" in note for note in posterior.info.notes)


def test_the_density_of_a_subset_is_zero_where_a_held_parameter_moved():
    case = CASES["matrix"][0]
    posterior = fit(model_of("matrix"), case.data, jm.Laplace(mode_of("matrix"), subset="bias", grade=0))
    exact = conditioned(case, np.arange(3))
    move = np.array([0.1, -0.2, 0.05])
    moved = posterior.mode | {"bias": posterior.mode["bias"] + move}
    log_prob = stats.multivariate_normal.logpdf(exact.mean + move, exact.mean, exact.covariance)
    np.testing.assert_allclose(posterior.log_prob(moved), log_prob, rtol=1e-7)
    elsewhere = posterior.mode | {"kernel": posterior.mode["kernel"] + 0.1}
    assert posterior.log_prob(elsewhere) == -np.inf
    assert posterior.distance(elsewhere) == np.inf
    np.testing.assert_allclose(
        posterior.distance(moved) ** 2, move @ np.linalg.solve(exact.covariance, move), rtol=1e-7
    )


def test_a_subset_of_all_is_everything():
    case = CASES["matrix"][0]
    check_gaussian(case, fit(model_of("matrix"), case.data, jm.Laplace(mode_of("matrix"), subset="*", grade=0)))


# A network: its last layer is a linear model, and its predictions are compared with draws.

NET_X = RNG.normal(size=(30, 2))
NET_NEW = 1.5 * RNG.normal(size=(4, 2))
HIDDEN = {"w1": RNG.normal(size=(2, 4)), "b1": RNG.normal(size=4)}


def net(width):
    """Two layers; a prior of 1 on all."""
    rng = np.random.default_rng(width)
    values = HIDDEN | {"w2": 0.5 * rng.normal(size=(4, width)), "b2": np.zeros(width)}
    init = lambda key: jax.tree.map(jnp.asarray, values)

    def apply(p, x):
        u = jnp.tanh(x @ p["w1"] + p["b1"][None]) @ p["w2"] + p["b2"][None]
        return u[:, 0] if width == 1 else u

    return init, apply


PRIOR = jm.Prior(dist.Normal(0.0, 1.0))


def logits(x):
    return np.stack([x[:, 0], -x[:, 1], np.tanh(x[:, 0] * x[:, 1])], axis=1)


CLASSES = np.argmax(logits(NET_X) + 0.5 * RNG.gumbel(size=(30, 3)), axis=1)
NETS = {
    "regression": (1, jm.Gaussian(scale=0.3), np.tanh(NET_X[:, 0]) + 0.3 * RNG.normal(size=30)),
    "classes": (3, jm.Categorical(), CLASSES),
    "binary": (1, jm.Bernoulli(), (CLASSES == 0).astype(int)),
    "learned scale": (1, jm.Gaussian(scale=POSITIVE), np.sin(NET_X[:, 0]) + 0.3 * RNG.normal(size=30)),
}


class Net:
    """A fitted network, with its linearised outputs written out."""

    def __init__(self, name):
        width, likelihood, y = NETS[name]
        self.apply = net(width)[1]
        self.model = jm.supervised(net(width), likelihood, PRIOR)
        self.data = (NET_X, y)
        self.point = fit(self.model, self.data, jm.MAP(space="unconstrained"))

    def laplace(self, *options, **more):
        return fit(self.model, self.data, jm.Laplace(self.point, *options, **{"grade": 0, **more}))

    def tangent(self, posterior, x):
        """f, (n, k), and J, (n, k, p), of the network outputs in the parameters of the network, in ravel order."""
        with jax.enable_x64(True):
            params = jax.tree.map(jnp.asarray, posterior.mode.get("network", posterior.mode))
            one = lambda p, row: jnp.atleast_1d(self.apply(p, row[None])[0])
            made = jax.vmap(lambda row: one(params, row))(jnp.asarray(x))
            jacobian = jax.vmap(lambda row: jax.jacfwd(one)(params, row))(jnp.asarray(x))
        blocks = [np.reshape(j, (*made.shape, -1)) for j in jax.tree.leaves(jacobian)]
        return np.asarray(made), np.concatenate(blocks, axis=-1)


@functools.cache
def fitted(name):
    return Net(name)


@pytest.mark.parametrize("options", [{"curvature": "last_layer"}, {"curvature": "kronecker", "subset": "last_layer"}])
def test_the_last_layer_is_bayesian_linear_regression(options):
    case = fitted("regression")
    posterior = case.laplace(**options)
    p = case.point.mode
    features = lambda x: np.column_stack([np.ones(len(x)), np.tanh(x @ np.asarray(p["w1"]) + np.asarray(p["b1"]))])
    exact = reference.linear_gaussian(features(NET_X), case.data[1], np.zeros(5), np.eye(5), 0.3)
    np.testing.assert_allclose(posterior.log_evidence, exact.log_evidence, rtol=TOLERANCE)
    mean, variance = reference.predictive(exact, features(NET_NEW), 0.3)
    predictive = jm.predict(KEY, case.model, posterior, NET_NEW)
    np.testing.assert_allclose(predictive.mean, mean, atol=1e-7)
    np.testing.assert_allclose(predictive.variance, variance, rtol=1e-7)
    assert "Only b2, w2 move" in " ".join(posterior.info.notes)
    drawn = jm.predict(KEY, case.model, posterior, NET_NEW, how="outputs", draws=4000)
    assert drawn.size == 4000
    np.testing.assert_array_less(np.abs(drawn.mean - mean), 5 * np.sqrt((variance - 0.09) / 4000))
    np.testing.assert_allclose(drawn.epistemic, variance - 0.09, rtol=5 * np.sqrt(2 / 4000))


@pytest.mark.slow
def test_class_probabilities_by_draws_of_the_linearised_outputs():
    case = fitted("classes")
    posterior = case.laplace("kronecker")
    mean, jacobian = case.tangent(posterior, NET_NEW)
    covariance = jacobian @ posterior.covariance.dense() @ jacobian.swapaxes(1, 2)
    drawn = np.stack([RNG.multivariate_normal(m, c, 40_000) for m, c in zip(mean, covariance, strict=True)], axis=1)
    softmax = np.exp(drawn) / np.exp(drawn).sum(-1, keepdims=True)
    found = {
        how: jm.predict(KEY, case.model, posterior, NET_NEW, how=how, draws=3000) for how in (None, "probit", "bridge")
    }
    error = np.sqrt(softmax.var(0) * (1 / 3000 + 1 / 40_000))
    np.testing.assert_array_less(np.abs(found[None].probs - softmax.mean(0)), 5 * error)
    np.testing.assert_allclose(found[None].epistemic, softmax.var(0), rtol=0.15)
    # Approximations in closed form: equal to their formulas; probit is near the truth.
    probit = mean / np.sqrt(1 + np.pi / 8 * np.diagonal(covariance, axis1=1, axis2=2))
    np.testing.assert_allclose(found["probit"].probs, np.exp(probit) / np.exp(probit).sum(-1, keepdims=True), rtol=1e-7)
    np.testing.assert_allclose(found["probit"].probs, softmax.mean(0), atol=0.06)
    np.testing.assert_allclose(found["bridge"].probs, np.stack(list(map(bridge, mean, covariance))), rtol=1e-7)
    for how, predictive in found.items():
        np.testing.assert_allclose(predictive.probs.sum(-1), 1.0, rtol=1e-9)
        np.testing.assert_allclose(predictive.variance, predictive.probs * (1 - predictive.probs), rtol=1e-7)
        assert np.all(predictive.epistemic >= 0), how
        assert np.all(predictive.aleatoric >= -1e-12), how


def bridge(mean, covariance):
    """The mean of a Dirichlet: condition on a sum of zero by a row of ones, then alpha by its formula."""
    ones, k = np.ones(len(mean)), len(mean)
    gain = covariance @ ones / (ones @ covariance @ ones)
    mean, covariance = mean - gain * (ones @ mean), covariance - np.outer(gain, ones @ covariance)
    alpha = (1 - 2 / k + np.exp(mean) / k**2 * np.exp(-mean).sum()) / np.diag(covariance)
    return alpha / alpha.sum()


@pytest.mark.parametrize("how", ["probit", "bridge"])
@pytest.mark.parametrize("factor", [1.0, 100.0, 1e4])
def test_closed_forms_for_classes_at_large_logits(how, factor):
    """Far away the logits are in the thousands, whose exponentials float32 does not hold."""
    case = fitted("classes")
    found = jm.predict(KEY, case.model, case.laplace("full"), np.float32(factor) * NET_NEW, how=how)
    assert np.all(np.isfinite(found.probs))
    np.testing.assert_allclose(found.probs.sum(-1), 1.0, rtol=1e-5)
    assert np.all((found.epistemic >= 0) & (found.epistemic <= 0.25))


def test_how_is_refused_where_there_is_no_gaussian():
    case = fitted("classes")
    with pytest.raises(ValueError, match="Expected a Gaussian over the parameters for how='bridge'; got Point"):
        jm.predict(KEY, case.model, case.point, NET_NEW, how="bridge")


def test_binary_probabilities_in_closed_form():
    """Probit: sigmoid(f / sqrt(1 + pi v / 8)), within a percent or two of the integral by quadrature."""
    case = fitted("binary")
    posterior = case.laplace("diagonal")
    mean, jacobian = case.tangent(posterior, NET_NEW)
    spread = np.sqrt(np.einsum("np,p,np->n", jacobian[:, 0], posterior.covariance.diagonal(), jacobian[:, 0]))
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    sigmoid = 1 / (1 + np.exp(-(mean + spread[:, None] * nodes)))
    truth, square = (sigmoid**power @ weights / weights.sum() for power in (1, 2))
    found = {how: jm.predict(KEY, case.model, posterior, NET_NEW, how=how) for how in ("probit", "bridge")}
    by_hand = 1 / (1 + np.exp(-mean[:, 0] / np.sqrt(1 + np.pi / 8 * spread**2)))
    np.testing.assert_allclose(found["probit"].mean, by_hand, rtol=1e-7)
    np.testing.assert_allclose(found["probit"].mean, truth, atol=0.02)
    np.testing.assert_allclose(found["bridge"].mean, truth, atol=0.1)
    assert np.all(found["probit"].log_prob(np.ones(4, int)) == np.log(found["probit"].mean))
    drawn = jm.predict(KEY, case.model, posterior, NET_NEW, draws=4000)
    deviation = np.sqrt(square - truth**2)
    np.testing.assert_array_less(np.abs(drawn.mean - truth), 5 * deviation / np.sqrt(4000))


def test_draws_of_the_weights_go_through_the_network_itself():
    case = fitted("classes")
    posterior = case.laplace("kronecker")
    other = posterior.sample(jax.random.key(99), 4000)
    with jax.enable_x64(True):
        outputs = jax.vmap(lambda p: case.apply(p, jnp.asarray(NET_NEW)))(jax.tree.map(jnp.asarray, other))
        softmax = np.asarray(jax.nn.softmax(outputs))
    found = jm.predict(KEY, case.model, posterior, NET_NEW, how="weights", draws=4000)
    assert found.size == 4000
    np.testing.assert_array_less(np.abs(found.probs - softmax.mean(0)), 5 * np.sqrt(softmax.var(0) * 2 / 4000))


def test_a_learned_scale_is_drawn_together_with_the_outputs():
    """All inputs of a draw share its scale; outputs and scale vary together as J C J' says."""
    case = fitted("learned scale")
    size = len(flat(case.point.mode))
    root = np.eye(size) + np.tril(0.3 * RNG.normal(size=(size, size)), -1)
    posterior = replace(case.laplace(), precision=Full(4 * root))
    drawn = jm.predict(KEY, case.model, posterior, NET_NEW, draws=20_000)
    outputs, values = drawn.members
    scales = np.log(np.asarray(values["scale"])).reshape(20_000, -1)
    assert scales.shape[1] == 1
    found = np.cov(np.concatenate([outputs, scales], axis=1).T)
    _, jacobian = case.tangent(posterior, NET_NEW)
    rows = np.zeros((5, size))
    rows[:4, 1:], rows[4, 0] = jacobian[:, 0], 1.0
    expected = rows @ posterior.covariance.dense() @ rows.T
    for i in range(4):  # each output with itself and with the scale; outputs are drawn apart given the scale
        pair = np.ix_([i, 4], [i, 4])
        scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))[pair]
        np.testing.assert_allclose(found[pair] / scale, expected[pair] / scale, atol=0.04)


@pytest.mark.parametrize("how", ["probit", "bridge"])
def test_only_classes_have_class_probabilities(how):
    case = fitted("regression")
    with pytest.raises(ValueError, match=f"Expected classes for how='{how}'; got Normal"):
        jm.predict(KEY, case.model, case.laplace(), NET_NEW, how=how)


# Saving, and the programs behind.


@pytest.mark.parametrize("options", [
    {"curvature": "full"}, {"curvature": "diagonal"}, {"curvature": "kronecker"}, {"curvature": "low_rank", "rank": 3},
    {"curvature": "last_layer"}, {"curvature": "kronecker", "subset": "w*", "grade": 100},
], ids=lambda o: "-".join(map(str, o.values())))  # fmt: skip
def test_every_structure_comes_back_bit_for_bit(options, tmp_path):
    case = fitted("classes")
    posterior = case.laplace(**options)
    again = jm.load(posterior.save(tmp_path / "saved"))
    assert type(again.precision) is type(posterior.precision)
    assert again.log_evidence == posterior.log_evidence
    assert (again.grade is None) == (posterior.grade is None)
    if again.grade is not None:
        assert again.grade.k_hat == posterior.grade.k_hat
        assert again.grade.log_evidence == posterior.grade.log_evidence
        jax.tree.map(np.testing.assert_array_equal, again.grade.sd, posterior.grade.sd)
    jax.tree.map(np.testing.assert_array_equal, again.sample(KEY, 4), posterior.sample(KEY, 4))
    np.testing.assert_array_equal(again.covariance.diagonal(), posterior.covariance.diagonal())
    assert str(again.summary()) == str(posterior.summary())
    for how in (None, "probit"):
        found, expected = (jm.predict(KEY, case.model, p, NET_NEW, how=how, draws=10).probs for p in (again, posterior))
        np.testing.assert_array_equal(found, expected)


def test_new_data_of_the_same_shape_compile_nothing():
    """Counted in the compiled programs of the model: fit, grade and prediction."""
    model = jm.supervised(net(3), jm.Categorical(), PRIOR)
    method = jm.Laplace(curvature="kronecker", grade=50)

    def everything(key, y):
        posterior = jm.fit(key, model, (NET_X, y), method)
        jm.predict(key, model, posterior, NET_NEW, how="probit")
        jm.predict(key, model, posterior, NET_NEW)

    def compiled():
        programs = model.programs.items()
        return {name: program._cache_size() for name, program in programs if hasattr(program, "_cache_size")}

    everything(KEY, CLASSES)
    known = compiled()
    everything(jax.random.key(1), CLASSES[::-1].copy())
    assert compiled() == known


def test_one_model_serves_both_precisions():
    """Estimated and low-rank curvatures are computed in the precision of the fit, whichever came first."""
    model = jm.supervised(net(3), jm.Categorical(), PRIOR)
    at = jm.Given(HIDDEN | {"w2": np.eye(4)[:, :3], "b2": np.zeros(3)})
    for options in ({"curvature": "diagonal", "probes": 400}, {"curvature": "low_rank", "rank": 4}):
        single, double = (
            fit(model, (NET_X, CLASSES), jm.Laplace(at, force=True, grade=0, **options), precision)
            for precision in ("float32", "float64")
        )
        np.testing.assert_allclose(single.precision.log_det, double.precision.log_det, rtol=0.02)


def test_one_model_serves_inputs_of_several_lengths():
    """A kernel that slides over words: it has as many positions as there are words."""
    values = {"w": RNG.normal(size=(3, 4)), "v": RNG.normal(size=(4, 1))}
    network = (
        (lambda key: jax.tree.map(jnp.asarray, values)),
        (lambda p, x: (jnp.tanh(x @ p["w"]).mean(1) @ p["v"])[:, 0]),
    )
    model = jm.supervised(network, jm.Gaussian(0.5), PRIOR)
    other = jm.supervised(network, jm.Gaussian(0.5), PRIOR)
    for words, models in ((5, [model]), (3, [model, other])):
        x = RNG.normal(size=(6, words, 3))
        for structure in ("kronecker", "diagonal"):
            method = jm.Laplace(jm.Given(values), structure, grade=0, force=True)
            found = [fit(m, (x, np.ones(6)), method).covariance.dense() for m in models]
            np.testing.assert_allclose(found[0], found[-1], rtol=1e-12)


# The ladder says where it stands.


def test_random_signs_estimate_the_diagonal():
    """Of a curvature that is diagonal, exactly; and it is said."""
    name = "orthogonal"
    case = CASES[name][0]
    posterior = fit(model_of(name), case.data, jm.Laplace(mode_of(name), "diagonal", probes=2, grade=0))
    check_gaussian(case, posterior)
    assert "estimated from 2 random vectors" in " ".join(posterior.info.notes)


def test_a_prior_that_ties_parameters_together_keeps_its_diagonal_and_says_so():
    """Two parameters only: w ~ N(0, exp(t)^2)."""
    network = (lambda key: {"t": jnp.asarray(0.5), "w": jnp.asarray(0.5)}, lambda p, x: x * p["w"])
    prior = jm.Prior({"t": dist.Normal(0.0, 1.0), "w": lambda p: dist.Normal(0.0, jnp.exp(p["t"]))})
    model = jm.supervised(network, jm.Gaussian(1.0), prior)
    x = np.linspace(-1, 1, 9)
    point = fit(model, (x, 2 * x), jm.MAP(space="unconstrained"))
    whole = dense(fit(model, (x, 2 * x), jm.Laplace(point, grade=0)))
    assert abs(whole[0, 1]) > 0.1
    for structure in ("diagonal", "kronecker", "low_rank"):
        posterior = fit(model, (x, 2 * x), jm.Laplace(point, structure, grade=0))
        np.testing.assert_allclose(np.diag(dense(posterior)), np.diag(whole), rtol=1e-7)
        assert "ties parameters together" in " ".join(posterior.info.notes)


def saddle():
    """A double well with a network: at zero the exact Hessian is negative, Gauss-Newton is zero and the prior 0.1."""
    network = (lambda key: {"w": jnp.asarray(0.0), "v": jnp.asarray(0.0)}), (lambda p, x: p["w"] * p["v"] * x)
    return jm.supervised(network, jm.Gaussian(0.5), jm.Prior(dist.Normal(0.0, 10**0.5)))


SADDLE = (np.ones(3), np.ones(3))
AT_ZERO = jm.Given({"w": np.asarray(0.0), "v": np.asarray(0.0)})


def test_what_is_no_maximum_is_refused():
    with pytest.raises(jm.FitError, match=r"Laplace needs a maximum; .* grows along .*jm\.NUTS\(\).* force=True"):
        fit(saddle(), SADDLE, jm.Laplace(AT_ZERO))


@pytest.mark.parametrize("structure", ["full", "diagonal", "low_rank"])
def test_an_indefinite_hessian_falls_back_on_gauss_newton_and_says_so(structure):
    posterior = fit(saddle(), SADDLE, jm.Laplace(AT_ZERO, structure, "exact", force=True, grade=0))
    notes = " ".join(posterior.info.notes)
    if structure == "diagonal":  # the negative curvature lies off the diagonal
        assert "diagonal of the exact Hessian." in notes
    else:
        assert "(the exact Hessian is indefinite here)" in notes
    np.testing.assert_allclose(dense(posterior), 0.1 * np.eye(2), atol=1e-9)


@pytest.mark.parametrize("structure", ["full", "diagonal", "low_rank"])
def test_without_a_network_negative_eigenvalues_turn_positive_and_it_is_said(structure):
    """-log p = x^2 - y^2 + y^4 / 100 at zero: curvatures 2 and -2, of which the prior of 1 gives 3 and -1."""
    model = jm.Model(
        log_likelihood=lambda p, y: -(p["a"] ** 2 - p["b"] ** 2 + p["b"] ** 4 / 100) * jnp.ones_like(y),
        log_prior=jm.Prior(dist.Normal(0.0, 1.0)),
        init={"a": 0.0, "b": 0.0},
    )
    at = jm.Given({"a": np.asarray(0.0), "b": np.asarray(0.0)})
    posterior = fit(model, np.zeros(1), jm.Laplace(at, structure, force=True, grade=0))
    np.testing.assert_allclose(dense(posterior), np.diag([3.0, 1.0]), atol=1e-9)
    assert "eigenvalues clipped (at most 2 added)" in " ".join(posterior.info.notes)


def test_flat_directions_are_named():
    """Two columns that are the same, without a prior."""
    start = {"a": np.asarray(0.0), "b": np.array([0.0, 1.0]), "c": np.asarray(0.0)}
    network = (lambda key: start), (lambda p, x: x @ p["b"] + x[:, 0] * p["a"] + p["c"])
    model, x = jm.supervised(network, jm.Gaussian(1.0), jm.Prior(jm.flat)), RNG.normal(size=(9, 2))
    both = r"along (a, b\[0\]|b\[0\], a)\."
    for options, expected in (
        ({}, "flat or grows " + both),
        ({"force": True}, r"1 flat direction\(s\) " + both),
        ({"force": True, "curvature": "low_rank"}, "got none on a, b, c"),
    ):
        with pytest.raises(jm.FitError, match=expected):
            fit(model, (x, x[:, 1]), jm.Laplace(jm.Given(start), **options))


def test_a_flat_layer_is_named():
    """The same input twice, in a layer without a prior."""
    network = (lambda key: {"w": jnp.zeros((2, 2))}), (lambda p, x: x @ p["w"])
    model = jm.supervised(network, jm.Gaussian(1.0), jm.Prior(jm.flat))
    x, at = np.repeat(RNG.normal(size=(9, 1)), 2, axis=1), jm.Given({"w": np.zeros((2, 2))})
    for precision in ("float32", "float64"):
        with pytest.raises(jm.FitError, match=r"flat direction\(s\) along w\. Give these parameters a prior"):
            fit(model, (x, x), jm.Laplace(at, "kronecker", force=True), precision)


def test_a_mode_at_a_kink_is_refused():
    network = (lambda key: {"w": jnp.zeros(2)}), (lambda p, x: x @ p["w"])
    model = jm.supervised(network, jm.Gaussian(1.0), jm.l1(1.0))
    with pytest.raises(jm.FitError, match=r"w\[1\] lie at the kink of an L1 prior, where no Gaussian fits"):
        fit(model, (np.eye(2), np.array([3.0, 0.2])), jm.Laplace())


def test_a_mode_at_infinity_is_refused():
    """Separable classes without a prior: the likelihood grows for ever."""
    network = (lambda key: {"w": jnp.zeros(())}), (lambda p, x: x * p["w"])
    model = jm.supervised(network, jm.Bernoulli(), jm.Prior(jm.flat))
    with pytest.raises(jm.FitError, match="grows along w"):
        fit(model, (np.array([-1.0, -2.0, 1.0]), np.array([0, 0, 1])), jm.Laplace())


# The grade.


def test_the_grade_corrects_the_evidence_of_a_skewed_density():
    """Counts, in log r: Laplace is off by 1 / (12 shape); importance weights take that away."""
    posterior = fit(COUNTS.model(), COUNTS.data, jm.Laplace())
    assert posterior.grade.trusted
    assert abs(posterior.log_evidence - COUNTS.log_evidence) > 5e-3
    np.testing.assert_allclose(posterior.grade.log_evidence, COUNTS.log_evidence, atol=2e-3)
    np.testing.assert_allclose(posterior.grade.mean["rate"], COUNTS.shape / COUNTS.rate, rtol=0.01)
    np.testing.assert_allclose(posterior.grade.sd["rate"], np.sqrt(COUNTS.shape) / COUNTS.rate, rtol=0.05)


@pytest.mark.parametrize(("name", "structure"), [("matrix", "kronecker"), ("nested", "low_rank")])
def test_an_exact_structure_is_graded_exact(name, structure):
    case = CASES[name][0]
    grade = fit(model_of(name), case.data, jm.Laplace(mode_of(name), structure, grade=100)).grade
    assert grade.k_hat == -np.inf
    np.testing.assert_allclose(grade.log_evidence, case.exact.log_evidence, rtol=TOLERANCE)


def test_a_wrong_structure_is_graded_worse():
    """The diagonal of a strongly correlated Gaussian is too wide across and too narrow along."""
    x = RNG.normal(size=(40, 1)) + 0.03 * RNG.normal(size=(40, 4))
    network = (lambda key: {"w": jnp.zeros(4)}), (lambda p, x: x @ p["w"])
    model = jm.supervised(network, jm.Gaussian(0.5), PRIOR)
    full, diagonal = (fit(model, (x, x[:, 0]), jm.Laplace(curvature=c)).grade for c in ("full", "diagonal"))
    assert full.k_hat == -np.inf
    assert diagonal.ess < 100 < full.ess
    assert not diagonal.trusted


# Mutants: each check above must fail for a curvature that is wrong in the way it looks for.


def check_structure(name, structure):
    """A fresh model, because programs are kept by the model."""
    case, model = CASES[name][0], CASES[name][0].supervised()
    posterior = fit(model, case.data, jm.Laplace(jm.Given(as_tree(case, case.exact.mean)), structure, grade=0))
    check_gaussian(case, posterior)
    check_predictive(case, jm.predict(KEY, model, posterior, case.x_new))


LADDER = importlib.import_module("jaxmap.infer.ladder")
FUNCTIONAL = importlib.import_module("jaxmap.curvature.functional")
NOTICED = (AssertionError, jm.FitError)


def _double_prior(monkeypatch):
    whole = LADDER.prior_diagonal
    monkeypatch.setattr(LADDER, "prior_diagonal", lambda at: (2 * whole(at)[0], whole(at)[1]))


def _double_factor(monkeypatch):
    whole = LADDER.kronecker_factors

    def doubled(*arguments):
        factors, rest = whole(*arguments)
        return [f._replace(inputs=2 * f.inputs) for f in factors], rest

    monkeypatch.setattr(LADDER, "kronecker_factors", doubled)


def _flipped_products(monkeypatch):
    whole = LADDER.likelihood_product

    def flipped(*arguments, **options):
        product = whole(*arguments, **options)
        return lambda vectors: -product(vectors)

    monkeypatch.setattr(LADDER, "likelihood_product", flipped)


def _flipped_gradients(monkeypatch):
    """Outputs that vary together are taken to vary against each other."""
    whole = FUNCTIONAL._of_layer
    monkeypatch.setattr(FUNCTIONAL, "_of_layer", lambda a, *rest: whole(a.at[..., 0].multiply(-1.0), *rest))


MUTANTS = [
    ("kronecker", _double_prior), ("low_rank", _double_prior), ("kronecker", _double_factor),
    ("low_rank", _flipped_products), ("kronecker", _flipped_gradients),
]  # fmt: skip


@pytest.mark.parametrize(("structure", "mutant"), MUTANTS, ids=lambda v: getattr(v, "__name__", v))
def test_a_wrong_structure_fails(structure, mutant, monkeypatch):
    mutant(monkeypatch)
    with pytest.raises(NOTICED):
        check_structure("shifted", structure)


def test_a_dropped_jacobian_fails(monkeypatch):
    space = importlib.import_module("jaxmap.model.space").Space
    monkeypatch.setattr(space, "log_jacobians", lambda self, z: [jnp.zeros(()) for _ in jax.tree.leaves(z)])
    with pytest.raises(AssertionError):
        check_positive(["diagonal"])


def test_the_prior_of_held_parameters_counted_fails(monkeypatch):
    view = importlib.import_module("jaxmap.curvature.view").View
    monkeypatch.setattr(view, "held_log_prior", lambda self, z: jnp.zeros(()))
    monkeypatch.setitem(CASES, "mutant", (replace(BY_NAME["matrix"]), ()))
    with pytest.raises(AssertionError):
        test_a_subset_is_the_conditional_gaussian("mutant", "bias", np.arange(3), ("full",))
