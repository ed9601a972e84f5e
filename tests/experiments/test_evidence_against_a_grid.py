import numpy as np
import pytest

from experiments import evidence_against_a_grid as experiment

pytestmark = pytest.mark.slow


def test_every_choice_has_its_row(record):
    assert len(record.rows) == 4 * experiment.TINY["splits"]
    assert np.all(np.isfinite(record.column("test lppd")))


def test_the_grid_pays_for_each_of_its_scales(record):
    assert np.all(record.column("gradients") > 0)
    chosen = [row["scales"] for row in record.rows if row["chosen by"] == "grid"]
    assert [float(scale) for scale in chosen] <= [5.0]
