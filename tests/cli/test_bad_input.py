"""Bad input at the command line: one line, exit code 2, nothing fitted, nothing written."""

import bz2
import errno
import gzip
import json
import os
import shutil

import numpy as np
import pytest

from jaxmap import assess, cli, infer
from jaxmap.infer import storage

pytestmark = pytest.mark.usefixtures("unchecked", "rank_promotion")

ROWS = [f"{i},{i % 7},{'ab'[i % 2]},{(i * 37 % 11) + 0.5}" for i in range(30)]
GOOD = "\n".join(["n,x,c,y", *ROWS]) + "\n"


def changed(row, *cells):
    """The good table with one row replaced."""
    lines = GOOD.splitlines()
    lines[row] = ",".join(cells)
    return "\n".join(lines) + "\n"


FILES = {
    "good.csv": GOOD,
    "empty.csv": "",
    "blank.csv": "\n\n  \n",
    "header.csv": "n,x,c,y\n",
    "one.csv": "x,y\n1,2\n",
    "few.csv": "x,y\n" + "".join(f"{i},{i * i}.5\n" for i in range(9)),
    "constant.csv": "x,y\n" + "".join(f"7,{i}.5\n" for i in range(20)),
    "constant_target.csv": "x,y\n" + "".join(f"{i}.5,3\n" for i in range(20)),
    "missing_target.csv": "x,y\n" + "".join(f"{i}.5,NA\n" for i in range(20)),
    "missing_all.csv": "x,y\n" + "".join("NA,NA\n" for _ in range(20)),
    "missing_column.csv": "x,y\n" + "".join(f",{i}.5\n" for i in range(20)),
    "missing_cell.csv": changed(4, "3", "", "a", "2.5"),
    "missing_most.csv": "x,z,y\n" + "".join(f"{i}.5,{'' if i else 2}{'' if i > 3 else 1},{i}.5\n" for i in range(20)),
    "twice.csv": "x,x,y\n" + "1,2,3\n" * 20,
    "unnamed.csv": "x,,y\n" + "1,2,3\n" * 20,
    "texts.csv": "x,y\n" + "".join(f"{i % 9},name {i}\n" for i in range(200)),
    "dates.csv": "x,y\n" + "".join(f"{i % 5},2024-01-{i + 1:02d}\n" for i in range(20)),
    "huge.csv": changed(4, "3", str(10**400), "a", "2.5"),
    "large.csv": changed(4, "3", str(10**40), "a", "2.5"),
    "infinite.csv": changed(4, "3", "-inf", "a", "2.5"),
    "infinite_target.csv": changed(4, "3", "1", "a", "inf"),
    "latin.csv": GOOD.replace("b", "\xe9").encode("latin-1"),
    "short.csv": changed(4, "3", "1", "a"),
    "long.csv": changed(4, "3", "1", "a", "2.5", "9"),
    "quote.csv": GOOD + '31,1,"a,2.5\n',
    "junk.csv": bytes(range(256)) * 20,
    "junk.parquet": bytes(range(256)) * 20,
    "cut.csv.gz": gzip.compress(GOOD.encode())[:-20],
    "no.csv.gz": GOOD,
    "cut.csv.bz2": bz2.compress(GOOD.encode())[:-9],
    "no.csv.zip": GOOD,
    "negative.csv": "x,y\n" + "".join(f"{i % 5},{i - 10}\n" for i in range(20)),
    "bad.toml": "target = [",
    "unknown.toml": 'target = "y"\ntraget = "y"\n',
    "wrong.toml": 'target = "y"\nseed = "three"\n',
    "nested.toml": 'target = ["y"]\n',
    "value.toml": 'target = "y"\nmissing = "guess"\n',
    "new.csv": "x,c\n3,a\n4,b\n",
    "absent.csv": "c\na\nb\n",
    "word.csv": "x,c\nthree,a\n4,b\n",
    "hole.csv": "x,c\n3,\n4,b\n",
}

COMPARE = ("compare", "good.csv", "--target", "y", "--out", "out")
FIT = ("fit", "good.csv", "--target", "y", "--save", "kept")
PREDICT = ("predict", "model", "new.csv")


def on(file, *options, command="compare", target="y"):
    place = ("--out", "out") if command == "compare" else ("--save", "kept")
    return (command, file, "--target", target, *place, *options)


