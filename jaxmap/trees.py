"""Pytree algebra: paths, stacks, slices, dtypes."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

Tree = Any


def path_of(key_path: Sequence[Any]) -> str:
    """Write a jax key path as names joined by slashes, `layers/0/kernel`; the root is the empty string."""
    return "/".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in key_path)


def paths(tree: Tree, is_leaf: Callable[[Any], bool] | None = None) -> list[str]:
    """List the path of every leaf, in the order in which jax flattens the tree."""
    return [path_of(p) for p, _ in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)]


def named_leaves(tree: Tree, is_leaf: Callable[[Any], bool] | None = None) -> list[tuple[str, Any]]:
    """List (path, leaf) in flattening order."""
    return [(path_of(p), leaf) for p, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)]


def coordinate_paths(z: Any, leaves: Sequence[int] | None = None) -> list[str]:
    """The path of each number in ravel order: `kernel` for a scalar, `kernel[0,2]` inside an array.

    Args:
        z: a tree.
        leaves: numbers of the leaves that are wanted; None for all.
    """
    names, every = [], named_leaves(z)
    for path, leaf in every if leaves is None else [every[k] for k in leaves]:
        for index in np.ndindex(np.shape(leaf)):
            names.append(f"{path}[{','.join(map(str, index))}]" if index else path)
    return names


def broadcast_prefix(prefix: Tree, tree: Tree, is_leaf: Callable[[Any], bool]) -> list[tuple[str, Any]]:
    """Give each leaf of `tree`, in flattening order, the prefix leaf that stands above it, with its path.

    Raises:
        ValueError: a prefix leaf stands above nothing, or a leaf of `tree` has none above; names the place.
    """
    above: dict[str, tuple[str, Any]] = {}
    for key_path, node in jax.tree_util.tree_leaves_with_path(prefix, is_leaf=is_leaf):
        root = path_of(key_path)
        covered = [path for path in paths(tree) if root in ("", path) or path.startswith(root + "/")]
        if not covered:
            raise ValueError(
                f"Expected a prefix of the parameters; got {root!r}, which covers nothing. "
                f"The parameters are {', '.join(paths(tree))}."
            )
        above.update(dict.fromkeys(covered, (root, node)))
    missing = [path for path in paths(tree) if path not in above]
    if missing:
        raise ValueError(f"Expected every parameter to be covered; got nothing for {', '.join(missing)}. Add them.")
    return [above[path] for path in paths(tree)]


def at_path(tree: Tree, path: str) -> Tree:
    """The subtree at a path; the whole tree at the empty path."""
    for name in path.split("/") if path else ():
        tree = tree[int(name)] if isinstance(tree, list | tuple) else tree[name if name in tree else int(name)]
    return tree


def signature(tree: Tree) -> tuple[Any, ...]:
    """What a program is compiled for, as a key: structure, shapes and dtypes."""
    leaves, treedef = jax.tree.flatten(tree)
    return (treedef, *((np.shape(leaf), str(leaf.dtype)) for leaf in leaves))


def size(tree: Tree) -> int:
    """Count the numbers in all leaves."""
    return sum(int(np.prod(np.shape(leaf))) for leaf in jax.tree.leaves(tree))


def stack(trees: Sequence[Tree]) -> Tree:
    """Stack equal trees on a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def take(tree: Tree, index: Any) -> Tree:
    """Index the leading axis of every leaf."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def members_of(chosen: np.ndarray, a: Tree, b: Tree) -> Tree:
    """The chosen members of stacked trees from a, the others from b; a single member has no leading axis."""
    if len(chosen) == 1:
        return a if chosen[0] else b
    return jax.tree.map(lambda x, y: jnp.where(chosen.reshape(-1, *(1,) * (jnp.ndim(x) - 1)), x, y), a, b)


def shaper(tree: Tree) -> Callable[[Any], Tree]:
    """The way back from a flat vector, in ravel order, to a tree like this one; the vector keeps its dtype."""
    leaves, treedef = jax.tree.flatten(tree)
    shapes = [np.shape(leaf) for leaf in leaves]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])

    def shaped(vector: Any) -> Tree:
        parts = [vector[end - int(np.prod(s)) : end].reshape(s) for end, s in zip(ends, shapes, strict=True)]
        return treedef.unflatten(parts)

    return shaped


def all_finite(tree: Tree) -> jax.Array:
    """True where every number of every leaf is finite, shape ()."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves)) if leaves else jnp.asarray(True)


