"""Drawings of what methods predict: bands, calibration, and what the quality cost."""

from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from jaxmap.report.drawing import BAND, INK, QUIET, Drawing, Mark, Panel, few_ticks, log_x, printable
from jaxmap.report.table import CEILING
from jaxmap.statistics import coverage_curve, reliability_curve

MOST_POINTS = 120
MOST_PANELS = 8
"""Rows that get a panel of their own."""

BINS = 10
LEVELS = np.linspace(0.02, 0.98, 49)


def bands(records: list[Any], comparison: Any, by_row: dict[str, Mark]) -> Drawing | None:
    """Predictive medians with 50 % and 90 % bands, test points ordered by the reference's median."""
    records = [r for r in records if r.arrays.get("quantiles", np.zeros(0)).ndim == 2]
    if not records:
        return None
    leader = next((r for r in records if r.method == comparison.reference), records[-1])
    order = np.argsort(leader.arrays["quantiles"][3])
    order = order[np.linspace(0, len(order) - 1, min(MOST_POINTS, len(order))).astype(int)]
    label, limits = measured(comparison), _limits(records, order)
    panels = []
    for record in records[:MOST_PANELS]:
        title, said = record.method, f"{record.method}: predicted median and bands against the observed values"
        if {"lppd", "coverage90"} <= set(record.scores):
            inside = f"{record.scores['coverage90']:.0%} inside"
            title += f": lppd {record.scores['lppd']:.2f}, {inside}".replace("-", "\u2212")
            said += f"; {inside} the 90 % band"
        draw = partial(_band, record=record, order=order, color=by_row[record.method].color, label=label, limits=limits)
        panels.append(Panel(title, f"{said}.", draw))
    caption = (
        "Line: predicted median. Bands: central 50 % and 90 %. Dots: what was observed. Test points stand in the order "
        f"of the medians of {leader.method}{_first(records, MOST_PANELS)}."
    )
    return Drawing("bands", "Predictions of the held-out data", caption, tuple(panels))


def measured(comparison: Any) -> str:
    """The target and its unit."""
    target, unit = comparison.config.get("target") or "y", comparison.config.get("unit")
    return printable(f"{target} ({unit})" if unit else str(target))


def _first(records: list[Any], most: int) -> str:
    return f"; the first {most} of {len(records)} rows are shown" if len(records) > most else ""


def _limits(records: list[Any], order: np.ndarray) -> tuple[float, float] | None:
    """One scale for all panels: the observed range and what of the bands is near it."""
    y = np.concatenate([r.arrays["y"][order] for r in records]).astype(float)
    ends = np.concatenate([r.arrays["quantiles"][[1, 5]][:, order].ravel() for r in records])
    if not np.isfinite(y).any():
        return None
    low, high = np.nanmin(y[np.isfinite(y)]), np.nanmax(y[np.isfinite(y)])
    room = 0.6 * max(high - low, 1e-6 * max(1.0, abs(high)))
    near = ends[(ends > low - room) & (ends < high + room)]
    low, high = min(low, near.min(initial=low)), max(high, near.max(initial=high))
    margin = 0.04 * max(high - low, 1e-6 * max(1.0, abs(high)))
    return float(low - margin), float(high + margin)


def _band(
    axis: Axes, record: Any, order: np.ndarray, color: str, label: str, limits: tuple[float, float] | None
) -> None:
    low90, low50, middle, high50, high90 = record.arrays["quantiles"][1:6, order]
    place = np.arange(len(order))
    axis.fill_between(place, low90, high90, color=color, alpha=0.2, lw=0)
    axis.fill_between(place, low50, high50, color=color, alpha=0.35, lw=0)
    axis.plot(place, middle, color=color, lw=1.2)
    axis.plot(place, record.arrays["y"][order], ".", color=INK, ms=3)
    axis.set(xlabel="test point, in order", ylabel=label, ylim=limits)
    few_ticks(axis)


