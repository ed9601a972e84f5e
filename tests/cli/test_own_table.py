"""A user's own table at the command line, from comparison to predictions."""

import csv
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.shell_completion import get_completion_class

from jaxmap import cli, infer
from jaxmap.data import read_table

pytestmark = pytest.mark.usefixtures("unchecked", "rank_promotion")

SCRIPT = "<script>alert(1)</script>[/red] $x_$"
LINEAR = ("--network", "linear")


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code or 0


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write(path, columns):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


@pytest.fixture
def sales(tmp_path, monkeypatch):
    """120 sales whose log price is linear, in a folder to work in."""
    monkeypatch.chdir(tmp_path)
    draws = np.random.default_rng(1)
    n = 120
    area, z = draws.gamma(4, 25, n).round(1), draws.normal(size=n).round(3)
    city = draws.choice(["Rome", "Oslo", "Bonn"], n)
    logs = 9 + np.log(area) + 0.2 * z + 0.3 * (city == "Oslo") + 0.1 * draws.normal(size=n)
    price = np.exp(logs).round()
    columns = {"id": range(1, n + 1), "area": area, SCRIPT: z, "city": city, "price": price}
    columns["visits"] = draws.poisson(np.exp(1 + 0.5 * z))
    columns["sold"] = np.where(z + 0.3 * draws.normal(size=n) > 0, "yes", "no")
    columns["kind"] = np.array(["low", "mid", "high"])[np.digitize(z, [-0.5, 0.5])]
    return write(tmp_path / "sales.csv", columns)


OTHERS = {
    "price": ("visits", "sold", "kind"),
    "visits": ("price", "sold", "kind"),
    "sold": ("price", "visits", "kind"),
    "kind": ("price", "visits", "sold"),
}


def options(target):
    return ("--target", target, *(part for name in OTHERS[target] for part in ("--drop", name)), *LINEAR)


@pytest.mark.slow
def test_compare_says_what_it_decided_and_goes_on_where_it_was(sales, capsys, monkeypatch):
    few = ("--methods", "MAP", "--out", "out")
    assert run("compare", sales, *options("price"), *few) == 0
    shown = capsys.readouterr().out
    for words in ("120 rows, 24 of them held out", "log scale", "log-normal", "id (it numbers the rows)", "1 category"):
        assert words in shown
    assert "prior N(0, 0.577^2)" in shown
    assert "RMSE of log price" in shown
    assert len(list(Path("out/records").glob("*.safetensors"))) == 1
    record = json.loads(Path("out/record.json").read_text())
    assert record["config"]["rmse_log"]["MAP"] < 0.15
    assert record["summary"][0]["status"] == "CONVERGED"
    kept = Path("out/records/split0-seed0-MAP.safetensors").stat().st_mtime_ns
    assert run("compare", sales, *options("price"), "--methods", "MAP,MLE", "--out", "out") == 0
    assert Path("out/records/split0-seed0-MAP.safetensors").stat().st_mtime_ns == kept
    assert "MLE" in capsys.readouterr().out
    assert run("compare", sales, *options("price"), *few, "--seed", "1") == 2
    assert "Use another folder" in capsys.readouterr().err


@pytest.mark.slow
def test_names_are_text_everywhere(sales, capsys):
    odd = ("--target", SCRIPT, "--drop", "price", "--drop", "visits", "--drop", "kind")
    assert run("compare", sales, *odd, *LINEAR, "--methods", "MAP", "--out", "out") == 0
    shown = capsys.readouterr().out
    assert SCRIPT in shown
    assert SCRIPT not in Path("out/table.md").read_text()
    assert "&lt;script&gt;" in Path("out/table.md").read_text()


EXPECTED = {
    "price": ["price", "90% low", "90% high"],
    "visits": ["visits", "90% low", "90% high"],
    "sold": ["sold", "P(sold=no)", "P(sold=yes)"],
    "kind": ["kind", "P(kind=high)", "P(kind=low)", "P(kind=mid)"],
}


@pytest.mark.parametrize("target", EXPECTED)
def test_fit_and_predict(target, sales, capsys):
    assert run("fit", sales, *options(target), "--method", "MAP", "--save", "model") == 0
    assert "MAP: certified" in capsys.readouterr().out
    new = {"area": [50, 120], SCRIPT: [-2, 2], "city": ["Oslo", "Lima"], "id": [7, 8], "more": [1, 2]}
    write("new.csv", new)
    assert run("predict", "model", "new.csv", "--keep", "id") == 0
    shown = capsys.readouterr().out
    assert "1 rows have levels of city" in shown
    assert "Lima" in shown
    assert "does not know them: more" in shown
    rows = rows_of("predictions.csv")
    assert list(rows[0]) == ["id", *EXPECTED[target]]
    if target in ("price", "visits"):
        for row in rows:
            assert float(row["90% low"]) <= float(row[target]) <= float(row["90% high"])
    else:
        shares = [[float(row[name]) for name in EXPECTED[target][1:]] for row in rows]
        np.testing.assert_allclose(np.sum(shares, axis=1), 1, atol=1e-6)
        assert rows[0][target] != rows[1][target]


