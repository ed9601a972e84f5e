import numpy as np

from experiments import coin as experiment


def test_closed_forms(record):
    assert all(difference < 1e-12 for difference in record.differences().values())


def test_a_uniform_prior_changes_nothing_in_its_own_coordinates(record):
    uniform = [row for row in record.rows if row["prior"] == "Beta(1, 1)"]
    assert len(uniform) >= 2
    for row in uniform:
        assert abs(row["MAP"] - row["MLE"]) < 1e-8
        assert abs(row["MAP of log-odds"] - row["MLE"]) > 0.01


def test_no_heads(record):
    *interior, last = record.rows
    assert len(interior) == len(experiment.TINY["heads"])
    assert last["coin"] == "0 of 3"
    assert last["status of the MLE"] == "AT_BOUNDARY"
    np.testing.assert_allclose([last["MLE"], last["MAP"], last["MAP of log-odds"]], [0.0, 0.0, 0.2], atol=1e-10)
    assert {row["status of the MLE"] for row in interior} == {"CONVERGED"}