def calibration(records: list[Any], by_row: dict[str, Mark]) -> Drawing | None:
    """Coverage and ranks of real and counted targets; reliability of classes."""
    classes = [r for r in records if r.arrays.get("probs", np.zeros(0)).ndim == 2]
    if classes:
        return _reliability(classes, by_row)
    records = [r for r in records if np.isfinite(r.arrays.get("pit", np.full(1, np.nan))).all()]
    if not records:
        return None
    points = records[0].arrays["pit"].size
    said = "Share of test points inside the central interval of each nominal coverage. Observed coverage at 90 %: "
    said += ", ".join(f"{r.method} {_covered(r, 0.9):.0%}" for r in records) + "."
    panels = [Panel("Coverage", said, partial(_coverage, records=records, by_row=by_row), 3.0)]
    for record in records[:MOST_PANELS]:
        shares = np.histogram(record.arrays["pit"], BINS, (0, 1))[0] / points
        words = f"Shares of the outcomes in {BINS} equal bins of the predicted distribution, from low to high: "
        words += ", ".join(f"{share:.0%}" for share in shares) + "."
        draw = partial(_ranks, shares=shares, points=points, color=by_row[record.method].color)
        panels.append(Panel(f"Ranks: {record.method}", words, draw, 1.9))
    caption = (
        "Coverage: how often the outcome lies in the central interval that the method states; below the diagonal is "
        "overconfident. Ranks: where the outcomes lie in the predicted distributions (probability integral transform); "
        "level is calibrated, a valley overconfident, a hill underconfident, a slope biased. Shaded: where 95 % of "
        f"calibrated methods would lie by chance{_first(records, MOST_PANELS)}."
    )
    return Drawing("calibration", "Calibration", caption, tuple(panels), tuple(by_row[r.method] for r in records))


def _covered(record: Any, level: float) -> float:
    return float(coverage_curve(record.arrays["pit"].ravel(), np.array([level]))[0])


def _coverage(axis: Axes, records: list[Any], by_row: dict[str, Mark]) -> None:
    noise = 1.96 * np.sqrt(LEVELS * (1 - LEVELS) / records[0].arrays["pit"].size)
    axis.fill_between(LEVELS, LEVELS - noise, LEVELS + noise, color=BAND, lw=0)
    axis.plot([0, 1], [0, 1], color=QUIET, lw=0.8)
    for record in records:
        observed = coverage_curve(record.arrays["pit"].ravel(), LEVELS)
        axis.plot(LEVELS, observed, lw=1.5, **by_row[record.method].line)
    axis.set(xlabel="nominal coverage", ylabel="share of test points inside", xlim=(0, 1), ylim=(0, 1))


def _ranks(axis: Axes, shares: np.ndarray, points: int, color: str) -> None:
    level = 1 / BINS
    noise = 1.96 * np.sqrt(level * (1 - level) / points)
    edges = np.linspace(0, 1, BINS + 1)
    axis.axhspan(max(0.0, level - noise), level + noise, color=BAND, lw=0, zorder=0)
    axis.bar(edges[:-1], shares, 0.94 * level, align="edge", color=color, alpha=0.75, lw=0, zorder=1)
    axis.axhline(level, color=QUIET, lw=0.8, zorder=2)
    axis.set(xlabel="rank of the outcome", ylabel="share", xlim=(0, 1), ylim=(0, max(0.3, 1.1 * float(shares.max()))))
    few_ticks(axis, y=4)


def _reliability(records: list[Any], by_row: dict[str, Mark]) -> Drawing:
    """Accuracy against top probability in 15 bins; the area of a dot is the share of test points in its bin."""
    right = {r.method: float(np.mean(r.arrays["probs"].argmax(-1) == r.arrays["y"])) for r in records}
    claimed = {r.method: float(r.arrays["probs"].max(-1).mean()) for r in records}
    said = "Share of right answers against the probability of the answer. "
    said += "; ".join(f"{name} claims {claimed[name]:.0%} on average and has {right[name]:.0%}" for name in right)
    panel = Panel("Reliability", f"{said}.", partial(_reliable, records=records, by_row=by_row), 3.2)
    caption = (
        "How often the most probable class is right, against the probability that the method gives it; below the "
        "diagonal is overconfident. The larger a dot, the more test points stand behind it."
    )
    return Drawing("calibration", "Reliability", caption, (panel,), tuple(by_row[r.method] for r in records))


