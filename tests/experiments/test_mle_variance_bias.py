import numpy as np

from experiments import mle_variance_bias as experiment


def test_closed_forms(record):
    np.testing.assert_allclose(record.column("MLE, exact").round(3), [0.5, 0.8, 0.9, 0.967, 0.99])
    np.testing.assert_allclose(record.column("MAP, exact").round(3), [0.833, 0.889, 0.929, 0.971, 0.99])


def test_means_over_few_data_sets(record):
    n, sets = record.column("n"), experiment.TINY["sets"]
    error = np.sqrt(2 * (n - 1) / sets) / n  # of a mean over independent data sets; these points do better
    assert np.all(np.abs(record.column("MLE") - record.column("MLE, exact")) < 2 * error)
    assert np.all(np.abs(record.column("MAP") - record.column("MAP, exact")) < 2 * error)
    assert np.all(record.column("MLE") < record.column("MAP"))
    assert np.all(record.column("MSE of MAP") < record.column("MSE of MLE"))


def test_each_fit_is_its_own_sum_of_squares(record):
    assert float(record.notes[0].split()[-1].rstrip(".")) < 1e-10
