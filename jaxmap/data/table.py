"""Tables from files: CSV, compressed CSV and Parquet, as columns by name.

CSV is read by Python's own csv module, as text: what a column holds is decided later, from all of its cells. Parquet
is read by pyarrow (extra `parquet`), which brings its own types.
"""

import bz2
import csv
import gzip
import io
import lzma
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

MISSING = frozenset({"", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "<NA>", "#N/A", "?"})
"""Cells that say that there is no value. `None` is not one of them: tables use it as a level."""

SEPARATORS = (",", ";", "\t", "|")
PARQUET = (".parquet", ".pq")
LONGEST_CELL = 10_000_000


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of one length, by name.

    Attributes:
        name: of the file, for messages.
        columns: name -> cells: text (object, None where missing), numbers (float64, nan) or dates (datetime64, NaT).
        notes: what a reader should know of how it was read, in sentences.
    """

    name: str
    columns: dict[str, np.ndarray] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(next(iter(self.columns.values())))

    def take(self, rows: np.ndarray) -> "Table":
        """The table of some rows, by number."""
        return Table(self.name, {name: cells[rows] for name, cells in self.columns.items()}, self.notes)


def read_table(path: str | Path) -> Table:
    """Read a table with a header from a file.

    Args:
        path: .csv, .tsv or .txt, also with .gz, .bz2, .xz or .zip after it; .parquet or .pq.

    Returns:
        table: at least one column and one row.

    Raises:
        ValueError: no such file, not a table, or one without rows; says what and where.
        ImportError: Parquet without pyarrow.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"Expected a table in a file; got the folder {path}. Name a CSV or Parquet file.")
    if not path.exists():
        raise ValueError(f"Expected a table in {path}; there is no such file.")
    try:
        table = _read_parquet(path) if path.suffix.lower() in PARQUET else _read_csv(path)
    except OSError as error:
        raise ValueError(f"Expected {path} to be readable; {error.strerror or error}.") from error
    if not table.rows:
        raise ValueError(f"Expected rows below the header of {path.name}; got none.")
    return table


def _read_csv(path: Path) -> Table:
    text = _decoded(path)
    if not text.strip():
        raise ValueError(f"Expected a table in {path.name}; the file is empty.")
    first = next(line for line in text.splitlines() if line.strip())
    separator = max(SEPARATORS, key=first.count)  # the first of equals: a comma
    csv.field_size_limit(LONGEST_CELL)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header, cells = _rectangle(path.name, rows)
    except csv.Error as error:
        raise ValueError(f"Expected CSV in {path.name}; line {rows.line_num} cannot be read: {error}.") from error
    by_column = zip(*cells, strict=True) if cells else [()] * len(header)
    columns = {name: _text_cells(column) for name, column in zip(header, by_column, strict=True)}
    names = {";": "semicolons", "\t": "tabs", "|": "bars"}
    notes = (f"The columns are separated by {names[separator]}.",) if separator in names else ()
    return Table(path.name, columns, notes)


def _rectangle(name: str, rows: Any) -> tuple[list[str], list[list[str]]]:
    """Header and rows, all as wide as the header; blank lines are skipped."""
    header: list[str] | None = None
    cells = []
    for row in rows:
        if not row:
            continue
        if header is None:
            header = _header(name, row)
        elif len(row) != len(header):
            raise ValueError(
                f"Expected {len(header)} cells in every row of {name}, as in its header; got {len(row)} in line "
                f"{rows.line_num}. Quote cells that hold the separator."
            )
        else:
            cells.append(row)
    return header or [], cells


def _header(name: str, row: list[str]) -> list[str]:
    header = [cell.strip() for cell in row]
    if "" in header:
        place = header.index("") + 1
        # What pandas and R write as the row's number.
        if place > 1 or "unnamed_1" in header:
            raise ValueError(f"Expected a name for every column of {name}; column {place} has none.")
        header[0] = "unnamed_1"
    twice = next((column for column in header if header.count(column) > 1), None)
    if twice is not None:
        raise ValueError(f"Expected different names for the columns of {name}; got {twice!r} twice. Rename one.")
    return header


def _decoded(path: Path) -> str:
    """The text of a file, unpacked as its ending says."""
    try:
        content = _unpacked(path)
    except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile) as error:
        raise ValueError(
            f"Expected a whole {path.suffix} file; {path.name} is truncated or damaged ({error})."
        ) from error
    if b"\x00" in content[:4096] and content[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"Expected text in {path.name}; got binary data. Is it a CSV file?")
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"Expected {path.name} in UTF-8; line {line} is not. Save it again in UTF-8 (iconv -f latin1 -t utf-8)."
        ) from error


def _unpacked(path: Path) -> bytes:
    ending, content = path.suffix.lower(), path.read_bytes()
    unpack = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}.get(ending)
    if unpack is not None:
        try:
            return unpack(content)
        except (OSError, ValueError) as error:
            raise EOFError(str(error)) from error
    if ending != ".zip":
        return content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [name for name in archive.namelist() if not name.endswith("/")]
        if len(members) != 1:
            raise ValueError(f"Expected one file in {path.name}; got {len(members)}. Unpack it and name one.")
        return archive.read(members[0])


def _text_cells(cells: tuple[str, ...]) -> np.ndarray:
    column = np.empty(len(cells), object)
    column[:] = [None if (text := cell.strip()) in MISSING else text for cell in cells]
    return column


def _read_parquet(path: Path) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ImportError(
            f"Expected pyarrow, to read {path.name}; it is not installed: pip install 'jaxmap[parquet]'."
        ) from error
    try:
        arrow = parquet.ParquetFile(path).read()
    except ArrowException as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"Expected a Parquet file in {path.name}; it cannot be read: {reason}") from error
    header = _header(path.name, list(arrow.column_names)) if arrow.num_columns else []
    if not header:
        raise ValueError(f"Expected columns in {path.name}; got none.")
    columns = [_arrow_cells(path.name, *pair) for pair in zip(header, arrow.columns, strict=True)]
    return Table(path.name, dict(zip(header, columns, strict=True)))


def _arrow_cells(file: str, name: str, column: Any) -> np.ndarray:
    """Numbers as float64, dates as datetime64[s], all else that has a text as text."""
    from pyarrow import types

    kind = column.type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return np.array([np.nan if value is None else float(value) for value in column.to_pylist()], np.float64)
    if types.is_date(kind) or types.is_timestamp(kind):
        return column.cast("timestamp[s]", safe=False).to_numpy().astype("datetime64[s]")
    if types.is_nested(kind) or types.is_binary(kind):
        raise ValueError(f"Expected numbers, texts or dates in column {name!r} of {file}; got {kind}. Drop it.")
    return _text_cells(tuple("" if value is None else str(value) for value in column.to_pylist()))
