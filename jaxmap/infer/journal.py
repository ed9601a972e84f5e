"""A journal of a run on disk: now and then all that it needs to go on, bit for bit."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.data import agreed, leads, on_host, same_everywhere
from jaxmap.infer.problem import Stopwatch
from jaxmap.infer.storage import HEADER, Saved, folder_for, read_saved, sweep_up, write_saved

SECONDS = 1.0
"""Between two entries, at least; what was done since the last one is done again after a kill."""

SHARE = 0.02
"""The share of the time that entries may take: large ones come more rarely."""


@dataclass
class Journal:
    """The journal of one run.

    An entry is complete or absent: the one before is kept until the new one is whole.

    Attributes:
        folder: where it lies, made if absent.
        identity: what the run depends on; a journal of another run is refused.
        extra: plain values that are kept beside.
    """

    folder: Path
    identity: dict[str, str]
    extra: dict[str, Any] = field(default_factory=dict)
    watch: Stopwatch = field(default_factory=Stopwatch)
    wait: float = 0.0
    saved: Saved = field(default_factory=lambda: Saved({}, {}))

    kind: ClassVar[str] = "Run"

    def __post_init__(self) -> None:
        if leads():
            folder_for("a run", self.folder)
            sweep_up(self.folder)

    def due(self) -> bool:
        """True where the last entry is old enough."""
        return agreed(self.watch.seconds >= max(SECONDS, self.wait))

    def open(self) -> bool:
        """Read the last entry, if there is one; `extra` is then as it was.

        Raises:
            ValueError: of another run, truncated, or not the one that the first process sees.
        """
        there = (self.folder / HEADER).exists()
        self.saved = read_saved(self.folder) if there else self.saved
        if not same_everywhere(repr(self.saved.header)):
            raise ValueError(
                f"Expected a folder that all processes see; {self.folder} is not the same for process "
                f"{jax.process_index()}. Name one on a file system that they share."
            )
        if not there:
            return False
        self._check(self.saved.header)
        self.extra = self.saved.header["extra"]
        return True

    def enter(self, course: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Write an entry: plain values and arrays."""
        if not leads():
            return
        began = Stopwatch()
        header = {"kind": self.kind, "identity": self.identity, "extra": self.extra, "course": course}
        write_saved(self.folder, Saved(header, contiguous(arrays)))
        self.watch, self.wait = Stopwatch(), began.seconds / SHARE

    def _check(self, header: dict[str, Any]) -> None:
        if header.get("kind") != self.kind:
            raise ValueError(
                f"Expected a {self.kind.lower()} in {self.folder}; got a saved {header.get('kind')}. "
                "Name another folder."
            )
        known = header["identity"]
        changed = [f"{k} was {known.get(k)}, now {v}" for k, v in self.identity.items() if known.get(k) != v]
        if changed:
            raise ValueError(
                f"Expected the {self.kind.lower()} that began in {self.folder}; {'; '.join(changed)}. "
                "Name another folder."
            )


def packed(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree as arrays by number; keys as their data."""
    return {f"state/{k}": _numbers(leaf) for k, leaf in enumerate(jax.tree.leaves(tree))}


def unpacked(arrays: dict[str, np.ndarray], like: Any) -> Any:
    """The inverse of `packed`, in the structure and dtypes of another tree or its shapes."""
    leaves, treedef = jax.tree.flatten(like)
    return treedef.unflatten([_leaf(arrays[f"state/{k}"], leaf) for k, leaf in enumerate(leaves)])


def contiguous(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As they are written: safetensors wants rows that lie together."""
    return {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in arrays.items()}


def _numbers(leaf: Any) -> np.ndarray:
    array = on_host(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "V" else array  # bfloat16 and its kin


def _leaf(array: np.ndarray, like: Any) -> Any:
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(array))
    return jnp.asarray(array.view(like.dtype) if np.dtype(like.dtype).kind == "V" else array, like.dtype)
