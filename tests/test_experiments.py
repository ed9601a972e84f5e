"""Every experiment has the same parts and a test of its own; they are found by looking."""

import dataclasses
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = {"__init__", "record", "posteriordb", "posterior_moments", "image_data", "audit_cases", "gallery"}
NAMES = sorted(path.stem for path in (ROOT / "experiments").glob("*.py") if path.stem not in SHARED)


@pytest.mark.parametrize("name", NAMES)
def test_has_all_its_parts(name, capsys):
    module = importlib.import_module(f"experiments.{name}")
    assert f"python -m experiments.{name}" in module.__doc__
    assert module.__doc__.splitlines()[0].endswith("?")
    assert module.Config.__dataclass_params__.frozen
    assert module.TINY.keys() <= {field.name for field in dataclasses.fields(module.Config)}
    assert callable(module.run)
    with pytest.raises(SystemExit) as left:
        module.main(["--help"])
    assert left.value.code == 0
    assert "--save" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_is_run_by_a_test_of_its_own(name):
    text = (ROOT / "tests" / "experiments" / f"test_{name}.py").read_text()
    assert f"from experiments import {name} as experiment" in text
    assert "(record" in text
