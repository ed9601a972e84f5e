"""Stream: data that need not fit into memory, as a known number of examples that are read while they are needed."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.data.arrays import check_data, num_examples, take_examples
from jaxmap.data.batches import BatchPlan
from jaxmap.data.sources import Arrays, Batches, Source, opened
from jaxmap.trees import named_leaves, signature
from jaxmap.types import Data, Key

SAMPLE = 1024
"""Examples that stand for all where only their kind matters."""


class Batch(NamedTuple):
    """Examples on the host, padded to a fixed length; padding repeats an example and has weight zero."""

    data: Data
    weights: np.ndarray


@dataclass(frozen=True, eq=False)
class Stream:
    """Data that are read batch by batch: `jm.fit(key, model, stream, jm.MAP(optax.adam(1e-3), batch_size=256))`.

    Made by `jm.Stream.of_arrays` from arrays that may lie in files, or by `jm.Stream.of_batches` from any function
    epoch -> iterable of batches. An epoch deals all examples into batches as for data in memory: their sizes differ by
    at most one, padding has weight zero, nothing is dropped.

    Attributes:
        source: what is read.
        num_examples: n.
        dtype: of the floating numbers that are handed out; None: their own.
        augmented: True where each epoch shows the examples in other, random forms.
    """

    source: Source
    num_examples: int
    dtype: Any = None
    augmented: bool = False

    @classmethod
    def of_arrays(cls, data: Data, *, block: int = 1) -> "Stream":
        """Read rows of arrays, in a new order in each epoch.

        With block=1 every order of the rows is equally likely, and it is that of the same data in memory: with equal
        keys both fits take the same steps. A larger block reads so many neighbouring rows at once, which a disk does
        much faster: the blocks come in random order, and the rows of a pool of blocks (65,536 rows or 16 MiB) too. The
        order holds 4 bytes per block in memory, and about 33 while it is made.

        Args:
            data: pytree of arrays with a common leading axis, memory-mapped ones among them, or paths of .npy files.
            block: rows that are read together.

        Returns:
            stream: of the arrays' rows.

        Raises:
            TypeError, ValueError: lengths that differ, no examples, files that are no arrays.
        """
        arrays = jax.tree.map(opened, data)
        lengths = {path: leaf.shape[0] if leaf.shape else None for path, leaf in named_leaves(arrays)}
        if len(set(lengths.values())) != 1 or not next(iter(lengths.values())):
            raise ValueError(
                f"Expected arrays with a common leading axis of at least one example; got lengths {lengths}."
            )
        n = num_examples(arrays)
        if not isinstance(block, int) or not 1 <= block <= n:
            raise ValueError(f"Expected block between 1 and the {n} examples; got {block!r}.")
        return cls(Arrays(arrays, block), n)

    @classmethod
    def of_batches(
        cls,
        batches: Callable[[int], Iterable[Data]] | Iterable[Data],
        num_examples: int,
        *,
        augmented: bool = False,
    ) -> "Stream":
        """Read what a function makes for each epoch; the order is the function's own.

        Its batches may have any length: they are dealt again into those that the fit asks for. To be taken up again bit
        for bit, equal epochs must give equal examples.

        Args:
            batches: epoch -> iterable of pytrees like data in memory (a generator function, or a pipeline of grain,
                `lambda epoch: grain.MapDataset.source(rows).seed(epoch).shuffle().batch(256)`), or something that can
                be iterated again and again (a list of batches, a loader).
            num_examples: examples in an epoch, which every one must have.
            augmented: say True where the function changes examples at random (flips, crops, noise), as a function of
                the epoch. What is maximised is then log_prior + sum over the n examples of the mean of log p over their
                forms: n counts examples, since a form is no new observation, and prior and weight decay mean what they
                mean without. Totals, gradient and held-out scores are those of the forms in epoch 0; results say so,
                and no maximum is claimed.

        Returns:
            stream: of the examples in the batches.

        Raises:
            TypeError: an iterator, which ends with its first epoch.
            ValueError: num_examples is no positive integer.
        """
        if isinstance(batches, Iterator) or not (callable(batches) or isinstance(batches, Iterable)):
            raise TypeError(
                f"Expected a function epoch -> iterable of batches; got {batches!r}, which cannot begin a second "
                "epoch. Write lambda epoch: make_iterator()."
            )
        if not isinstance(num_examples, int | np.integer) or num_examples < 1:
            raise ValueError(f"Expected num_examples to be a positive integer; got {num_examples!r}.")
        made = batches if callable(batches) else lambda epoch: batches
        return cls(Batches(made), int(num_examples), augmented=augmented)

    def __len__(self) -> int:
        return self.num_examples

    def fingerprint(self) -> str:
        """Name the data by their number and content.

        Arrays of up to 16 MiB are known by all rows, larger ones by 256, the batches of a function by the first one.
        """
        return f"{self.num_examples} streamed{', augmented' * self.augmented}, {self.source.fingerprint()}"

    def in_dtype(self, dtype: Any) -> "Stream":
        """The same stream in another floating dtype."""
        return replace(self, dtype=dtype)

    @cached_property
    def sample(self) -> Data:
        """The first examples, checked as data in memory are, on the device."""
        piece = next(self.source.pieces(None, 0, 0), None)
        if not jax.tree.leaves(piece):
            raise ValueError("Expected a stream with at least one batch; got none in epoch 0.")
        return check_data(take_examples(piece, slice(SAMPLE)), dtype=self.dtype)

    def batches(self, key: Key, batch_size: int, first: int = 0, columns: np.ndarray | None = None) -> Iterator[Batch]:
        """The batches of all steps from step `first` on, epoch after epoch, without end.

        Args:
            key: with the number of the epoch it decides the order.
            batch_size: the largest number of examples in a batch.
            first: the step that is served first.
            columns: which examples of each batch, ascending from 0; only these are read from arrays. None: all.

        Raises:
            ValueError: examples that are not alike, or another number of them than was said.
        """
        plan = BatchPlan(self.num_examples, batch_size)
        epoch, begin = divmod(first, plan.batches)
        columns = np.arange(plan.size) if columns is None else columns
        wanted = None if len(columns) == plan.size else plan.wanted(columns)
        while True:
            lengths = plan.lengths(begin)
            seen = self.num_examples - sum(lengths)
            yield from self._dealt(self.source.pieces(key, epoch, seen, wanted), lengths, columns, epoch)
            epoch, begin = epoch + 1, 0

    def sweep(self, size: int) -> Iterator[Batch]:
        """All examples once, in their own order, `size` at a time.

        Raises:
            ValueError: as in `batches`.
        """
        size = min(size, self.num_examples)
        whole, rest = divmod(self.num_examples, size)
        lengths = [size] * whole + [rest] * bool(rest)
        yield from self._dealt(self.source.pieces(None, 0, 0), lengths, np.arange(size), 0)

    def row_bytes(self) -> int:
        """Bytes of one example on the device."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.sample)) // num_examples(self.sample)

    def _dealt(self, pieces: Iterator[Data], lengths: list[int], columns: np.ndarray, epoch: int) -> Iterator[Batch]:
        """Deal these columns of the rest of an epoch, which must end where the lengths do; padding repeats column 0."""
        checked = (self._checked(piece, epoch) for piece in pieces)
        where = f"in epoch {epoch} of a stream of {self.num_examples}"
        filled = {length: np.where(columns < length, columns, 0) for length in set(lengths)}
        read = {length: np.unique(found) for length, found in filled.items()}
        parts = _cut(checked, [len(read[length]) for length in lengths], where)
        for length, data in zip(lengths, parts, strict=True):
            if not np.array_equal(read[length], filled[length]):
                data = take_examples(data, np.searchsorted(read[length], filled[length]))
            yield Batch(data, (columns < length).astype(np.float32))

    def _checked(self, piece: Data, epoch: int) -> Data:
        """A piece in the dtypes of the device.

        Raises:
            ValueError: unlike the first examples.
        """
        cast = jax.tree.map(lambda leaf: _on_host(leaf, self.dtype), piece)
        if kind_of(cast) != kind_of(self.sample):
            raise ValueError(
                f"Expected batches like the first of the stream, {kind_in_words(self.sample)}; got "
                f"{kind_in_words(cast)} in epoch {epoch}. Make them alike."
            )
        return cast


