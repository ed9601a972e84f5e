import json

import numpy as np
import pytest

from experiments import when_is_map_enough as experiment
from experiments.audit_cases import all_cases


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cases")


@pytest.fixture(scope="module")
def record(folder):
    return experiment.run(experiment.Config(**experiment.TINY, folder=str(folder)))


@pytest.mark.slow
def test_every_case_is_audited_and_sampled(record):
    assert [row["case"] for row in record.rows] == ["linear n=10 d=1 prior=1"] * 2
    for row in record.rows:
        assert row["truth"] == pytest.approx(max(abs(row["loss"]) / 0.01, abs(row["coverage gap"]) / 0.03))
        assert row["severity"] > 0
    assert record.rows[0]["loss"] != record.rows[1]["loss"]  # other data
    assert "tuned: 2 cases" in record.notes[0]


@pytest.mark.slow
def test_a_second_run_takes_up_what_is_there(record, folder):
    kept = sorted(folder.glob("*.json"))
    assert len(kept) == 2
    changed = json.loads(kept[0].read_text()) | {"severity": 123.0}
    kept[0].write_text(json.dumps(changed))
    again = experiment.run(experiment.Config(**experiment.TINY, folder=str(folder)))
    assert again.rows[0]["severity"] == 123.0


def test_auc_counts_pairs_in_the_right_order():
    severity, needs = np.array([1.0, 3.0, 2.0, 2.0]), np.array([False, True, False, True])
    assert experiment.auc(severity, needs) == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert np.isnan(experiment.auc(severity, np.zeros(4, bool)))


def test_cases_are_many_and_halves_are_alike():
    cases = all_cases("")
    assert len({case.name for case in cases}) == len(cases)
    assert {case.family for case in cases[::2]} == {case.family for case in cases[1::2]}
    assert 2 * len(cases) >= 60
    assert min(case.n for case in cases) == 10
    assert max(case.n for case in cases) == 10_000
    (x, y), (_, held) = cases[0].draw(0)
    assert len(x) == len(y) == 10
    assert len(held) == 4000
