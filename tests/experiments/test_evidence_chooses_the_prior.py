import numpy as np
import pytest

from experiments import evidence_chooses_the_prior as experiment

pytestmark = pytest.mark.slow


def test_evidence_is_highest_between_too_strong_and_too_weak_a_prior(record):
    evidence = record.column("log evidence")
    assert np.argmax(evidence) == 1
    assert evidence[1] > evidence[0] + 5
    assert evidence[1] > evidence[2] + 5


def test_held_out_data_refuse_the_strong_prior_alone(record):
    """The evidence pays for every weak prior, log tau per coefficient; prediction from 60 examples hardly does."""
    lppd = record.column("held-out lppd")
    assert np.all(lppd[1:] > lppd[0] + 0.1)
    assert abs(lppd[1] - lppd[2]) < 0.1


def test_the_spread_of_the_posterior_helps_prediction(record):
    gain = record.column("held-out lppd") - record.column("of the MAP")
    assert gain[0] == np.clip(gain[0], -0.01, 0.01)
    assert gain[2] > 0.01


def test_every_mode_is_one(record):
    assert set(record.column("status")) == {"CONVERGED"}
    assert len(record.rows) == len(experiment.TINY["scales"])
