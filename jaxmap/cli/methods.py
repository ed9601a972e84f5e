"""Which methods a comparison runs, by size, and their settings."""

from collections.abc import Sequence
from typing import Any

from jaxmap.cli.options import SHOWN

CHAINS = 4
SECONDS_PER_PRODUCT = 3e-10
"""Of one gradient, per row and weight: measured on two cores, for a linear model and for a network."""

GRADIENTS = {"linear": 64, "network": 255}
"""Per transition of a chain: measured on 311 columns; all that a tree of depth 8 may take."""

MOST_SECONDS = 180.0
LARGEST_FULL = 3000


def make_methods(names: Sequence[str], warmup: int, draws: int, weights: int = 0) -> dict[str, Any]:
    """The methods by row name.

    Args:
        names: of the rows.
        warmup: of NUTS.
        draws: of NUTS.
        weights: their number; beyond `LARGEST_FULL` the curvature is Kronecker-factored.
    """
    from jaxmap import infer

    curvature = "kronecker" if weights > LARGEST_FULL else "full"
    made = {
        "MLE": lambda: infer.MLE(),
        "MAP": lambda: infer.MAP(),
        "Laplace": lambda: infer.Laplace(curvature=curvature),
        "Ensemble": lambda: infer.Ensemble(infer.MAP(), members=8),
        "NUTS": lambda: infer.NUTS(warmup=warmup, draws=draws, max_tree_depth=8, target_accept_prob=0.7),
        "VI": lambda: infer.VI(),
        "Pathfinder": lambda: infer.Pathfinder(),
    }
    return {name: made[name]() for name in names}


def affordable(rows: int, weights: int, linear: bool, warmup: int, draws: int) -> tuple[list[str], list[str]]:
    """The rows of a comparison that nobody chose, and why others are left out.

    Args:
        rows: of the training table.
        weights: their number.
        linear: whether the network has no hidden layer.
        warmup: of NUTS.
        draws: of NUTS.

    Returns:
        names: of the methods.
        sentences: one per method that is left out or altered.
    """
    names: list[str] = list(SHOWN)
    sentences: list[str] = []
    if linear:
        names.remove("Ensemble")
        sentences.append("Ensemble is left out: all fits of a linear model end at the same maximum.")
    gradients = CHAINS * (warmup + draws) * GRADIENTS["linear" if linear else "network"]
    seconds = gradients * rows * weights * SECONDS_PER_PRODUCT
    if seconds > MOST_SECONDS:
        names.remove("NUTS")
        sentences.append(
            f"NUTS is left out: it would take about {duration(seconds)} here ({gradients:,} gradients of {rows:,} rows "
            f"and {weights:,} weights). --methods {','.join([*names, 'NUTS'])} runs it all the same."
        )
    if weights > LARGEST_FULL:
        sentences.append(f"Laplace has a Kronecker-factored curvature, for {weights:,} weights.")
    return names, sentences


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 2 * 86400 else f"{seconds / 86400:.0f} days"
