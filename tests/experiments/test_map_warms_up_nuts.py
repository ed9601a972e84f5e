import numpy as np
import pytest

from experiments import map_warms_up_nuts as experiment

pytestmark = pytest.mark.slow


def test_every_sampler_is_measured(record):
    assert record.column("case").tolist() == ["kidiq"]
    for who in experiment.SAMPLERS:
        assert np.all(record.column(who) > 0)


def test_the_start_pays(record):
    assert record.column("over default")[0] > 3
    assert record.column("over better")[0] == record.column("ours")[0] / max(
        record.column("default")[0], record.column("dense")[0]
    )
