import numpy as np

from experiments import evidence_chooses_the_prior as experiment


def test_both_prefer_the_middle(record):
    """Far too strong a prior is seen by the evidence and by held-out data; far too weak a one by the evidence."""
    evidence, held_out = record.column("log evidence"), record.column("held-out lppd")
    assert np.argmax(evidence) == 1
    assert np.argmin(held_out) == 0
    assert "the evidence chooses 0.3" in record.notes[0]


def test_every_point_is_certified(record):
    assert set(record.column("status")) == {"CONVERGED"}
    assert len(record.rows) == len(experiment.TINY["scales"])
