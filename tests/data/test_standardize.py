"""Standardisation: moments of the training rows, carried by the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmap as jm
from jaxmap.data import Scaling

RNG = np.random.default_rng(5)
Y = 40.0 + 7.0 * RNG.normal(size=20)
INPUTS = {
    "vector": RNG.normal(size=20),
    "matrix": 100.0 + 5.0 * RNG.normal(size=(20, 3)) * np.array([1.0, 10.0, 0.01]),
    "images": RNG.uniform(0, 255, size=(20, 2, 2)),
    "nested": {"a": RNG.normal(3.0, 2.0, size=(20, 2)), "b": [RNG.normal(size=20)]},
}
each_input = pytest.mark.parametrize("name", INPUTS)


@each_input
def test_training_inputs_come_out_with_mean_zero_and_unit_spread(name, x64):
    x = jax.tree.map(jnp.asarray, INPUTS[name])
    scaled = jm.standardize((x, Y)).inputs(x)
    for leaf, raw in zip(jax.tree.leaves(scaled), jax.tree.leaves(x), strict=True):
        assert leaf.shape == raw.shape
        np.testing.assert_allclose(np.mean(leaf, axis=0), 0.0, atol=1e-12)
        np.testing.assert_allclose(np.mean(leaf**2, axis=0), 1.0, rtol=1e-12)  # divisor n, not n - 1


@each_input
def test_inputs_are_affine_with_the_training_moments(name, x64):
    x = INPUTS[name]
    new = jax.tree.map(lambda leaf: jnp.asarray(2.0 * leaf[:4] + 1.0), x)
    scaled = jm.standardize((x, Y)).inputs(new)
    expected = jax.tree.map(lambda raw, leaf: (np.asarray(raw) - leaf.mean(0)) / leaf.std(0), new, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), scaled, expected)


def test_targets_are_scaled_where_they_are_real():
    scaling = jm.standardize((INPUTS["matrix"], Y))
    np.testing.assert_allclose([scaling.y_shift, scaling.y_scale], [Y.mean(), Y.std()], rtol=1e-6)
    many = jm.standardize((INPUTS["matrix"], np.stack([Y, 3.0 * Y - 1.0], axis=1)))
    assert many.y_shift.shape == many.y_scale.shape == (2,)
    np.testing.assert_allclose(many.y_scale, [Y.std(), 3.0 * Y.std()], rtol=1e-5)


@pytest.mark.parametrize("labels", [np.arange(20) % 3, np.arange(20) % 2 == 0])
def test_labels_stay_what_they_are(labels):
    scaling = jm.standardize((INPUTS["matrix"], labels))
    assert scaling.y_shift is None
    assert scaling.y_scale is None
    with pytest.raises(ValueError, match="Expected a floating y to standardise; got"):
        jm.standardize((INPUTS["matrix"], labels), target=True)


def test_target_false_leaves_a_real_target_alone():
    assert jm.standardize((INPUTS["matrix"], Y), target=False).y_scale is None


def test_a_constant_column_becomes_zero():
    x = np.column_stack([INPUTS["vector"], np.full(20, 3.0)])
    scaling = jm.standardize((x, np.full(20, 5.0)))
    np.testing.assert_array_equal(scaling.inputs(jnp.asarray(x, jnp.float32))[:, 1], 0.0)
    assert scaling.x_scale[1] == 1.0
    assert scaling.y_scale == 1.0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_floating_inputs_keep_their_dtype(dtype, x64):
    x = jnp.asarray(INPUTS["matrix"], dtype)
    assert jm.standardize((INPUTS["matrix"], Y)).inputs(x).dtype == dtype


@pytest.mark.parametrize("kind", [np.int32, np.uint8, bool])
def test_integer_inputs_are_scaled_like_the_same_numbers_as_floats(kind):
    # Casting the moments to integers would truncate them: a mean of 4.5 to 4, a spread of 0.5 to 0.
    x = (np.arange(20)[:, None] * np.array([1, 2]) % 7).astype(kind)
    scaling = jm.standardize((x, Y))
    np.testing.assert_allclose(scaling.inputs(jnp.asarray(x)), scaling.inputs(jnp.asarray(x, jnp.float32)), rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 1), (4,), (4, 2), (4, 1, 3), (3,)])
def test_inputs_of_another_shape_are_refused_before_anything_broadcasts(shape):
    scaling = jm.standardize((INPUTS["matrix"], Y))
    with pytest.raises(ValueError, match="Expected"):
        scaling.inputs(jnp.ones(shape))


def test_inputs_of_another_structure_are_refused():
    with pytest.raises(ValueError, match="Expected"):
        jm.standardize((INPUTS["nested"], Y)).inputs({"a": jnp.ones((4, 2))})


def test_bad_training_data_is_refused():
    with pytest.raises(ValueError, match="Expected finite numbers in x"):
        jm.standardize((np.full((20, 1), np.nan), Y))
    with pytest.raises(ValueError, match="x has 19, y has 20"):
        jm.standardize((INPUTS["vector"][:19], Y))
    with pytest.raises((TypeError, ValueError), match="Expected"):
        jm.standardize(INPUTS["vector"])


def test_two_rows_of_x_are_not_taken_for_a_pair():
    with pytest.raises((TypeError, ValueError), match="Expected"):
        jm.standardize(INPUTS["matrix"][:2])


def test_a_flipped_sign_would_be_seen(x64):
    x = jnp.asarray(INPUTS["matrix"])
    scaling = jm.standardize((x, Y))
    mutant = Scaling(-scaling.x_shift, scaling.x_scale)
    assert np.max(np.abs(np.mean(mutant.inputs(x), axis=0))) > 1.0
