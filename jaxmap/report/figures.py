"""Figures of a comparison."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxmap.statistics import coverage_curve, reliability_curve

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
    figure.supylabel(f"{target} ({unit})" if unit else target, fontsize=9)
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
