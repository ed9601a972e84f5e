"""Where a stream comes from: arrays that may lie in files, or batches that a function makes."""

import hashlib
import mmap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jaxmap.data.arrays import fingerprint, num_examples, take_examples
from jaxmap.data.batches import shuffled
from jaxmap.trees import named_leaves
from jaxmap.types import Data, Key

POOL_ROWS, POOL_BYTES = 2**16, 2**24
"""What is read and shuffled at a time, at most."""

ROWS_TOUCHED = 1024
"""Rows of a memory-mapped file that are read before its pages are given back."""

PROBES = 256
"""Rows that name an array beside its shape and dtype, where it is larger than what is read at a time."""

Wanted = Callable[[np.ndarray], np.ndarray]
"""Positions in an epoch -> True for those that are asked for."""


@runtime_checkable
class Source(Protocol):
    """What a stream reads."""

    def pieces(self, key: Key | None, epoch: int, first: int, wanted: Wanted | None = None) -> Iterator[Data]:
        """The examples of an epoch from position `first` on, in pieces of any length.

        Args:
            key: decides the order; None: in their own.
            epoch: its number.
            first: positions before it are left out.
            wanted: positions -> which of them are asked for; None: all.
        """
        ...

    def fingerprint(self) -> str:
        """A name of the content, from a part of it."""
        ...

    def rows(self, key: Key, epoch: int, first: int, count: int) -> np.ndarray | None:
        """Where `count` examples of an epoch, from position `first` on, lie in the data; None where nobody knows."""
        ...


@dataclass(frozen=True, eq=False)
class Arrays:
    """Rows of arrays.

    Attributes:
        arrays: a pytree with a common leading axis.
        block: rows that are read together.
    """

    arrays: Data
    block: int

    def pieces(  # noqa: D102
        self, key: Key | None, epoch: int, first: int, wanted: Wanted | None = None
    ) -> Iterator[Data]:
        begin = 0
        for rows in self._orders(key, epoch):
            asked = rows[_places(begin, len(rows), first, wanted)]
            if len(asked):
                yield jax.tree.map(lambda leaf, asked=asked: _rows_of(leaf, asked), self.arrays)
            begin += len(rows)

    def fingerprint(self) -> str:  # noqa: D102
        n = num_examples(self.arrays)
        whole = sum(leaf.nbytes for leaf in jax.tree.leaves(self.arrays)) <= POOL_BYTES
        rows = np.arange(n) if whole else np.unique(np.linspace(0, n - 1, PROBES).astype(np.int64))
        said = [f"{path}|{leaf.shape}|{leaf.dtype}" for path, leaf in named_leaves(self.arrays)]
        probed = fingerprint(jax.tree.map(lambda leaf: _rows_of(leaf, rows), self.arrays))
        return hashlib.sha256(f"{said} {self.block} {probed}".encode()).hexdigest()[:16]

    def rows(self, key: Key, epoch: int, first: int, count: int) -> np.ndarray | None:  # noqa: D102
        found: list[np.ndarray] = []
        for rows in self._orders(key, epoch):
            found.append(rows[first : first + count])
            first, count = max(0, first - len(rows)), count - len(found[-1])
            if not count:
                break
        return np.concatenate(found)

    @cached_property
    def _pool(self) -> int:
        """Rows that are read at a time."""
        row = sum(leaf.nbytes for leaf in jax.tree.leaves(self.arrays)) // num_examples(self.arrays)
        return max(self.block, min(POOL_ROWS, POOL_BYTES // max(1, row)))

    def _orders(self, key: Key | None, epoch: int) -> Iterator[np.ndarray]:
        """The row numbers of an epoch: blocks in random order, the rows of a pool of blocks in random order."""
        n, block = num_examples(self.arrays), self.block
        count, together = -(-n // block), self._pool // block
        order = np.arange(count) if key is None else np.asarray(_shuffled(key, epoch, count))
        for pool, first in enumerate(range(0, count, together)):
            starts = order[first : first + together]
            rows = (starts[:, None] * block + np.arange(block)[None]).ravel()
            rows = rows[rows < n]
            if block > 1 and key is not None:
                seed = [*np.asarray(jax.random.key_data(key)).ravel().tolist(), epoch, pool]
                rows = np.random.default_rng(seed).permutation(rows)
            yield rows


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches that a function makes for each epoch; their order is its own."""

    epoch_of: Callable[[int], Iterable[Data]]

    def pieces(  # noqa: D102
        self, key: Key | None, epoch: int, first: int, wanted: Wanted | None = None
    ) -> Iterator[Data]:
        begin = 0
        for piece in self.epoch_of(epoch):
            arrays = jax.tree.map(np.asarray, piece)
            asked = _places(begin, num_examples(arrays), first, wanted)
            if len(asked):
                yield arrays if len(asked) == num_examples(arrays) else take_examples(arrays, asked)
            begin += num_examples(arrays)

    def fingerprint(self) -> str:  # noqa: D102
        return fingerprint(next(self.pieces(None, 0, 0), None))

    def rows(self, key: Key, epoch: int, first: int, count: int) -> np.ndarray | None:  # noqa: D102
        return None


def _places(begin: int, count: int, first: int, wanted: Wanted | None) -> np.ndarray:
    """Where in a piece, that begins at a position, lie examples that are asked for."""
    positions = np.arange(max(begin, first), begin + count)
    return (positions if wanted is None else positions[wanted(positions)]) - begin


def opened(leaf: Any) -> Any:
    """An array as it is, or the memory-mapped array in the file of this name.

    Raises:
        ValueError: a file that is missing or no array.
    """
    if not isinstance(leaf, str | Path):
        return leaf if hasattr(leaf, "shape") and hasattr(leaf, "dtype") else np.asarray(leaf)
    try:
        return np.load(leaf, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"Expected a file of one array, written by np.save; got {str(leaf)!r}: {error}") from error


_shuffled = jax.jit(shuffled, static_argnames="count")


def _rows_of(leaf: Any, rows: np.ndarray) -> np.ndarray:
    """Read rows, in the order in which they lie, and put them into the order that is wanted."""
    ascending = np.argsort(rows)
    made = np.empty((len(rows), *leaf.shape[1:]), leaf.dtype)
    plain = np.asarray(leaf) if isinstance(leaf, np.memmap) else leaf
    for first in range(0, len(rows), ROWS_TOUCHED):
        places = ascending[first : first + ROWS_TOUCHED]
        made[places] = plain[rows[places]]
        _give_back(leaf)
    return made


def _give_back(leaf: Any) -> None:
    """Give the pages of a file back that is mapped for reading alone: they would count as this process's memory."""
    if not isinstance(leaf, np.memmap) or leaf.mode != "r" or not hasattr(mmap, "MADV_DONTNEED"):
        return
    base: Any = leaf
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)
