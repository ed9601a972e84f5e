from experiments import cross_entropy_is_a_categorical_likelihood as experiment


def test_the_likelihood_is_the_loss(record):
    assert len(record.rows) == len(experiment.FAMILIES)
    assert record.column("off").max() < 1e-6


def test_training_finds_the_mle(record):
    # Newton leaves 1e-13 nats per example, 1.4e-5 standard errors; the coefficients' are below 0.5.
    assert record.column("MLE - trained").max() < 7e-6
    assert record.differences()["mean log p"] < 1e-9
    assert record.column("largest coefficient").min() > 0.1
