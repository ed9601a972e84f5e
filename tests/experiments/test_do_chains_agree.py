import jax
import numpy as np
import pytest

from experiments import do_chains_agree as experiment
from jaxmap.statistics import rhat

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
DRAWS = {name: RNG.normal(size=(4, 50, 5)) + 3 * RNG.normal(size=(4, 1, 5)) for name in ("kernel", "bias", "out")}


def test_every_part_has_its_row(record):
    assert record.column("draws").tolist() == [20, 60]
    assert np.all(record.column("outputs") <= record.column("outputs, worst"))
    assert np.all(np.isfinite(record.column("lppd of all")))


def test_copies_say_the_same_and_are_other_weights():
    copies = experiment.copied(DRAWS, np.random.default_rng(1))
    apply, x = experiment.network(5)[1], np.linspace(-2, 2, 7)[:, None]
    with jax.numpy_rank_promotion("allow"):
        ours, theirs = (experiment.outputs(apply, draws, x) for draws in (DRAWS, copies))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.mean(copies["out"] != DRAWS["out"]) > 0.5


def test_copies_of_one_draw_have_one_order():
    first, second = (experiment.ordered(experiment.copied(DRAWS, np.random.default_rng(s))) for s in (1, 2))
    for name in DRAWS:
        np.testing.assert_array_equal(first[name], second[name])
    assert np.all(first["out"] >= 0)
    assert np.all(np.diff(first["out"], axis=-1) >= 0)


def test_flat_holds_all_weights():
    assert experiment.flat(DRAWS).shape == (4, 50, 15)
    assert np.max(rhat(experiment.flat(DRAWS))) > 1.5


def test_lppd_is_the_log_of_a_mean():
    values, y = RNG.normal(size=(6, 3)), RNG.normal(size=3)
    density = np.exp(-0.5 * ((y - values) / 0.7) ** 2) / 0.7 / np.sqrt(2 * np.pi)
    assert experiment.lppd(values, y, 0.7) == pytest.approx(np.mean(np.log(density.mean(axis=0))))
