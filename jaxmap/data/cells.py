"""Cells of a column: which are missing, what they hold, and the numbers or texts in them."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxmap.data.table import Table

LARGEST = 1e30
DATE = re.compile(r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d+)?)?Z?)?")
DAY = 86400.0


def missing_cells(table: Table) -> dict[str, int]:
    """Count the missing cells of every column that has some."""
    counts = {name: int(absent(cells).sum()) for name, cells in table.columns.items()}
    return {name: count for name, count in counts.items() if count}


def absent(cells: np.ndarray) -> np.ndarray:
    """Where the cells of a column are missing."""
    if cells.dtype == object:
        return np.array([cell is None for cell in cells], bool)
    return np.isnat(cells) if cells.dtype.kind == "M" else np.isnan(cells)


def holds(cells: np.ndarray) -> str:
    """What a column holds: "number", "date", "category", or "nothing" where all cells are missing."""
    present = cells[~absent(cells)]
    if not len(present):
        return "nothing"
    if cells.dtype != object:
        return "date" if cells.dtype.kind == "M" else "number"
    if all(_is_number(cell) for cell in present):
        return "number"
    return "date" if all(DATE.fullmatch(cell) for cell in present) else "category"


def numbers_of(cells: np.ndarray, where: str) -> np.ndarray:
    """The numbers of a column, nan where missing.

    Raises:
        ValueError: a cell that is no number, is infinite, or too large, with its row.
    """
    if cells.dtype.kind == "M":
        raise ValueError(f"Expected numbers in {where}; got dates.")
    bad = [i for i, cell in enumerate(cells) if cell is not None and not _is_number(cell)]
    if bad:
        raise ValueError(f"Expected numbers in {where}; got {cells[bad[0]]!r} in row {bad[0] + 1}.")
    numbers = np.array([np.nan if cell is None else float(cell) for cell in cells], np.float64)
    large = np.flatnonzero(np.abs(numbers) > LARGEST)
    if len(large):
        row = large[0]
        what = "infinite" if np.isinf(numbers[row]) else "too large"
        raise ValueError(
            f"Expected finite numbers up to {LARGEST:g} in {where}; got {str(cells[row])[:20]!r}, which is {what}, in "
            f"row {row + 1}. Correct it or leave it empty."
        )
    return numbers


def texts_of(cells: np.ndarray) -> np.ndarray:
    """The cells of a column as texts, None where missing; whole numbers without a point."""
    gone = absent(cells)
    texts = np.empty(len(cells), object)
    texts[:] = [
        None if g else f"{c:.15g}" if isinstance(c, float) else str(c) for c, g in zip(cells, gone, strict=True)
    ]
    return texts


def skewness(values: np.ndarray) -> float:
    """The third central moment over the cube of the standard deviation; zero for constant values."""
    centered = values - values.mean()
    spread = np.sqrt(np.mean(centered**2))
    return float(np.mean(centered**3) / spread**3) if spread > 0 else 0.0


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names joined by commas, the first few of many."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in str(cell)  # Python's own way to group digits


def days_or_numbers(kind: str, cells: np.ndarray, where: str) -> np.ndarray:
    """Numbers, or dates as days since 1970; nan where missing."""
    if kind == "number":
        return numbers_of(cells, where)
    if cells.dtype.kind != "M":
        texts = [None if cell is None else cell.rstrip("Z") for cell in cells]
        bad = next((i for i, cell in enumerate(cells) if cell is not None and not DATE.fullmatch(str(cell))), None)
        try:
            dates = np.array(["NaT" if text is None else text for text in texts], "datetime64[s]")
        except ValueError:
            bad = next(i for i, text in enumerate(texts) if text is not None and not _is_date(text))
        if bad is not None:
            raise ValueError(f"Expected dates such as 2024-05-31 in {where}; got {cells[bad]!r} in row {bad + 1}.")
        cells = dates
    gone = np.isnat(cells)
    days = cells.astype("datetime64[s]").astype(np.int64) / DAY
    return np.where(gone, np.nan, days)


def _is_date(text: str) -> bool:
    try:
        np.datetime64(text, "s")
    except ValueError:
        return False
    return True
