"""Progress on a terminal, and nothing elsewhere."""

import sys
from types import TracebackType
from typing import Any

from jaxmap.data import leads


class Progress:
    """A bar on standard error that is moved between compiled chunks, never inside them.

    Args:
        label: what is running.
        total: how many steps there are.
        enabled: show the bar; None shows it where standard error is a terminal.
    """

    def __init__(self, label: str, total: int, enabled: bool | None = None):
        self.label, self.total = label, total
        self.enabled = (sys.stderr.isatty() if enabled is None else enabled) and leads()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        if self.enabled:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, note="")
        return self

    def update(self, done: int, note: str = "") -> None:
        """Move the bar to `done` steps."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
