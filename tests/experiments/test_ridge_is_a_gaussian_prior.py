from experiments import ridge_is_a_gaussian_prior as experiment


def test_equals_scikit_learn(record):
    assert len(record.rows) == len(experiment.TINY["scales"])
    for name in ("largest difference", "intercept difference"):
        assert record.column(name).max() < 1e-6
    assert all(difference < 1e-6 for difference in record.differences().values())


def test_a_narrow_prior_shrinks(record):
    narrow, wide = record.column("norm")
    assert narrow < 0.9 * wide
