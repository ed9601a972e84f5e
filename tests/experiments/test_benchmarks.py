"""Benchmarks run in the small, so that a change of what they call is seen."""

import pytest

from experiments.benchmarks import function_space, house_prices


@pytest.mark.slow
def test_effective_draws_in_function_space_are_printed(reference_data, capsys):
    function_space.main(
        ["--data", str(reference_data / "uci"), "--pairs", "1", "--draws", "8", "--rival-draws", "8"],
    )
    assert "ratio of ESS per second" in capsys.readouterr().out


@pytest.mark.slow
def test_house_prices_are_predicted_better_than_by_one_hot_ridge(reference_data, capsys):
    house_prices.main(["--data", str(reference_data / "tabular" / "ames.csv.gz"), "--splits", "2"])
    ours, plain, _ = (float(line.split("mean ")[1][:6]) for line in capsys.readouterr().out.splitlines()[1:])
    assert ours < plain - 0.004
