"""Tables from files: what is read, and what the reader says."""

import bz2
import gzip
import lzma
import zipfile

import numpy as np
import pytest

from jaxmap.data import read_table

pytestmark = pytest.mark.usefixtures("unchecked")

TEXT = "a,b\n1,x\n2,\n3,None\n"


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("ending", "pack"),
    [(".csv", bytes), (".csv.gz", gzip.compress), (".csv.bz2", bz2.compress), (".csv.xz", lzma.compress)],
)
def test_packed_files_read_alike(ending, pack, tmp_path):
    table = read_table(written(tmp_path / f"t{ending}", pack(TEXT.encode())))
    assert {name: cells.tolist() for name, cells in table.columns.items()} == {
        "a": ["1", "2", "3"],
        "b": ["x", None, "None"],
    }
    assert table.rows == 3


def test_a_zip_with_one_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("t.csv", TEXT)
    assert read_table(tmp_path / "t.zip").rows == 3
    with zipfile.ZipFile(tmp_path / "t.zip", "a") as archive:
        archive.writestr("u.csv", TEXT)
    with pytest.raises(ValueError, match=r"one file in t\.zip; got 2"):
        read_table(tmp_path / "t.zip")


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators_are_said(separator, tmp_path):
    table = read_table(written(tmp_path / "t.csv", TEXT.replace(",", separator)))
    assert list(table.columns) == ["a", "b"]
    assert "separated by" in table.notes[0]


def test_quotes_blank_lines_and_a_mark_of_utf8(tmp_path):
    text = '\ufeffa,"b, and c"\n\n1,"two\nlines"\n2,"say ""hi"""\n'
    table = read_table(written(tmp_path / "t.csv", text))
    assert list(table.columns) == ["a", "b, and c"]
    assert table.columns["b, and c"].tolist() == ["two\nlines", 'say "hi"']


def test_the_row_names_of_pandas_and_r(tmp_path):
    table = read_table(written(tmp_path / "t.csv", ",a\n0,5\n1,6\n"))
    assert list(table.columns) == ["unnamed_1", "a"]


def test_parquet_brings_its_types(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    day = np.array(["2024-01-01", "NaT"], "datetime64[s]")
    columns = {"n": [1, None], "f": [0.5, 1.5], "t": ["x", None], "d": day, "b": [True, False]}
    parquet.write_table(arrow.table(columns), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    np.testing.assert_array_equal(table.columns["n"], [1.0, np.nan])
    np.testing.assert_array_equal(table.columns["f"], [0.5, 1.5])
    assert table.columns["t"].tolist() == ["x", None]
    assert table.columns["b"].tolist() == ["True", "False"]
    np.testing.assert_array_equal(table.columns["d"], day)
    parquet.write_table(arrow.table({"l": [[1], [2]]}), tmp_path / "u.parquet")
    with pytest.raises(ValueError, match="numbers, texts or dates in column 'l'"):
        read_table(tmp_path / "u.parquet")
