"""compare(): rows, shared fits, resuming, refusals."""

import jax
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import jaxmap as jm
from jaxmap.assess.records import RecordFolder
from jaxmap.infer import problem as problem_module

pytestmark = pytest.mark.usefixtures("unchecked", "rank_promotion")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 2))
Y = X @ np.array([1.0, -2.0]) + 0.3 * RNG.normal(size=60)
SPLITS = [((X[:40], Y[:40]), (X[40:], Y[40:])), ((X[20:], Y[20:]), (X[:20], Y[:20]))]


def build(train):
    init = lambda key: {"w": 0.1 * jax.random.normal(key, (2,)), "b": np.float32(0.0)}
    network = (init, lambda params, x: x @ params["w"] + params["b"])
    scale = jm.Learned(dist.HalfNormal(1.0))
    return jm.supervised(
        network, jm.Gaussian(scale=scale), jm.Prior(dist.Normal(0.0, 1.0)), scaling=jm.standardize(train)
    )


METHODS = {
    "MAP": jm.MAP(space="unconstrained"),
    "Laplace": jm.Laplace(),
    "NUTS": jm.NUTS(
        start=jm.Laplace(), warmup=60, draws=60, chains=2
    ),  # a start that is in the table: no programs more
}


@pytest.fixture(scope="module")
def table():
    with jax.numpy_rank_promotion("allow"):
        return jm.compare(jax.random.key(1), build, SPLITS, METHODS, reference="NUTS")


def test_rows_hold_one_cell_each_and_a_ceiling(table):
    assert len(table.rows) == 2 * 3 + 2
    row = next(r for r in table.rows if r["method"] == "MAP")
    assert {"split", "seed", "method", "lppd", "rmse", "wasserstein1", "seconds", "num_gradients", "status"} <= set(row)
    kept = table.of(0, 0, "NUTS")
    assert {"draws/likelihood/scale", "draws/network/b", "trace/log joint"} <= kept.arrays.keys()
    assert kept.info["ended"].endswith("+00:00")
    ceiling = [r for r in table.rows if r["method"] == "ceiling"]
    assert all(0 < r["wasserstein1"] < 1 for r in ceiling)


def test_scores_are_those_of_the_three_verbs(table):
    (train, test), key = SPLITS[0], jax.random.key(1)
    record = table.of(0, 0, "MAP")
    model = build(train)
    run_key = jax.random.fold_in(jax.random.fold_in(problem_module.named_key(key, "compare"), 0), 0)
    problem = problem_module.Problem.of(model, train)
    from jaxmap.infer import fit_problem

    posterior = fit_problem(run_key, problem, METHODS["MAP"])
    scores = jm.score(jm.predict(run_key, model, posterior, test[0]), test[1])
    assert record.scores == pytest.approx(scores, rel=1e-5)


def test_summary_pairs_the_differences(table):
    rows = {row["method"]: row for row in table.summary()}
    lppd = {m: np.array([table.of(s, 0, m).scores["lppd"] for s in range(2)]) for m in METHODS}
    paired = lppd["MAP"] - lppd["NUTS"]
    assert rows["MAP"]["lppd_diff"] == pytest.approx(paired.mean())
    assert rows["MAP"]["lppd_diff_se"] == pytest.approx(paired.std(ddof=1) / np.sqrt(2))
    assert rows["MAP"]["lppd"] == pytest.approx(lppd["MAP"].mean())


def test_the_table_prints_every_method(table):
    text = str(table)
    for name in (*METHODS, "ceiling", "W1 to", "lppd"):
        assert name in text


def test_shared_fits_are_computed_once(monkeypatch):
    counted = []
    original = jm.MAP.run
    monkeypatch.setattr(jm.MAP, "run", lambda self, *args: counted.append(self) or original(self, *args))
    jm.compare(jax.random.key(1), build, SPLITS[0], {k: METHODS[k] for k in ("MAP", "Laplace")})
    assert len(counted) == 1


