"""Summaries: pairs over splits, seeds and points, cells without predictions, and the sentences made of them."""

import numpy as np
import pytest

import jaxmap as jm
from jaxmap.assess import Record
from jaxmap.report import comparison_markdown, verdict_lines

RNG = np.random.default_rng(1)


def record(split, seed, method, log_prob=None, gradients=100.0, status="CONVERGED", **more):
    info = {"status": status, "method": method, "num_gradients": gradients, "seconds": 1.0, "notes": []} | more
    if log_prob is None:
        return Record(split, seed, method, {}, {}, {"status": status, "notes": ["lost"]}, {})
    log_prob = np.asarray(log_prob, float)
    scores = {"lppd": float(log_prob.mean()), "coverage90": 0.88}
    return Record(split, seed, method, {}, scores, info, {"log_prob": log_prob})


def table(*records, reference=None):
    return jm.Comparison(tuple(records), reference, {"splits": 1, "seeds": 1})


def rows(comparison):
    return {row["method"]: row for row in comparison.summary()}


def test_one_split_is_paired_over_its_test_points():
    a, b = RNG.normal(size=50), RNG.normal(size=50)
    found = rows(table(record(0, 0, "MAP", a), record(0, 0, "NUTS", b), reference="NUTS"))["MAP"]
    assert found["lppd_diff"] == pytest.approx(np.mean(a - b))
    assert found["lppd_diff_se"] == pytest.approx(np.std(a - b, ddof=1) / np.sqrt(50))
    assert found["lppd_diff_over"] == "50 test points"
    assert "lppd_se" not in found


def test_seeds_of_one_split_are_averaged_point_by_point():
    a, b = RNG.normal(size=(3, 50)), RNG.normal(size=(3, 50))
    cells = [record(0, s, name, v[s]) for s in range(3) for name, v in (("MAP", a), ("NUTS", b))]
    found = rows(table(*cells, reference="NUTS"))["MAP"]
    each = (a - b).mean(0)
    assert found["lppd_diff_se"] == pytest.approx(each.std(ddof=1) / np.sqrt(50))
    assert found["lppd_se"] == pytest.approx(a.mean(1).std(ddof=1) / np.sqrt(3))


def test_several_splits_are_paired_over_splits_with_their_seeds_averaged():
    a, b = RNG.normal(size=(4, 2, 9)), RNG.normal(size=(4, 2, 9))
    cells = [record(i, s, name, v[i, s]) for i in range(4) for s in range(2) for name, v in (("MAP", a), ("NUTS", b))]
    found = rows(table(*cells, reference="NUTS"))["MAP"]
    each = (a - b).mean((1, 2))
    assert found["lppd_diff"] == pytest.approx(each.mean())
    assert found["lppd_diff_se"] == pytest.approx(each.std(ddof=1) / 2)
    assert found["lppd_diff_over"] == "4 splits"
    assert found["lppd_se"] == pytest.approx(a.mean((1, 2)).std(ddof=1) / 2)


def test_a_cell_without_predictions_is_counted_and_pairs_are_those_that_both_have():
    a, b = RNG.normal(size=(3, 9)), RNG.normal(size=(3, 9))
    cells = [
        *(record(0, 0, "MAP", None, status="DIVERGED"), record(0, 0, "NUTS", b[0])),
        *(record(i, 0, name, v[i]) for i in (1, 2) for name, v in (("MAP", a), ("NUTS", b))),
    ]
    comparison = table(*cells, reference="NUTS")
    found = rows(comparison)["MAP"]
    assert (found["cells"], found["scored"]) == (3, 2)
    assert found["lppd"] == pytest.approx(a[1:].mean())
    assert found["lppd_diff"] == pytest.approx((a - b)[1:].mean())
    assert found["lppd_diff_over"] == "2 splits"
    assert rows(comparison)["NUTS"]["lppd"] == pytest.approx(b.mean())
    assert "over 2 of 3 runs" in found["sentence"]
    assert "DIVERGED / CONVERGED" in found["status"]


def test_a_score_that_is_no_number_stays_one():
    bad = RNG.normal(size=9)
    bad[2] = np.nan
    cells = [record(0, 0, "MAP", bad), record(1, 0, "MAP", RNG.normal(size=9))]
    assert np.isnan(rows(table(*cells))["MAP"]["lppd"])


def test_methods_that_share_no_run_have_no_difference():
    cells = [record(0, 0, "MAP", RNG.normal(size=9)), record(1, 0, "NUTS", RNG.normal(size=9))]
    comparison = table(*cells, reference="NUTS")
    assert comparison.difference("MAP", "NUTS") is None
    assert "lppd_diff" not in rows(comparison)["MAP"]
    assert "shares no run with MAP" in rows(comparison)["NUTS"]["sentence"]


BASE = RNG.normal(size=400)


@pytest.mark.parametrize(
    ("gain", "gradients", "told"),
    [
        (0.3, 120.0, "costs 1.2 times the gradients of MAP and buys +0.3"),
        (-0.3, 5000.0, "costs 50 times the gradients of MAP and loses: -0.3"),
        (0.001, 7.0, "costs 0.07 times the gradients of MAP and buys nothing beyond noise: +0.0"),
        (None, 100.0, "costs 1.0 times the gradients of MAP and buys nothing: +0.000"),
    ],
)
def test_a_sentence_says_what_a_method_costs_and_buys(gain, gradients, told):
    noise = 0.0 if gain is None else 0.5 * (np.arange(400) % 2 - 0.5)
    other = record(0, 0, "Laplace", BASE + (gain or 0.0) + noise, gradients)
    comparison = table(record(0, 0, "first", BASE), record(0, 0, "MAP", BASE), other)
    sentence = rows(comparison)["Laplace"]["sentence"]
    assert told in sentence
    assert "400 test points of one split" in sentence
    assert "its 90 % interval holds 88%" in sentence
    assert sentence in verdict_lines(comparison)
    assert sentence in comparison_markdown(comparison)
    assert rows(comparison)["MAP"]["sentence"].startswith("MAP costs 100 gradients and has")


def test_costs_are_counted_against_the_first_row_where_there_is_no_map():
    comparison = table(record(0, 0, "A", BASE), record(0, 0, "B", BASE + 1.0, 300.0))
    assert "times the gradients of A" in rows(comparison)["B"]["sentence"]


def test_a_row_without_predictions_says_so():
    comparison = table(record(0, 0, "MAP", BASE), record(0, 0, "NUTS", None, status="DIVERGED"))
    assert rows(comparison)["NUTS"]["sentence"] == "NUTS has no predictions: diverged."
