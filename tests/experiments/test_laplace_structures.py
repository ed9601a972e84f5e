import numpy as np
import pytest

from experiments import laplace_structures as experiment

pytestmark = pytest.mark.slow


def test_every_structure_has_its_row(record):
    assert record.column("curvature").tolist() == ["MAP", *experiment.STRUCTURES]
    assert np.all(np.isfinite(record.column("lppd")))


def test_a_gaussian_is_less_sure_than_its_mode(record):
    sure = dict(zip(record.column("curvature"), record.column("top probability"), strict=True))
    assert all(sure[name] < sure["MAP"] for name in experiment.STRUCTURES)


def test_structures_save_memory(record):
    kept = dict(zip(record.column("curvature"), record.column("KiB"), strict=True))
    assert kept["diagonal"] < kept["kronecker"] < kept["full"]
    assert kept["last_layer"] < kept["full"]
    assert kept["MAP"] == 0
