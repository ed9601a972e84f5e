import numpy as np
import pytest

from experiments import bnn_regression as experiment

pytestmark = pytest.mark.slow


def test_every_method_has_its_row(record):
    assert record.column("method").tolist() == list(experiment.TINY["methods"])
    assert np.all(np.isfinite(record.column("lppd")))
    assert np.all(record.column("CPU s") > 0)


def test_chains_are_compared_in_function_space(record):
    rhat = dict(zip(record.column("method"), record.column("R-hat"), strict=True))
    assert rhat["MCLMC"] > 0.9
    assert np.isnan(rhat["MAP"])
