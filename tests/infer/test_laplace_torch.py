"""Laplace approximations beside those of laplace-torch 0.3, at the same weights: evidence, logits, probabilities.

Full and diagonal curvatures agree as they are. Its Kronecker factorisation keeps the bias of a layer in a block of its
own, ours takes it as one more input of the layer: with our factors put together its way the numbers are the same, and
put together our way they are nearer to the full matrix.

The digits and their network lie with the reference data. `data/concrete_network.npz` holds an 8-50-1 tanh network (W of
shape (out, in), b) at a mode of sum (y - f)^2 / (2 * 0.3^2) + |theta|^2 / 2 on the first split of the concrete data,
standardised, found by Adam and then Newton's method in float64 to a gradient of 1e-11, and rounded to float32; the
numbers in CONCRETE are laplace-torch's at these weights, in float64.
"""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import jaxmap as jm
from jaxmap.assess.linearised import output_gaussian
from jaxmap.curvature import Conditional, LayeredNetwork, View, kronecker_factors, kronecker_precision
from jaxmap.curvature.layered import Factors
from jaxmap.model import Density

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
STRUCTURES = {
    "all_full": {},
    "all_diag": {"curvature": "diagonal"},
    "all_kron": {"curvature": "kronecker"},
    "last_layer_full": {"curvature": "last_layer"},
    "last_layer_diag": {"curvature": "diagonal", "subset": "last_layer"},
    "last_layer_kron": {"curvature": "kronecker", "subset": "last_layer"},
}
DIGITS = {
    "all_diag": -4131.4009,
    "all_kron": -793.9476,
    "last_layer_full": -118.1478,
    "last_layer_diag": -583.3297,
    "last_layer_kron": -151.8337,
}
"""Log marginal likelihoods."""

CONCRETE = {
    "all_full": (-786.942612, 0.145825781, (0.0439942626, 0.218373685, 0.0688856821)),
    "all_diag": (-1871.882113, 0.0480893781, (0.0642217025, 0.0609599798, 0.0473169769)),
    "all_kron": (-1329.569819, 0.0570434755, (0.0593589746, 0.0729006542, 0.0761753359)),
    "last_layer_full": (10.480332, 0.00508242747, (0.00606773086, 0.00711196421, 0.00560774936)),
    "last_layer_diag": (-52.509063, 0.0050107371, (0.00556808172, 0.0054853612, 0.00592999731)),
    "last_layer_kron": (7.754793, 0.00507258698, (0.00616372524, 0.006843314, 0.00522396062)),
}
"""Log marginal likelihood, mean variance of the outputs at the 103 test inputs, variances at the first three."""


def network(weights, activation):
    """A multilayer perceptron with these weights, of shape (out, in)."""
    count = len(weights) // 2
    start = [{"kernel": jnp.asarray(weights[f"W{k}"]).T, "bias": jnp.asarray(weights[f"b{k}"])} for k in range(count)]

    def apply(params, x):
        for layer in params[:-1]:
            x = activation(x @ layer["kernel"] + layer["bias"][None])
        return x @ params[-1]["kernel"] + params[-1]["bias"][None]

    return (lambda key: start), apply


def fitted(point, model, data, name):
    method = jm.Laplace(point, grade=0, force=True, **STRUCTURES[name])
    found = jm.fit(KEY, model, data, method, precision="float64")
    return apart(model, found, data) if name.endswith("kron") else found


def apart(model, posterior, data):
    """The same with the Kronecker product of each layer put together as laplace-torch does.

    A block A x G for the weights, A without the constant, and a block G for the bias: no product of the two.
    """
    view, z = View(Density(model), posterior.moving), posterior.mean
    with jax.enable_x64(True):
        x, y = jnp.asarray(data[0], float), jnp.asarray(data[1])
        here = LayeredNetwork.of(view.outputs(z), view.of(z), x)
        factors, rest = kronecker_factors(here, model.emission, view.of(z), (x, y))
    of_inputs = [np.array(a) for a, _ in factors]
    for a in of_inputs:
        a[:-1, -1] = a[-1, :-1] = 0.0
    own = [Factors(a, g) for a, (_, g) in zip(of_inputs, factors, strict=True)]
    size = sum(places.size for places in here.positions)
    precision, remark = kronecker_precision(here, own, np.asarray(rest), np.ones(size), lambda places: ())
    assert not remark
    assert not len(rest)
    if isinstance(posterior.precision, Conditional):
        precision = replace(posterior.precision, inner=precision)
    evidence = posterior.log_evidence + 0.5 * (posterior.precision.log_det - precision.log_det)
    return replace(posterior, precision=precision, log_evidence=evidence)


