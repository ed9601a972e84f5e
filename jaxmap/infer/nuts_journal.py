"""A journal of a run on disk: after each chunk all that it needs to go on, bit for bit, and its draws in parts."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from jaxmap.infer.nuts_chains import ChainStates, Seen
from jaxmap.infer.nuts_frame import Frame
from jaxmap.infer.nuts_run import Course, Drawn
from jaxmap.infer.problem import Stopwatch
from jaxmap.infer.storage import HEADER, Saved, folder_for, read_saved, write_atomically, write_saved

SECONDS = 1.0
"""Between two entries; what was done since the last one is done again after a kill."""


@dataclass
class Journal:
    """The journal of one run.

    Attributes:
        folder: where it lies, made if absent.
        identity: what the run depends on; a journal of another run is refused.
        extra: plain values that are kept beside.
    """

    folder: Path
    identity: dict[str, str]
    extra: dict[str, Any] = field(default_factory=dict)
    parts: int = 0
    written: int = 0
    watch: Stopwatch = field(default_factory=Stopwatch)
    saved: Saved = field(default_factory=lambda: Saved({}, {}))

    def __post_init__(self) -> None:
        folder_for("a run", self.folder)

    def write(self, course: Course, last: bool = False) -> None:
        """Enter where the run stands, if the last entry is old enough or this is the last one."""
        if course.phase == 0 or (not last and self.watch.seconds < SECONDS):
            return  # on trial a frame may still be given up: such a run begins again
        new = course.drawn[self.written :]
        if new:
            joined = Drawn(*(np.concatenate(part, axis=2) for part in zip(*new, strict=True)))
            write_atomically(self._part(self.parts), save(_contiguous(joined._asdict())))
            self.parts, self.written = self.parts + 1, len(course.drawn)
        write_saved(self.folder, self._packed(course))
        self.watch = Stopwatch()

    def open(self) -> bool:
        """Read the last entry, if there is one; `extra` is then as it was.

        Raises:
            ValueError: of another run, or truncated.
        """
        if not (self.folder / HEADER).exists():
            return False
        self.saved = read_saved(self.folder)
        self._check(self.saved.header)
        self.extra = self.saved.header["extra"]
        return True

    def course(self, states_like: ChainStates) -> Course:
        """The course at the entry that was read.

        Args:
            states_like: shapes of the states, in their structure.
        """
        plain, arrays = self.saved.header["course"], self.saved.arrays
        leaves, treedef = jax.tree.flatten(states_like)
        states = treedef.unflatten([_unpacked(arrays[f"state/{k}"], leaf) for k, leaf in enumerate(leaves)])
        frames = Frame(jnp.asarray(arrays["frame/mean"]), jnp.asarray(arrays["frame/root"]))
        self.parts = plain["parts"]
        drawn = [self._read_part(k) for k in range(self.parts)]
        self.written = len(drawn)
        learned = [Seen(*(arrays[f"learned/{name}"] for name in Seen._fields))] if plain["learned"] else []
        numbers = plain["chosen"], tuple(plain["windows"]), arrays["spent"], plain["phase"], plain["done"]
        return Course(states, frames, *numbers, learned, drawn)

    def _packed(self, course: Course) -> Saved:
        arrays = {f"state/{k}": _packed(leaf) for k, leaf in enumerate(jax.tree.leaves(course.states))}
        arrays |= {"frame/mean": np.asarray(course.frames.mean), "frame/root": np.asarray(course.frames.root)}
        arrays["spent"] = course.spent
        if course.learned:
            joined = (np.concatenate(part, axis=2) for part in zip(*course.learned, strict=True))
            arrays |= {f"learned/{name}": part for name, part in zip(Seen._fields, joined, strict=True)}
        plain = {"chosen": course.chosen, "windows": course.windows, "phase": course.phase, "done": course.done}
        plain |= {"parts": self.parts, "learned": bool(course.learned)}
        header = {"kind": "Run", "identity": self.identity, "extra": self.extra, "course": plain}
        return Saved(header, _contiguous(arrays))

    def _check(self, header: dict[str, Any]) -> None:
        if header.get("kind") != "Run":
            raise ValueError(f"Expected a run in {self.folder}; got a saved {header.get('kind')}. Name another folder.")
        known = header["identity"]
        changed = [f"{k} was {known.get(k)}, now {v}" for k, v in self.identity.items() if known.get(k) != v]
        if changed:
            raise ValueError(
                f"Expected the run that began in {self.folder}; {'; '.join(changed)}. Name another folder."
            )

    def _part(self, number: int) -> Path:
        return self.folder / f"draws-{number:06d}.safetensors"

    def _read_part(self, number: int) -> Drawn:
        try:
            return Drawn(**load(self._part(number).read_bytes()))
        except (FileNotFoundError, SafetensorError) as error:
            raise ValueError(
                f"Expected draws in {self._part(number)}; they are missing or cannot be read: {error}"
            ) from error


def _packed(leaf: Any) -> np.ndarray:
    """A leaf as numbers; a key as its data."""
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def _unpacked(array: np.ndarray, like: Any) -> Any:
    """The inverse of `_packed`."""
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(array))
    return jnp.asarray(array, like.dtype)


def _contiguous(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As they are written: safetensors wants rows that lie together."""
    return {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in arrays.items()}
