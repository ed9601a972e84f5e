"""Several processes, on one machine or many, that work on one fit: how they join, agree, and end together."""

import contextlib
import os
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

HEARTBEAT = 10
"""Seconds without a sign of life after which a process counts as dead."""

LEAVING = 7 * 24 * 3600
"""Seconds that a process whose script has ended waits for the others'; after them jax would end those in their work."""

LOST = ("gloo", "nccl", "heartbeat", "coordination service", "connection reset", "connection closed", "unavailable:")
"""Words of the errors that a collective ends with when another process is gone; jax gives them several types."""

AGAIN = "Start all of them again: with folder= they go on from the last entry."


def connect(
    coordinator: str | None = None,
    *,
    processes: int | None = None,
    rank: int | None = None,
    patience: float = 600.0,
) -> None:
    """Join the processes that run this script; the first thing that a script does with jax.

    Every process then sees the devices of all: `jm.fit(..., mesh=jm.mesh(data=2))` is called by each of them with the
    same arguments, uses all of their devices, and returns the same posterior everywhere. Fits without `mesh=` are each
    process's own. The first process writes to `folder=`, which all of them must see. Whatever else a script writes, and
    `posterior.save`, belongs under `if jax.process_index() == 0:`; what computes with the mesh (`jm.fit`, a `summary()`
    of standard errors) does not, since it waits for all.

    Under SLURM (one task per process), Open MPI and on TPU pods nothing need be given. When a process dies, the others
    end within half a minute; when one is stuck, or has ended by `sys.exit`, those that wait for it in a fit end after
    `patience` and say where they stand. A process whose script ends with an error leaves at once, without what is
    registered with `atexit`, so that the others do not wait for it. Ctrl-C is such an end: it does not reach all at the
    same step, and `folder=` has what was entered last.

    Args:
        coordinator: "host:port" of the first process, of the machine that it runs on.
        processes: how many there are.
        rank: of this one, from 0.
        patience: seconds that a fit may go on without finishing a call of its program; longer than compiling, and than
            a pass through the data, takes.

    Raises:
        ValueError: coordinator, processes or rank are missing and no cluster says them, or do not fit.
        RuntimeError: jax has been used before, or not all processes came.
    """
    if not patience > 0:
        raise ValueError(f"Expected patience to be a positive number of seconds; got {patience!r}.")
    said = f"coordinator={coordinator!r}, processes={processes!r}, rank={rank!r}"
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise ValueError(f"Expected coordinator='host:port' with a number as port; got {said}.")
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM
    limits: Any = {"heartbeat_timeout_seconds": HEARTBEAT, "shutdown_timeout_seconds": LEAVING}
    try:
        jax.distributed.initialize(coordinator, processes, rank, **limits)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Expected coordinator='host:port', processes= and rank= of this process, or those of SLURM; got {said}: "
            f"{error}"
        ) from error
    except RuntimeError as error:
        raise RuntimeError(
            f"Expected jm.connect to be called once, before anything else uses jax, in all processes at about the same "
            f"time; got {said}: {error}"
        ) from error
    sys.excepthook = _leaving(sys.excepthook)
    _watchdog.start(patience)


def mesh_around() -> Mesh | None:
    """The mesh that programs are called in; None where there is none, inside transformations too."""
    return None if jax.sharding.get_abstract_mesh().empty else jax.sharding.get_mesh()


def spanning() -> bool:
    """True within a mesh that has devices of several processes."""
    around = mesh_around()
    return around is not None and around.is_multi_process


def leads() -> bool:
    """True for the one process of a mesh that writes; every process does so where each fits for itself."""
    return not spanning() or jax.process_index() == 0


def agreed(value: Any) -> Any:
    """The value of the first process, so that all of them take the same turn."""
    goes_on()
    return type(value)(multihost_utils.broadcast_one_to_all(np.asarray(value))) if spanning() else value


def same_everywhere(text: str) -> bool:
    """True in the first process, and in those that have the same text."""
    name = zlib.crc32(text.encode()) % 2**31
    return agreed(name) == name


def alike_everywhere(text: str) -> bool:
    """True in all processes where all have the same text, else False in all."""
    if not spanning():
        return True
    goes_on()
    names = multihost_utils.process_allgather(np.asarray(zlib.crc32(text.encode()) % 2**31))
    return len(set(np.asarray(names).ravel().tolist())) == 1


def goes_on() -> None:
    """Tell the watchdog that the work of this process has moved on."""
    _watchdog.beat()


def on_host(tree: Any) -> Any:
    """Arrays of numpy, also of what lies on the devices of other processes; every process must ask for it."""

    def fetch(leaf: Any) -> np.ndarray:
        away = isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated)
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True) if away else leaf)

    found = jax.tree.map(fetch, tree)
    goes_on()
    return found


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Watch over what several processes compute.

    Raises:
        ConnectionError: another process is gone.
    """
    try:
        with _watchdog.watching():
            yield
    except (RuntimeError, ValueError) as error:
        if not any(word in str(error).lower() for word in LOST):
            raise
        raise ConnectionError(
            f"Expected all {jax.process_count()} processes to go on; process {jax.process_index()} lost another one, "
            f"which ended or was killed; its own output may say why. {AGAIN}"
        ) from error


class _Watchdog:
    """Ends this process when a fit that several share has not gone on for too long."""

    def __init__(self) -> None:
        self._last, self._watched, self._patience, self._thread = 0.0, 0, 0.0, 0

    def start(self, patience: float) -> None:
        self._patience = patience
        threading.Thread(target=self._watch, daemon=True, name="jaxmap watchdog").start()

    def beat(self) -> None:
        self._last = time.monotonic()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        self.beat()
        self._watched, self._thread = self._watched + 1, threading.get_ident()
        try:
            yield
        finally:
            self._watched -= 1

    def _watch(self) -> None:
        while True:
            time.sleep(min(1.0, self._patience / 4))
            if self._watched and time.monotonic() - self._last > self._patience:
                stack = traceback.extract_stack(sys._current_frames().get(self._thread))
                here = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in stack[-3:]]
                _end(
                    f"jaxmap: process {jax.process_index()} of {jax.process_count()} has not gone on for "
                    f"{self._patience:.0f} s: it, or another one, is stuck. It stands at {', '.join(here)}. It ends. "
                    f"{AGAIN}\n"
                )


_watchdog = _Watchdog()


def _leaving(told: Callable[..., Any]) -> Callable[..., None]:
    """A hook for errors that tells of them as before, and ends at once.

    An orderly exit would wait for the others, who wait for this process.
    """

    def leave(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        told(kind, error, trace)
        _end("")

    return leave


FLUSHING = 5.0
"""Seconds that what was printed gets to reach its file: a stuck thread may hold it."""


def _end(message: str) -> None:
    """End this process now, whatever its threads wait for; what it printed is kept."""

    def say() -> None:
        sys.stderr.write(message)
        sys.stderr.flush()
        sys.stdout.flush()

    saying = threading.Thread(target=say, daemon=True)
    saying.start()
    saying.join(FLUSHING)
    os._exit(1)
