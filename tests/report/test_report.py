"""Reports: files that are whole, tables that agree with the numbers."""

import json

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

import jaxmap as jm
from jaxmap.report import comparison_markdown

pytestmark = pytest.mark.usefixtures("unchecked", "rank_promotion")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 2))


def compared(classes):
    y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 1) * (classes == 3) if classes else X[:, 0] + 0.1 * RNG.normal(size=40)
    width = 3 if classes == 3 else 1
    init = lambda key: {"w": 0.1 * jax.random.normal(key, (2, width))}
    likelihood = {0: jm.Gaussian(scale=0.2), 2: jm.Bernoulli(), 3: jm.Categorical()}[classes]
    model = jm.supervised((init, lambda p, x: x @ p["w"]), likelihood, jm.Prior(dist.Normal(0.0, 1.0)))
    data = ((X[:30], y[:30]), (X[30:], y[30:]))
    methods = {"MAP": jm.MAP(), "Laplace|x": jm.Laplace()}
    with jax.numpy_rank_promotion("allow"):
        return jm.compare(jax.random.key(0), model, data, methods, reference="Laplace|x")


@pytest.fixture(scope="module", params=[0, 2, 3])
def table(request):
    return compared(request.param)


def test_saved_files_are_whole(table, tmp_path):
    written = table.save(tmp_path / "out")
    names = {path.name for path in written}
    assert {"table.md", "record.json", "calibration.png"} <= names
    assert {p.name for p in (tmp_path / "out").iterdir()} == names
    for path in written:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["cells"][0]["scores"] == pytest.approx(table.records[0].scores)
    assert {"versions", "methods", "key"} <= set(record["config"])
    assert record["cells"][0]["identity"]["train"]
    assert record["cells"][0]["info"]["num_gradients"] > 0


def test_markdown_escapes_and_has_one_row_per_method(table):
    lines = [line for line in comparison_markdown(table).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(table.summary())
    assert "Laplace\\|x" in "".join(lines)
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_numbers_in_the_table_are_the_scores(table):
    assert f"{table.records[0].scores['lppd']:.3f}" in str(table)


def test_a_file_in_the_way_is_refused(table, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="Expected a folder"):
        table.save(tmp_path / "file")


def test_figures_draw_what_was_scored(table):
    figures = table.figures()
    assert "calibration" in figures
    if "bands" in figures:
        titles = [axis.get_title() for axis in figures["bands"].axes if axis.get_visible()]
        assert any(f"{table.records[0].scores['lppd']:.2f}" in title for title in titles)
