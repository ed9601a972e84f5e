"""Arrays in memory: what is refused, how rows are split, how data is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmap.data import check_data, fingerprint, num_examples, split, take_examples

X = np.arange(12.0).reshape(6, 2)
Y = np.arange(6.0)
TREES = {
    "vector": Y,
    "matrix": X,
    "pair": (X, Y),
    "nested": {"image": X.reshape(6, 2, 1), "meta": [Y, {"count": np.arange(6)}]},
}
each_tree = pytest.mark.parametrize("name", TREES)


def spoiled(array, value, row):
    array = np.array(array)
    array[row] = value
    return array


# check_data


@each_tree
def test_sound_data_comes_back_equal_on_the_device(name):
    checked = check_data(TREES[name])
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(checked))
    jax.tree.map(np.testing.assert_array_equal, checked, TREES[name])


def test_no_data_is_data():
    assert check_data(None) is None
    assert num_examples(None) == 1


def test_floats_take_the_dtype_and_integers_keep_theirs(x64):
    data = {"x": np.ones(3, np.float32), "k": np.arange(3), "b": np.array([True, False, True])}
    dtypes = {name: str(leaf.dtype) for name, leaf in check_data(data, dtype=jnp.float64).items()}
    assert dtypes == {"x": "float64", "k": "int64", "b": "bool"}
    assert check_data(np.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int8, np.uint8, np.int64, bool])
def test_every_kind_of_number_is_accepted(kind):
    np.testing.assert_array_equal(check_data(np.array([0, 1, 1], kind)), [0, 1, 1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 3, 5])
def test_numbers_that_are_not_finite_are_named_with_leaf_and_row(value, row):
    with pytest.raises(ValueError, match=rf"finite numbers in x; got 2 NaN or infinite, first in rows \[{row}\]"):
        check_data((spoiled(X, value, row), Y))
    with pytest.raises(ValueError, match=rf"finite numbers in y; got 1 .* rows \[{row}\]"):
        check_data((X, spoiled(Y, value, row)))
    with pytest.raises(ValueError, match=r"finite numbers in data\['meta/0'\]"):
        check_data({"image": X, "meta": [spoiled(Y, value, row)]})


@pytest.mark.parametrize("kind", [np.float16, jnp.bfloat16, np.float32, np.float64])
def test_nan_is_found_in_every_floating_dtype(kind):
    with pytest.raises(ValueError, match="Expected finite numbers in z"):
        check_data(np.array([1.0, np.nan]).astype(kind), name="z")


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ((X, Y[:5]), ValueError, "x has 6, y has 5"),
        ({"a": X, "b": Y[:1]}, ValueError, r"data\['a'\] has 6, data\['b'\] has 1"),
        ((X[:0], Y[:0]), ValueError, "at least one example; got none"),
        ((X, 1.0), ValueError, "y to be an array with a leading axis of examples; got a scalar"),
        (np.float64(1.0), ValueError, "data to be an array with a leading axis"),
        ((X, np.array(list("abcdef"))), TypeError, "y to be a numeric array; got dtype <U1"),
        ((X, np.array([None] * 6)), TypeError, "got dtype object"),
        ((X.astype(complex), Y), TypeError, "x to be a numeric array; got dtype complex"),
        ((X, np.arange(6).astype("datetime64[s]")), TypeError, "got dtype datetime64"),
    ],
)
def test_what_no_model_can_mean_is_refused_in_words(data, error, words):
    with pytest.raises(error, match="Expected .*" + words):
        check_data(data)


def test_fields_of_a_structured_array_are_not_numbers():
    with pytest.raises(TypeError, match=r"Expected .*numeric array; got dtype \[\('a', '<f4'\)\]"):
        check_data(np.zeros(3, [("a", "<f4")]))


def test_masked_values_are_not_numbers():
    with pytest.raises((TypeError, ValueError), match="Expected"):
        check_data(np.ma.masked_array([1.0, 2.0], [True, False]))


@pytest.mark.parametrize("value", [2**40 + 5, -(2**31) - 1])
def test_integers_that_would_wrap_around_in_32_bits_are_refused(value):
    with pytest.raises(ValueError, match="Expected"):
        check_data(np.array([1, value]))
    with jax.enable_x64(True):
        assert int(check_data(np.array([1, value]))[1]) == int(value)


def test_floats_that_would_become_infinite_in_the_dtype_are_refused():
    with pytest.raises(ValueError, match="Expected"), np.errstate(over="ignore"):
        check_data(np.array([1.0, 1e39]), dtype=jnp.float32)


def test_take_examples_selects_rows_of_every_array():
    taken = take_examples(TREES["nested"], np.array([4, 0]))
    np.testing.assert_array_equal(taken["meta"][0], [4.0, 0.0])
    np.testing.assert_array_equal(taken["image"][:, :, 0], X[[4, 0]])


# split


@each_tree
@pytest.mark.parametrize(("test", "rows"), [(0.34, 2), (0.5, 3), (1, 1), (5, 5)])
def test_split_deals_every_row_once_in_the_old_order(name, test, rows, key):
    train, tested = split(key, TREES[name], test)
    for part, whole, held in zip(*map(jax.tree.leaves, (train, TREES[name], tested)), strict=True):
        assert len(held) == rows
        firsts = [np.asarray(a).reshape(len(a), -1)[:, 0] for a in (part, held, whole)]
        assert all((np.diff(a) > 0).all() for a in firsts)
        np.testing.assert_array_equal(np.sort(np.concatenate(firsts[:2])), firsts[2])


def test_split_keeps_the_rows_of_a_pair_together(key):
    for x, y in split(key, (X, Y), 0.5):
        np.testing.assert_array_equal(x[:, 0], 2 * y)


def test_split_is_a_function_of_the_key(key):
    other = jax.random.key(7)
    np.testing.assert_array_equal(split(key, np.arange(50))[1], split(key, np.arange(50))[1])
    assert not np.array_equal(split(key, np.arange(50))[1], split(other, np.arange(50))[1])


def test_split_gives_every_row_the_same_chance(key):
    counts = sum(
        np.isin(np.arange(10), np.asarray(split(jax.random.fold_in(key, i), np.arange(10), 0.3)[1])) for i in range(200)
    )
    expected, sd = 200 * 0.3, np.sqrt(200 * 0.3 * 0.7)
    assert np.all(np.abs(counts - expected) < 5 * sd)


@pytest.mark.parametrize("test", [0, 6, 7, -1, 0.0, 1.0, -0.1, 1.5, 0.01, 0.99])
def test_split_leaves_rows_on_both_sides(test, key):
    with pytest.raises(ValueError, match="Expected a test share that leaves rows on both sides of 6"):
        split(key, (X, Y), test)


@pytest.mark.parametrize(
    ("counts", "rows", "tested"),
    [
        ((60, 30, 10), 10, (6, 3, 1)),
        ((6, 5, 1), 4, (2, 2, 0)),  # 2, 1.67, 0.33
        ((50, 1, 1), 26, (26, 0, 0)),  # a single example is learnt from
        ((9, 1, 1), 8, (8, 0, 0)),
        ((2, 1, 1), 3, (1, 1, 1)),  # unless there is nothing else
        ((1, 1, 1), 2, (1, 1, 0)),
    ],
)
def test_a_stratified_split_has_each_class_in_its_share(counts, rows, tested, key):
    labels = np.repeat(["a", "b", "c"], counts)
    for i in range(5):
        train, test = split(jax.random.fold_in(key, i), {"row": np.arange(len(labels))}, rows, stratify=labels)
        assert sorted([*train["row"], *test["row"]]) == list(range(len(labels)))
        found = tuple(int((labels[test["row"]] == name).sum()) for name in "abc")
        assert found == tested


def test_a_stratified_split_gives_every_row_of_a_class_the_same_chance(key):
    labels = np.arange(12) % 3 == 0
    times = sum(
        np.isin(np.arange(12), split(jax.random.fold_in(key, i), np.arange(12), 3, stratify=labels)[1])
        for i in range(300)
    )
    np.testing.assert_allclose(times / 300, 0.25, atol=0.1)


def test_strata_are_one_class_per_row(key):
    with pytest.raises(ValueError, match=r"12 classes, one per row; got shape \(3,\)"):
        split(key, np.arange(12), 3, stratify=np.arange(3))


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
def test_split_refuses_lengths_that_differ(make, key):
    # jax arrays clamp rows that do not exist: the pairs would silently be others.
    with pytest.raises(ValueError, match=r"Expected .*x has 6, y has 5"):
        split(key, (make(X), make(Y[:5])), 0.5)


# fingerprint


@each_tree
def test_fingerprint_names_the_content(name):
    name_of = fingerprint(TREES[name])
    assert len(name_of) == 16
    assert int(name_of, 16) >= 0
    assert fingerprint(jax.tree.map(np.array, TREES[name])) == name_of


def test_fingerprint_sees_every_change():
    changed = [
        (X, Y),
        (X, Y + 1e-9),
        (X.astype(np.float32), Y),
        (X.reshape(2, 6), Y),
        (Y, X),
        (X[::-1], Y),
        {"x": X, "y": Y},
        {"x": X, "z": Y},
        (X,),
        None,
    ]
    assert len({fingerprint(data) for data in changed}) == len(changed)


def test_fingerprint_does_not_see_the_memory_layout():
    assert fingerprint(np.asfortranarray(X)) == fingerprint(X)
    assert fingerprint(jnp.arange(6)) == fingerprint(np.arange(6, dtype=np.int32))
