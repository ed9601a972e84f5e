"""Streams: the same epochs as in memory, from files and from functions, every example once."""

import time

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmap as jm
from jaxmap.data import Ahead, BatchPlan

ROWS = [(1, 1), (7, 3), (13, 4), (24, 24), (100, 32)]
each_length = pytest.mark.parametrize(("n", "batch_size"), ROWS)


def numbered(n):
    """Rows that say which they are."""
    return np.arange(n, dtype=np.float32)[:, None] * np.ones((1, 2), np.float32), np.arange(n, dtype=np.int32)


def taken(iterator, count):
    return [next(iterator) for _ in range(count)]


def rows_of(batches):
    """The row numbers of batches, padding left out."""
    return np.concatenate([batch.data[1][batch.weights > 0] for batch in batches])


def in_pieces(n, length, epochs=None):
    """A function that makes the batches of an epoch, of a length of its own."""
    x, y = numbered(n)

    def epoch_of(epoch):
        if epochs is not None:
            epochs.append(epoch)
        order = np.random.default_rng(epoch).permutation(n)
        for first in range(0, n, length):
            rows = order[first : first + length]
            yield x[rows], y[rows]

    return epoch_of


def through_grain(n, length):
    """A pipeline of grain's, shuffled anew in each epoch."""
    rows = list(zip(*numbered(n), strict=True))
    return lambda epoch: grain.MapDataset.source(rows).seed(epoch).shuffle().batch(length)


@each_length
def test_arrays_are_served_in_the_order_of_memory(n, batch_size, key):
    plan, stream = BatchPlan(n, batch_size), jm.Stream.of_arrays(numbered(n))
    assert len(stream) == n
    served = stream.batches(key, batch_size)
    for epoch in range(3):
        dealt = plan.epoch(key, jnp.asarray(epoch))
        for rows, weights in zip(np.asarray(dealt.rows), np.asarray(dealt.weights), strict=True):
            batch = next(served)
            np.testing.assert_array_equal(batch.weights, weights)
            np.testing.assert_array_equal(batch.data[1][weights > 0], rows[weights > 0])
            np.testing.assert_array_equal(batch.data[0][:, 1], batch.data[1])


STREAMS = {
    "arrays": lambda n: jm.Stream.of_arrays(numbered(n)),
    "arrays in blocks": lambda n: jm.Stream.of_arrays(numbered(n), block=min(4, n)),
    "a function": lambda n: jm.Stream.of_batches(in_pieces(n, 5), n),
    "a pipeline of grain": lambda n: jm.Stream.of_batches(through_grain(n, 5), n),
    "a list": lambda n: jm.Stream.of_batches(list(in_pieces(n, 5)(0)), n),
}
each_stream = pytest.mark.parametrize("name", STREAMS)


@each_stream
@each_length
def test_every_example_once_per_epoch_whatever_its_pieces(name, n, batch_size, key):
    plan, served = BatchPlan(n, batch_size), STREAMS[name](n).batches(key, batch_size)
    for _ in range(2):
        batches = taken(served, plan.batches)
        assert [int(batch.weights.sum()) for batch in batches] == plan.lengths()
        assert {len(batch.data[1]) for batch in batches} == {plan.size}
        np.testing.assert_array_equal(np.sort(rows_of(batches)), np.arange(n))


@each_stream
@each_length
@pytest.mark.parametrize("parts", [2, 4])
def test_columns_of_batches_are_those_of_whole_batches(name, n, batch_size, parts, key):
    """What processes read of a batch makes the batch together, its padding included, from any step on."""
    plan = BatchPlan(n, batch_size)
    for first in (0, plan.batches - 1):
        whole = taken(STREAMS[name](n).batches(key, batch_size, first), 2 * plan.batches)
        for columns in np.array_split(np.arange(plan.size), parts):
            if not len(columns):
                continue
            served = taken(STREAMS[name](n).batches(key, batch_size, first, columns), 2 * plan.batches)
            for some, all_of_it in zip(served, whole, strict=True):
                np.testing.assert_array_equal(some.weights, all_of_it.weights[columns])
                for u, v in zip(some.data, all_of_it.data, strict=True):
                    np.testing.assert_array_equal(u, v[columns])


