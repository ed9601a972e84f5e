import numpy as np

from experiments import wrong_prior as experiment


def test_closed_forms(record):
    np.testing.assert_allclose(record.column("MSE of MAP, exact"), [16.04, 2.0918, 0.046228], rtol=1e-4)
    np.testing.assert_allclose(record.column("MSE of MLE, exact"), [1.0, 0.1, 0.01])


def test_means_over_few_data_sets(record):
    n, sets = record.column("n"), experiment.TINY["sets"]
    truth, pull, noise = record.column("MSE of MAP, exact"), 20 / (n + 4), np.sqrt(n) / (n + 4)
    error = np.sqrt(2 * noise**4 + 4 * pull**2 * noise**2) / np.sqrt(sets)
    assert np.all(np.abs(record.column("MSE of MAP") - truth) < 3 * error)
    assert np.all(np.abs(record.column("MSE of MLE") - 1 / n) < 3 * np.sqrt(2 / sets) / n)


def test_each_fit_is_a_weighted_mean(record):
    assert float(record.notes[0].split()[-1].rstrip(".")) < 1e-9
