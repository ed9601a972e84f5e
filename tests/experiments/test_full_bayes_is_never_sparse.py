import numpy as np
import pytest

from experiments import full_bayes_is_never_sparse as experiment

pytestmark = pytest.mark.slow


def test_the_mode_is_sparse(record):
    np.testing.assert_allclose(record.column("MAP"), [2.6, 0.6, 0.1, 0.0, 0.0], atol=1e-8)
    assert list(record.column("MAP")[3:]) == [0.0, 0.0]


def test_the_mean_is_not(record):
    np.testing.assert_allclose(record.column("mean, exact"), [2.603, 0.759, 0.370, 0.147, -0.073], atol=5e-4)
    effective = float(record.notes[0].split()[-1].rstrip("."))
    assert effective > 400
    assert np.all(np.abs(record.column("mean") - record.column("mean, exact")) < 4 / np.sqrt(effective))
    assert record.column("draws at zero").max() == 0
    assert len(record.rows) == len(experiment.Config.z)
