"""Class probabilities by comparing are those by looking up, values and slopes."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.special import log_softmax, softmax

import jaxmap as jm
from jaxmap.model import distributions
from jaxmap.model.distributions import FEW_CLASSES, CategoricalByLogits

rng = np.random.default_rng(0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("classes", [2, 10, FEW_CLASSES, FEW_CLASSES + 1])
@pytest.mark.parametrize("shape", [(6,), (4, 3)])
def test_values_gradients_and_hessians_are_the_closed_forms(classes, shape):
    logits, y = 3 * rng.normal(size=(*shape, classes)), rng.integers(0, classes, shape)
    total = lambda v: CategoricalByLogits(v).log_prob(y).sum()
    expected = np.take_along_axis(log_softmax(logits, axis=-1), y[..., None], -1)[..., 0]
    np.testing.assert_allclose(CategoricalByLogits(logits).log_prob(y), expected, rtol=1e-12)
    probs, chosen = softmax(logits, axis=-1), np.arange(classes) == y[..., None]
    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(logits)), chosen - probs, atol=1e-12)
    along = rng.normal(size=logits.shape)
    turned = jax.jvp(jax.grad(total), (jnp.asarray(logits),), (along,))[1]
    np.testing.assert_allclose(turned, -probs * (along - (probs * along).sum(-1, keepdims=True)), atol=1e-12)


@pytest.mark.parametrize("classes", [3, FEW_CLASSES + 1])
def test_labels_are_broadcast_as_by_numpyro(classes):
    logits, y = rng.normal(size=(5, classes)).astype(np.float32), rng.integers(0, classes, (7, 5))
    theirs = dist.CategoricalLogits(logits).log_prob(y)
    np.testing.assert_allclose(CategoricalByLogits(logits).log_prob(y), theirs, rtol=1e-5)
    ours = CategoricalByLogits(logits[:1]).log_prob(y[:, 0])
    np.testing.assert_allclose(ours, dist.CategoricalLogits(logits[:1]).log_prob(y[:, 0]), rtol=1e-5)


def test_large_logits_keep_their_digits_in_single_precision():
    logits = np.array([[1000.0, 1000.25, 998.5]], np.float32)
    found = CategoricalByLogits(logits).log_prob(np.array([2]))
    np.testing.assert_allclose(found, log_softmax(logits.astype(np.float64))[:, 2], rtol=3e-7)


@pytest.mark.parametrize("label", [-1, 3, 7])
def test_a_label_that_is_no_class_has_no_probability(label):
    assert np.isnan(CategoricalByLogits(jnp.zeros((1, 3))).log_prob(jnp.array([label]))).all()


def test_an_impossible_class_spoils_only_its_own_labels():
    d = CategoricalByLogits(jnp.array([[0.0, 1.0, -jnp.inf]]), validate_args=False)
    assert d.log_prob(jnp.array([2])) == -np.inf
    np.testing.assert_allclose(d.log_prob(jnp.array([0])), -np.log1p(np.e), rtol=1e-6)


def test_the_gradient_of_a_cross_entropy_scatters_nothing():
    """What it is for: a scatter costs a step of a small network more than the products do."""
    loss = lambda v: -jm.Categorical().distribution(v).log_prob(jnp.zeros(4, int)).mean()
    program = str(jax.make_jaxpr(jax.grad(loss))(jnp.ones((4, 10))))
    assert "scatter" not in program
    assert "gather" not in program
    assert "scatter" in str(jax.make_jaxpr(jax.grad(loss))(jnp.ones((4, distributions.FEW_CLASSES + 1))))


@pytest.mark.parametrize(
    ("kind", "classes"), [("uint8", 256), ("int8", 200), ("int8", 256), ("uint8", 10), ("int16", 256)]
)
def test_labels_of_few_bits_are_compared_as_numbers(kind, classes):
    """256 is 0 for uint8 and 200 is -56 for int8: bytes of a text, pixels."""
    logits = rng.normal(size=(40, classes)).astype(np.float32)
    y = rng.integers(0, min(classes, np.iinfo(kind).max + 1), 40).astype(kind)
    found = jax.jit(lambda y: CategoricalByLogits(logits).log_prob(y))(y)
    np.testing.assert_allclose(found, CategoricalByLogits(logits).log_prob(y.astype(np.int32)), rtol=1e-6)
    assert np.all(np.isfinite(found))


def test_labels_of_few_bits_are_fitted_and_scored():
    x = rng.normal(size=(300, 4)).astype(np.float32)
    y = rng.integers(0, 128, 300)
    model = jm.supervised(
        (lambda key: jnp.zeros((4, 200)), lambda w, x: x @ w), jm.Categorical(), dist.Normal(0.0, 1.0)
    )
    key, method = jax.random.key(0), jm.Given(0.1 * rng.normal(size=(4, 200)).astype(np.float32))
    scores = []
    for labels in (y, y.astype(np.int8)):
        point = jm.fit(key, model, (x, labels), method)
        scores.append((point.info.log_joint, *jm.score(jm.predict(key, model, point, x), labels).values()))
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-6)
