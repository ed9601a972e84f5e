import re

import pytest

from experiments import map_becomes_mle as experiment


def test_closed_forms(record):
    assert all(difference < 1e-8 for difference in record.differences().values())


def test_slopes(record):
    gap, width = map(float, re.findall(r"(-\d\.\d+) \(", record.notes[0]))
    assert gap == pytest.approx(-1.0, abs=0.01)
    assert width == pytest.approx(-0.5, abs=0.005)
    assert record.rows[0]["n"] < experiment.Config.slopes_from
