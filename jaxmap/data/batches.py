"""Minibatches: an epoch as a function of (key, epoch)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmap.types import Key


class BatchRows(NamedTuple):
    """The rows of one batch, padded to a fixed length; padding has weight zero."""

    rows: Int[Array, "*epochs batches size"]
    weights: Float[Array, "*epochs batches size"]


@dataclass(frozen=True)
class BatchPlan:
    """How n examples are dealt into batches.

    An epoch is a permutation dealt into ceil(n / batch_size) batches whose sizes differ by at most one, so that
    no ragged last batch gives a few examples a large weight. Nothing is dropped; the shorter batches are padded
    with one row of weight zero, the first of the batch.

    Attributes:
        num_examples: n.
        batch_size: the largest number of examples in a batch.
    """

    num_examples: int
    batch_size: int

    def __post_init__(self) -> None:
        if not (isinstance(self.batch_size, int) and 1 <= self.batch_size <= self.num_examples):
            raise ValueError(
                f"Expected batch_size between 1 and the {self.num_examples} examples; got {self.batch_size!r}. "
                "Leave it out for full batches."
            )

    @property
    def batches(self) -> int:
        """Steps per epoch."""
        return -(-self.num_examples // self.batch_size)

    @property
    def size(self) -> int:
        """Rows per batch, padding included."""
        return -(-self.num_examples // self.batches)

    @property
    def ragged(self) -> bool:
        """True where some batches carry a padded row."""
        return self.batches * self.size != self.num_examples

    @property
    def full(self) -> int:
        """Batches of an epoch without padding; they come first."""
        return self.num_examples - self.batches * (self.size - 1)

    def lengths(self, first: int = 0) -> list[int]:
        """Examples in each batch of an epoch, from batch `first` on."""
        return [self.size - (batch >= self.full) for batch in range(first, self.batches)]

    def wanted(self, columns: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Which positions in the order of an epoch fill these columns of its batches.

        Padding repeats the first example of a batch, which whoever has the padded column needs too. Positions beyond
        the epoch are wanted by all: each shall see that there are too many.
        """
        head, padded = self.full * self.size, bool(np.any(columns == self.size - 1))

        def fills(positions: np.ndarray) -> np.ndarray:
            short = positions >= head
            column = np.where(short, (positions - head) % max(1, self.size - 1), positions % self.size)
            beyond = positions >= self.num_examples
            return np.isin(column, columns) | (short & padded & (column == 0)) | beyond

        return fills

    def epoch(self, key: Key, epoch: Int[Array, ""]) -> BatchRows:
        """Deal one epoch.

        Args:
            key: the run's data key.
            epoch: number of the epoch, from 0.

        Returns:
            batches: rows and weights of shape (batches, size).
        """
        order, full = shuffled(key, epoch, self.num_examples), self.full
        head, tail = order[: full * self.size], order[full * self.size :]
        rows = head.reshape(full, self.size)
        if self.ragged:
            tail = tail.reshape(self.batches - full, self.size - 1)
            rows = jnp.concatenate([rows, jnp.concatenate([tail, tail[:, :1]], axis=1)])
        last = (jnp.arange(self.batches) < full).astype(jnp.float32)
        weights = jnp.concatenate([jnp.ones((self.batches, self.size - 1)), last[:, None]], axis=1)
        return BatchRows(rows, weights)


def shuffled(key: Key, epoch: Int[Array, ""], count: int) -> Int[Array, " count"]:
    """The order of an epoch: a permutation of `count` rows that key and epoch alone decide.

    It is that of `jax.random.permutation(jax.random.fold_in(key, epoch), count)`, which sorts pairs of random bits and
    row by a comparison for each; here both are one 64-bit number, which XLA sorts 3.5 times as fast on a CPU. The
    shuffle is a tenth of the time that a small network trains.
    """
    key, order = jax.random.fold_in(key, epoch), jnp.arange(count)
    for _ in range(math.ceil(3 * math.log(max(1, count)) / math.log(2**32 - 1))):  # so that equal bits do not matter
        key, sub = jax.random.split(key)
        bits = jax.random.bits(sub, (count,), jnp.uint32)
        with jax.enable_x64(True):
            places = jnp.arange(count, dtype=jnp.uint64)
            places = jax.lax.sort((bits.astype(jnp.uint64) << 32) | places, is_stable=False).astype(jnp.uint32)
        order = order[places.astype(order.dtype)]
    return order