def _cut(pieces: Iterator[Data], lengths: list[int], where: str) -> Iterator[Data]:
    """Examples that come in pieces of any length, in batches of given lengths."""
    held: list[Data] = []
    have = 0
    for length in lengths:
        while have < length:
            piece = next(pieces, None)
            if piece is None:
                raise ValueError(f"Expected more examples {where}; got none. Correct num_examples.")
            held, have = [*held, piece], have + num_examples(piece)
        whole = held[0] if len(held) == 1 else jax.tree.map(lambda *parts: np.concatenate(parts), *held)
        yield take_examples(whole, slice(length))
        held, have = [take_examples(whole, slice(length, None))], have - length
    beyond = next(pieces, None)
    have += 0 if beyond is None else num_examples(beyond)
    if have:
        raise ValueError(f"Expected no more examples {where}; got {have} more. Correct num_examples.")


def _on_host(leaf: Any, dtype: Any) -> np.ndarray:
    """A leaf in the dtype that the device will give it.

    Raises:
        ValueError: integers that do not fit.
    """
    array = np.asarray(leaf)
    wanted = dtype if dtype is not None and jnp.issubdtype(array.dtype, jnp.floating) else None
    wanted = jax.dtypes.canonicalize_dtype(array.dtype) if wanted is None else wanted
    made = array.astype(wanted, copy=False)
    if array.dtype.kind in "iu" and made.dtype != array.dtype and np.any(made != array):
        raise ValueError(f"Expected integers that fit into {made.dtype} in a stream; got larger ones. Use floats.")
    return made


def kind_of(data: Data) -> Any:
    """Structure, dtypes and the shapes of single examples."""
    return signature(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), data))


def kind_in_words(data: Data) -> str:
    """A kind in words."""
    return ", ".join(f"{path or 'data'} {leaf.dtype}{list(leaf.shape[1:])}" for path, leaf in named_leaves(data))
