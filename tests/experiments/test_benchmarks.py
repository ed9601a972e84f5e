"""Benchmarks run in the small, so that a change of what they call is seen."""

import pytest

from experiments.benchmarks import function_space


@pytest.mark.slow
def test_effective_draws_in_function_space_are_printed(reference_data, capsys):
    function_space.main(
        ["--data", str(reference_data / "uci"), "--pairs", "1", "--draws", "8", "--rival-draws", "8"],
    )
    assert "ratio of ESS per second" in capsys.readouterr().out
