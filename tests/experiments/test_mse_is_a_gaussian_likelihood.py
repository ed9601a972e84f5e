from experiments import mse_is_a_gaussian_likelihood as experiment


def test_the_likelihood_is_the_loss(record):
    assert len(record.rows) == len(experiment.TINY["noises"])
    assert record.column("off, squared_error").max() < 1e-6
    assert record.column("off, l2_loss").max() < 1e-6


def test_training_finds_the_mle(record):
    assert record.column("MLE - trained").max() < 1e-6
    assert record.differences()["mean log p"] < 1e-9
