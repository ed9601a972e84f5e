"""Figures of a comparison and of a path."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxmap.optimize.certificate import coordinate_paths
from jaxmap.statistics import coverage_curve, reliability_curve
from jaxmap.trees import named_leaves, take
from jaxmap.types import Status

COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
"""Distinguishable to the colour-blind (Tol, 2021)."""

MOST_POINTS = 120


def comparison_figures(comparison: Any) -> dict[str, Figure]:
    """The figures of the first split and seed, by file name: bands and calibration, or reliability for classes."""
    first = comparison.records[0]
    records = [r for r in comparison.records if (r.split, r.seed) == (first.split, first.seed) and r.arrays]
    if not records:
        return {}
    if "probs" in records[0].arrays:
        return {"calibration": reliability(records)}
    if records[0].arrays["y"].ndim > 1:
        return {"calibration": calibration(records)}
    return {"bands": bands(records, comparison), "calibration": calibration(records)}


def bands(records: list[Any], comparison: Any) -> Figure:
    """Predictive medians with 50 % and 90 % bands, test points ordered by the reference's median."""
    by_name = {record.method: record for record in records}
    leader = by_name.get(comparison.reference, records[-1])
    order = np.argsort(leader.arrays["quantiles"][3])
    order = order[np.linspace(0, len(order) - 1, min(MOST_POINTS, len(order))).astype(int)]
    unit = comparison.config.get("unit", "")
    figure = Figure(figsize=(3.4 * min(3, len(records)), 2.9 * -(-len(records) // 3)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(-(-len(records) // 3), min(3, len(records)), sharex=True, sharey=True)).ravel()
    place = np.arange(len(order))
    for i, (axis, record) in enumerate(zip(axes, records, strict=False)):
        low90, low50, middle, high50, high90 = record.arrays["quantiles"][1:6, order]
        color = COLORS[i % len(COLORS)]
        axis.fill_between(place, low90, high90, color=color, alpha=0.22, lw=0, label="90 % band")
        axis.fill_between(place, low50, high50, color=color, alpha=0.4, lw=0, label="50 % band")
        axis.plot(place, middle, color=color, lw=1.2, label="median")
        axis.plot(place, record.arrays["y"][order], ".", color="#222222", ms=3, label="observed")
        inside = record.scores.get("coverage90")
        share = "" if inside is None else f", {inside:.0%} inside"
        axis.set_title(f"{record.method}: lppd {record.scores['lppd']:.2f}{share}", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(records) :]:
        axis.set_visible(False)
    axes[0].legend(fontsize=7, frameon=False, loc="upper left")
    target = comparison.config.get("target", "y")
    figure.supylabel(f"{target} ({unit})" if unit else target, fontsize=9, parse_math=False)
    figure.supxlabel("test points, ordered by predicted value", fontsize=9)
    return figure


def calibration(records: list[Any]) -> Figure:
    """Observed against nominal coverage of central intervals, one line per method."""
    levels = np.linspace(0.02, 0.98, 49)
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axis = figure.subplots()
    points = records[0].arrays["pit"].size
    noise = 1.96 * np.sqrt(levels * (1 - levels) / points)
    axis.fill_between(levels, levels - noise, levels + noise, color="#dddddd", lw=0, label="95 % by chance")
    axis.plot([0, 1], [0, 1], color="#999999", lw=0.8)
    for i, record in enumerate(records):
        observed = coverage_curve(record.arrays["pit"].ravel(), levels)
        axis.plot(levels, observed, color=COLORS[i % len(COLORS)], lw=1.6, label=record.method)
    axis.set(xlabel="nominal coverage of the central interval", ylabel="share of test points inside", xlim=(0, 1))
    axis.set(ylim=(0, 1), title="Calibration: below the line is overconfident")
    axis.title.set_fontsize(10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
    return figure


def reliability(records: list[Any]) -> Figure:
    """Accuracy against top probability in 15 bins, one line per method."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="#999999", lw=0.8)
    for i, record in enumerate(records):
        curve = reliability_curve(record.arrays["probs"], record.arrays["y"].astype(int))
        used = curve.count > 0
        color = COLORS[i % len(COLORS)]
        axis.plot(curve.confidence[used], curve.accuracy[used], "o-", ms=3, color=color, lw=1.2, label=record.method)
    axis.set(xlabel="top probability", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
    axis.set_title("Reliability: below the line is overconfident", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
    return figure


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
