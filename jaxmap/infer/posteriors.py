"""What all posteriors share, and the simplest of them: a point."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmap.infer.storage import Saved, pack_info, pack_tree, unpack_info, unpack_tree, write_saved
from jaxmap.infer.summary import Summary, summarize
from jaxmap.types import Info, Key, Params


class Particles(NamedTuple):
    """A posterior as weighted parameter trees, stacked on a leading axis; weights sum to one."""

    params: Params
    log_weights: np.ndarray


def equal_weights(count: int) -> np.ndarray:
    """log(1/count), count times."""
    return np.full(count, -np.log(count))


@dataclass(frozen=True, eq=False)
class Point:
    """All mass at one parameter tree: an MLE, a MAP estimate, or the user's own.

    Attributes:
        mode: the parameters, in the user's space.
        info: how it was found.
        z: the same in unconstrained coordinates.
        prior, jacobian: what it is a mode of, as in `Density`.
        moved: False where the parameters were given and not optimised.
    """

    mode: Params
    info: Info
    z: Any = field(repr=False)
    prior: bool = True
    jacobian: bool = False
    moved: bool = True

    def sample(self, key: Key, n: int) -> Params:
        """Repeat the point n times."""
        return jax.tree.map(lambda leaf: leaf[None].repeat(n, axis=0), self.mode)

    def particles(self, key: Key, draws: int | None) -> Particles:
        """The point itself."""
        return Particles(jax.tree.map(lambda leaf: leaf[None], self.mode), equal_weights(1))

    def summary(self) -> Summary:
        """Estimates by path."""
        return summarize(title_of(self.info), {"estimate": self.mode}, self.info.status.value)

    def packed(self) -> Saved:
        """As plain values and arrays."""
        arrays: dict[str, np.ndarray] = {}
        header = {"kind": "Point", "prior": self.prior, "jacobian": self.jacobian, "moved": self.moved}
        header |= {"info": pack_info(self.info, arrays)}
        header |= {name: pack_tree(getattr(self, name), name, arrays) for name in ("mode", "z")}
        return Saved(header, arrays)

    @classmethod
    def from_saved(cls, saved: Saved, model: Any = None) -> "Point":
        """The inverse of `packed`."""
        header, arrays = saved.header, saved.arrays
        template = None if model is None else model.start
        trees = [unpack_tree(header[name], name, arrays, template) for name in ("mode", "z")]
        flags = (header["prior"], header["jacobian"], header["moved"])
        return cls(trees[0], unpack_info(header["info"], arrays), trees[1], *flags)

    def save(self, folder: str | Path) -> Path:
        """Write to a folder, atomically; `jm.load` reads it."""
        return write_saved(folder, self.packed())

    def __repr__(self) -> str:
        return f"Point({line_of(self.info)})"


def title_of(info: Info) -> str:
    """Method and target, above a table."""
    return f"{info.method}: {info.target}" if info.target else info.method


def line_of(info: Info) -> str:
    """Method and status, inside a repr."""
    return f"{info.method}, {info.status.name}"


def is_posterior(value: Any) -> bool:
    """True for anything fitted."""
    return not isinstance(value, type) and hasattr(value, "particles") and hasattr(value, "info")
