import numpy as np

from experiments import parametrisation as experiment


def test_the_mode_moves_and_the_mle_does_not(record):
    assert list(record.column("coordinate")) == list(experiment.TO_VARIANCE)
    np.testing.assert_allclose(record.column("MAP variance"), [1 / 2, 4 / 7, 2 / 3, 1.0], rtol=1e-10)
    np.testing.assert_allclose(record.column("MLE variance"), 0.75, rtol=1e-10)
    assert all(difference < 1e-10 for difference in record.differences().values())
