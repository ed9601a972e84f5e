"""From a file and its options to arrays and a model, with all that was decided on the way said in sentences."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import click
import numpy as np

from jaxmap import data
from jaxmap.cli.options import chosen_widths
from jaxmap.data import Coding, Table, Target
from jaxmap.model import Design

WIDE = 100
"""More columns than this, and the automatic network is linear."""

NARROWEST, WIDEST = 20, 50
ROWS_PER_WEIGHT = 4
"""A network that nobody asked for has so many training rows for each weight; one of fewer units is not worth it."""

FEWEST_ROWS = 10
LARGEST_DOUBLE = 5_000_000
"""Linear models of so many cells at most are computed in double precision."""


@dataclass(frozen=True, eq=False)
class Job:
    """A table that is ready to be fitted.

    Attributes:
        table: rows without missing targets.
        target: what is to be predicted.
        codings: one per split.
        splits: (training rows, test rows) each; the test rows are empty where nothing is held out.
        widths: of the hidden layers.
        weight_scale: of the prior, None for the automatic one.
        notes: what was decided, in sentences.
    """

    table: Table
    target: Target
    codings: tuple[Coding, ...]
    splits: tuple[tuple[np.ndarray, np.ndarray], ...] = field(repr=False)
    widths: tuple[int, ...]
    weight_scale: float | None
    notes: tuple[str, ...]

    def pairs(self) -> list[tuple[Any, Any]]:
        """((x, y) of the training rows, (x, y) of the test rows), one pair per split."""
        y = self.target.encode(self.table)
        made = []
        for coding, (train, test) in zip(self.codings, self.splits, strict=True):
            x = coding.encode(self.table).x
            made.append(((x[train], y[train]), (x[test], y[test])))
        return made

    def design(self, train: tuple[Any, Any]) -> Design:
        """What makes the model, learned from training rows."""
        x, y = train
        return Design.of(
            y,
            family=self.target.family,
            inputs=x.shape[1],
            sources=len(self.codings[0].kept),
            widths=self.widths,
            classes=len(self.target.classes),
            weight_scale=self.weight_scale,
        )

    @property
    def precision(self) -> str | None:
        """Double for linear models that are not large."""
        cells = self.table.rows * len(self.codings[0].names)
        return "float64" if not self.widths and cells <= LARGEST_DOUBLE else None


def prepare(
    table: Table, options: dict[str, Any], *, share: float | None = None, split: int = 0, splits: int = 1
) -> Job:
    """Decide what the table's columns are, and split it.

    Args:
        table: from a file.
        options: of `table_options`, by name.
        share: of the rows that are held out; None: none.
        split: number of the first random split.
        splits: how many.

    Raises:
        ValueError, UsageError: what is wrong with table or options, in one line.
    """
    name = options["target"]
    if name is None:
        raise click.UsageError(
            f"Expected --target, the column of {table.name} to predict; it has {data.listed(list(table.columns))}."
        )
    data.check_target_name(table, name)
    widths, notes = chosen_widths(options["network"]), list(table.notes)
    if table.rows < FEWEST_ROWS:
        raise ValueError(f"Expected at least {FEWEST_ROWS} rows in {table.name}; got {table.rows}.")
    coded = {"drop": options["drop"], "categories": options["category"]}
    table = _without_missing(table, name, options["missing"], coded, notes)
    parts = tuple(_split(table.rows, share, split + i) for i in range(splits))
    target = data.choose_target(table, parts[0][0], name, task=options["task"], log=options["log_target"])
    if target.classes:
        labels = target.encode(table)
        parts = tuple(_split(table.rows, share, split + i, labels) for i in range(splits))
    impute = options["missing"] == "impute"
    codings = tuple(data.learn_coding(table, train, name, impute=impute, **coded) for train, _ in parts)
    if widths is None:
        widths = automatic_widths(len(parts[0][0]), len(codings[0].names))
    notes += [target.sentence, *_about_columns(codings[0])]
    return Job(table, target, codings, parts, widths, options["weight_scale"], tuple(notes))


def automatic_widths(rows: int, columns: int) -> tuple[int, ...]:
    """One hidden layer of 20 to 50 tanh units where the training rows suffice, else a linear model."""
    units = min(WIDEST, rows // (ROWS_PER_WEIGHT * (columns + 2)))
    return (units,) if units >= NARROWEST and columns <= WIDE else ()


def _split(rows: int, share: float | None, number: int, labels: Any = None) -> tuple[np.ndarray, np.ndarray]:
    import jax

    everything = np.arange(rows)
    if share is None:
        return everything, everything[:0]
    return data.split(jax.random.fold_in(jax.random.key(20240), number), everything, share, stratify=labels)


def _without_missing(table: Table, target: str, missing: str, coded: dict[str, Any], notes: list[str]) -> Table:
    """Refuse, drop or leave missing cells of the columns that count, as told; missing targets are never imputed."""
    everything = np.arange(table.rows)
    coding = data.learn_coding(table, everything, target, impute=True, **coded)
    used = {column.name for column in coding.kept} | {target}
    counts = {name: count for name, count in data.missing_cells(table).items() if name in used}
    if not counts:
        return table
    cells = data.listed([f"{name} ({count})" for name, count in counts.items()])
    if missing == "refuse":
        raise ValueError(
            f"Expected no missing cells in {table.name}; got {sum(counts.values())}, in {cells}. Say --missing impute "
            "(medians and most frequent levels), --missing drop (their rows), or --drop COLUMN."
        )
    gone = [data.absent(table.columns[name]) for name in (counts if missing == "drop" else {target} & set(counts))]
    kept = everything[~np.any(gone, axis=0)] if gone else everything
    if len(kept) < FEWEST_ROWS:
        raise ValueError(
            f"Expected at least {FEWEST_ROWS} rows without missing cells in {table.name}; got {len(kept)}, with "
            f"missing cells in {cells}. Say --missing impute, or --drop COLUMN."
        )
    notes.append(f"Missing cells: {cells}.")
    if len(kept) < table.rows:
        notes.append(f"Dropped {table.rows - len(kept)} of {table.rows} rows, which have missing cells.")
    if missing == "impute":
        notes.append("They are imputed by medians and most frequent levels of the training rows, and marked.")
    return table.take(kept)


def _about_columns(coding: Coding) -> list[str]:
    """How the columns are coded, in sentences."""
    kinds = {kind: [c for c in coding.kept if c.kind == kind] for kind in ("number", "date", "category")}
    parts = [_count(len(kinds["number"]), "number", "numbers")]
    parts.append(_count(len(kinds["category"]), "category", "categories"))
    parts.append(_count(len(kinds["date"]), "date", "dates"))
    levels = sum(len(column.levels) for column in kinds["category"])
    shown = ", ".join(part for part in parts if part)
    lines = [f"Columns: {shown}" + (f" ({levels} levels, one 0/1 column each)." if levels else ".")]
    logged = [column.name for column in kinds["number"] if column.log]
    if logged:
        lines.append(f"On a log scale, log(1 + x), as they are skewed: {data.listed(logged)}.")
    if kinds["date"]:
        lines.append(f"In days: {data.listed([column.name for column in kinds['date']])}.")
    dropped = [f"{column.name} ({column.reason})" for column in coding.columns if column.kind == "dropped"]
    return [*lines, f"Left out: {data.listed(dropped)}."] if dropped else lines


def _count(number: int, one: str, many: str) -> str:
    return "" if not number else f"{number} {one if number == 1 else many}"


def model_in_words(design: Design, widths: Sequence[int], columns: int) -> str:
    """Network and prior, in a sentence."""
    size = f"A network of {' x '.join(map(str, widths))} tanh units" if widths else "A linear model"
    prior = f"prior N(0, {design.weight_scale:.3g}^2) on its {'first-layer ' if widths else ''}weights"
    return f"{size}, {columns} coded columns, {design.size:,} weights; {prior}, in standardised units."
