"""Pytree algebra: paths, prefixes, dtypes, scopes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmap as jm
from jaxmap import trees
from jaxmap.trees import (
    all_finite,
    at_path,
    broadcast_prefix,
    cast_floats,
    float_dtype,
    has_tracers,
    named_leaves,
    path_of,
    paths,
    precision_scope,
    size,
    stack,
    take,
)


class Pair(NamedTuple):
    first: object
    second: object


TREES = {
    "scalar": jnp.asarray(2.0),
    "vector": jnp.arange(3.0),
    "matrix": jnp.arange(6.0).reshape(2, 3),
    "nested": {"b": [jnp.ones(2), {"c": jnp.zeros((2, 1))}], "a": (jnp.ones(()), Pair(jnp.zeros(1), jnp.ones(2)))},
    "integer keys": {"layers": {0: jnp.ones(2), 1: jnp.zeros(3)}},
    "empty": {},
}
NUMBERS = {"scalar": 1, "vector": 3, "matrix": 6, "nested": 8, "integer keys": 5, "empty": 0}
each_tree = pytest.mark.parametrize("name", TREES)


def test_paths_are_names_joined_by_slashes_in_flattening_order():
    assert paths(TREES["scalar"]) == [""]
    assert paths(TREES["nested"]) == ["a/0", "a/1/first", "a/1/second", "b/0", "b/1/c"]
    assert paths(TREES["integer keys"]) == ["layers/0", "layers/1"]
    assert paths({"a": {"x": 1}, "b": 2}, is_leaf=lambda node: isinstance(node, dict) and "x" in node) == ["a", "b"]
    assert path_of(()) == ""


@each_tree
def test_every_path_leads_back_to_its_leaf(name):
    tree = TREES[name]
    if name == "nested":  # `at_path` speaks of dicts, lists and tuples by name or position
        tree = {"b": tree["b"], "a": list(tree["a"][:1])}
    assert [path for path, _ in named_leaves(tree)] == paths(tree)
    for path, leaf in named_leaves(tree):
        assert at_path(tree, path) is leaf


def test_a_path_leads_to_subtrees_too():
    tree = TREES["nested"]
    assert at_path(tree, "") is tree
    assert at_path(tree, "b/1") is tree["b"][1]


def is_text(node):
    return isinstance(node, str)


@each_tree
def test_one_prefix_leaf_covers_all(name):
    tree = TREES[name]
    if name == "empty":
        with pytest.raises(ValueError, match="Expected a prefix of the parameters; got ''"):
            broadcast_prefix("rule", tree, is_text)
    else:
        assert broadcast_prefix("rule", tree, is_text) == [("", "rule")] * len(paths(tree))


def test_prefix_leaves_cover_what_stands_below_them():
    found = broadcast_prefix({"a": "A", "b": ["B0", {"c": "C"}]}, TREES["nested"], is_text)
    assert found == [("a", "A")] * 3 + [("b/0", "B0"), ("b/1/c", "C")]


def test_a_name_that_begins_like_another_is_another():
    tree = {"scale": jnp.ones(2), "scale_2": jnp.ones(1), "layer": {"1": jnp.ones(1), "10": jnp.ones(1)}}
    prefix = {"scale": "S", "scale_2": "T", "layer": {"1": "one", "10": "ten"}}
    named = dict(zip(paths(tree), broadcast_prefix(prefix, tree, is_text), strict=True))
    assert {path: node for path, (_, node) in named.items()} == {
        "layer/1": "one",
        "layer/10": "ten",
        "scale": "S",
        "scale_2": "T",
    }


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ({"a": "A"}, "got nothing for b"),
        ({}, "got nothing for a, b"),
        ({"a": "A", "b": "B", "c": "C"}, "'c', which covers nothing"),
        ({"a": {"deeper": "A"}, "b": "B"}, "'a/deeper', which covers nothing"),
    ],
)
def test_a_prefix_that_does_not_fit_names_the_place(prefix, words):
    with pytest.raises(ValueError, match=r"Expected .*" + words):
        broadcast_prefix(prefix, {"a": jnp.ones(1), "b": jnp.ones(2)}, is_text)


@each_tree
def test_size_counts_numbers(name):
    assert size(TREES[name]) == NUMBERS[name]


def test_size_counts_what_has_no_values_yet():
    assert size({"a": jax.ShapeDtypeStruct((2, 3), jnp.float32), "b": 1.0}) == 7


@each_tree
def test_take_undoes_stack(name):
    tree = TREES[name]
    members = [jax.tree.map(lambda leaf, k=k: leaf + k, tree) for k in range(3)]
    stacked = stack(members)
    assert jax.tree.structure(stacked) == jax.tree.structure(tree)
    for k in (0, 2, -1):
        jax.tree.map(np.testing.assert_array_equal, take(stacked, k), members[k])
    jax.tree.map(np.testing.assert_array_equal, take(stacked, np.array([2, 0])), stack([members[2], members[0]]))


@each_tree
def test_all_finite_sees_every_number(name):
    tree = TREES[name]
    assert bool(all_finite(tree))
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        for position in range(len(jax.tree.leaves(tree))):
            leaves, treedef = jax.tree.flatten(tree)
            leaves[position] = leaves[position].ravel().at[-1].set(bad).reshape(leaves[position].shape)
            assert not bool(all_finite(treedef.unflatten(leaves)))


def test_all_finite_passes_integers_and_works_inside_jit():
    assert bool(jax.jit(all_finite)({"a": jnp.arange(3), "b": jnp.ones(2)}))


def test_cast_floats_leaves_integers_booleans_and_keys_alone(x64, key):
    tree = {
        "f": np.ones(2),
        "h": jnp.ones(1, jnp.float16),
        "i": np.arange(2),
        "b": np.array([True]),
        "k": key,
        "p": 1.5,
    }
    cast = cast_floats(tree, jnp.float32)
    kinds = {name: str(leaf.dtype) for name, leaf in cast.items()}
    assert kinds == {"f": "float32", "h": "float32", "i": "int64", "b": "bool", "k": "key<fry>", "p": "float32"}
    assert cast_floats(cast, jnp.float64)["f"].dtype == jnp.float64


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["float32"], "float32"),
        (["float64"], "float64"),
        (["float32", "float64"], "float64"),
        (["float16", "float32"], "float32"),
        (["bfloat16"], "bfloat16"),
        (["int32"], "float32"),
        (["int32", "float64"], "float64"),
        ([], "float32"),
    ],
)
def test_float_dtype_is_the_promotion_of_the_floating_leaves(dtypes, expected):
    # Numpy arrays, so that float64 is seen whether or not the global flag allows jax to make it.
    tree = [np.ones(1, jnp.dtype(name)) for name in dtypes]
    assert float_dtype(tree) == jnp.dtype(expected)


def test_precision_scope_opens_float64_inside_only():
    with precision_scope(jnp.float64):
        assert jnp.ones(1).dtype == jnp.float64
    assert jnp.ones(1).dtype == jnp.float32
    with precision_scope(jnp.float32):
        assert jnp.ones(1).dtype == jnp.float32
    with pytest.raises(RuntimeError), precision_scope("float64"):
        raise RuntimeError
    assert jnp.ones(1).dtype == jnp.float32


def test_tracers_are_seen_inside_transformations_only():
    seen = []

    def look(value):
        seen.append(has_tracers({"a": [value]}, 1.0))
        return value * 2.0

    jax.jit(look)(1.0)
    jax.grad(look)(1.0)
    jax.vmap(look)(jnp.ones(2))
    look(jnp.ones(2))
    assert seen == [True, True, True, False]


def test_certificates_are_made_on_the_host_where_the_device_knows_no_float64(monkeypatch):
    """The device here knows it; it is said not to."""
    monkeypatch.setattr(trees, "DOUBLE_ON", ())
    found = trees.in_double(jax.jit(lambda v: v / 3), jnp.ones(2, jnp.float32))
    assert found.dtype == np.float64
    assert found.devices() == {jax.devices("cpu")[0]}


@pytest.mark.slow
def test_products_are_fast_where_gradients_are_noisy_and_full_elsewhere():
    """By what a likelihood is traced under; "highest" is no TF32. What jax is told later counts later."""
    seen = set()

    def log_likelihood(w, batch):
        x, y = batch
        seen.add(jax.config.jax_default_matmul_precision)
        return -0.5 * (y - x @ w) ** 2

    prior, init = lambda w: -0.5 * jnp.sum(w**2), lambda key: jnp.zeros(3)
    model = jm.Model(log_likelihood=log_likelihood, log_prior=prior, init=init)

    def under(method, told=None):
        seen.clear()
        with jax.default_matmul_precision(told):
            jm.fit(jax.random.key(0), model, (np.eye(3), np.ones(3)), method, progress=False)
            assert jax.config.jax_default_matmul_precision == told
        return set(seen)

    for method in (jm.MAP(), jm.MAP(jm.LBFGS()), jm.Laplace(), jm.NUTS(chains=2, warmup=5, draws=5)):
        assert under(method) == {"highest"}
    chains = jm.SGHMC(start=jm.Given(np.zeros(3)), chains=2, warmup=5, draws=5, thin=1, batch_size=2)
    for method in (jm.MAP(optax.adam(1e-2), steps=3, batch_size=2), chains):
        assert None in under(method)
        assert under(method, "tensorfloat32") == {"tensorfloat32"}  # of the same model, anew
        assert under(method, "highest") <= {"highest"}


def test_products_of_certificates_keep_all_digits():
    program = jax.jit(lambda a: a @ a)
    text = trees.in_double(lambda a: program.lower(a).as_text(), jnp.ones((2, 2)))
    assert "HIGHEST" in text
