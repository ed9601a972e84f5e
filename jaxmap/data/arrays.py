"""Arrays in memory: a pytree whose arrays share the leading axis n."""

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.trees import cast_floats, check_key, named_leaves
from jaxmap.types import Data, Key


def num_examples(data: Data) -> int:
    """Count the examples: the length of the leading axis, or 1 where `data` is None."""
    leaves = jax.tree.leaves(data)
    return len(leaves[0]) if leaves else 1


def check_data(data: Data, *, name: str = "data", dtype: Any = None) -> Data:
    """Refuse data that no model can mean, and bring the rest to the device.

    Args:
        data: pytree of arrays with a common leading axis n >= 1, or None.
        name: what to call it in messages.
        dtype: floating dtype to compute in; integers and booleans keep theirs.

    Returns:
        data: the same tree as jax arrays.

    Raises:
        ValueError: no examples, lengths that differ, NaN or infinity, naming the leaf and the rows.
        TypeError: a leaf that is not a numeric array.
    """
    lengths = {}
    for path, leaf in named_leaves(data):
        where = leaf_name(path, name)
        array = _numeric(leaf, where)
        if array.ndim == 0:
            raise ValueError(
                f"Expected {where} to be an array with a leading axis of examples; got a scalar. "
                "Put constants into the closure of the model."
            )
        lengths[where] = len(array)
        _refuse_non_finite(array, where)
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{where} has {length}" for where, length in lengths.items())
        raise ValueError(
            f"Expected {name} arrays that share the leading axis of examples; got different lengths: {listed}."
        )
    if lengths and not all(lengths.values()):
        raise ValueError(f"Expected {name} with at least one example; got none. Check the filter that made it.")
    arrays = jax.device_put(jax.tree.map(lambda leaf: _own(leaf, dtype), data))
    arrays = arrays if dtype is None else cast_floats(arrays, dtype)
    for (path, given), (_, kept) in zip(named_leaves(data), named_leaves(arrays), strict=True):
        _refuse_overflow(np.asarray(given), np.asarray(kept), leaf_name(path, name))
    return arrays


def take_examples(data: Data, rows: Any) -> Data:
    """Select examples by row number from every array."""
    return jax.tree.map(lambda leaf: leaf[rows], data)


def split(key: Key, data: Data, test: float | int = 0.1, stratify: Any = None) -> tuple[Data, Data]:
    """Split into (train, test) at random.

    Args:
        key: decides which rows are tested.
        data: pytree of arrays with a common leading axis.
        test: a share in (0, 1), or a number of rows.
        stratify: classes, (n,): each has its share of the test rows, to the nearest row, so that a rare one is neither
            all in the training nor all in the test rows.

    Returns:
        train, test: trees like `data`, rows in their old order.

    Raises:
        ValueError: one side would be empty, or not one class per row.
    """
    key = check_key(key, "split")
    lengths = {len(leaf) for leaf in jax.tree.leaves(data)}
    if len(lengths) != 1:
        check_data(data)  # says which arrays differ
    n = num_examples(data)
    rows = round(test * n) if isinstance(test, float) and np.isfinite(test) else test
    if not isinstance(rows, int | np.integer) or not 0 < rows < n:
        raise ValueError(f"Expected a test share that leaves rows on both sides of {n}; got {test!r}.")
    order = np.asarray(jax.random.permutation(key, n))
    if stratify is not None:
        if np.shape(stratify) != (n,):
            raise ValueError(f"Expected stratify to be {n} classes, one per row; got shape {np.shape(stratify)}.")
        order = _strata_first(order, np.asarray(stratify), int(rows))
    return take_examples(data, np.sort(order[rows:])), take_examples(data, np.sort(order[:rows]))


def _strata_first(order: np.ndarray, labels: np.ndarray, rows: int) -> np.ndarray:
    """The same order, but that its first `rows` have each class in its share, by largest remainders.

    A class gives its last example only where the others have no more to give.
    """
    _, numbers, counts = np.unique(labels[order], return_inverse=True, return_counts=True)
    quotas = rows * counts / len(order)
    taken = np.minimum(np.floor(quotas).astype(int), counts - 1)
    for most in (np.minimum(taken + 1, counts - 1), counts - 1, counts):
        for label in np.argsort(taken - quotas, kind="stable"):
            taken[label] += min(rows - taken.sum(), most[label] - taken[label])
    rank = np.empty(len(order), int)  # of an example among those of its class
    for label, count in enumerate(counts):
        rank[numbers == label] = np.arange(count)
    first = rank < taken[numbers]
    return np.concatenate([order[first], order[~first]])


def fingerprint(data: Data) -> str:
    """Name data by its content: 16 hex digits of SHA-256 over paths, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for path, leaf in named_leaves(data):
        array = np.asarray(leaf, order="C")
        digest.update(f"{path}|{array.shape}|{array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def leaf_name(path: str, name: str = "data") -> str:
    """Call the leaves of a supervised pair x and y, others by their path."""
    pair = {"0": "x", "1": "y"}
    return pair.get(path, f"{name}[{path!r}]" if path else name)


def _own(leaf: Any, dtype: Any) -> Any:
    """An array that later changes of the user's do not reach."""
    if dtype is None or isinstance(leaf, jax.Array) or np.asarray(leaf).dtype.kind != "f":
        return jnp.asarray(leaf)
    with np.errstate(over="ignore"):  # numbers too large for the dtype are refused in words
        return np.array(leaf, dtype)  # one copy; jnp.asarray makes two


def _numeric(leaf: Any, where: str) -> np.ndarray:
    if isinstance(leaf, np.ma.MaskedArray):
        raise TypeError(f"Expected {where} without masked values; got a masked array. Fill or drop them.")
    if hasattr(leaf, "sweep"):
        raise TypeError(f"Expected {where} in memory; got a jm.Stream, which only jm.fit reads. Give arrays.")
    array = np.asarray(leaf)
    if array.dtype.kind not in "fiubV" or array.dtype.names:  # V: bfloat16 and its kin
        raise TypeError(f"Expected {where} to be a numeric array; got dtype {array.dtype}. Encode text as numbers.")
    return array


def _refuse_overflow(given: np.ndarray, kept: np.ndarray, where: str) -> None:
    """Numbers that the device's dtype cannot hold would wrap around or become infinite in silence."""
    if given.dtype.kind in "iu" and given.dtype != kept.dtype and np.any(given != kept):
        raise ValueError(f"Expected integers in {where} that fit into {kept.dtype}; got larger ones. Use floats.")
    if kept.dtype.kind == "f" and kept.dtype != given.dtype and not np.all(np.isfinite(kept)):
        raise ValueError(f"Expected numbers in {where} that fit into {kept.dtype}; got larger ones. Rescale them.")


def _refuse_non_finite(array: np.ndarray, where: str) -> None:
    if array.dtype.kind not in "fV":
        return
    bad = ~np.isfinite(array.astype(np.float64) if array.dtype.kind == "V" else array)
    if bad.any():
        rows: Sequence[int] = np.unique(np.nonzero(bad)[0])[:5].tolist()
        raise ValueError(
            f"Expected finite numbers in {where}; got {int(bad.sum())} NaN or infinite, first in rows {rows}. "
            "Drop or impute them."
        )