def divergence(p, q):
    """KL(p || q) of two Gaussians with the same mean, where both move the same coordinates."""
    size = len(p.precision.positions)
    units = np.zeros((p.precision.size, size))
    units[p.precision.positions] = np.eye(size)
    stretched = q.precision.whiten(p.precision.color(units))
    return 0.5 * (np.sum(stretched**2) - size + p.precision.log_det - q.precision.log_det)


@pytest.fixture(scope="module")
def digits(reference_data):
    """Reference numbers, the model at its mode, training data and test inputs."""
    folder = reference_data / "laplace_torch"
    if not folder.is_dir():
        pytest.skip(f"no numbers of laplace-torch in {folder}")
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(1797)
    x, y = (x[order] / 16).astype(np.float32), y[order]
    with np.load(folder / "digits_weights.npz") as weights, np.load(folder / "digits_reference.npz") as reference:
        pair, known = network(weights, jax.nn.relu), dict(reference)
    model = jm.supervised(pair, jm.Categorical(), jm.Prior(dist.Normal(0.0, 1.0)))
    data = x[:1297], y[:1297]
    return known, model, data, x[1297:], jm.fit(KEY, model, data, jm.Given(pair[0](KEY)), precision="float64")


@pytest.fixture(scope="module")
def concrete(reference_data):
    """The model at its mode, training data and test inputs."""
    with np.load(reference_data / "uci" / "concrete.npz") as arrays:
        x, y, train, test = arrays["X"], arrays["y"], arrays["train"][0], arrays["test"][0]
    x, y = (((v - v[train].mean(0)) / v[train].std(0)).astype(np.float32) for v in (x, y))
    with np.load(Path(__file__).parent / "data" / "concrete_network.npz") as weights:
        pair = network(weights, jnp.tanh)
    model = jm.supervised(pair, jm.Gaussian(scale=0.3), jm.Prior(dist.Normal(0.0, 1.0)))
    data = x[train], y[train]
    return model, data, x[test], jm.fit(KEY, model, data, jm.Given(pair[0](KEY)), precision="float64")


@pytest.mark.parametrize("name", DIGITS)
def test_classifier(digits, name):
    known, model, data, x, point = digits
    found = fitted(point, model, data, name)
    assert found.log_evidence == pytest.approx(DIGITS[name], abs=2e-3)
    probs = jm.predict(KEY, model, found, x, how="probit").probs
    np.testing.assert_allclose(probs, known[f"{name}_prior1_probit"], rtol=1e-4, atol=1e-5)
    with jax.enable_x64(True):
        outputs = output_gaussian(model, found, jnp.asarray(x[:100], float))
    covariances = np.asarray(outputs.covariance)
    np.testing.assert_allclose(outputs.mean, known["f_map"][:100], atol=1e-4)
    variances = np.diagonal(covariances, axis1=1, axis2=2)
    np.testing.assert_allclose(variances, known[f"{name}_prior1_fvar_diag_100"], rtol=1e-4)
    scale = np.sqrt(variances[:10, :, None] * variances[:10, None])
    assert np.max(np.abs(covariances[:10] - known[f"{name}_prior1_fcov_10"]) / scale) < 1e-4


@pytest.mark.parametrize("name", CONCRETE)
def test_regressor(concrete, name):
    model, data, x, point = concrete
    evidence, mean, first = CONCRETE[name]
    found = fitted(point, model, data, name)
    assert found.log_evidence == pytest.approx(evidence, rel=1e-6)
    variances = jm.predict(KEY, model, found, x).epistemic
    assert variances.mean() == pytest.approx(mean, rel=1e-6)
    np.testing.assert_allclose(variances[:3], first, rtol=1e-6)


def test_a_bias_as_one_more_input_is_nearer_to_the_full_matrix(digits):
    _, model, data, _, point = digits
    method = jm.Laplace(point, grade=0, force=True, **STRUCTURES["last_layer_kron"])
    joint = jm.fit(KEY, model, data, method, precision="float64")
    parted, full = apart(model, joint, data), fitted(point, model, data, "last_layer_full")
    assert parted.log_evidence < joint.log_evidence < full.log_evidence
    assert divergence(full, joint) < 0.9 * divergence(full, parted)
    assert divergence(joint, full) < 0.9 * divergence(parted, full)


def test_the_last_layer_of_a_regressor_is_one_exact_kronecker_product(concrete):
    model, data, _, point = concrete
    method = jm.Laplace(point, grade=0, **STRUCTURES["last_layer_kron"])
    joint = jm.fit(KEY, model, data, method, precision="float64")
    assert joint.log_evidence == pytest.approx(CONCRETE["last_layer_full"][0], rel=1e-6)
