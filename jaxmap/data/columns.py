"""Columns of a table as numbers: what each holds, learned once, applied to every later table."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from jaxmap.data.cells import absent, days_or_numbers, holds, listed, skewness, texts_of
from jaxmap.data.table import Table

MOST_LEVELS = 100
"""A category keeps the columns of its most frequent levels, so many at most."""

MOST_STRAY = 0.2
"""A column in which no more than this share of the cells are no numbers is one of numbers with mistakes."""

IDENTIFIER = re.compile(r"(^|[_\s.-])(id|key|uuid|index)$", re.IGNORECASE)
SKEWED = 1.0
"""Columns of more skewness that are nowhere negative are taken on a log scale."""


@dataclass(frozen=True)
class Column:
    """How the cells of one column become numbers.

    Attributes:
        name: of the column in the file.
        kind: "number", "date", "category" or "dropped".
        reason: why it is dropped.
        levels: of a category, each a 0/1 column.
        fill: what a missing cell becomes: the median, or the most frequent level, of the training rows.
        flag: add a 0/1 column that tells where cells were missing.
        log: take sign(x) log(1 + |x|) of the numbers.
        shift, scale: (number - shift) / scale is what the model sees; one per coded column.
    """

    name: str
    kind: str
    reason: str = ""
    levels: tuple[str, ...] = ()
    fill: float | str | None = None
    flag: bool = False
    log: bool = False
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @property
    def coded(self) -> tuple[str, ...]:
        """The names of the numbers that the column becomes."""
        own = {"dropped": (), "category": tuple(f"{self.name}={level}" for level in self.levels)}
        flag = (f"{self.name} is missing",) if self.flag else ()
        return own.get(self.kind, (self.name,)) + flag


@dataclass(frozen=True, eq=False)
class Encoded:
    """A table as a matrix: x (n, d), standardised, and what was noticed on the way, in sentences."""

    x: np.ndarray = field(repr=False)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Coding:
    """How a table becomes a matrix; learned on training rows, applied to any table with the same columns.

    Attributes:
        columns: one entry per column of the file, the target left out.
        target: name of the column that is left out.
        impute: fill missing cells; otherwise they are refused.
    """

    columns: tuple[Column, ...]
    target: str
    impute: bool = False

    @property
    def kept(self) -> tuple[Column, ...]:
        """The columns that the model sees."""
        return tuple(column for column in self.columns if column.coded)

    @property
    def names(self) -> tuple[str, ...]:
        """The d names of the matrix."""
        return tuple(name for column in self.columns for name in column.coded)

    def encode(self, table: Table) -> Encoded:
        """Turn a table into standardised numbers.

        Levels that were not seen in training become zero in all columns of their category.

        Raises:
            ValueError: a column is absent, holds something else than in training, or has missing cells that are not to
                be imputed.
        """
        absent = [column.name for column in self.kept if column.name not in table.columns]
        if absent:
            raise ValueError(
                f"Expected the columns of the training table in {table.name}; got no {', '.join(map(repr, absent[:5]))}"
                f"{' and others' if len(absent) > 5 else ''}. Add {'them' if len(absent) > 1 else 'it'}."
            )
        known = {column.name for column in self.columns} | {self.target}
        extra = [name for name in table.columns if name not in known]
        notes = [f"Ignored, as the model does not know them: {listed(extra)}."] if extra else []
        parts = []
        for column in self.kept:
            numbers, note = _encode(column, table, self.impute)
            parts.append((numbers - np.array(column.shift)) / np.array(column.scale))
            notes += note
        return Encoded(np.column_stack(parts), tuple(notes))

    def plain(self) -> dict[str, Any]:
        """Itself as plain values, for JSON."""
        return {"target": self.target, "impute": self.impute, "columns": [asdict(column) for column in self.columns]}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Coding":
        """The inverse of `plain`."""
        fixed = ("levels", "shift", "scale")
        entries: list[dict[str, Any]] = [e | {name: tuple(e[name]) for name in fixed} for e in plain["columns"]]
        return cls(tuple(Column(**entry) for entry in entries), plain["target"], plain["impute"])


def learn_coding(
    table: Table,
    train: np.ndarray,
    target: str,
    *,
    drop: Sequence[str] = (),
    categories: Sequence[str] = (),
    impute: bool = False,
) -> Coding:
    """Decide what each column holds and how it is coded.

    What a column holds (numbers, dates, categories) is read off all rows; levels, medians, means and spreads are those
    of the training rows.

    Args:
        table: all rows.
        train: the numbers of the training rows.
        target: the column to leave out.
        drop: columns to leave out.
        categories: columns whose numbers are names.
        impute: as in `Coding`.

    Raises:
        ValueError: no column is left, an unknown name, or numbers that are infinite or too large.
    """
    for name in (*drop, *categories):
        if name not in table.columns or name == target:
            raise ValueError(f"Expected a column of {table.name} other than the target; got {name!r}.")
    seen = table.take(train)
    columns = []
    for name in table.columns:
        if name == target:
            continue
        column = Column(name, "dropped", "as told") if name in drop else _learn(name, table, seen, name in categories)
        columns.append(column if column.kind == "dropped" else _scaled(column, seen))
    coding = Coding(tuple(columns), target, impute)
    if not coding.kept:
        reasons = listed([f"{column.name} ({column.reason})" for column in columns]) or "the target is the only one"
        raise ValueError(f"Expected a column of {table.name} to predict from; none is left: {reasons}.")
    return coding


def _learn(name: str, table: Table, seen: Table, named: bool) -> Column:
    """Kind, levels, fill, flag and log of one column."""
    cells, kind = seen.columns[name], holds(table.columns[name])
    if kind == "nothing" or absent(cells).all():
        return Column(name, "dropped", "all its cells are missing")
    flag = bool(absent(cells).any())
    if kind == "category" or named:
        column = _learn_category(name, cells, flag, named)
        if column.kind == "dropped":
            _check_stray(name, table.columns[name])
        return column
    where = f"column {name!r} of {table.name}"
    numbers = days_or_numbers(kind, table.columns[name], where)
    everything = numbers[~np.isnan(numbers)]
    if kind == "number" and (reason := _identifies(name, everything)):
        return Column(name, "dropped", reason)
    values = days_or_numbers(kind, cells, where)
    values = values[~np.isnan(values)]
    if np.ptp(values) == 0 and not flag:
        return Column(name, "dropped", "constant in the training rows")
    log = kind == "number" and values.min() >= 0 and skewness(values) > max(SKEWED, abs(skewness(np.log1p(values))))
    return Column(name, kind, fill=float(np.median(values)), flag=flag, log=bool(log))


def _identifies(name: str, numbers: np.ndarray) -> str:
    """Why numbers only identify rows; empty where they may mean something."""
    if len(numbers) < 3:
        return ""
    if numbers[0] in (0, 1) and np.all(np.diff(numbers) == 1):
        return "it numbers the rows"
    whole = np.all(numbers == np.round(numbers)) and len(np.unique(numbers)) == len(numbers)
    return "different whole numbers under the name of an identifier" if whole and IDENTIFIER.search(name) else ""


def _learn_category(name: str, cells: np.ndarray, flag: bool, named: bool) -> Column:
    texts = texts_of(cells)
    present = texts[~absent(cells)]
    levels, counts = np.unique(present.astype(str), return_counts=True)
    if len(levels) == 1 and not flag:
        return Column(name, "dropped", "constant in the training rows")
    if len(levels) > max(20, len(present) / 2) and not named:
        return Column(
            name, "dropped", f"{len(levels)} different texts in {len(present)} rows are names, not categories"
        )
    often = np.sort(np.argsort(-counts, kind="stable")[:MOST_LEVELS])
    fill = str(levels[np.argmax(counts)])
    return Column(name, "category", levels=tuple(map(str, levels[often])), fill=fill, flag=flag)


def _check_stray(name: str, cells: np.ndarray) -> None:
    """Refuse a column of numbers with a few other cells, which would be left out as names.

    Raises:
        ValueError: with the first of these cells.
    """
    rows = np.flatnonzero(~absent(cells))
    stray = [row for row in rows if not _is_number(str(cells[row]))]
    if stray and len(stray) <= MOST_STRAY * len(rows):
        raise ValueError(
            f"Expected numbers in column {name!r}, as in {len(rows) - len(stray)} of its {len(rows)} cells; got "
            f"{str(cells[stray[0]])[:40]!r} in row {stray[0] + 1}. Leave such a cell empty and say --missing impute, "
            f"or say --drop {name} or --category {name}."
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _scaled(column: Column, seen: Table) -> Column:
    """The column with the means of its coded columns, and the spread of its numbers; 0/1 columns keep their unit."""
    unit = (0.0,) * len(column.coded), (1.0,) * len(column.coded)
    numbers, _ = _encode(replace(column, shift=unit[0], scale=unit[1]), seen, impute=True)
    scale = np.ones(numbers.shape[1])
    if column.kind != "category":
        scale[0] = np.std(numbers[:, 0]) or 1.0
    return replace(column, shift=tuple(map(float, numbers.mean(0))), scale=tuple(map(float, scale)))


def _encode(column: Column, table: Table, impute: bool) -> tuple[np.ndarray, list[str]]:
    """The raw numbers of one column, (n, coded), and what was noticed."""
    cells = table.columns[column.name]
    gone, where = absent(cells), f"column {column.name!r} of {table.name}"
    if gone.any() and not impute:
        raise ValueError(
            f"Expected no missing cells in {where}; got {int(gone.sum())}, first in row {int(np.argmax(gone)) + 1}. "
            "Fill them, or fit with --missing impute."
        )
    flag = [gone.astype(np.float64)] if column.flag else []
    notes = []
    if gone.any() and not column.flag:
        notes.append(f"{int(gone.sum())} missing cells of {column.name} became {column.fill}, as in training.")
    if column.kind == "category":
        texts = np.where(gone, str(column.fill), texts_of(cells)).astype(str)
        known = texts[:, None] == np.array(column.levels)[None]
        new = [str(text) for text in np.unique(texts[~known.any(1)])]
        if new:
            count = int((~known.any(1)).sum())
            notes.append(
                f"{count} rows have levels of {column.name} that have no column of their own, as {listed(new, 3)}; "
                "they count as no level."
            )
        return np.column_stack([known.astype(np.float64), *flag]), notes
    numbers = days_or_numbers(column.kind, cells, where)
    numbers = np.where(gone, float(column.fill or 0.0), numbers)
    if column.log:
        below = int((numbers < 0).sum())
        if below:
            notes.append(
                f"{below} cells of {column.name} are negative, as none was in training: they become -log(1 + |x|)."
            )
        numbers = np.sign(numbers) * np.log1p(np.abs(numbers))
    return np.column_stack([numbers, *flag]), notes
