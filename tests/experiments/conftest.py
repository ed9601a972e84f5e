"""Each experiment runs once, in its tiny form, for all tests of its file; its table, figure and files are checked."""

import json
from pathlib import Path

import jax
import jaxtyping
import pytest


@pytest.fixture(scope="module")
def record(request, tmp_path_factory):
    """Run the `experiment` that the test module imports, as a user's program runs."""
    experiment = request.module.experiment
    options = dict(experiment.TINY)
    if hasattr(experiment.Config, "data"):
        folder = request.getfixturevalue("reference_data")
        options["data"] = str(folder / Path(experiment.Config.data).relative_to("../shared/data"))
    with pytest.MonkeyPatch.context() as patch, jax.numpy_rank_promotion("allow"):
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        made = experiment.run(experiment.Config(**options))
    check(made, tmp_path_factory.mktemp("record"))
    return made


def check(record, folder):
    """A record prints a table, draws a figure with named axes, and is written to files that can be read again."""
    assert record.title in str(record)
    assert len(str(record).splitlines()) > 3
    figure = record.figure()
    assert all(axis.get_xlabel() or figure.get_supxlabel() for axis in figure.axes if axis.get_visible())
    record.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["figure.png", "record.json", "table.txt"]
    content = json.loads((folder / "record.json").read_text())
    assert len(content["rows"]) == len(record.rows)
    assert content["config"]["experiment"].startswith("experiments.")
