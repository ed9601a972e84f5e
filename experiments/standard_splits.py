"""What do MLE, MAP and full Bayes score on the standard splits of the UCI regression data?

The 1x50 tanh network with a N(0, 1) prior and a learned noise scale, on the splits of Hernandez-Lobato and Adams
(2015), scores in the target's own units. Published for concrete, dropout (same splits): lppd -2.93 +- 0.02,
RMSE 4.82 +- 0.16.

    python -m experiments.standard_splits --data ../shared/data/uci/concrete.npz --splits 3     # about six minutes
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxmap as jm
from jaxmap.model import tabular


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    data: str = "../shared/data/uci/concrete.npz"
    splits: int = 3
    hidden: int = 50
    warmup: int = 300
    draws: int = 600
    max_tree_depth: int = 8
    seed: int = 0
    folder: str | None = None


TINY = {"splits": 1, "hidden": 3, "warmup": 20, "draws": 20, "max_tree_depth": 3}
"""What the tests run."""


@dataclass(frozen=True)
class Record:
    """What came of it."""

    config: dict[str, Any]
    comparison: jm.Comparison


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
        methods,
        reference="NUTS",
        folder=config.folder,
        on_record=lambda r: print(f"split {r.split} {r.method:<6} lppd {r.scores['lppd']:.3f}", flush=True),
    )
    comparison.config.update(title=f"{Path(config.data).stem}, standard splits", target=str(table["target"]))
    return Record(asdict(config), comparison)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in asdict(Config()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=str if value is None else type(value), default=value)
    print(run(Config(**vars(parser.parse_args(arguments)))).comparison)


if __name__ == "__main__":
    main()
