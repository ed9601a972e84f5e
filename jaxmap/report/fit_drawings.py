"""Drawings of the fits themselves: marginals of a few parameters, traces of the chains, losses on the way."""

from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy.stats import gaussian_kde

from jaxmap.assess.kept import CURVE, DRAWN, TRACE
from jaxmap.report.drawing import COLORS, Drawing, Mark, Panel, few_ticks, log_x
from jaxmap.report.prediction_drawings import MOST_PANELS

MOST_TRACED = 4
"""Rows whose chains are shown, each with its log density and three parameters."""

GRID = 160

STEEP = 6.0
"""A first descent that is higher than this, in heights of the other nine tenths of a curve, is cut off."""


def kept(record: Any, begin: str) -> dict[str, np.ndarray]:
    """The arrays of a record whose names begin so, by the rest of their names, in order: a file keeps none."""
    return {name.removeprefix(begin): record.arrays[name] for name in sorted(record.arrays) if name.startswith(begin)}


def marginals(records: list[Any], by_row: dict[str, Mark]) -> Drawing | None:
    """Densities of a few parameters, all rows overlaid; a point is a line, members of an ensemble are ticks."""
    values = {record.method: kept(record, DRAWN) for record in records}
    values = {row: found for row, found in values.items() if found}
    panels = []
    for name in dict.fromkeys(name for found in values.values() for name in found):
        rows = {row: np.atleast_2d(found[name]).astype(float) for row, found in values.items() if name in found}
        rows = {row: drawn for row, drawn in rows.items() if np.isfinite(drawn).all() and drawn.size}
        if rows:
            said = "; ".join(f"{row} {_in_words(drawn)}" for row, drawn in rows.items())
            panels.append(Panel(name, f"{name}: {said}.", partial(_marginal, rows=rows, by_row=by_row), 1.8, 0.24))
    if not panels:
        return None
    caption = (
        "A point estimate is an upright line, the members of an ensemble are ticks at the foot, everything else is a "
        "density of its draws, smoothed by a kernel; an arrow at the edge means that a point lies outside. Hidden "
        "units of a network can change places: there, single weights may differ where predictions agree."
    )
    return Drawing("marginals", "Parameters", caption, tuple(panels), tuple(by_row[row] for row in values))


def _is_spread(drawn: np.ndarray) -> bool:
    """Whether it is drawn as a density: several draws per chain that are not all the same."""
    return drawn.shape[1] > 1 and float(np.ptp(drawn)) > 1e-6 * float(np.abs(drawn).max())


def _in_words(drawn: np.ndarray) -> str:
    if _is_spread(drawn):
        return f"mean {drawn.mean():.3g}, sd {drawn.std():.2g}"
    return f"at {drawn[0, 0]:.3g}" if drawn.shape[0] == 1 else f"{drawn.min():.3g} to {drawn.max():.3g}"


def _marginal(axis: Axes, rows: dict[str, np.ndarray], by_row: dict[str, Mark]) -> None:
    low, high = _range(list(rows.values()))
    axis.set_xlim(low, high)
    for row, drawn in rows.items():
        mark = by_row[row]
        if _is_spread(drawn):
            flat = drawn.ravel()
            grid = np.linspace(max(low, flat.min()), min(high, flat.max()), GRID)
            density = gaussian_kde(flat)(grid)
            axis.fill_between(grid, density, color=mark.color, alpha=0.1, lw=0)
            axis.plot(grid, density, lw=1.4, **mark.line)
            continue
        foot = axis.get_xaxis_transform()
        for point in drawn[:, 0]:
            if not low <= point <= high:
                edge, arrow = (0.025, "<") if point < low else (0.975, ">")
                axis.plot(edge, 0.3, arrow, color=mark.color, ms=6, transform=axis.transAxes)
            elif len(drawn) == 1:
                axis.axvline(point, lw=1.4, **mark.line)
            else:
                axis.plot([point, point], [0.0, 0.16], color=mark.color, lw=1.2, transform=foot)
    axis.set(ylabel="density", yticks=[])
    axis.set_ylim(bottom=0.0)
    few_ticks(axis)


