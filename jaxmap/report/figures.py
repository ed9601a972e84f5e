"""Figures of a comparison and of a path."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxmap.report.drawing import COLORS, Drawing, assembled, marks
from jaxmap.report.fit_drawings import losses, marginals, traces
from jaxmap.report.prediction_drawings import bands, calibration, cost
from jaxmap.trees import coordinate_paths, named_leaves, take
from jaxmap.types import Status


def comparison_drawings(comparison: Any) -> list[Drawing]:
    """What there is to draw: of the first split and seed, but costs and quality as means over all cells."""
    if not comparison.records:
        return []
    first = comparison.records[0]
    records = [r for r in comparison.records if (r.split, r.seed) == (first.split, first.seed) and r.arrays]
    by_row = marks(comparison.methods)
    found = (
        bands(records, comparison, by_row),
        calibration(records, by_row),
        cost(comparison, by_row),
        marginals(records, by_row),
        traces(records),
        losses(records, by_row),
    )
    return [drawing for drawing in found if drawing is not None]


def comparison_figures(comparison: Any) -> dict[str, Figure]:
    """The figures of a comparison by file name; what its records do not hold is left out."""
    return {drawing.name: assembled(drawing) for drawing in comparison_drawings(comparison)}


def path_figure(path: Any) -> Figure:
    """Every coefficient against the strength; below it the score, where the path has a selection."""
    scored = path.scores is not None
    rows = 1 + scored
    figure = Figure(figsize=(5.6, 0.6 + 3.0 * rows), layout="constrained")
    top, *below = np.atleast_1d(figure.subplots(rows, 1, sharex=True))
    order = np.argsort(path.strengths, kind="stable")
    _coefficients(top, path, order)
    if scored:
        _selection(below[0], path, order)
    for axis in (top, *below):
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xscale("log")
        if scored and np.any(np.isfinite(path.scores)):
            axis.axvline(path.best_strength, color="#999999", lw=0.8, zorder=0)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7, frameon=False)
    (below or [top])[0].set_xlabel("strength", fontsize=9)
    return figure


def _coefficients(axis: Any, path: Any, order: np.ndarray) -> None:
    """One line per number: named and coloured one by one where they are few, else leaf by leaf."""
    leaves = [(name, np.asarray(leaf).reshape(len(order), -1)[order]) for name, leaf in named_leaves(path.modes)]
    total = sum(leaf.shape[1] for _, leaf in leaves)
    if total <= len(COLORS):
        names = coordinate_paths(take(path.modes, 0))
        columns = np.concatenate([leaf for _, leaf in leaves], axis=1).T
        groups = [(name, column[:, None]) for name, column in zip(names, columns, strict=True)]
    else:
        groups = [(f"{name}: {leaf.shape[1]} numbers" if name else "", leaf) for name, leaf in leaves]
    named = len(groups) <= len(COLORS)
    style = dict(lw=1.4) if total <= len(COLORS) else dict(lw=0.8, alpha=0.7)
    style |= dict(marker="o" if len(order) == 1 else "", ms=3)
    axis.axhline(0.0, color="#cccccc", lw=0.8, zorder=0)
    for i, (name, values) in enumerate(groups):
        lines = axis.plot(path.strengths[order], values, color=COLORS[i % len(COLORS)], **style)
        if named and name and lines:
            lines[0].set_label(name)
    unsure = [k for k, status in enumerate(path.statuses) if status is not Status.CONVERGED]
    if unsure:
        place, at_the_foot = np.full(len(unsure), 0.02), axis.get_xaxis_transform()
        axis.plot(
            path.strengths[unsure], place, "x", color="#222222", ms=4, label="not certified", transform=at_the_foot
        )
    axis.set_ylabel("coefficient", fontsize=9)
    sure = len(order) - len(unsure)
    axis.set_title(f"{total} coefficients at {len(order)} strengths, {sure} certified", fontsize=9)


def _selection(axis: Any, path: Any, order: np.ndarray) -> None:
    """The score with its standard error, the best strength, and the strongest within one standard error of it."""
    strengths, scores, errors = path.strengths[order], path.scores[order], path.scores_se
    if errors is not None:
        bars = dict(ecolor="#a9bfd6", elinewidth=1.2, capsize=2, label="standard error over folds", zorder=1)
        axis.errorbar(strengths, scores, errors[order], fmt="none", **bars)
    axis.plot(strengths, scores, ".-", color=COLORS[0], ms=4, lw=1.4)
    axis.set_ylabel("log evidence" if errors is None else "held-out log-likelihood per example", fontsize=9)
    if not np.any(np.isfinite(scores)):
        return
    best = path.best_index
    label = f"highest: {path.strengths[best]:.3g}"
    axis.plot(path.strengths[best], path.scores[best], "o", color=COLORS[1], ms=6, label=label)
    if errors is not None:
        near = np.flatnonzero(path.scores >= path.scores[best] - errors[best])
        plain = near[np.argmax(path.strengths[near])]
        label = f"strongest within one standard error: {path.strengths[plain]:.3g}"
        axis.plot(path.strengths[plain], path.scores[plain], "D", color=COLORS[2], ms=5, label=label)
