"""Bundled data sets: they are what they say they are, and equal their references."""

import csv
import gzip
import sys
import urllib.request

import numpy as np
import pytest

from jaxmap.data.bundled import _encode, datasets, load_dataset

NAMES = [info.name for info in datasets()]


def load(name):
    """Load a data set, or skip where its extra is not installed."""
    if {info.name: info for info in datasets()}[name].extra:
        pytest.importorskip("sklearn")
    return load_dataset(name)


def rows_in_order(table):
    return table[np.lexsort(table.T[::-1])]


@pytest.mark.parametrize("info", datasets(), ids=NAMES)
def test_catalogue_tells_what_is_read(info):
    dataset = load(info.name)
    assert dataset.x.shape == (info.rows, info.columns)
    assert dataset.y.shape == (info.rows,)
    for field in ("name", "task", "target", "unit", "source", "licence"):
        assert getattr(dataset, field) == getattr(info, field)
    assert info.source
    assert info.licence


@pytest.mark.parametrize("name", NAMES)
def test_arrays_are_finite_named_and_vary(name):
    dataset = load(name)
    assert dataset.x.dtype == np.float64
    assert np.isfinite(dataset.x).all()
    assert np.isfinite(dataset.y).all()
    assert len(set(dataset.columns)) == dataset.x.shape[1]
    if dataset.task == "classification":
        assert dataset.y.dtype == np.int64
        assert sorted(set(dataset.y.tolist())) == list(range(len(dataset.classes)))
    else:
        assert dataset.y.dtype == np.float64
        assert dataset.classes == ()


@pytest.mark.parametrize("name", ["concrete", "ames", "diabetes"])
def test_every_call_reads_the_same_into_new_arrays(name):
    first, second = load(name), load(name)
    first.x[:] = 0.0
    third = load(name)
    np.testing.assert_array_equal(second.x, third.x)
    np.testing.assert_array_equal(second.y, third.y)
    assert second.columns == third.columns


def test_concrete_equals_the_uci_table_up_to_row_order(reference_data):
    with np.load(reference_data / "uci" / "concrete.npz") as reference:
        expected = np.column_stack([reference["X"], reference["y"]])
    dataset = load_dataset("concrete")
    ours = np.column_stack([dataset.x, dataset.y])
    np.testing.assert_array_equal(rows_in_order(ours), rows_in_order(expected))


def test_ames_equals_its_source_cell_by_cell(reference_data):
    with gzip.open(reference_data / "tabular" / "ames.csv.gz", "rt", newline="") as file:
        records = list(csv.DictReader(file))
    dataset = load_dataset("ames")
    place = {column: index for index, column in enumerate(dataset.columns)}
    for row in (0, 1, 1234, 2929):
        assert dataset.y[row] == float(records[row]["Sale_Price"])
        for column, cell in records[row].items():
            if column in place:
                assert dataset.x[row, place[column]] == float(cell)
            elif column != "Sale_Price":
                assert dataset.x[row, place[f"{column}={cell.strip()}"]] == 1.0


def test_ames_codes_text_as_one_column_per_level():
    dataset = load_dataset("ames")
    groups = {column.split("=")[0] for column in dataset.columns if "=" in column}
    assert len(groups) == 40
    assert len([column for column in dataset.columns if "=" not in column]) == 33
    for group in groups:
        members = [index for index, name in enumerate(dataset.columns) if name.startswith(f"{group}=")]
        assert len(members) > 1
        assert set(np.unique(dataset.x[:, members])) == {0.0, 1.0}
        np.testing.assert_array_equal(dataset.x[:, members].sum(axis=1), 1.0)
    assert {"Neighborhood=North_Ames", "Mas_Vnr_Type=None", "Sale_Type=WD"} <= set(dataset.columns)
    assert (dataset.y.min(), dataset.y.max()) == (12789.0, 755000.0)
    assert all(column == column.strip() for column in dataset.columns)


def test_encoding_keeps_numbers_splits_texts_and_drops_constants():
    table = {
        "area": ("2", "-1.5", "1e3"),
        "same_number": ("7", "7", "7"),
        "roof": ("tin", "None", "tin "),
        "same_text": ("a", "a", "a"),
        "mixed": ("1", "2", "none"),
    }
    x, columns = _encode(table)
    assert columns == ("area", "roof=None", "roof=tin", "mixed=1", "mixed=2", "mixed=none")
    np.testing.assert_array_equal(x, [[2, 0, 1, 1, 0, 0], [-1.5, 1, 0, 0, 1, 0], [1000, 0, 1, 0, 0, 1]])


def test_scikit_learn_data_come_in_their_own_units():
    diabetes = load("diabetes")
    assert diabetes.x[0, 0] == 59.0  # years, not standard deviations
    assert load("digits").x.max() == 16.0
    assert load("breast_cancer").classes == ("malignant", "benign")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["", "boston", "Concrete", None, ["concrete"]])
def test_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ValueError, match="Expected the name of a bundled data set; got") as caught:
        load_dataset(name)
    assert all(known in str(caught.value) for known in NAMES)


def test_missing_scikit_learn_is_said_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert len(datasets()) == len(NAMES)
    assert load_dataset("concrete").x.shape == (1030, 8)
    with pytest.raises(ImportError, match=r"'digits' needs scikit-learn: pip install 'jaxmap\[experiments\]'"):
        load_dataset("digits")


def test_nothing_is_downloaded(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a bundled data set asked for the network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    for name in NAMES:
        load(name)
