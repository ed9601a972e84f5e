"""Batches: every epoch weighs every example alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmap.data import BatchPlan
from jaxmap.data.batches import shuffled

PLANS = [(1, 1), (2, 1), (7, 1), (7, 2), (7, 3), (7, 6), (7, 7), (8, 4), (9, 4), (12, 5), (13, 12), (100, 32)]
each_plan = pytest.mark.parametrize(("n", "batch_size"), PLANS)


@each_plan
def test_every_example_once_per_epoch(n, batch_size, key):
    plan = BatchPlan(n, batch_size)
    for epoch in (0, 1, 17):
        rows, weights = (np.asarray(part) for part in plan.epoch(key, jnp.asarray(epoch)))
        assert rows.shape == weights.shape == (plan.batches, plan.size)
        np.testing.assert_array_equal(np.sort(rows[weights > 0]), np.arange(n))


@each_plan
def test_sizes_differ_by_at_most_one_and_stay_below_the_limit(n, batch_size, key):
    plan = BatchPlan(n, batch_size)
    weights = np.asarray(plan.epoch(key, jnp.asarray(3)).weights)
    sizes = weights.sum(axis=1)
    assert set(np.unique(weights)) <= {0.0, 1.0}
    assert sizes.max() - sizes.min() <= 1
    assert sizes.max() == plan.size <= batch_size
    assert sizes.sum() == n
    assert plan.batches == int(np.ceil(n / batch_size))  # nothing is dropped, no step is wasted


@each_plan
def test_padding_is_one_row_of_weight_zero_that_exists(n, batch_size, key):
    plan = BatchPlan(n, batch_size)
    rows, weights = (np.asarray(part) for part in plan.epoch(key, jnp.asarray(0)))
    assert plan.ragged == bool((weights == 0).any())
    assert (weights == 0).sum() == plan.batches * plan.size - n
    assert ((weights == 0).sum(axis=1) <= 1).all()
    assert (rows >= 0).all()
    assert (rows < n).all()


@pytest.mark.parametrize(("n", "batch_size"), [(9, 4), (12, 5)])
def test_an_epoch_is_a_function_of_key_and_number(n, batch_size, key):
    plan = BatchPlan(n, batch_size)

    def rows(key, epoch):
        return np.asarray(plan.epoch(key, jnp.asarray(epoch)).rows)

    np.testing.assert_array_equal(rows(key, 2), rows(key, 2))
    np.testing.assert_array_equal(rows(key, 2), jax.jit(plan.epoch)(key, jnp.asarray(2)).rows)
    assert not np.array_equal(rows(key, 2), rows(key, 3))
    assert not np.array_equal(rows(key, 2), rows(jax.random.key(8), 2))


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("count", [1, 2, 1280, 1626, 70_000])  # no round, one round, two of them
def test_an_epoch_is_the_permutation_of_jax(count, double, key):
    """70,000 rows have equal bits among 2^32 in about every other round: they stay in their order there and here."""
    with jax.enable_x64(double):
        epochs = jnp.arange(2, 4)
        ours = jax.jit(jax.vmap(lambda epoch: shuffled(key, epoch, count)))(epochs)
        theirs = jax.vmap(lambda epoch: jax.random.permutation(jax.random.fold_in(key, epoch), count))(epochs)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(shuffled(key, jnp.asarray(2), count), theirs[0])


def test_every_example_meets_every_place_under_vmap(key):
    plan = BatchPlan(7, 3)  # sizes 3, 2, 2: the first batch is the full one
    rows = np.asarray(jax.vmap(lambda epoch: plan.epoch(key, epoch).rows)(jnp.arange(1000)))
    for epoch in (0, 999):
        np.testing.assert_array_equal(rows[epoch], plan.epoch(key, jnp.asarray(epoch)).rows)
    counts = np.bincount(rows[:, 0].ravel(), minlength=7)
    expected, sd = 1000 * 3 / 7, np.sqrt(1000 * 3 / 7 * 4 / 7)
    assert np.all(np.abs(counts - expected) < 5 * sd)


@pytest.mark.parametrize("batch_size", [0, -1, 8, 100, 3.0, 2.5, "3", None])
def test_batch_sizes_that_cannot_be_dealt_are_refused(batch_size, unchecked):
    with pytest.raises(ValueError, match="Expected batch_size between 1 and the 7 examples; got"):
        BatchPlan(7, batch_size)
