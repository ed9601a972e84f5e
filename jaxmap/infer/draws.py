"""Draws by Markov chain Monte Carlo."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmap.infer.posteriors import Particles, equal_weights, line_of
from jaxmap.infer.storage import Saved, pack_info, pack_tree, unpack_info, unpack_tree, write_saved
from jaxmap.infer.summary import Summary, notes, summarize, title_of
from jaxmap.statistics import ess_bulk, ess_tail, mcse_mean, rhat
from jaxmap.trees import take
from jaxmap.types import Info, Key, Params

STATS = "stats/"
"""Where the sampler's own numbers lie among the saved arrays."""


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws by Markov chain Monte Carlo.

    Attributes:
        draws: parameters in the user's space; arrays lead with (chain, draw).
        info: how they were made; `diagnostics` has divergences, acceptance, R-hat.
        log_joint: the log joint density of each draw, (chain, draw), in unconstrained coordinates.
        stats: what the sampler says of each draw, (chain, draw), by ArviZ's names: `diverging`, `energy`,
            `acceptance_rate`, `n_steps`.
    """

    draws: Params
    info: Info
    log_joint: np.ndarray = field(repr=False)
    stats: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    mode: None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(chains, draws)."""
        return jax.tree.leaves(self.draws)[0].shape[:2]

    def pooled(self) -> Params:
        """All draws on one leading axis, chain after chain."""
        chains, draws = self.shape
        return jax.tree.map(lambda leaf: leaf.reshape(chains * draws, *leaf.shape[2:]), self.draws)

    def sample(self, key: Key, n: int) -> Params:
        """Pick n draws at random, with replacement."""
        rows = np.asarray(jax.random.randint(key, (n,), 0, self.shape[0] * self.shape[1]))
        return take(self.pooled(), rows)

    def thinned(self, most: int = 1000) -> Params:
        """All draws, or every k-th of each chain so that at most `most` remain; arrays lead with (chain, draw)."""
        chains, draws = self.shape
        every = -(-chains * draws // most)
        return jax.tree.map(lambda leaf: leaf[:, every - 1 :: every], self.draws)

    def particles(self, key: Key, draws: int | None) -> Particles:
        """The draws, thinned to 1000 (or `draws`), equally weighted."""
        thin = self.thinned(1000 if draws is None else draws)
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), thin)
        return Particles(flat, equal_weights(len(jax.tree.leaves(flat)[0])))

    def summary(self, level: float = 0.95) -> Summary:
        """Mean, sd, interval, Monte Carlo error, bulk and tail ESS and rank-normalised R-hat by path."""
        draws = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), self.draws)
        low, high = (1 - level) / 2, (1 + level) / 2
        columns = {
            "mean": jax.tree.map(lambda v: v.mean((0, 1)), draws),
            "sd": jax.tree.map(lambda v: v.std((0, 1), ddof=1), draws),
            f"{low:.3g}": jax.tree.map(lambda v: np.quantile(v, low, (0, 1)), draws),
            f"{high:.3g}": jax.tree.map(lambda v: np.quantile(v, high, (0, 1)), draws),
            "mcse": jax.tree.map(mcse_mean, draws),
            "ess": jax.tree.map(ess_bulk, draws),
            "ess tail": jax.tree.map(ess_tail, draws),
            "rhat": jax.tree.map(rhat, draws),
        }
        return summarize(title_of(self.info), columns, notes([self.info.status.value + ".", *self.info.notes]))

    def to_arviz(self, *, model: Any = None, data: Any = None) -> Any:
        """Hand the draws over to ArviZ: an `InferenceData`, or a `DataTree` from ArviZ 1.0 on.

        `sample_stats` has `lp`, the log joint density in unconstrained coordinates.

        Args:
            model: the model that was fitted, for the log-likelihood per example that `az.loo` and `az.compare` need.
            data: its data; y of a pair (x, y) becomes `observed_data`, x `constant_data`.

        Raises:
            ValueError: one of model and data without the other, or a model of other parameters.
            ImportError: ArviZ is not installed.
        """
        from jaxmap.interop import inference_data

        stats = {"lp": np.asarray(self.log_joint)} | self.stats
        return inference_data(self.draws, self.info, model=model, data=data, sample_stats=stats)

    def packed(self) -> Saved:
        """As plain values and arrays."""
        arrays: dict[str, np.ndarray] = {"log_joint": np.asarray(self.log_joint)}
        arrays |= {STATS + name: array for name, array in self.stats.items()}
        header = {"kind": "Draws", "info": pack_info(self.info, arrays)}
        return Saved(header | {"draws": pack_tree(self.draws, "draws", arrays)}, arrays)

    @classmethod
    def from_saved(cls, saved: Saved, model: Any = None) -> "Draws":
        """The inverse of `packed`."""
        template = None if model is None else model.start
        draws = unpack_tree(saved.header["draws"], "draws", saved.arrays, template)
        stats = {name.removeprefix(STATS): array for name, array in saved.arrays.items() if name.startswith(STATS)}
        return cls(draws, unpack_info(saved.header["info"], saved.arrays), saved.arrays["log_joint"], stats)

    def save(self, folder: str | Path) -> Path:
        """Write to a folder, atomically; `jm.load` reads it."""
        return write_saved(folder, self.packed())

    def __repr__(self) -> str:
        return f"Draws({self.shape[0]} chains x {self.shape[1]} draws; {line_of(self.info)})"
