"""The journal of a run of chains: beside where it stands, its draws in parts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from jaxmap.data import leads
from jaxmap.infer.journal import Journal, contiguous, packed, unpacked
from jaxmap.infer.nuts_chains import ChainStates, Seen
from jaxmap.infer.nuts_frame import Frame
from jaxmap.infer.nuts_run import Course, Drawn
from jaxmap.infer.storage import write_atomically


@dataclass
class ChainJournal(Journal):
    """The journal of a run of chains; the draws are written once, in parts.

    Attributes:
        parts: files of draws.
        written: parts of the course that are in them.
    """

    parts: int = 0
    written: int = 0

    def write(self, course: Course, last: bool = False) -> None:
        """Enter where the run stands, if the last entry is old enough or this is the last one."""
        if course.phase == 0 or (not last and not self.due()):
            return  # on trial a frame may still be given up: such a run begins again
        new = course.drawn[self.written :]
        if new:
            joined = Drawn(*(np.concatenate(part, axis=2) for part in zip(*new, strict=True)))
            if leads():
                write_atomically(self._part(self.parts), save(contiguous(joined._asdict())))
            self.parts, self.written = self.parts + 1, len(course.drawn)
        self.enter(*self._packed(course))

    def course(self, states_like: ChainStates) -> Course:
        """The course at the entry that was read.

        Args:
            states_like: shapes of the states, in their structure.
        """
        plain, arrays = self.saved.header["course"], self.saved.arrays
        states = unpacked(arrays, states_like)
        frames = Frame(jnp.asarray(arrays["frame/mean"]), jnp.asarray(arrays["frame/root"]))
        self.parts = plain["parts"]
        drawn = [self._read_part(k) for k in range(self.parts)]
        self.written = len(drawn)
        learned = [Seen(*(arrays[f"learned/{name}"] for name in Seen._fields))] if plain["learned"] else []
        numbers = plain["chosen"], tuple(plain["windows"]), arrays["spent"], plain["phase"], plain["done"]
        return Course(states, frames, *numbers, learned, drawn)

    def _packed(self, course: Course) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays = packed(course.states)
        arrays |= {"frame/mean": np.asarray(course.frames.mean), "frame/root": np.asarray(course.frames.root)}
        arrays["spent"] = course.spent
        if course.learned:
            joined = (np.concatenate(part, axis=2) for part in zip(*course.learned, strict=True))
            arrays |= {f"learned/{name}": part for name, part in zip(Seen._fields, joined, strict=True)}
        plain = {"chosen": course.chosen, "windows": course.windows, "phase": course.phase, "done": course.done}
        return plain | {"parts": self.parts, "learned": bool(course.learned)}, arrays

    def _part(self, number: int) -> Path:
        return self.folder / f"draws-{number:06d}.safetensors"

    def _read_part(self, number: int) -> Drawn:
        try:
            return Drawn(**load(self._part(number).read_bytes()))
        except (FileNotFoundError, SafetensorError) as error:
            raise ValueError(
                f"Expected draws in {self._part(number)}; they are missing or cannot be read: {error}"
            ) from error
