import numpy as np

from experiments import typical_set as experiment


def test_draws_lie_where_the_mode_is_not(record):
    d, draws = record.column("d"), experiment.TINY["draws"]
    depth = "log p(mode) - log p(draw)"
    np.testing.assert_array_equal(record.column(depth + ", exact"), d / 2)
    assert np.all(np.abs(record.column(depth) - d / 2) < 4 * np.sqrt(d / 2 / draws))
    assert np.all(np.abs(record.column("radius") - record.column("radius, exact")) < 4 * 0.71 / np.sqrt(draws))
    assert np.all(np.abs(record.column("deviation") - record.column("deviation, exact")) < 4 * 0.5 / np.sqrt(draws))
    assert record.column("radius of the mode").max() < 1e-4


def test_large_dimensions(record):
    last = record.rows[-1]
    assert abs(last["radius"] - last["sqrt(d)"]) < 0.05
    assert abs(last["deviation"] - 0.71) < 0.05
