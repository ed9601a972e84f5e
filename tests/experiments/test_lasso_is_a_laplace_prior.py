from experiments import lasso_is_a_laplace_prior as experiment


def test_equals_scikit_learn(record):
    assert len(record.rows) == len(experiment.TINY["alphas"]) + len(experiment.TINY["strengths"])
    assert record.column("largest difference").max() < 1e-6
    assert record.differences()["not zero"] == 0


def test_there_are_more_columns_than_people(record):
    assert record.rows[-1]["coefficients"] > experiment.TINY["people"]


def test_zeros_are_exact(record):
    for row in record.rows:
        assert row["same zeros"]
        assert 0 < row["not zero"] < row["coefficients"]
        assert row["largest"] > 0.05
