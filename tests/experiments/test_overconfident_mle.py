import numpy as np
import pytest

from experiments import overconfident_mle as experiment

pytestmark = pytest.mark.slow

GAUSSIAN = [name for name in experiment.METHODS if "Laplace" in name]


@pytest.fixture
def by(record):
    return {row["method"]: row for row in record.rows}


def slow_auroc(inside, outside):
    """Every pair, compared."""
    return np.mean([1.0 if b > a else 0.5 if b == a else 0.0 for a in inside for b in outside])


def test_every_method_has_its_row(record):
    assert record.column("method").tolist() == list(experiment.METHODS)
    numbers = [row[name] for row in record.rows for name in row if name != "method" and not name.endswith(" se")]
    assert np.all(np.isfinite(numbers))
    assert np.all(record.column("accuracy") > 0.9)


@pytest.mark.parametrize("name", experiment.SETS)
def test_areas_are_shares(record, name):
    area = record.column(f"AUROC {name}")
    assert np.all((area >= 0) & (area <= 1))


@pytest.mark.parametrize("shift", [-1.0, 0.0, 2.0])
def test_the_area_is_the_share_of_ordered_pairs(shift):
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(size=40).round(1), (shift + rng.normal(size=25)).round(1)
    assert len(np.intersect1d(inside, outside)) > 0
    np.testing.assert_allclose(experiment.auroc(inside, outside), slow_auroc(inside, outside), rtol=1e-12)


def test_a_point_grows_surer_along_rays(by):
    for name in ("MLE", "MAP"):
        assert by[name]["10 x"] > max(by[name]["1 x"], 0.98)
        assert by[name]["AUROC far"] < 0.5


@pytest.mark.parametrize("name", [*GAUSSIAN, "Ensemble"])
@pytest.mark.parametrize("where", ["rotated", "permuted", "noise", "10 x"])
def test_what_averages_is_less_sure_than_mle_off_the_data(by, name, where):
    assert by[name][where] < by["MLE"][where]


@pytest.mark.parametrize("name", GAUSSIAN)
def test_a_gaussian_is_held_back_far_out(by, name):
    assert by[name]["10 x"] < by["MAP"]["10 x"] - 0.02


def test_inputs_off_the_data_keep_their_pixels():
    x = np.random.default_rng(0).uniform(size=(3, 64))
    made = experiment.inputs(x, 0, experiment.Config())
    for name in ("rotated", "permuted"):
        assert not np.array_equal(made[name], x)
        np.testing.assert_array_equal(np.sort(made[name]), np.sort(x))
    np.testing.assert_array_equal(made["rotated"].reshape(3, 8, 8)[:, 7, 0], x.reshape(3, 8, 8)[:, 0, 0])
    np.testing.assert_array_equal(made["10 x"], 10 * x)


def test_errors_are_those_of_the_mean():
    found = experiment.averaged([{"a": 1.0}, {"a": 2.0}, {"a": 6.0}])
    assert found["a"] == pytest.approx(3.0)
    assert found["a se"] == pytest.approx(np.sqrt(7.0 / 3))