def test_a_folder_resumes(tmp_path, monkeypatch):
    methods = {"MAP": jm.MAP(), "Laplace": jm.Laplace()}
    first = jm.compare(jax.random.key(1), build, SPLITS[0], methods, folder=tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    monkeypatch.setattr(jm.MAP, "run", lambda *args: pytest.fail("computed again"))
    again = jm.compare(jax.random.key(1), build, SPLITS[0], methods, folder=tmp_path)
    assert [r.scores for r in again.records] == [r.scores for r in first.records]
    for a, b in zip(first.records, again.records, strict=True):
        for name in a.arrays:
            np.testing.assert_array_equal(a.arrays[name], b.arrays[name])
    assert str(again) == str(first)


@pytest.mark.parametrize("change", ["data", "model", "method", "key"])
def test_records_of_something_else_are_refused(tmp_path, change):
    methods = {"MAP": jm.MAP()}
    jm.compare(jax.random.key(1), build, SPLITS[0], methods, folder=tmp_path)
    (train, test), other, key = SPLITS[0], build, jax.random.key(1)
    if change == "data":
        train = (train[0], train[1] + 1.0)
    elif change == "method":
        methods = {"MAP": jm.MAP(restarts=2)}
    elif change == "key":
        key = jax.random.key(2)
    else:
        other = lambda train: jm.supervised(
            (lambda key: {"w": np.zeros(2, np.float32), "b": np.float32(0.0)}, lambda p, x: x @ p["w"] + p["b"]),
            jm.Gaussian(scale=0.7),
            jm.Prior(dist.Normal(0.0, 1.0)),
        )
    with pytest.raises(ValueError, match="to be of this comparison"):
        jm.compare(key, other, (train, test), methods, folder=tmp_path)


def test_a_damaged_record_is_refused(tmp_path):
    jm.compare(jax.random.key(1), build, SPLITS[0], {"MAP": jm.MAP()}, folder=tmp_path)
    path = next(tmp_path.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read"):
        jm.compare(jax.random.key(1), build, SPLITS[0], {"MAP": jm.MAP()}, folder=tmp_path)


def test_an_interrupted_write_leaves_no_half_record(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("jaxmap.infer.storage.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        jm.compare(jax.random.key(1), build, SPLITS[0], {"MAP": jm.MAP()}, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_method_that_fails_has_a_row():
    methods = {"MAP": jm.MAP(), "broken": jm.MAP(optax.sgd(1e30), steps=20)}
    table = jm.compare(jax.random.key(1), build, SPLITS[0], methods)
    row = next(r for r in table.rows if r["method"] == "broken")
    assert row["status"] == "DIVERGED"
    assert "diverged" in row["notes"][0]
    assert "broken" in str(table)


def test_a_record_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="Expected a folder"):
        RecordFolder(tmp_path / "file")


def test_seeds_give_other_fits_and_standard_errors():
    table = jm.compare(jax.random.key(1), build, SPLITS[0], {"NUTS": METHODS["NUTS"]}, seeds=2)
    assert [r.seed for r in table.records] == [0, 1]
    assert table.records[0].scores["lppd"] != table.records[1].scores["lppd"]
    assert "lppd_se" in table.summary()[0]


@pytest.mark.slow
def test_a_budget_is_spent_and_never_exceeded_in_silence():
    methods = {
        "MAP": jm.MAP(),
        "Adam": jm.MLE(optax.adam(1e-2), steps=10),
        "Given": jm.Given(build(SPLITS[0][0]).start),
    }
    table = jm.compare(jax.random.key(1), build, SPLITS[0], methods, budget=1500)
    rows = {row["method"]: row for row in table.rows}
    assert all(row["num_gradients"] <= 1.1 * row["budget"] for row in rows.values())
    assert rows["Adam"]["num_gradients"] > 0.85 * 1500
    assert "Given has nothing that could be scaled" in rows["Given"]["notes"][0]
    assert f"{rows['Adam']['num_gradients']:,.0f} / 1,500" in str(table)
    assert "1,500 gradients: run as" in rows["Adam"]["notes"][0]


@pytest.mark.parametrize("budget", [0, -3, "many", True, float("nan"), float("inf")])
def test_a_budget_that_is_none_is_refused(budget):
    with pytest.raises(ValueError, match="Expected budget to be a number of gradients"):
        jm.compare(jax.random.key(1), build, SPLITS[0], {"MAP": jm.MAP()}, budget=budget)


# Interrupts, and folders that are read back.


def stopping(monkeypatch, cls, when):
    """Press Ctrl-C when a method of a class runs for the `when`-th time."""
    runs, original = [], cls.run

    def run(self, *given):
        runs.append(self)
        if len(runs) == when:
            raise KeyboardInterrupt
        return original(self, *given)

    monkeypatch.setattr(cls, "run", run)


def test_an_interrupt_keeps_the_rows_so_far_and_a_rerun_goes_on(tmp_path, monkeypatch):
    methods = {"MAP": jm.MAP(), "Laplace": jm.Laplace(), "later": jm.Given(build(SPLITS[0][0]).start)}
    seen = []
    with monkeypatch.context() as patched:
        stopping(patched, jm.Laplace, 2)
        table = jm.compare(jax.random.key(1), build, SPLITS, methods, folder=tmp_path, on_record=seen.append)
    assert [r.cell for r in table.records[:4]] == [r.cell for r in seen]
    assert [r.info["status"] for r in table.records][-2:] == ["CONVERGED", "INTERRUPTED"]
    assert table.config["interrupted"] == "Laplace (split 1, seed 0)"
    assert table.config["missing"] == ["later (split 1, seed 0)"]
    text = str(table)
    assert "Interrupted at Laplace (split 1, seed 0)" in text
    assert "The same call with the same folder goes on." in text
    assert "Its means are over 1 of 2 runs" in text
    assert len(list(tmp_path.glob("*.safetensors"))) == 4
    loaded = jm.Comparison.load(tmp_path)
    assert [r.cell for r in loaded.records] == [r.cell for r in table.records[:4]]
    assert loaded.config["missing"] == ["Laplace (split 1, seed 0)", "later (split 1, seed 0)"]
    whole = jm.compare(jax.random.key(1), build, SPLITS, methods, folder=tmp_path)
    assert len(whole.records) == 6
    assert "missing" not in whole.config
    again = jm.Comparison.load(tmp_path)
    assert str(again) == str(whole)
    assert again.summary() == whole.summary()


def test_a_climb_that_is_interrupted_is_shown_but_not_kept(tmp_path, monkeypatch):
    from jaxmap.infer import point

    original = point.maximize

    def stopped(*given, **options):
        ascent = original(*given, **options)
        return ascent._replace(codes=np.full_like(ascent.codes, jm.Status.INTERRUPTED.code))

    monkeypatch.setattr(point, "maximize", stopped)
    table = jm.compare(jax.random.key(1), build, SPLITS[0], {"MAP": jm.MAP(), "MLE": jm.MLE()}, folder=tmp_path)
    assert [(r.method, r.info["status"]) for r in table.records] == [("MAP", "INTERRUPTED")]
    assert "lppd" in table.records[0].scores
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.slow
def test_a_folder_takes_more_rows_but_no_other_comparison(tmp_path):
    few = {"MAP": jm.MAP()}
    jm.compare(jax.random.key(1), build, SPLITS[0], few, folder=tmp_path)
    more = few | {"Given": jm.Given(build(SPLITS[0][0]).start)}
    jm.compare(jax.random.key(1), build, SPLITS, more, folder=tmp_path)
    assert len(jm.Comparison.load(tmp_path).records) == 4
    (train, test), *_ = SPLITS
    other = {"another": jm.MAP()}  # a row of its own, so that no record is in its way
    for key, data, budget in ((2, train, None), (1, (train[0], train[1] + 1.0), None), (1, train, 500)):
        with pytest.raises(ValueError, match="to be of this comparison"):
            jm.compare(jax.random.key(key), build, (data, test), other, folder=tmp_path, budget=budget)
    assert len(jm.Comparison.load(tmp_path).records) == 4
    beside = tmp_path / "beside"
    jm.compare(jax.random.key(1), build, (test, train), few, folder=beside)
    stray = next(beside.glob("*.safetensors"))
    (tmp_path / stray.name).write_bytes(stray.read_bytes())
    with pytest.raises(ValueError, match="its model and train and test differ"):
        jm.Comparison.load(tmp_path)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"format": 9}', '{"format": 1, "cells": [1]}'])
def test_a_folder_without_a_sound_comparison_is_refused(tmp_path, content):
    told = "got no comparison.json" if content is None else "cannot be read"
    if content is not None:
        (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(ValueError, match=told):
        jm.Comparison.load(tmp_path)
    with pytest.raises(ValueError, match="got no comparison"):
        jm.Comparison.load(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
