"""What every experiment shares: its record (table, figure, files), its command line, the look of its figures."""

import argparse
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from jaxmap.infer.problem import library_versions
from jaxmap.infer.storage import folder_for, write_atomically
from jaxmap.infer.summary import Summary

EXACT = ", exact"
"""A column `MAP, exact` holds the closed form of the column `MAP`."""


@dataclass(frozen=True)
class Record:
    """What came of an experiment.

    Attributes:
        title: the question, above the table.
        config: the dataclass that it was run with.
        rows: the numbers, plain dicts with the same keys.
        figure: draws them; returns a matplotlib figure.
        notes: sentences below the table.
        text: the table, where another than that of the rows reads better.
    """

    title: str
    config: Any
    rows: list[dict[str, Any]]
    figure: Callable[[], Any]
    notes: tuple[str, ...] = ()
    text: str = ""

    def column(self, name: str) -> np.ndarray:
        """One column, over all rows."""
        return np.array([row[name] for row in self.rows])

    def differences(self) -> dict[str, float]:
        """The largest absolute difference of each column that has a closed form from it."""
        names = [name for name in self.rows[0] if name + EXACT in self.rows[0]]
        return {name: float(np.max(np.abs(self.column(name) - self.column(name + EXACT)))) for name in names}

    def __str__(self) -> str:
        table = self.text or str(Summary(self.title, tuple(self.rows)))
        worst = ", ".join(f"{name} {value:.2g}" for name, value in self.differences().items())
        compared = [f"Largest difference from the closed form: {worst}."] if worst else []
        return "\n".join([table, *compared, *self.notes])

    def save(self, folder: str | Path) -> Path:
        """Write record.json, table.txt and figure.png; returns the folder."""
        folder = folder_for("the record", folder)
        config = {"experiment": type(self.config).__module__, **asdict(self.config)}
        content = {"title": self.title, "config": config, "rows": self.rows, "notes": self.notes}
        content |= {"differences": self.differences(), "versions": library_versions()}
        write_atomically(folder / "record.json", json.dumps(content, indent=2).encode())
        write_atomically(folder / "table.txt", f"{self}\n".encode())
        picture = io.BytesIO()
        self.figure().savefig(picture, dpi=160, format="png")  # last: what fails here has cost no numbers
        write_atomically(folder / "figure.png", picture.getvalue())
        return folder


def command(description: str | None, config: Any, run: Callable[[Any], Record]) -> Callable[..., None]:
    """Make the `main` of an experiment: an option for each field of its config, and --save for a folder."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    for field in fields(config):
        default: Any = field.default
        several = isinstance(default, tuple)
        kind = str if default is None else type(default[0] if several else default)
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=kind,
            nargs="+" if several else None,
            default=default,
            help=f"default: {' '.join(map(str, default)) if several else default}",
        )
    parser.add_argument("--save", metavar="FOLDER", help="write record.json, table.txt and figure.png there")

    def main(arguments: list[str] | None = None) -> None:
        given = vars(parser.parse_args(arguments))
        folder = given.pop("save")
        record = run(config(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}))
        print(record)
        if folder is not None:
            print(f"Written to {record.save(folder)}.")

    return main


def color(index: int) -> str:
    """The colours of jaxmap's figures, again from the first after the last."""
    from jaxmap.report.figures import COLORS

    return COLORS[index % len(COLORS)]


def panels(*titles: str, height: float = 3.6) -> tuple[Any, list[Any]]:
    """Make a figure of panels side by side, with a title each: (figure, axes)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * len(titles), height), layout="constrained")
    axes = list(figure.subplots(1, len(titles), squeeze=False)[0])
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_prop_cycle(color=[color(i) for i in range(7)])
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes
