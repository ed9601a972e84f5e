import pytest

from experiments import standard_splits as experiment

pytestmark = pytest.mark.slow


def test_scores_every_method(record):
    assert set(record.column("method")) >= set(experiment.TINY["methods"])
    assert all(row["rmse"] > 0 for row in record.rows if row["method"] != "ceiling")
    assert experiment.TINY["splits"] == 1