def _reliable(axis: Axes, records: list[Any], by_row: dict[str, Mark]) -> None:
    axis.plot([0, 1], [0, 1], color=QUIET, lw=0.8)
    for record in records:
        curve = reliability_curve(record.arrays["probs"], record.arrays["y"].astype(int))
        used, mark = curve.count > 0, by_row[record.method]
        size = 6 + 60 * curve.count[used] / max(1, curve.count.sum())
        axis.plot(curve.confidence[used], curve.accuracy[used], lw=1.2, **mark.line)
        axis.scatter(curve.confidence[used], curve.accuracy[used], s=size, color=mark.color, marker=mark.marker, lw=0)
    axis.set(xlabel="probability of the answer", ylabel="share that is right", xlim=(0, 1.03), ylim=(-0.03, 1.03))


def cost(comparison: Any, by_row: dict[str, Mark]) -> Drawing | None:
    """Lppd against gradients and against seconds, with standard errors where there are several cells."""
    rows = [row for row in comparison.summary() if row["method"] != CEILING and np.isfinite(row.get("lppd", np.nan))]
    panels = []
    for name, title in (("num_gradients", "gradients"), ("seconds", "seconds")):
        paid = [row for row in rows if row.get(name, 0) > 0]
        if len(paid) > 1:
            said = "; ".join(f"{row['method']}: {row['lppd']:.3f} for {row[name]:,.4g}" for row in paid)
            draw = partial(_cost, rows=paid, name=name, label=title, by_row=by_row)
            panels.append(Panel(f"lppd against {title}", f"lppd against {title}. {said}.", draw, 2.6))
    if not panels:
        return None
    several = " Bars: one standard error over splits and seeds." if any("lppd_se" in row for row in rows) else ""
    caption = (
        "Higher is better, further left is cheaper. Everything is counted that a row would need if it were run alone, "
        f"shared fits included; also compilation, except of what had been compiled before.{several}"
    )
    return Drawing("cost", "What the quality costs", caption, tuple(panels))


def _cost(axis: Axes, rows: list[dict[str, Any]], name: str, label: str, by_row: dict[str, Mark]) -> None:
    x = np.array([row[name] for row in rows])
    y, errors = (np.array([row.get(key, 0.0) for row in rows]) for key in ("lppd", "lppd_se"))
    log_x(axis, 0.5 * float(x.min()), 2 * float(x.max()), engineering=name == "num_gradients")
    low, high = float((y - errors).min()), float((y + errors).max())
    room = max(high - low, 1e-3)
    axis.set_ylim(low - 0.15 * room, high + 0.25 * room)
    for row, here, there, error in zip(rows, x, y, errors, strict=True):
        mark = by_row[row["method"]]
        axis.errorbar(here, there, error or None, fmt=mark.marker, color=mark.color, ms=5, elinewidth=1, capsize=2)
    _named(axis, [by_row[row["method"]] for row in rows], x, y)
    axis.set(xlabel=label, ylabel="lppd (nats per test point)")
    few_ticks(axis)


def _named(axis: Axes, rows: list[Mark], x: np.ndarray, y: np.ndarray) -> None:
    """Write the names beside their points, from the lowest up, none on another."""
    (left, right), (low, high) = np.log(axis.get_xlim()), axis.get_ylim()
    across, up = (np.log(x) - left) / (right - left), (y - low) / (high - low)
    taken = [(here - 0.025, here + 0.025, there) for here, there in zip(across, up, strict=True)]
    for i in np.argsort(up, kind="stable"):
        name = shortened(rows[i].name)
        wide, on_the_right = 0.031 * len(name), across[i] + 0.031 * len(name) < 0.95
        begin = across[i] + 0.032 if on_the_right else across[i] - 0.032 - wide
        level = float(up[i])
        for left, right, height in sorted(taken, key=lambda other: other[2]):
            if begin < right and left < begin + wide and abs(level - height) < 0.075:
                level = height + 0.075
        taken.append((begin, begin + wide, level))
        place, side = (begin, "left") if on_the_right else (begin + wide, "right")
        style = {"ha": side, "va": "center", "fontsize": 8, "color": rows[i].color}
        axis.text(place, level, name, transform=axis.transAxes, **style)


def shortened(name: str, most: int = 24) -> str:
    """The beginning of a long name."""
    name = printable(name)
    return name if len(name) <= most else f"{name[: most - 1]}\u2026"
