"""What the README shows runs as it stands; tests/test_docs.py does the same for the pages of docs/."""

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_the_two_commands_stand_at_the_top():
    first = README.read_text().split("```")[1]
    assert [line.split()[:2] for line in first.strip().splitlines()] == [["make", "compare"], ["make", "test"]]


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked", "rank_promotion")
def test_every_block_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    found = blocks(README.read_text())
    assert len(found) >= 3
    for block in found:
        exec(compile(block, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "lppd" in printed
    assert "log evidence" in printed
    assert "rhat" in printed