class Counted:
    """An array that knows how many of its rows were read."""

    def __init__(self, array):
        self.array, self.read = array, 0
        self.shape, self.dtype, self.nbytes = array.shape, array.dtype, array.nbytes

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        self.read += len(rows)
        return self.array[rows]


@pytest.mark.parametrize("block", [1, 8])
def test_columns_alone_are_read_from_arrays(block, key):
    counted = Counted(np.arange(64.0, dtype=np.float32))
    stream = jm.Stream.of_arrays(counted, block=block)
    assert len(stream.sample) == 64
    counted.read = 0
    taken(stream.batches(key, 8, columns=np.arange(4, 8)), 8)
    assert counted.read == 32


@pytest.mark.parametrize(("said", "told"), [(15, "got 1 more"), (17, "Expected more examples")])
def test_columns_of_a_stream_of_another_length_are_refused(said, told, key):
    stream = jm.Stream.of_batches(in_pieces(16, 5), said)
    batches = BatchPlan(said, 4).batches
    with pytest.raises(ValueError, match=told):
        taken(stream.batches(key, 4, columns=np.arange(2, 4)), batches + 1)


@each_stream
@pytest.mark.parametrize("first", [0, 1, 3, 4, 5, 9])
def test_serving_may_begin_at_any_step(name, first, key):
    whole = taken(STREAMS[name](13).batches(key, 4), first + 6)
    part = taken(STREAMS[name](13).batches(key, 4, first), 6)
    for one, other in zip(whole[first:], part, strict=True):
        np.testing.assert_array_equal(one.data[0], other.data[0])
        np.testing.assert_array_equal(one.weights, other.weights)


@each_stream
@pytest.mark.parametrize("size", [1, 4, 13, 50])
def test_a_sweep_takes_all_in_their_own_order(name, size):
    batches = list(STREAMS[name](13).sweep(size))
    assert sum(batch.weights.sum() for batch in batches) == 13
    rows = rows_of(batches)
    np.testing.assert_array_equal(np.sort(rows), np.arange(13))
    if name.startswith("arrays"):
        np.testing.assert_array_equal(rows, np.arange(13))


def test_orders_depend_on_key_and_epoch(key):
    for block in (1, 4):
        stream = jm.Stream.of_arrays(numbered(100), block=block)

        def order(key, epoch, stream=stream):
            return rows_of(taken(stream.batches(key, 10, 10 * epoch), 10))

        np.testing.assert_array_equal(order(key, 2), order(key, 2))
        assert not np.array_equal(order(key, 2), order(key, 3))
        assert not np.array_equal(order(key, 2), order(jax.random.key(8), 2))


def test_a_function_is_asked_for_each_epoch_by_number(key):
    epochs = []
    taken(jm.Stream.of_batches(in_pieces(12, 5, epochs), 12).batches(key, 4, 6), 4)
    assert [epoch for epoch in epochs if epoch] == [2, 3]  # and the first, for a sample


def test_files_are_read_as_the_arrays_in_them(tmp_path, key):
    arrays = numbered(200)
    names = [str(tmp_path / "x.npy"), tmp_path / "y.npy"]
    for name, array in zip(names, arrays, strict=True):
        np.save(name, array)
    for block in (1, 16):
        in_files = jm.Stream.of_arrays(tuple(names), block=block)
        in_memory = jm.Stream.of_arrays(arrays, block=block)
        assert in_files.fingerprint() == in_memory.fingerprint()
        pairs = zip(taken(in_files.batches(key, 30), 15), taken(in_memory.batches(key, 30), 15), strict=True)
        for one, other in pairs:
            np.testing.assert_array_equal(one.data[0], other.data[0])


def test_a_file_that_is_written_to_keeps_its_pages(tmp_path, key):
    """Pages of a private mapping hold what was written; they must not be given back."""
    np.save(tmp_path / "y.npy", np.zeros(5000, np.float32))
    private = np.load(tmp_path / "y.npy", mmap_mode="c")
    private[:] = 1.0
    stream = jm.Stream.of_arrays(private)
    for batch in taken(stream.batches(key, 500), 20):
        assert np.all(batch.data == 1.0)


