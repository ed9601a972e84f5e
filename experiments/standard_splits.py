"""What do MLE, MAP and full Bayes score on the standard splits of the UCI regression data?

The 1x50 tanh network with a N(0, 1) prior and a learned noise scale, on the splits of Hernandez-Lobato and Adams
(2015), scores in the target's own units. Published for concrete, dropout (same splits): lppd -2.93 +- 0.02,
RMSE 4.82 +- 0.16.

    python -m experiments.standard_splits --data ../shared/data/uci/concrete.npz --splits 3     # about six minutes
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxmap as jm
from experiments.record import Record, command
from jaxmap.model import tabular


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    data: str = "../shared/data/uci/concrete.npz"
    splits: int = 3
    methods: tuple[str, ...] = ("MLE", "MAP", "NUTS")
    hidden: int = 50
    warmup: int = 300
    draws: int = 600
    max_tree_depth: int = 8
    seed: int = 0
    folder: str | None = None


TINY = {"splits": 1, "methods": ("MAP", "NUTS"), "hidden": 3, "warmup": 20, "draws": 20, "max_tree_depth": 3}
"""What the tests run."""


def run(config: Config) -> Record:
    """Compare the methods on every split."""
    table = np.load(config.data)
    x, y = table["X"], table["y"]
    splits = [
        ((x[train], y[train]), (x[test], y[test]))
        for train, test in zip(table["train"][: config.splits], table["test"][: config.splits], strict=True)
    ]
    methods = {
        "MLE": jm.MLE(),
        "MAP": jm.MAP(),
        "NUTS": jm.NUTS(warmup=config.warmup, draws=config.draws, max_tree_depth=config.max_tree_depth),
    }
    comparison = jm.compare(
        jax.random.key(config.seed),
        lambda train: tabular(train, (config.hidden,)),
        splits,
        {name: methods[name] for name in config.methods},
        reference="NUTS",
        folder=config.folder,
        on_record=lambda r: print(f"split {r.split} {r.method:<6} lppd {r.scores['lppd']:.3f}", flush=True),
    )
    title = f"{Path(config.data).stem}, standard splits"
    comparison.config.update(title=title, target=str(table["target"]))
    return Record(title, config, comparison.summary(), lambda: draw(comparison), text=str(comparison))


def draw(comparison: jm.Comparison) -> Any:
    return comparison.figures()["bands"]


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
