"""The journal of a run of chains: beside where it stands, its draws in parts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from jaxmap.data import leads
from jaxmap.infer.chain_run import Course, Kinds, joined
from jaxmap.infer.journal import Journal, contiguous, packed, unpacked
from jaxmap.infer.storage import write_atomically


@dataclass
class ChainJournal(Journal):
    """The journal of a run of chains; the draws are written once, in parts.

    Attributes:
        on_trial: legs at the beginning that are not entered: a run that ends on them begins again.
        written: files of draws, and parts of the course that are in them.
    """

    on_trial: int = 0
    written: tuple[int, int] = (0, 0)

    def write(self, course: Course, now: bool = False) -> None:
        """Enter where the run stands, if the last entry is old enough or it is asked for."""
        if course.leg < self.on_trial or (not now and not self.due()):
            return
        files, parts = self.written
        new = course.drawn[parts:]
        if new:
            if leads():
                write_atomically(self._file(files), save(contiguous(joined(new)._asdict())))
            self.written = files + 1, len(course.drawn)  # in one step: an interrupt may come before or after
        self.enter(*self._packed(course))

    def course(self, states_like: Any, kinds: Kinds) -> Course:
        """The course at the entry that was read.

        Args:
            states_like: shapes of the states, in their structure.
            kinds: of what else it holds.
        """
        plain, arrays = self.saved.header["course"], self.saved.arrays
        known = kinds.known(*(arrays[f"known/{name}"] for name in kinds.known._fields))
        seen = (kinds.seen(*(arrays[f"seen/{name}"] for name in kinds.seen._fields)),) if plain["seen"] else ()
        drawn = tuple(self._read(k, kinds) for k in range(plain["files"]))
        self.written = len(drawn), len(drawn)
        return Course(unpacked(arrays, states_like), known, plain["leg"], plain["done"], seen, drawn)

    def _packed(self, course: Course) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays = packed(course.states)
        arrays |= {f"known/{name}": np.asarray(value) for name, value in course.known._asdict().items()}
        if course.seen:
            arrays |= {f"seen/{name}": value for name, value in joined(course.seen)._asdict().items()}
        plain = {"leg": course.leg, "done": course.done, "seen": bool(course.seen), "files": self.written[0]}
        return plain, arrays

    def _file(self, number: int) -> Path:
        return self.folder / f"draws-{number:06d}.safetensors"

    def _read(self, number: int, kinds: Kinds) -> Any:
        try:
            return kinds.drawn(**load(self._file(number).read_bytes()))
        except (FileNotFoundError, SafetensorError) as error:
            raise ValueError(
                f"Expected draws in {self._file(number)}; they are missing or cannot be read: {error}"
            ) from error