def test_the_fingerprint_tells_data_apart():
    x, y = numbered(50)
    base = jm.Stream.of_arrays((x, y)).fingerprint()
    one = x.copy()
    one[31, 1] += 1
    others = [(x + 1, y), (x[:49], y[:49]), (x.astype(np.float64), y), (x[::-1], y), (one, y)]
    assert base not in {jm.Stream.of_arrays(other).fingerprint() for other in others}
    assert base == jm.Stream.of_arrays((x.copy(), y.copy())).fingerprint()


def test_floats_come_in_the_dtype_that_is_asked_for(key, x64):
    stream = jm.Stream.of_arrays(numbered(5)).in_dtype(np.dtype("float64"))
    (x, y), _ = next(stream.batches(key, 5))
    assert (x.dtype, y.dtype) == (np.float64, np.int32)


@pytest.mark.usefixtures("unchecked")
class TestRefusals:
    def test_lengths_that_differ(self):
        with pytest.raises(ValueError, match="common leading axis"):
            jm.Stream.of_arrays((np.zeros(3), np.zeros(4)))
        with pytest.raises(ValueError, match="at least one example"):
            jm.Stream.of_arrays(np.zeros((0, 2)))

    @pytest.mark.parametrize("block", [0, 4, 2.0, None])
    def test_blocks(self, block):
        with pytest.raises(ValueError, match="Expected block between 1 and the 3 examples"):
            jm.Stream.of_arrays(np.zeros(3), block=block)

    def test_files_that_are_none(self, tmp_path):
        (tmp_path / "x.npy").write_text("no array")
        for name in ("x.npy", "absent.npy"):
            with pytest.raises(ValueError, match=r"Expected a file of one array, written by np\.save"):
                jm.Stream.of_arrays(tmp_path / name)

    def test_an_iterator_ends_with_its_epoch(self):
        with pytest.raises(TypeError, match="cannot begin a second epoch"):
            jm.Stream.of_batches(iter([]), 3)

    @pytest.mark.parametrize("count", [0, -1, 2.5, None])
    def test_counts(self, count):
        with pytest.raises(ValueError, match="Expected num_examples to be a positive integer"):
            jm.Stream.of_batches([], count)

    @pytest.mark.parametrize(("said", "message"), [(11, "got 1 more"), (13, "got none")])
    def test_another_number_of_examples_than_was_said(self, said, message, key):
        served = jm.Stream.of_batches(in_pieces(12, 5), said).batches(key, 4)
        with pytest.raises(ValueError, match=f"examples in epoch 0 of a stream of {said}; {message}"):
            taken(served, 4)

    def test_batches_unlike_the_first(self, key):
        batches = [(np.zeros((2, 3), np.float32), np.zeros(2)), (np.zeros((2, 4), np.float32), np.zeros(2))]
        served = jm.Stream.of_batches(batches, 4).in_dtype(np.dtype("float32")).batches(key, 2)
        with pytest.raises(ValueError, match=r"like the first of the stream, 0 float32\[3\].*got 0 float32\[4\]"):
            taken(served, 2)

    def test_integers_that_the_device_cannot_hold(self, key):
        served = jm.Stream.of_arrays(np.concatenate([np.zeros(2000, np.int64), [2**40]])).batches(key, 2001)
        with pytest.raises(ValueError, match="Expected integers that fit into int32"):
            next(served)


def test_work_is_done_ahead_and_errors_come_where_they_are_asked_for():
    made = []

    def items():
        for k in range(3):
            made.append(k)
            yield k
        raise OSError("the disk is gone")

    ahead = Ahead(items())
    assert next(ahead) == 0
    deadline = time.monotonic() + 10
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [0, 1, 2]  # one waits in the queue, one in the thread's hand
    assert [next(ahead), next(ahead)] == [1, 2]
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            next(ahead)
    ahead.close()


def test_work_that_is_no_longer_wanted_stops():
    def endless():
        while True:
            yield 0

    ahead = Ahead(endless())
    next(ahead)
    ahead.close()
    assert not ahead._thread.is_alive()
    assert list(Ahead(iter([1, 2]))) == [1, 2]
