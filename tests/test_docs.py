"""The pages of docs/ run as they stand; the built site fetches nothing from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import jaxmap as jm

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "gallery" not in page.parts)
OWN_PROCESS = {"devices"}
"""Pages that say how many devices there are, which is too late in a process that has begun."""


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


RUNNING = [page for page in PAGES if blocks(page) and page.stem not in OWN_PROCESS]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.usefixtures("unchecked", "rank_promotion")
@pytest.mark.parametrize("page", RUNNING, ids=name_of)
def test_every_block_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in blocks(page):
        exec(compile(block, page.name, "exec"), namespace)


@pytest.mark.parametrize("stem", sorted(OWN_PROCESS))
def test_a_page_about_devices_runs_in_a_process_of_its_own(stem, tmp_path):
    (page,) = (page for page in PAGES if page.stem == stem)
    # enough threads for eight devices on few cores, and an end where they wait for each other
    flags = "--xla_cpu_collective_call_terminate_timeout_seconds=20 --xla_backend_optimization_level=0"
    environment = os.environ | {"PJRT_NPROC": "32", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    program = "\n".join(blocks(page))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "8 devices" in done.stdout


def test_the_reference_has_every_public_name():
    paths = re.findall(r"^::: jaxmap\.(\S+)$", (DOCS / "reference.md").read_text(), flags=re.MULTILINE)
    listed = [path.split(".")[-1] for path in paths if not path.startswith("sklearn.")]
    assert sorted([*listed, "flat"]) == sorted(jm.__all__)


def test_every_page_is_in_the_navigation():
    config = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        assert page.parent.name == "images" or f": {name_of(page)}\n" in config


def test_every_page_of_the_gallery_is_listed_with_its_picture():
    shown = [page for page in (DOCS / "gallery").glob("*.md") if page.stem != "index"]
    index = (DOCS / "gallery" / "index.md").read_text()
    assert len(shown) >= 8
    for page in shown:
        assert f"({page.name})" in index
        assert page.with_suffix(".png").exists()
        assert f"python -m experiments.{page.stem}" in page.read_text()


def test_the_gallery_is_written_from_records(tmp_path):
    """A saved record becomes a page, and the experiment is not run."""
    from experiments import gallery
    from experiments.record import Record, panels

    def figure():
        return panels("a picture")[0]

    from experiments.coin import Config

    Record("What the coin said", Config(), [{"heads": 3, "MLE": 0.25}], figure, ("A note.",)).save(
        tmp_path / "r" / "coin"
    )
    gallery.main(["coin", "--records", str(tmp_path / "r"), "--out", str(tmp_path / "pages")])
    page = (tmp_path / "pages" / "coin.md").read_text()
    assert page.startswith("# What do MLE, MAP and a change of coordinates say about a coin?\n")
    assert "What the coin said" in page
    assert "A note." in page
    assert (tmp_path / "pages" / "coin.png").read_bytes()[:4] == b"\x89PNG"
    index = (tmp_path / "pages" / "index.md").read_text()
    assert "(coin.md)" in index
    assert "(typical_set.md)" not in index
    assert "### Does a prior help a Transformer" in index


class Fetched(HTMLParser):
    """What a page loads by itself: scripts, styles, pictures and frames."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        wanted = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}.get(tag)
        self.found += [value or "" for name, value in attrs if name == wanted]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_the_site_fetches_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        reader = Fetched()
        reader.feed(page.read_text(encoding="utf-8"))
        assert reader.found
        assert [where for where in reader.found if where.startswith(("http", "//"))] == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet


@pytest.mark.slow
def test_formulas_are_mathml(site):
    page = (site / "definitions.html").read_text(encoding="utf-8")
    assert page.count("<math") > 60
    assert "arithmatex" not in page
    assert "$$" not in page
    assert not (site / "hooks").exists()
