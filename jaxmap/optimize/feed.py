"""What the steps of a climb see: all examples, rows that are dealt from memory, or batches that come from a stream.

A feed hands out blocks: what one compiled call needs for the steps of that block, on the device. Its layout says how
the program finds the examples of a step in there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.data import (
    EXAMPLES,
    MEMBER,
    Ahead,
    BatchPlan,
    BatchRows,
    Stream,
    columns_here,
    gathered,
    laid_out,
    num_examples,
    placing,
    placing_blocks,
    take_examples,
)
from jaxmap.model import Density
from jaxmap.optimize.objective import Objective, objective_of
from jaxmap.trees import precision_scope
from jaxmap.types import Data, Key

CHUNK = 8192
"""Steps that one compiled call can take at most (an epoch if that is longer)."""

BLOCK_BYTES, BLOCK_STEPS = 2**23, 1024
"""What lies on the device of a stream, at most: three times as much while one is used and the next one is made."""


@dataclass(frozen=True)
class Layout:
    """How the examples of a step lie in a block; with it programs are compiled.

    Attributes:
        plan: of the batches; None where each step sees all examples.
        length: steps of a block.
        streamed: a block holds the batches themselves, for all members, not the rows of each.
    """

    plan: BatchPlan | None
    length: int
    streamed: bool = False

    @property
    def share(self) -> float:
        """The share of all examples that a step sees."""
        return 1.0 if self.plan is None else self.plan.size / self.plan.num_examples

    @property
    def epoch(self) -> int | None:
        """Steps of an epoch; None where each step is one."""
        return None if self.plan is None else self.plan.batches

    @property
    def each(self) -> bool:
        """True where each member has blocks of its own."""
        return self.plan is not None and not self.streamed

    def objective(self, density: Density, data: Data, block: Any, i: Any) -> Objective:
        """The loss of step i of a block; pure."""
        if self.plan is None:
            return objective_of(density, data)
        batch, weights = take_examples(block, i)
        batch = batch if self.streamed else take_examples(data, batch)
        return objective_of(density, batch, weights if self.plan.ragged else None, self.plan.num_examples)


@runtime_checkable
class Feed(Protocol):
    """What `maximize` trains on.

    Attributes:
        layout: how blocks are read.
        data: examples that are on the device all the time: all of them, or a sample of a stream.
    """

    layout: Layout
    data: Data

    def block(self, number: int) -> Any:
        """What the steps from number * length on need, as arrays on the device."""
        ...

    def close(self) -> None:
        """Nothing more will be asked for."""
        ...


def feed_of(data: Data | Stream, keys: Key, batch_size: int | None) -> Feed:
    """Choose the feed.

    Args:
        data: all examples, or a stream of them.
        keys: one per member, for the order; a stream is read once for all members, in the order of the first.
        batch_size: examples per step; None for all.

    Raises:
        ValueError: a stream without a batch size.
    """
    if isinstance(data, Stream):
        if batch_size is None:
            raise ValueError(
                f"Expected batch_size= for a stream of {len(data)} examples, which are never all in memory; got none. "
                "Write jm.MAP(optax.adam(1e-3), steps=..., batch_size=256)."
            )
        return Served(data, BatchPlan(len(data), batch_size), keys[0])
    return Whole(data) if batch_size is None else Dealt(data, BatchPlan(num_examples(data), batch_size), keys)


def batch_of(data: Data | Stream, key: Key, step: int, batch_size: int | None) -> tuple[Data, np.ndarray | None]:
    """The examples that a step saw, to explain a failure, and their rows in the data where they are known."""
    if batch_size is None:
        return data, None
    plan = BatchPlan(num_examples(data), batch_size)
    epoch, at = divmod(step, plan.batches)
    if isinstance(data, Stream):
        batch = next(data.batches(key, batch_size, step))
        before, lengths = plan.num_examples - sum(plan.lengths(at)), plan.lengths(at)
        seen = take_examples(batch.data, batch.weights > 0)
        return jax.tree.map(jnp.asarray, seen), data.source.rows(key, epoch, before, lengths[0])
    dealt = plan.epoch(key, jnp.asarray(epoch))
    rows = np.asarray(dealt.rows[at])[np.asarray(dealt.weights[at]) > 0]
    return take_examples(data, rows), rows


@dataclass
class Whole:
    """All examples at every step."""

    data: Data

    def __post_init__(self) -> None:
        self.layout = Layout(None, CHUNK)

    def block(self, number: int) -> None:  # noqa: D102
        return None

    def close(self) -> None:  # noqa: D102
        pass


@dataclass
class Dealt:
    """Rows of data in memory, dealt on the device, a block of epochs at a time; each member has its own order.

    Each device of a mesh holds all examples, and takes its share of each batch.
    """

    data: Data
    plan: BatchPlan
    keys: Key
    _last: tuple[int, Any] = (-1, None)

    def __post_init__(self) -> None:
        self.data = jax.tree.map(placing(), gathered(self.data))
        self.epochs = max(1, CHUNK // self.plan.batches)
        self.layout = Layout(self.plan, self.epochs * self.plan.batches)

    def block(self, number: int) -> BatchRows:  # noqa: D102
        if number != self._last[0]:
            self._last = (number, _deal(self.plan, self.epochs, self.keys, number * self.epochs))
        return self._last[1]

    def close(self) -> None:  # noqa: D102
        pass


@partial(jax.jit, static_argnums=(0, 1))
def _deal(plan: BatchPlan, epochs: int, keys: Key, first: Any) -> BatchRows:
    """The rows of so many epochs, (steps, size), led by members where there are several."""

    def one(key: Key) -> BatchRows:
        dealt = jax.vmap(lambda e: plan.epoch(key, e))(first + jnp.arange(epochs))
        return jax.tree.map(lambda leaf: leaf.reshape(-1, plan.size), dealt)

    if len(keys) > 1:
        return laid_out(jax.vmap(one)(keys), MEMBER, None, EXAMPLES)
    return laid_out(one(keys[0]), None, EXAMPLES)


@dataclass
class Served:
    """Batches of a stream, stacked on the host and put on the device in a thread, one block ahead.

    Each of several processes reads the rows that its devices take, where these divide a batch evenly.
    """

    stream: Stream
    plan: BatchPlan
    key: Key
    _last: tuple[int, Any] = (-1, None)
    _ahead: Ahead[Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.data = self.stream.sample
        room = BLOCK_BYTES // max(1, self.plan.size * self.stream.row_bytes())
        self.layout = Layout(self.plan, max(1, min(BLOCK_STEPS, room)), streamed=True)
        # here: the thread does not know the mesh
        self.columns, self.place = columns_here(self.plan.size), placing_blocks(self.plan.size)

    def block(self, number: int) -> Any:
        """Blocks are asked for in order.

        Raises:
            ValueError: examples unlike the first ones, or another number of them.
        """
        if self._ahead is None:
            self._ahead = Ahead(self._blocks(number), partial(precision_scope, self.stream.dtype))
        while self._last[0] != number:
            self._last = next(self._ahead)
        return self._last[1]

    def close(self) -> None:  # noqa: D102
        if self._ahead is not None:
            self._ahead.close()

    def _blocks(self, number: int) -> Iterator[tuple[int, Any]]:
        first = number * self.layout.length
        batches = self.stream.batches(self.key, self.plan.batch_size, first, self.columns)
        while True:
            served = [next(batches) for _ in range(self.layout.length)]
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *served)
            yield number, jax.tree.map(self.place, tuple(stacked))
            number += 1
