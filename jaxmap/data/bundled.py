"""Real data sets that need no download.

`concrete` and `ames` lie in the package (their licence stands beside them in `files/LICENCES.md`);
`digits`, `breast_cancer`, `diabetes` and `wine` are those of scikit-learn and need the extra `experiments`.
Nothing is scaled: columns come in their own units.
"""

import csv
import gzip
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

Task = Literal["regression", "classification"]


@dataclass(frozen=True)
class DatasetInfo:
    """Say what a bundled data set is, without reading it.

    Attributes:
        name: what `load_dataset` takes.
        rows: number of examples.
        columns: number of input columns after one-hot coding.
        task: "regression" or "classification".
        target: name of the target.
        unit: unit of the target, empty where it has none.
        source: where the data come from.
        licence: terms they are under.
        extra: the extra of jaxmap that brings the data, empty where the package itself does.
    """

    name: str
    rows: int
    columns: int
    task: Task
    target: str
    unit: str
    source: str
    licence: str
    extra: str = ""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Hold one data set in its own units.

    Attributes:
        name: what `load_dataset` was given.
        x: inputs, shape (n, d).
        y: targets, shape (n,): numbers for a regression, class indices for a classification.
        columns: names of the d inputs; a level of a text column is named `Column=level`.
        target: name of the target.
        unit: unit of the target, empty where it has none.
        task: "regression" or "classification".
        classes: names of the classes in the order of their indices, empty for a regression.
        source: where the data come from.
        licence: terms they are under.
    """

    name: str
    x: Float64[np.ndarray, "n d"]
    y: Float64[np.ndarray, " n"] | Int64[np.ndarray, " n"]
    columns: tuple[str, ...]
    target: str
    unit: str
    task: Task
    classes: tuple[str, ...]
    source: str
    licence: str


_UCI_BY_SKLEARN = "UCI Machine Learning Repository, as shipped by scikit-learn"

_CATALOGUE = (
    DatasetInfo(
        name="concrete",
        rows=1030,
        columns=8,
        task="regression",
        target="compressive_strength",
        unit="MPa",
        source="Yeh (1998), from the R package modeldata",
        licence="MIT",
    ),
    DatasetInfo(
        name="ames",
        rows=2930,
        columns=314,
        task="regression",
        target="Sale_Price",
        unit="US dollars",
        source="De Cock (2011), from the R package modeldata",
        licence="MIT",
    ),
    DatasetInfo(
        name="digits",
        rows=1797,
        columns=64,
        task="classification",
        target="digit",
        unit="",
        source=_UCI_BY_SKLEARN,
        licence="CC BY 4.0",
        extra="experiments",
    ),
    DatasetInfo(
        name="breast_cancer",
        rows=569,
        columns=30,
        task="classification",
        target="diagnosis",
        unit="",
        source=_UCI_BY_SKLEARN,
        licence="CC BY 4.0",
        extra="experiments",
    ),
    DatasetInfo(
        name="diabetes",
        rows=442,
        columns=10,
        task="regression",
        target="progression",
        unit="",
        source="Efron, Hastie, Johnstone and Tibshirani (2004), as shipped by scikit-learn",
        licence="BSD-3-Clause",
        extra="experiments",
    ),
    DatasetInfo(
        name="wine",
        rows=178,
        columns=13,
        task="classification",
        target="cultivar",
        unit="",
        source=_UCI_BY_SKLEARN,
        licence="CC BY 4.0",
        extra="experiments",
    ),
)


def datasets() -> tuple[DatasetInfo, ...]:
    """List the bundled data sets; reads none of them and needs no extra."""
    return _CATALOGUE


def load_dataset(name: str) -> Dataset:
    """Read a bundled data set.

    Text columns become one 0/1 column per level, in alphabetical order, none left out; columns that are
    constant over all rows are dropped. The rows stand in the order of the source, and every call makes new
    arrays.

    Args:
        name: one of the names that `datasets()` lists.

    Returns:
        dataset: inputs and targets in their own units, with names and terms of use.

    Raises:
        ValueError: no data set has this name.
        ImportError: the data set needs scikit-learn, which is not installed.
    """
    info = next((info for info in _CATALOGUE if info.name == name), None)
    if info is None:
        known = ", ".join(info.name for info in _CATALOGUE)
        raise ValueError(f"Expected the name of a bundled data set; got {name!r}. Choose one of: {known}.")
    read = _read_sklearn if info.extra else _read_table
    x, y, columns, classes = read(info)
    return Dataset(
        name=info.name,
        x=x,
        y=y,
        columns=columns,
        target=info.target,
        unit=info.unit,
        task=info.task,
        classes=classes,
        source=info.source,
        licence=info.licence,
    )


def _read_table(info: DatasetInfo) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Read a regression table from `files/`: inputs, targets, column names and no classes."""
    packed = resources.files("jaxmap.data").joinpath("files", f"{info.name}.csv.gz").read_bytes()
    header, *rows = csv.reader(io.StringIO(gzip.decompress(packed).decode("utf-8"), newline=""))
    table = dict(zip(header, zip(*rows, strict=True), strict=True))
    y = np.array(table.pop(info.target), dtype=np.float64)
    x, columns = _encode(table)
    return x, y, columns, ()


def _encode(table: Mapping[str, Sequence[str]]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Turn columns of cells into one matrix and the names of its columns; constant ones are dropped."""
    coded = {name: values for column, cells in table.items() for name, values in _code(column, cells)}
    kept = {name: values for name, values in coded.items() if np.ptp(values) > 0}
    return np.column_stack(list(kept.values())), tuple(kept)


def _code(column: str, cells: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Turn the cells of one column into numbers: as they are, or one 0/1 column per level of a text."""
    try:
        return [(column, np.array(cells, dtype=np.float64))]
    except ValueError:
        levels = np.char.strip(np.array(cells))
        return [(f"{column}={level}", (levels == level).astype(np.float64)) for level in np.unique(levels).tolist()]


def _read_sklearn(info: DatasetInfo) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Read a data set of scikit-learn: inputs, targets, column names and class names."""
    try:
        from sklearn import datasets as shelf
    except ImportError as error:
        raise ImportError(
            f"Expected scikit-learn to be installed; got none. "
            f"The data set {info.name!r} needs scikit-learn: pip install 'jaxmap[{info.extra}]'."
        ) from error
    load = getattr(shelf, f"load_{info.name}")
    # Diabetes alone comes scaled unless told otherwise.
    bunch = load(scaled=False) if info.name == "diabetes" else load()
    classes = tuple(str(label) for label in bunch.get("target_names", ()))
    y = np.asarray(bunch["target"], dtype=np.int64 if classes else np.float64)
    columns = tuple(str(column) for column in bunch["feature_names"])
    return np.asarray(bunch["data"], dtype=np.float64), y, columns, classes
