"""Work done ahead, in a thread of its own."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

from jaxmap.data.processes import goes_on

T = TypeVar("T")

_PATIENCE = 0.1
"""Seconds after which a thread that waits looks whether it is still wanted."""


class Ahead(Generic[T]):
    """The items of an iterator, the next of which is made while this one is used.

    An error inside the iterator is raised where its item is asked for.

    Args:
        items: what is iterated over, in the thread.
        scope: what the thread works in; configurations of jax that are scopes do not reach another thread.
    """

    def __init__(self, items: Iterator[T], scope: Callable[[], AbstractContextManager[Any]] = nullcontext):
        self._made: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(items, scope), daemon=True, name="jaxmap reads ahead")
        self._thread.start()

    def __iter__(self) -> "Ahead[T]":
        return self

    def __next__(self) -> T:
        item, error = self._made.get()
        goes_on()
        if error is not None:
            self._made.put((None, error))  # whoever asks again is told again
            raise error
        return item  # type: ignore[return-value]

    def close(self) -> None:
        """Stop the thread, and wait until it has stopped."""
        self._closed.set()
        self._thread.join()

    def _work(self, items: Iterator[T], scope: Callable[[], AbstractContextManager[Any]]) -> None:
        try:
            with scope():
                for item in items:
                    if not self._hand_over((item, None)):
                        return
            self._hand_over((None, StopIteration()))
        except BaseException as error:  # it belongs to whoever asks for the item
            self._hand_over((None, error))

    def _hand_over(self, made: tuple[T | None, BaseException | None]) -> bool:
        while not self._closed.is_set():
            try:
                self._made.put(made, timeout=_PATIENCE)
                return True
            except queue.Full:
                continue
        return False
