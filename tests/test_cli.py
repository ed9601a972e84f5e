"""The command line: what people type, and what they must not see."""

import json

import pytest

from jaxmap import cli

pytestmark = pytest.mark.usefixtures("unchecked", "rank_promotion")


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    return ended.value.code or 0


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == "jaxmap 0.1.0"


def test_datasets_lists_them(capsys):
    assert run("datasets") == 0
    shown = capsys.readouterr().out
    for name in ("concrete", "ames", "digits", "breast_cancer"):
        assert name in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", "--foo"),
        ("compare", "--data", "nope"),
        ("compare", "--methods", "MAP,Magic"),
        ("compare", "--methods", ""),
        ("compare", "--network", "fifty"),
        ("compare", "--network", "0"),
        ("compare", "--split", "-1"),
        ("compare", "--seed", "x"),
        ("compare", "--draws", "0"),
        ("compare", "--out", "/proc/nowhere/report"),
        ("compare", "--out", __file__),
        ("compare", "extra"),
        ("magic",),
    ],
    ids=" ".join,
)
def test_bad_options_end_with_one_line_and_code_2(arguments, capsys):
    assert run(*arguments) == 2
    shown = capsys.readouterr()
    assert len(shown.err.strip().splitlines()) == 1
    assert shown.err.startswith("jaxmap: ")
    assert "Traceback" not in shown.err + shown.out


def test_compare_prints_a_table_and_writes_the_report(tmp_path, capsys):
    out = tmp_path / "report"
    options = ("--network", "3", "--methods", "map,nuts", "--warmup", "10", "--draws", "10")
    assert run("compare", *options, "--out", str(out)) == 0
    shown = capsys.readouterr().out
    for word in ("concrete", "MAP", "NUTS", "ceiling", "lppd", "R-hat", "Is the MAP estimate enough?"):
        assert word in shown
    figures = {f"{name}.png" for name in ("bands", "calibration", "cost", "marginals", "traces", "losses")}
    assert {p.name for p in out.iterdir()} == {"report.html", "table.md", "record.json", "audit.json", *figures}
    config = json.loads((out / "record.json").read_text())["config"]
    assert config["unit"] == "MPa"
    given = ("--network=3", "--methods=map,nuts", "--warmup=10", "--draws=10")
    assert sorted(config["command"].split()) == sorted(("jaxmap", "compare", *given))
    assert config["command"] in (out / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("data", ["breast_cancer", "wine"])
def test_compare_on_classes(data, tmp_path, capsys):
    pytest.importorskip("sklearn")
    assert (
        run("compare", "--data", data, "--network", "linear", "--methods", "MAP,Laplace", "--out", str(tmp_path)) == 0
    )
    shown = capsys.readouterr().out
    assert "accuracy" in shown
    assert "ECE" in shown
