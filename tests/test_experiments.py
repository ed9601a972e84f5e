"""Every experiment runs in its tiny form; they are found by looking."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(p.stem for p in (ROOT / "experiments").glob("*.py") if p.stem != "__init__")


@pytest.mark.usefixtures("unchecked", "rank_promotion")
@pytest.mark.parametrize("name", NAMES)
def test_runs_in_its_tiny_form(name, reference_data, tmp_path):
    module = importlib.import_module(f"experiments.{name}")
    options = dict(module.TINY)
    if hasattr(module.Config, "data"):
        options["data"] = str(reference_data / Path(module.Config.data).relative_to("../shared/data"))
    if hasattr(module.Config, "folder"):
        options["folder"] = str(tmp_path)
    record = module.run(module.Config(**options))
    assert record.config
    assert len(str(record.comparison).splitlines()) > 3
