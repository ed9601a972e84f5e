"""Reports: files that are whole, tables that agree with the numbers."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import jaxmap as jm
from jaxmap import Status
from jaxmap.report import comparison_markdown
from jaxmap.report.figures import COLORS, path_figure

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
    assert {"report.html", "table.md", "record.json", "calibration.png", "marginals.png", "losses.png"} <= names
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


# The figure of a path.

STRENGTHS = np.array([10.0, 0.1, 30.0, 1.0])


@pytest.fixture(scope="module")
def lasso():
    """A path of three named coefficients, strengths in no order."""

    def build(strength):
        network = (lambda key: {"kernel": np.zeros(2), "bias": np.zeros(())}, lambda p, x: x @ p["kernel"] + p["bias"])
        prior = jm.Prior.by_path({"kernel": jm.l1(strength), "bias": jm.flat})
        return jm.supervised(network, jm.Gaussian(0.5), prior)

    y = X[:, 0] + 0.5 * RNG.normal(size=40)
    return jm.path(jax.random.key(0), build, (X, y), STRENGTHS, precision="float64", select="cv", folds=4)


def lines_of(axis):
    return {line.get_label(): line.get_xydata() for line in axis.lines}


def test_the_figure_of_a_path_draws_every_coefficient_against_its_strength(lasso):
    top, below = path_figure(lasso).axes
    order = np.argsort(STRENGTHS)
    lines = lines_of(top)
    columns = {"bias": lasso.modes["bias"], "kernel[0]": lasso.modes["kernel"][:, 0]}
    for name, column in columns.items():
        np.testing.assert_allclose(lines[name], np.column_stack([STRENGTHS[order], column[order]]))
    assert {text.get_text() for text in top.get_legend().get_texts()} == {"bias", "kernel[0]", "kernel[1]"}
    assert top.get_xscale() == below.get_xscale() == "log"
    assert below.get_xlabel() == "strength"
    assert top.get_title() == "3 coefficients at 4 strengths, 4 certified"


def test_the_figure_of_a_path_marks_the_best_and_the_strongest_within_one_standard_error(lasso):
    best, score, error = lasso.best_strength, lasso.scores.max(), lasso.scores_se[np.argmax(lasso.scores)]
    strongest = max(s for s, value in zip(STRENGTHS, lasso.scores, strict=True) if value >= score - error)
    lines = lines_of(path_figure(lasso).axes[1])
    np.testing.assert_allclose(lines[f"highest: {best:.3g}"], [[best, score]])
    assert lines[f"strongest within one standard error: {strongest:.3g}"][0, 0] == strongest
    bars = path_figure(lasso).axes[1].containers[0]
    reach = np.array([np.ptp(segment[:, 1]) / 2 for segment in bars[2][0].get_segments()])
    np.testing.assert_allclose(reach, lasso.scores_se[np.argsort(STRENGTHS)])


def test_the_figure_of_a_path_is_saved_whatever_the_path_has(lasso, tmp_path):
    """Without a score, with evidence alone, at one strength, without certificates, with scores that are NaN."""
    many = replace(lasso, modes={"a": jnp.ones((4, 3, 5)), "b": jnp.ones((4, 2))})
    one = jax.tree.map(lambda leaf: leaf[:1], lasso.modes)
    single = dict(strengths=STRENGTHS[:1], modes=one, statuses=lasso.statuses[:1], scores=np.ones(1))
    variants = {
        "plain": (replace(lasso, scores=None, scores_se=None), 1),
        "evidence": (replace(lasso, scores_se=None), 2),
        "one": (replace(lasso, **single, scores_se=np.ones(1)), 2),
        "unsure": (replace(lasso, statuses=(Status.STEPS_EXHAUSTED,) * 4), 2),
        "nan": (replace(lasso, scores=np.full(4, np.nan)), 2),
        "many": (many, 2),
        "very many": (replace(lasso, modes={f"leaf {i}": jnp.ones((4, 3)) for i in range(len(COLORS) + 1)}), 2),
    }
    for name, (path, panels) in variants.items():
        figure = path.figure()
        assert len(figure.axes) == panels, name
        figure.savefig(tmp_path / "figure.png", dpi=40)
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    labels = [text.get_text() for text in many.figure().axes[0].get_legend().get_texts()]
    assert labels == ["a: 15 numbers", "b: 2 numbers"]
    assert variants["very many"][0].figure().axes[0].get_legend() is None
    assert "not certified" in lines_of(variants["unsure"][0].figure().axes[0])