BAD = {
    "no such file": (on("nowhere.csv"), "no such file"),
    "a folder": (on("folder"), "folder"),
    "an empty file": (on("empty.csv"), "empty"),
    "blank lines": (on("blank.csv"), "empty"),
    "a header alone": (on("header.csv"), "rows below the header"),
    "one row": (on("one.csv"), "at least 10 rows"),
    "nine rows": (on("few.csv", command="fit"), "at least 10 rows"),
    "no target": (("compare", "good.csv", "--out", "out"), "--target"),
    "a wrong target": (on("good.csv", target="z"), "got 'z'"),
    "a target in capitals": (on("good.csv", target="Y"), "Did you mean 'y'"),
    "constant columns": (on("constant.csv"), "none is left"),
    "a constant target": (on("constant_target.csv"), "different values"),
    "a missing target": (on("missing_target.csv"), "all its cells are missing"),
    "all missing": (on("missing_all.csv", "--missing", "impute"), "missing"),
    "a missing column": (on("missing_column.csv"), "none is left"),
    "a missing cell": (on("missing_cell.csv"), "x (1)"),
    "no whole rows": (on("missing_most.csv", "--missing", "drop"), "without missing cells"),
    "names twice": (on("twice.csv"), "'x' twice"),
    "a column without name": (on("unnamed.csv"), "column 2 has none"),
    "texts as target": (on("texts.csv"), "different texts"),
    "dates as target": (on("dates.csv"), "got dates"),
    "huge integers": (on("huge.csv"), "infinite"),
    "large integers": (on("large.csv"), "too large"),
    "infinity": (on("infinite.csv"), "'-inf'"),
    "infinity in the target": (on("infinite_target.csv"), "'inf'"),
    "another encoding": (on("latin.csv"), "UTF-8"),
    "a short row": (on("short.csv"), "line 5"),
    "a long row": (on("long.csv"), "line 5"),
    "an open quote": (on("quote.csv"), "cannot be read"),
    "binary": (on("junk.csv"), "binary"),
    "binary Parquet": (on("junk.parquet"), "Parquet"),
    "a truncated gz": (on("cut.csv.gz"), "truncated"),
    "no gz": (on("no.csv.gz"), "truncated or damaged"),
    "a truncated bz2": (on("cut.csv.bz2"), "truncated"),
    "no zip": (on("no.csv.zip"), "truncated or damaged"),
    "negative counts": (on("negative.csv", "--task", "counts"), "whole numbers from zero"),
    "a logarithm of negatives": (on("negative.csv", "--log-target", "yes"), "positive"),
    "binary of many": (on("good.csv", "--task", "binary"), "two values"),
    "a log scale of classes": (on("good.csv", "--log-target", "yes", target="c"), "--log-target"),
    "out is a file": ((*COMPARE[:-1], "good.csv"), "got the file"),
    "out below a file": ((*COMPARE[:-1], "good.csv/out"), "--out"),
    "out in a place without writing": ((*COMPARE[:-1], "/proc/nowhere/out"), "/proc/nowhere"),
    "an unknown method": ((*COMPARE, "--methods", "MAP,Magic"), "Magic"),
    "two methods to fit": ((*FIT, "--method", "MAP,NUTS"), "one --method"),
    "a bad --missing": ((*COMPARE, "--missing", "guess"), "--missing"),
    "a bad --task": ((*COMPARE, "--task", "guess"), "--task"),
    "a bad network": ((*COMPARE, "--network", "-3"), "--network"),
    "a bad share": ((*COMPARE, "--test", "1"), "--test"),
    "a bad scale": ((*COMPARE, "--weight-scale", "0"), "--weight-scale"),
    "an unknown column to drop": ((*COMPARE, "--drop", "z"), "'z'"),
    "all columns dropped": ((*COMPARE, "--drop", "n", "--drop", "x", "--drop", "c"), "none is left"),
    "file and data": ((*COMPARE, "--data", "ames"), "both"),
    "an option of files without one": (("compare", "--splits", "3"), "--splits"),
    "bad TOML": ((*COMPARE, "--config", "bad.toml"), "TOML"),
    "no TOML": ((*COMPARE, "--config", "nowhere.toml"), "nowhere.toml"),
    "an unknown key": ((*COMPARE, "--config", "unknown.toml"), "traget"),
    "a key of another type": ((*COMPARE, "--config", "wrong.toml"), "three"),
    "a list for one value": ((*COMPARE, "--config", "nested.toml"), "one value"),
    "a value that is none": ((*COMPARE, "--config", "value.toml"), "guess"),
    "a config nowhere": ((*COMPARE, "--save-config", "nowhere/run.toml"), "--save-config"),
    "nothing to save to": (("fit", "good.csv", "--target", "y"), "--save"),
    "a model in place of a file": ((*FIT[:-1], "good.csv"), "good.csv"),
    "a model in place of a folder": ((*FIT[:-1], "folder"), "something else"),
    "no model": (("predict", "folder", "new.csv"), "model folder"),
    "no model to audit": (("audit", "nowhere"), "model folder"),
    "a truncated model": (("predict", "truncated", "new.csv"), "cannot be read"),
    "a changed model": (("predict", "changed", "new.csv"), "changed"),
    "truncated rows": (("audit", "rows"), "rows"),
    "a posterior that is cut": (("predict", "posterior", "new.csv"), "posterior"),
    "another version": (("predict", "version", "new.csv"), "version 99"),
    "a column that is absent": (("predict", "model", "absent.csv"), "'x'"),
    "a word for a number": (("predict", "model", "word.csv"), "'three'"),
    "a hole in new rows": (("predict", "model", "hole.csv"), "--missing impute"),
    "a bad interval": ((*PREDICT, "--interval", "1"), "--interval"),
    "a column that cannot be kept": ((*PREDICT, "--keep", "id"), "--keep"),
    "predictions in a folder": ((*PREDICT, "--out", "folder"), "folder"),
    "no records": (("report", "folder"), "records"),
    "no run": (("report", "nowhere"), "records"),
}


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    return ended.value.code or 0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with all files, and models that were damaged in several ways."""
    folder = tmp_path_factory.mktemp("place")
    for name, content in FILES.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "folder").mkdir()
    (folder / "folder" / "note.txt").write_text("mine")
    assert (
        run(
            "fit",
            str(folder / "good.csv"),
            "--target",
            "y",
            "--drop",
            "n",
            "--network",
            "linear",
            "--save",
            str(folder / "model"),
        )
        == 0
    )
    for name in ("truncated", "changed", "rows", "posterior", "version"):
        shutil.copytree(folder / "model", folder / name)
    header = (folder / "model" / "model.json").read_text()
    (folder / "truncated" / "model.json").write_text(header[:200])
    (folder / "changed" / "model.json").write_text(header.replace("regression", "Regression"))
    rows = folder / "rows" / "rows.safetensors"
    rows.write_bytes(rows.read_bytes()[:-8])
    kept = folder / "posterior" / "posterior" / "posterior.json"
    kept.write_text(kept.read_text()[:100])
    body = json.dumps(json.loads(json.loads(header)["body"]) | {"version": 99})
    sealed = {"checksum": cli.folder._digest(body.encode()), "body": body}
    (folder / "version" / "model.json").write_text(json.dumps(sealed))
    return folder


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


@pytest.fixture
def here(place, monkeypatch, capsys):
    """Work in the folder; nothing may be fitted; the files are the same afterwards."""

    def refuse(*args, **kwargs):
        raise AssertionError("was fitted")

    monkeypatch.chdir(place)
    monkeypatch.setattr(assess, "compare", refuse)
    monkeypatch.setattr(infer, "fit", refuse)
    before = contents(place)
    capsys.readouterr()
    yield place
    assert contents(place) == before


def ends_in_one_line(capsys, words):
    shown = capsys.readouterr()
    assert len(shown.err.strip().splitlines()) == 1
    assert shown.err.startswith("jaxmap: ")
    assert words in shown.err
    assert "Traceback" not in shown.err + shown.out


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_code_2(name, here, capsys):
    arguments, words = BAD[name]
    if "Parquet" in name:
        pytest.importorskip("pyarrow")
    assert run(*arguments) == 2
    ends_in_one_line(capsys, words)


def test_a_full_disk(here, capsys, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(storage, "write_atomically", full)
    assert run(*COMPARE) == 2
    ends_in_one_line(capsys, "No space left")


def test_a_full_disk_while_the_model_is_saved(place, tmp_path, capsys, monkeypatch):
    model = cli.load_model(place / "model")

    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(cli.folder, "write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        cli.save_model(tmp_path / "model", model)
    assert list(tmp_path.iterdir()) == []


def test_there_are_forty():
    assert len(BAD) >= 40
    assert len({arguments for arguments, _ in BAD.values()}) == len(BAD)


def test_a_saved_model_comes_back(place):
    model = cli.load_model(place / "model")
    assert model.data[0].shape == (30, 3)
    assert np.isfinite(model.posterior.info.log_joint)
