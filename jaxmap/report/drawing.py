"""What a figure is made of: panels, which stand in a grid on disk and one by one on the page."""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
"""Distinguishable to the colour-blind (Tol, 2021)."""

DASHES = ((), (5.0, 1.5), (1.2, 1.2), (6.0, 1.5, 1.2, 1.5), (9.0, 1.5))
"""On and off, in points: colours and dashes together tell 35 rows apart."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")

INK, QUIET, BAND = "#222222", "#767676", "#dcdcdc"

WIDTH = 3.5
"""Of a panel, in inches: 336 CSS pixels, a phone."""

MOST_COLUMNS = 3

STYLE = {
    "axes.edgecolor": QUIET,
    "axes.facecolor": "none",
    "axes.formatter.limits": (-4, 6),
    "axes.formatter.use_mathtext": False,
    "axes.formatter.useoffset": False,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.facecolor": "none",
    "font.size": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "jaxmap",
    # A name is text: dollars in it are no formula.
    "text.parse_math": False,
    "text.color": INK,
    "text.usetex": False,
    "xtick.color": QUIET,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.color": QUIET,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8,
}


_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


class Mark(NamedTuple):
    """How a row is drawn, the same in every figure."""

    name: str
    color: str
    dash: tuple[float, ...]
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """As matplotlib's keywords."""
        return {"color": self.color, "linestyle": (0, self.dash) if self.dash else "-"}


def marks(names: Sequence[str]) -> dict[str, Mark]:
    """A colour, a dash and a marker for each name, by its place."""
    found = {}
    for i, name in enumerate(names):
        found[name] = Mark(name, COLORS[i % len(COLORS)], DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)])
    return found


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: a few words.
        said: what is to be seen, in a sentence, for those who cannot see it.
        draw: puts it on axes.
        height: in inches.
        foot: of it, below the axes.
    """

    title: str
    said: str
    draw: Callable[[Axes], None]
    height: float = 2.3
    foot: float = 0.42


@dataclass(frozen=True)
class Drawing:
    """Panels that belong together.

    Attributes:
        name: of its file.
        heading: a few words.
        caption: what is drawn and how to read it.
        panels: in reading order.
        key: the rows that share panels, to be told apart by a legend.
    """

    name: str
    heading: str
    caption: str
    panels: tuple[Panel, ...]
    key: tuple[Mark, ...] = ()


def printable(text: str) -> str:
    """Put the replacement character where XML and UTF-8 have no place for one."""
    return _UNPRINTABLE.sub("\ufffd", text)


@contextmanager
def styled() -> Iterator[None]:
    """Draw as this house does, whatever the user's own style is."""
    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
        # Its metrics are a guess then; the reader's browser has the glyph.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        yield


def assembled(drawing: Drawing) -> Figure:
    """All panels in a grid."""
    columns = min(MOST_COLUMNS, len(drawing.panels))
    rows = -(-len(drawing.panels) // columns)
    height = max(panel.height for panel in drawing.panels) + 0.25
    with styled():
        size = (WIDTH * columns, height * rows + 0.3 * bool(drawing.key))
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
        for axis, panel in zip(axes, drawing.panels, strict=False):
            panel.draw(axis)
            axis.set_title(printable(panel.title))
        for axis in axes[len(drawing.panels) :]:
            axis.set_visible(False)
        if drawing.key:
            lines = [Line2D([], [], lw=1.6, **mark.line) for mark in drawing.key]
            names = [printable(mark.name) for mark in drawing.key]
            figure.legend(
                lines, names, loc="outside lower center", ncols=min(2 * columns, len(names)), handlelength=2.6
            )
    return figure


def alone(panel: Panel) -> Figure:
    """One panel without its title; its margins are fixed, so that panels above each other line up."""
    figure = Figure(figsize=(WIDTH, panel.height))
    left, right, bottom, top = 0.64 / WIDTH, 1 - 0.2 / WIDTH, panel.foot / panel.height, 1 - 0.08 / panel.height
    panel.draw(figure.subplots(gridspec_kw={"left": left, "right": right, "bottom": bottom, "top": top}))
    return figure


def few_ticks(axis: Axes, x: int = 5, y: int = 5) -> None:
    """Leave room between the numbers on linear axes."""
    if axis.get_xscale() == "linear":
        axis.locator_params(axis="x", nbins=x)
    axis.locator_params(axis="y", nbins=y)


def log_x(axis: Axes, low: float, high: float, *, engineering: bool) -> None:
    """A logarithmic axis with plain numbers at its ticks: 1k and 1M, or 0.1 and 10."""
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    decades = np.log10(high / low)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2.5 else (1.0, 2.0, 5.0), numticks=6))
    axis.xaxis.set_major_formatter(EngFormatter(sep="") if engineering else FuncFormatter(lambda v, _: f"{v:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
