"""The record and the command line, on an experiment that computes next to nothing."""

import json
from dataclasses import dataclass

import pytest

from experiments.record import Record, command, panels


@dataclass(frozen=True)
class Config:
    sizes: tuple[int, ...] = (1, 2)
    scale: float = 1.0
    folder: str | None = None


def run(config):
    rows = [{"n": n, "square": config.scale * n**2, "square, exact": float(n**2)} for n in config.sizes]
    return Record("Squares", config, rows, lambda: panels("one")[0], ("A sentence.",))


def test_the_table_and_the_differences():
    record = run(Config(scale=1.5))
    assert record.differences() == {"square": 2.0}
    assert list(record.column("square")) == [1.5, 6.0]
    lines = str(record).splitlines()
    assert lines[0] == "Squares"
    assert lines[-2:] == ["Largest difference from the closed form: square 2.", "A sentence."]


def test_the_command_line_runs_and_saves(tmp_path, capsys):
    command("Is it so?", Config, run)(["--sizes", "3", "4", "5", "--scale", "2", "--save", str(tmp_path / "new")])
    assert "square, exact" in capsys.readouterr().out
    content = json.loads((tmp_path / "new" / "record.json").read_text())
    assert content["config"] == {"experiment": __name__, "sizes": [3, 4, 5], "scale": 2.0, "folder": None}
    assert content["rows"][0] == {"n": 3, "square": 18.0, "square, exact": 9.0}
    assert "jax" in content["versions"]
    assert (tmp_path / "new" / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert "A sentence." in (tmp_path / "new" / "table.txt").read_text()


def test_the_defaults_are_the_experiment(capsys):
    command("Is it so?", Config, run)([])
    assert capsys.readouterr().out.count("\n") == 9


def test_an_option_that_is_not_known_is_refused(capsys):
    with pytest.raises(SystemExit):
        command("Is it so?", Config, run)(["--size", "3"])
    assert "--size" in capsys.readouterr().err