def cast_floats(tree: Tree, dtype: Any) -> Tree:
    """Bring the floating leaves to `dtype`; integers, booleans and keys stay."""

    def cast(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and leaf.dtype == dtype:
            return leaf
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)


def float_dtype(tree: Tree) -> Any:
    """The dtype in which a tree computes: the promotion of its floating leaves, float32 if none."""
    dtypes = {np.dtype(leaf.dtype) for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    if not dtypes:
        return np.dtype("float32")
    return np.dtype("float64") if np.dtype("float64") in dtypes else jnp.result_type(*dtypes)


@contextlib.contextmanager
def precision_scope(dtype: Any) -> Iterator[None]:
    """Allow float64 inside the block if `dtype` needs it, with `full_products`; global flags are not touched."""
    double = np.dtype(dtype) == np.dtype("float64")
    with full_products(), jax.enable_x64(True) if double else contextlib.nullcontext():
        yield


def doubled(tree: Tree) -> Tree:
    """Bring the floating leaves to float64, outside a precision scope too."""
    with jax.enable_x64(True):
        return cast_floats(tree, np.float64)


def in_double(function: Callable[..., Any], *arguments: Tree, known: Sequence[Tree] | None = None) -> Any:
    """Call a function with its arguments in float64; in their own precision where it cannot compute in float64.

    It cannot where it holds a numpy constant that jax has already fixed in float32.

    Args:
        function: what to call.
        arguments: in their own precision.
        known: the same, `doubled` as far as that is done.
    """
    try:
        with jax.enable_x64(True), full_products(), _computing_in_double():
            return function(*(doubled(_reachable(argument)) for argument in known or arguments))
    except (TypeError, ValueError, jax.errors.JaxRuntimeError):
        with full_products():
            return function(*arguments)


_outside: ContextVar[tuple[str | None] | None] = ContextVar("what was configured outside", default=None)


@contextlib.contextmanager
def full_products() -> Iterator[None]:
    """A scope in which matrix products keep all digits of their dtype: no TF32 on GPUs, no bfloat16 on TPUs."""
    outermost = _outside.get() is None
    configured = getattr(jax.config, "jax_default_matmul_precision")  # noqa: B009 -- unknown to type checkers
    token = _outside.set((configured,)) if outermost else None
    try:
        with jax.default_matmul_precision("highest"):
            yield
    finally:
        if token is not None:
            _outside.reset(token)


def as_configured(program: Callable[..., Any]) -> Callable[..., Any]:
    """The same program, whose products are as jax was told outside of `full_products`: fast where nothing was said.

    The scope is around the call, so that jax compiles anew for what it was told since.
    """

    @functools.wraps(program)
    def called(*arguments: Any) -> Any:
        outside = _outside.get()
        with contextlib.nullcontext() if outside is None else jax.default_matmul_precision(outside[0]):
            return program(*arguments)

    return called


DOUBLE_ON = ("cpu", "gpu", "cuda", "rocm")
"""Kinds of devices that compute in float64."""


def _without_double() -> bool:
    """True where the device knows no float64; what is spread over a mesh of such devices stays there."""
    return jax.default_backend() not in DOUBLE_ON and jax.sharding.get_abstract_mesh().empty


def _computing_in_double() -> contextlib.AbstractContextManager[Any]:
    """The host, where the device knows no float64."""
    return jax.default_device(jax.devices("cpu")[0]) if _without_double() else contextlib.nullcontext()


def _reachable(tree: Tree) -> Tree:
    """Arguments that the host can compute with."""
    return jax.tree.map(np.asarray, tree) if _without_double() else tree


def settled(tree: Tree) -> Tree:
    """Bring to numpy what would not stay as it is elsewhere: float64, and copies on many devices."""

    def settle(leaf: Any) -> Any:
        elsewhere = isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1
        return np.asarray(leaf) if elsewhere or leaf.dtype == np.dtype("float64") else leaf

    return jax.tree.map(settle, tree)


def check_key(key: Any, verb: str) -> Any:
    """Accept a key of jax.random, typed or raw, and return it typed.

    Raises:
        TypeError: something else, or a traced key.
    """
    if has_tracers(key):
        raise TypeError(
            f"Expected jm.{verb} to run on the host; got a traced key (inside jit or vmap). Use jm.Ensemble."
        )
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0
    raw = isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32 and key.shape == (2,)
    if not (typed or raw):
        raise TypeError(f"Expected a key such as jax.random.key(0) as first argument; got {key!r}.")
    return key if typed else jax.random.wrap_key_data(jnp.asarray(key))


def has_tracers(*values: Any) -> bool:
    """True inside jit, grad or vmap of any of the values."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))