def _range(all_drawn: list[np.ndarray]) -> tuple[float, float]:
    """The middle 99 % of every density, and the points that lie near them."""
    spread = [drawn for drawn in all_drawn if _is_spread(drawn)]
    points = np.concatenate([drawn.ravel() for drawn in all_drawn if not _is_spread(drawn)] or [np.zeros(0)])
    ends = [np.quantile(drawn, (0.005, 0.995)) for drawn in spread] or [np.array([points.min(), points.max()])]
    low, high = float(np.min(ends)), float(np.max(ends))
    reach = 0.5 * (high - low)
    near = points[(points >= low - reach) & (points <= high + reach)]
    low, high = min(low, near.min(initial=low)), max(high, near.max(initial=high))
    margin = 0.05 * (high - low) or 0.05 * max(1.0, abs(high))
    return low - margin, high + margin


def traces(records: list[Any]) -> Drawing | None:
    """The chains of sampled rows: the log joint density and three parameters, draw by draw."""
    sampled = [record for record in records if np.ndim(record.arrays.get(TRACE)) == 2]
    panels = []
    for record in sampled[:MOST_TRACED]:
        first = dict(list(kept(record, DRAWN).items())[:3])
        for name, drawn in {"log joint density": record.arrays[TRACE], **first}.items():
            means = ", ".join(f"{mean:.3g}" for mean in drawn.mean(1))
            said = f"{record.method}, {name}, {len(drawn)} chains draw by draw; their means are {means}."
            panels.append(Panel(f"{record.method}: {name}", said, partial(_trace, drawn=drawn), 1.45))
    if not panels:
        return None
    most = f"; the first {MOST_TRACED} of {len(sampled)} rows are shown" if len(sampled) > MOST_TRACED else ""
    caption = (
        "One colour per chain, at most 250 draws of each. Chains that have found the posterior lie on each other like "
        f"noise; one that stays elsewhere, or drifts, has not (R-hat in the table measures that on predictions){most}."
    )
    return Drawing("traces", "Chains", caption, tuple(panels))


def _trace(axis: Axes, drawn: np.ndarray) -> None:
    for k, chain in enumerate(drawn):
        axis.plot(chain, color=COLORS[k % len(COLORS)], lw=0.6, alpha=0.85)
    axis.set_xlim(0, max(1, drawn.shape[1] - 1))
    axis.set_xlabel("draw")
    few_ticks(axis, y=3)


def losses(records: list[Any], by_row: dict[str, Mark]) -> Drawing | None:
    """What each optimizer minimised, step by step; the members of an ensemble overlaid."""
    climbed = {record.method: list(kept(record, CURVE).values()) for record in records}
    climbed = {row: curves for row, curves in climbed.items() if curves}
    panels = []
    for row, curves in list(climbed.items())[:MOST_PANELS]:
        ends = np.array([curve[1, -1] for curve in curves])
        last = f"end at {ends.min():.4g} to {ends.max():.4g}" if len(ends) > 1 else f"ends at {ends[0]:.4g}"
        count = "1 fit" if len(curves) == 1 else f"{len(curves)} fits"
        said = f"{row}: {count}, up to {max(c[0, -1] for c in curves):,.0f} steps; the loss {last}."
        draw = partial(_loss, curves=curves, color=by_row[row].color)
        panels.append(Panel(row if len(curves) == 1 else f"{row}: {count}", said, draw, 1.9))
    if not panels:
        return None
    most = f" The first {MOST_PANELS} of {len(climbed)} rows are shown." if len(climbed) > MOST_PANELS else ""
    caption = (
        "The minimised loss, - log density / number of examples, up to a constant; each row minimises its own. The "
        f"first steps may lie above the panel.{most}"
    )
    return Drawing("losses", "Optimization", caption, tuple(panels))


def _loss(axis: Axes, curves: list[np.ndarray], color: str) -> None:
    for steps, values in curves:
        axis.plot(steps, values, color=color, lw=1.2, alpha=1.0 if len(curves) == 1 else 0.7)
    log_x(axis, 1.0, float(max(curve[0, -1] for curve in curves)), engineering=True)
    values = np.concatenate([curve[1] for curve in curves])
    values = values[np.isfinite(values)]
    if values.size:
        low, most, high = float(values.min()), float(np.quantile(values, 0.9)), float(values.max())
        high = high if high - low < STEEP * (most - low) else most
        room = max(high - low, 1e-6 * max(1.0, abs(low)))
        axis.set_ylim(low - 0.05 * room, high + 0.1 * room)
    axis.set(xlabel="step", ylabel="loss")
    few_ticks(axis, y=4)
