"""What each row of a comparison costs and buys, and what a reader must know of the whole, in sentences."""

from typing import Any

from jaxmap.assess.paired import POINTS
from jaxmap.assess.same_target import target_sentences

MAP = "MAP"
"""The method that costs are counted against."""

NOTHING = 5e-4
"""Nats per test point that print as none."""


def base_of(comparison: Any) -> str:
    """The row that costs are counted against: the first MAP estimate, else the first row."""
    for record in comparison.records:
        if record.info.get("method", "").partition("(")[0] == MAP:
            return record.method
    return comparison.methods[0]


def sentence(comparison: Any, name: str) -> str:
    """Say what a method costs and buys, from the numbers; a gain within two standard errors is called none."""
    base = base_of(comparison)
    if not comparison.values(name, "lppd"):
        statuses = sorted({row["status"] for row in comparison.rows if row["method"] == name})
        return f"{name} has no predictions: {', '.join(s.lower().replace('_', ' ') for s in statuses)}."
    ends = f"{_covered(comparison, name)}.{_some(comparison, name)}"
    if name == base or not comparison.values(base, "lppd"):
        spent, lppd = (_mean(comparison, name, key) for key in ("num_gradients", "lppd"))
        return f"{name} costs {spent:,.0f} gradients and has {lppd:.3f} nats per test point{ends}"
    return f"{name} {_costs(comparison, name, base)} and {_buys(comparison, name, base)}{ends}"


def _mean(comparison: Any, name: str, key: str) -> float:
    values = list(comparison.values(name, key).values())
    return sum(values) / len(values) if values else float("nan")


def _costs(comparison: Any, name: str, base: str) -> str:
    """The gradients, in units of those of the base over the same runs."""
    own, theirs = (comparison.values(row, "num_gradients") for row in (name, base))
    both = [cell for cell in own if cell in theirs]
    before, now = sum(theirs[cell] for cell in both), sum(own[cell] for cell in both)
    if not before:
        return f"costs {_mean(comparison, name, 'num_gradients'):,.0f} gradients"
    times = now / before
    form = "{:,.0f}" if times >= 10 else "{:.1f}" if times >= 0.95 else "{:.2g}"
    return f"costs {form.format(times)} times the gradients of {base}"


def _buys(comparison: Any, name: str, base: str) -> str:
    """The gain in lppd, with its standard error and what it is paired over."""
    gap = comparison.difference(name, base)
    if gap is None:
        return f"shares no run with {base}"
    of = f"{gap.count} {gap.over}" + (" of one split" if gap.over == POINTS else "")
    if gap.se is None:
        return f"differs by {gap.mean:+.3f} nats per test point (one pair: no standard error)"
    number = f"{gap.mean:+.3f} nats per test point (se {gap.se:.2g}, {of})"
    if abs(gap.mean) < NOTHING:
        return f"buys nothing: {number}"
    if gap.within_noise:
        return f"{'buys' if gap.mean > 0 else 'loses'} nothing beyond noise: {number}"
    return f"buys {number}" if gap.mean > 0 else f"loses: {number}"


def _covered(comparison: Any, name: str) -> str:
    """What its interval holds, for numbers; how often its best class is right, for classes."""
    if comparison.values(name, "coverage90"):
        return f"; its 90 % interval holds {_mean(comparison, name, 'coverage90'):.0%}"
    if comparison.values(name, "accuracy"):
        return f"; it is right on {_mean(comparison, name, 'accuracy'):.1%}"
    return ""


def _some(comparison: Any, name: str) -> str:
    """That a mean is not over all runs."""
    cells = sum(row["method"] == name for row in comparison.rows)
    scored = len(comparison.values(name, "lppd"))
    return "" if scored == cells else f" Its means are over {scored} of {cells} runs: the others have no predictions."


def sentences_of(comparison: Any) -> list[str]:
    """What a reader must know of the whole: which density was seen, and what is missing."""
    said = target_sentences(comparison.records)
    stopped, missing = (comparison.config.get(name) for name in ("interrupted", "missing"))
    if stopped:
        said.append(f"Interrupted at {stopped}: this is what there was.")
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        said.append(f"Not there yet: {', '.join(missing[:3])}{more}. The same call with the same folder goes on.")
    return said