def test_intervals_cover_and_are_in_the_units_of_the_target(sales, capsys):
    assert run("fit", sales, *options("price"), "--save", "model") == 0
    assert run("predict", "model", sales, "--interval", "0.5", "--out", "-") == 0
    shown = capsys.readouterr().out
    rows = list(csv.DictReader(shown[shown.index("price,50%") :].splitlines()))
    price = np.array([float(row["price"]) for row in rows_of(sales)])
    low, high = (np.array([float(row[f"50% {end}"]) for row in rows]) for end in ("low", "high"))
    assert 0.35 < np.mean((low <= price) & (price <= high)) < 0.65


def test_missing_cells_as_told(sales, capsys):
    lines = sales.read_text().splitlines()
    for i in range(1, 20):
        cells = lines[i].split(",")
        lines[i] = ",".join([cells[0], "", *cells[2:]])
    Path("holes.csv").write_text("\n".join(lines) + "\n")
    assert run("fit", "holes.csv", *options("price"), "--save", "model") == 2
    assert "area (19)" in capsys.readouterr().err
    told = {"target": "price", "drop": OTHERS["price"], "category": (), "network": "auto", "weight_scale": None}
    job = cli.prepare(read_table("holes.csv"), told | {"task": "auto", "log_target": "auto", "missing": "drop"})
    assert job.table.rows == 101
    assert "Dropped 19 of 120 rows, which have missing cells." in job.notes
    assert run("fit", "holes.csv", *options("price"), "--missing", "impute", "--save", "model") == 0
    assert "imputed by medians" in capsys.readouterr().out
    assert cli.load_model(Path("model")).coding.names[:2] == ("area", "area is missing")
    assert run("predict", "model", "holes.csv") == 0
    assert len(rows_of("predictions.csv")) == 120


def test_options_from_a_file_lose_against_the_command_line(sales, capsys):
    told = ("fit", sales, *options("price"), "--seed", "3", "--save", "model", "--save-config", "run.toml")
    assert run(*told) == 0
    kept = tomllib.loads(Path("run.toml").read_text())
    assert kept["target"] == "price"
    assert kept["drop"] == list(OTHERS["price"])
    assert run("fit", "--config", "run.toml", "--save", "other", "--method", "MLE") == 0
    capsys.readouterr()
    first, second = (cli.load_model(Path(name)) for name in ("model", "other"))
    assert (first.config["seed"], second.config["seed"]) == (3, 3)
    assert (first.config["method"], second.config["method"]) == ("MAP", "MLE")


@pytest.mark.slow
def test_audit(sales, capsys):
    assert run("fit", sales, *options("price"), "--save", "model") == 0
    assert run("audit", "model", "--out", "audit.json") == 0
    kept = json.loads(Path("audit.json").read_text())
    assert f"{kept['verdict']}: {kept['sentence']}." in capsys.readouterr().out
    assert kept["numbers"]["examples"] > 0


@pytest.mark.slow
def test_report_shows_what_there_is(sales, capsys):
    assert run("compare", sales, *options("price"), "--methods", "MAP", "--out", "out") == 0
    verdict = json.loads(Path("out/audit.json").read_text())["verdict"]
    for name in ("table.md", "report.html"):
        Path("out", name).unlink()
    capsys.readouterr()
    assert run("report", "out") == 0
    assert "sales.csv: price" in capsys.readouterr().out
    assert "sales.csv: price" in Path("out/table.md").read_text()
    assert verdict in Path("out/report.html").read_text()
    Path("out/run.json").write_text("{")
    assert run("report", "out") == 2
    assert "run.json" in capsys.readouterr().err


def test_an_interrupt_ends_with_130_and_leaves_what_was_done(sales, capsys, monkeypatch):
    def stopped(self, problem, seeds):
        raise KeyboardInterrupt

    monkeypatch.setattr(infer.Laplace, "run", stopped)
    given = ("compare", sales, *options("price"), "--methods", "MAP,Laplace", "--no-audit", "--out", "out")
    assert run(*given) == 130
    assert capsys.readouterr().err.strip() == "jaxmap: interrupted"
    assert [path.stem for path in Path("out/records").glob("*.safetensors")] == ["split0-seed0-MAP"]
    assert "interrupted" in Path("out/table.md").read_text()


def test_methods_follow_from_size():
    names, said = cli.methods.affordable(1000, 20, True, 300, 800)
    assert names == ["MLE", "MAP", "Laplace", "NUTS"]
    assert "same maximum" in said[0]
    names, said = cli.methods.affordable(100_000, 5000, False, 300, 800)
    assert names == ["MLE", "MAP", "Laplace", "Ensemble"]
    assert "NUTS is left out" in said[0]
    assert "Kronecker" in said[1]
    assert cli.job.automatic_widths(824, 8) == (20,)
    assert cli.job.automatic_widths(400, 7) == ()
    assert cli.job.automatic_widths(100_000, 101) == ()
    assert cli.job.automatic_widths(100_000, 30) == (50,)


@pytest.mark.parametrize("command", ["compare", "fit", "predict", "audit", "report"])
def test_help_has_examples(command, capsys):
    assert run(command, "--help") == 0
    assert f"jaxmap {command} " in capsys.readouterr().out.split("Examples:")[1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_generated(shell):
    kind = get_completion_class(shell)
    made = kind(cli.app, {}, "jaxmap", "_JAXMAP_COMPLETE")
    assert "_JAXMAP_COMPLETE" in made.source()
    assert "compare" in [item.value for item in made.get_completions([], "")]
    assert "--target" in [item.value for item in made.get_completions(["compare"], "--ta")]


def test_the_module_runs():
    done = subprocess.run([sys.executable, "-m", "jaxmap.cli", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("jaxmap ")
