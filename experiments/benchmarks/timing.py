"""Take turns and take medians: what the benchmarks share."""

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

BLAS_SETTINGS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Settings of this machine's environment that may slow numpy down; rivals run without them."""

PAUSE = 0.05
"""Seconds before each turn: threads of the contender before may still spin, waiting for more work."""


@dataclass(frozen=True)
class Turn:
    """Seconds that one run took, by the wall and by all processors together."""

    wall: float
    cpu: float


def without_blas_settings(module: str) -> None:
    """Start the same command again without settings that hold numpy back, if there are any.

    Args:
        module: what `python -m` was given.
    """
    if any(name in os.environ for name in BLAS_SETTINGS):
        for name in BLAS_SETTINGS:
            os.environ.pop(name, None)
        os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])


def measure(run: Callable[[], Any]) -> Turn:
    """Time one run, which returns when its result is on the host."""
    time.sleep(PAUSE)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Turn(time.perf_counter() - wall, time.process_time() - cpu)


def take_turns(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Turn]:
    """Run all contenders alternately, every second round in the reverse order; medians by name."""
    turns: dict[str, list[Turn]] = {name: [] for name in runs}
    for i in range(rounds):
        for name in list(runs)[:: 1 if i % 2 == 0 else -1]:
            turns[name].append(measure(runs[name]))
    return {
        name: Turn(statistics.median(t.wall for t in taken), statistics.median(t.cpu for t in taken))
        for name, taken in turns.items()
    }
