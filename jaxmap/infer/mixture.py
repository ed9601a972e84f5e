"""Mixtures of posteriors: ensembles."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from jaxmap.curvature import moving_size
from jaxmap.infer.gaussian import GaussianPosterior
from jaxmap.infer.posteriors import Particles, line_of
from jaxmap.infer.storage import Saved, pack_info, unpack_info, write_saved
from jaxmap.infer.summary import Summary, summarize, title_of
from jaxmap.trees import check_key
from jaxmap.types import Info, Key, Params

SAME_MODE = 0.1
"""Modes closer than this, in posterior standard deviations, are one mode."""


@dataclass(frozen=True, eq=False)
class MixturePosterior:
    """A weighted mixture of posteriors: an ensemble.

    Attributes:
        members: the posteriors.
        log_weights: summing to one in exp.
        info: of the whole; `members` has each one's status.
    """

    members: tuple[Any, ...]
    log_weights: np.ndarray
    info: Info

    mode: None = None

    @property
    def log_evidence(self) -> float | None:
        """Log of the sum of the members' evidences, members at the same mode counted once; None for points."""
        if not all(isinstance(member, GaussianPosterior) for member in self.members):
            return None
        return float(np.asarray(logsumexp([member.log_evidence for member in distinct(self.members)])))

    def sample(self, key: Key, n: int) -> Params:
        """Draw n parameter trees: first the member, then from it."""
        choose, within = jax.random.split(key)
        picks = np.asarray(jax.random.categorical(choose, jnp.asarray(self.log_weights), shape=(n,)))
        keys = jax.random.split(within, len(self.members))
        drawn = [member.sample(k, n) for member, k in zip(self.members, keys, strict=True)]
        rows = np.arange(n)
        return jax.tree.map(lambda *leaves: np.stack(leaves)[picks, rows], *drawn)

    def particles(self, key: Key, draws: int | None) -> Particles:
        """Every member's particles, weighted; a Gaussian member gets its share of 256 draws."""
        share = max(1, (256 if draws is None else draws) // len(self.members))
        keys = jax.random.split(key, len(self.members))
        parts = [member.particles(k, share) for member, k in zip(self.members, keys, strict=True)]
        params = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(p.params for p in parts))
        return Particles(
            params, np.concatenate([p.log_weights + w for p, w in zip(parts, self.log_weights, strict=True)])
        )

    def summary(self) -> Summary:
        """Mean and sd between the members' modes by path, and the members' statuses."""
        modes = [member.mode for member in self.members if member.mode is not None]
        weights = np.exp(self.log_weights)
        if len(modes) < len(self.members):
            return Summary(title_of(self.info), (), "")

        def mean(*leaves: Any) -> Any:
            return np.tensordot(weights, np.stack([np.asarray(v, np.float64) for v in leaves]), 1)

        center = jax.tree.map(mean, *modes)
        square = jax.tree.map(mean, *(jax.tree.map(lambda v, c: (np.asarray(v) - c) ** 2, m, center) for m in modes))
        return summarize(title_of(self.info), {"mean": center, "sd": jax.tree.map(np.sqrt, square)})

    def to_arviz(self, key: Key, draws: int = 1000, *, model: Any = None, data: Any = None) -> Any:
        """Draw from it, and hand the draws over to ArviZ as one chain; see `Draws.to_arviz`."""
        from jaxmap.interop import inference_data

        params = self.sample(check_key(key, "to_arviz"), draws)
        chain = jax.tree.map(lambda leaf: np.asarray(leaf)[None], params)
        return inference_data(chain, self.info, model=model, data=data)

    def packed(self) -> Saved:
        """As plain values and arrays; the arrays of member k begin with k/."""
        parts = [member.packed() for member in self.members]
        arrays = {f"{k}/{name}": array for k, part in enumerate(parts) for name, array in part.arrays.items()}
        arrays["log_weights"] = self.log_weights
        header = {"kind": "MixturePosterior", "info": pack_info(self.info, arrays)}
        return Saved(header | {"members": [part.header for part in parts]}, arrays)

    @staticmethod
    def parts(saved: Saved) -> list[Saved]:
        """What `packed` of each member was."""

        def arrays_of(k: int) -> dict[str, np.ndarray]:
            start = f"{k}/"
            return {name.removeprefix(start): a for name, a in saved.arrays.items() if name.startswith(start)}

        return [Saved(header, arrays_of(k)) for k, header in enumerate(saved.header["members"])]

    @classmethod
    def from_saved(cls, saved: Saved, members: list[Any]) -> "MixturePosterior":
        """The inverse of `packed`, the members already unpacked."""
        return cls(tuple(members), saved.arrays["log_weights"], unpack_info(saved.header["info"], saved.arrays))

    def save(self, folder: str | Path) -> Path:
        """Write to a folder, atomically; `jm.load` reads it."""
        return write_saved(folder, self.packed())

    def __repr__(self) -> str:
        return f"MixturePosterior({len(self.members)} members; {line_of(self.info)})"


def distinct(members: Sequence[GaussianPosterior]) -> list[GaussianPosterior]:
    """The members at different modes: the best of those that are less than 0.1 sd per coordinate apart."""
    found: list[GaussianPosterior] = []
    for member in sorted(members, key=lambda m: -m.log_evidence):
        if not any(other.distance(member.mean) / np.sqrt(moving_size(other.precision)) < SAME_MODE for other in found):
            found.append(member)
    return found
