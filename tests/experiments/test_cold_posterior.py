import numpy as np
import pytest

from experiments import cold_posterior as experiment

pytestmark = pytest.mark.slow


def test_every_temperature_has_its_row(record):
    assert sorted(zip(record.column("annotators"), record.column("T"), strict=True)) == [
        (1, 0.25),
        (1, 1.0),
        (4, 0.25),
        (4, 1.0),
    ]
    assert np.all(record.column("from T = 1")[record.column("T") == 1.0] == 0.0)
    assert np.all(np.abs(record.column("warmth") - 1) < 0.3)


def logits(x):
    return np.stack([np.zeros(len(x)), np.full(len(x), np.log(3.0))], axis=1)


@pytest.mark.parametrize(("annotators", "share"), [(1, 3 / 4), (2, 9 / 10), (3, 27 / 28)])
def test_agreement_sharpens_the_labels(annotators, share):
    """With p = 3/4, k annotators who agree say it with probability p^k / (p^k + (1 - p)^k)."""
    x, y = experiment.labelled(np.random.default_rng(0), logits, 4000, annotators)
    assert x.shape == (4000, 2)
    assert y.dtype == np.int32
    assert np.mean(y) == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 4000))
