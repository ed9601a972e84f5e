"""Columns as numbers: learned on training rows, applied to others."""

import json

import numpy as np
import pytest

from jaxmap.data import Coding, Table, learn_coding

pytestmark = pytest.mark.usefixtures("unchecked")


def table(**columns):
    made = {}
    for name, cells in columns.items():
        made[name] = np.empty(len(cells), object)
        made[name][:] = [None if cell is None else str(cell) for cell in cells]
    return Table("t.csv", made)


def learn(frame, train=None, **options):
    train = np.arange(frame.rows) if train is None else np.asarray(train)
    return learn_coding(frame, train, "y", **options)


def kinds(coding):
    return {column.name: column.kind for column in coding.columns}


Y = [1.5, 2.5, 0.5, 4.0, 3.0, 2.0]


def test_numbers_are_standardised_on_the_training_rows():
    frame = table(x=[1, 2, 3, 40, 5, 6], y=Y)
    coding = learn(frame, [0, 1, 2])
    expected = (np.array([1, 2, 3, 40, 5, 6]) - 2) / np.std([1, 2, 3])
    np.testing.assert_allclose(coding.encode(frame).x[:, 0], expected)
    assert coding.names == ("x",)


def test_every_level_of_the_training_rows_has_a_column():
    frame = table(c=["b", "a", "b", "new", "a", "<script>alert(1)</script>"], y=Y)
    coding = learn(frame, [0, 1, 2])
    encoded = coding.encode(frame)
    assert coding.names == ("c=a", "c=b")
    raw = encoded.x + np.array([1, 2]) / 3
    np.testing.assert_allclose(raw, [[0, 1], [1, 0], [0, 1], [0, 0], [1, 0], [0, 0]], atol=1e-12)
    assert "2 rows have levels of c" in encoded.notes[0]


def test_dates_become_days():
    frame = table(d=["2024-01-01", "2024-01-03", "2024-01-05T12:00", "2024-02-01", "2024-03-01", "2024-04-01"], y=Y)
    coding = learn(frame)
    x = coding.encode(frame).x[:, 0]
    assert kinds(coding)["d"] == "date"
    np.testing.assert_allclose((x[2] - x[0]) / (x[1] - x[0]), 4.5 / 2)
    with pytest.raises(ValueError, match="row 2"):
        coding.encode(table(d=["2024-01-01", "2024-13-01"]))


def test_what_says_nothing_is_dropped_with_a_reason():
    frame = table(
        row=range(1, 31),
        customer_id=[7 * i % 31 for i in range(30)],
        year=range(1990, 2020),
        constant=["k"] * 30,
        empty=[None] * 30,
        name=[f"n{i}" for i in range(30)],
        x=[i % 4 for i in range(30)],
        y=range(30),
    )
    found = {column.name: column.reason for column in learn(frame).columns if column.kind == "dropped"}
    assert set(found) == {"row", "customer_id", "constant", "empty", "name"}
    assert found["row"] == "it numbers the rows"
    assert found["constant"] == "constant in the training rows"
    assert found["empty"] == "all its cells are missing"


def test_numbers_can_be_names():
    frame = table(code=[1, 2, 1, 3, 2, 1], y=Y)
    assert learn(frame, categories=["code"]).names == ("code=1", "code=2", "code=3")
    with pytest.raises(ValueError, match="got 'cade'"):
        learn(frame, categories=["cade"])


def test_a_level_of_another_file_is_the_same_text():
    coding = learn(table(code=[1, 2, 1, 3, 2, 1], y=Y), categories=["code"])
    numbers = Table("t.parquet", {"code": np.array([3.0, 1.0])})
    assert not coding.encode(numbers).notes


def test_missing_cells_are_filled_from_the_training_rows_and_marked():
    frame = table(x=[1, 2, 30, None, 5, None], c=["a", "b", "a", None, "b", "b"], y=Y)
    coding = learn(frame, [0, 1, 2, 3], impute=True)
    assert coding.names == ("x", "x is missing", "c=a", "c=b", "c is missing")
    x = coding.encode(frame).x
    assert x[3, 0] == x[1, 0]  # the median of 1, 2, 30
    assert (x[3, 2] > 0) > (x[3, 3] > 0)  # a, the most frequent
    assert x[3, 1] > x[0, 1]
    np.testing.assert_allclose(x[5, :2], x[3, :2])
    with pytest.raises(ValueError, match="no missing cells in column 'x'"):
        learn(frame, [0, 1, 2]).encode(frame)


def test_skewed_columns_are_taken_on_a_log_scale():
    values = np.exp(np.linspace(0, 8, 40))
    frame = table(x=values, s=np.arange(40) % 9 - 4, y=range(40))
    coding = learn(frame)
    assert [column.log for column in coding.kept] == [True, False]
    logs = np.log1p(values)
    np.testing.assert_allclose(coding.encode(frame).x[:, 0], (logs - logs.mean()) / logs.std())
    assert coding.encode(frame).notes == ()
    below = coding.encode(table(x=[-5, 5], s=[1, -1]))
    np.testing.assert_allclose(below.x[:, 0], (np.log1p(5) * np.array([-1, 1]) - logs.mean()) / logs.std())
    assert below.notes == ("1 cells of x are negative, as none was in training: they become -log(1 + |x|).",)


def test_absent_and_extra_columns():
    coding = learn(table(x=[1, 2, 3, 4, 5, 7], z=[1, 0, 1, 1, 0, 0], y=Y))
    with pytest.raises(ValueError, match="got no 'z'"):
        coding.encode(table(x=[1]))
    assert coding.encode(table(more=[1], x=[1], z=[0], y=["?"])).notes == (
        "Ignored, as the model does not know them: more.",
    )
    with pytest.raises(ValueError, match="got 'one' in row 1"):
        coding.encode(table(x=["one"], z=[0]))


def test_a_coding_goes_through_json():
    frame = table(x=[1, None, 3, 4, 5, 7], c=["a", "b", "a", "c", "b", "b"], y=Y)
    coding = learn(frame, impute=True)
    again = Coding.from_plain(json.loads(json.dumps(coding.plain())))
    assert again == coding
    np.testing.assert_array_equal(again.encode(frame).x, coding.encode(frame).x)


def test_a_stray_cell_in_a_column_of_numbers_is_refused_and_not_the_column_left_out():
    frame = table(x=[*range(40), "n/a?"], z=[k % 7 for k in range(41)], y=[k % 5 for k in range(41)])
    with pytest.raises(ValueError, match=r"Expected numbers in column 'x', as in 40 of its 41 .*got 'n/a\?' in row 41"):
        learn(frame)
    with pytest.raises(ValueError, match=r"got 'n/a\?' in row 41"):
        learn(frame, train=range(40))  # also where it is none of the training rows
    assert kinds(learn(frame, drop=("x",)))["x"] == "dropped"
