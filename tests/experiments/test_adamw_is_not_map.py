import numpy as np

from experiments import adamw_is_not_map as experiment


def test_adam_arrives_at_the_map(record):
    for row in record.rows[:2]:
        np.testing.assert_allclose([row[name] for name in experiment.NAMES], [100 / 101, 0.5, 1 / 101], atol=1e-6)


def test_adamw_arrives_at_the_corner_of_a_box(record):
    decays = experiment.TINY["decays"]
    assert len(record.rows) == 2 + len(decays)
    for row, decay in zip(record.rows[2:], decays, strict=True):
        found = np.array([row[name] for name in experiment.NAMES])
        np.testing.assert_allclose(found, min(1.0, 1 / decay), atol=2e-3)
        assert row["distance to the MAP"] > 0.7


def test_jaxmap_refuses_it(record):
    assert "no Gaussian prior" in record.notes[0]
    assert "allow_decay=True" in record.notes[0]
