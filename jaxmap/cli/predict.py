"""jaxmap predict: new rows through a saved model."""

import csv
import io
from pathlib import Path
from typing import Any

import click
import numpy as np

from jaxmap.cli.folder import ModelFolder, load_model
from jaxmap.cli.options import LEVELS, check_file
from jaxmap.cli.output import say

EXAMPLES = """
Examples:

\b
  jaxmap predict model new.csv --out predictions.csv
  jaxmap predict model new.csv --interval 0.5 --keep id
  jaxmap predict model new.parquet --out - | head

Numbers get their mean and the bounds of a central interval, in the target's own units; classes their probabilities.
"""


@click.command(epilog=EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", default="predictions.csv", help="The file to write; `-` for the screen.")
@click.option("--interval", default=0.9, type=LEVELS, help="Probability of the interval.")
@click.option("--keep", multiple=True, metavar="COLUMN", help="Copy a column of FILE. May be given several times.")
@click.option("--seed", default=0, type=click.IntRange(0), help="Of the draws that the prediction takes.")
def predict(model: Path, file: Path, out: str, interval: float, keep: tuple[str, ...], seed: int) -> None:
    """Predict new rows of a table from a folder that `jaxmap fit --save` wrote.

    Columns that the model does not know are ignored, levels that it has not seen count as no level; both are said. A
    column that is not there is an error.
    """
    import jax

    from jaxmap import assess
    from jaxmap.data import read_table
    from jaxmap.infer.storage import write_atomically

    if out != "-":
        check_file("--out", Path(out))
    saved = load_model(model)
    table = read_table(file)
    for name in keep:
        if name not in table.columns:
            raise click.UsageError(f"Expected --keep to be a column of {file.name}; got {name!r}.")
    encoded = saved.coding.encode(table)
    predictive = assess.predict(jax.random.key(seed), saved.design.model(), saved.posterior, encoded.x)
    columns = {name: _cells(table.columns[name]) for name in keep} | _predictions(saved, predictive, interval)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    if out == "-":
        click.echo(text.getvalue(), nl=False)
        for note in encoded.notes:
            click.echo(note, err=True)
        return
    write_atomically(Path(out), text.getvalue().encode())
    say(*encoded.notes, f"{table.rows} predictions of {saved.target.name}: {out}.")


def _predictions(saved: ModelFolder, predictive: Any, interval: float) -> dict[str, list[str]]:
    """Columns of the answer, by name."""
    name, labels = saved.target.name, saved.target.classes
    if labels:
        best = np.argmax(predictive.probs, axis=-1)
        shares = {f"P({name}={label})": _numbers(predictive.probs[:, i]) for i, label in enumerate(labels)}
        return {name: [labels[i] for i in best]} | shares
    low, high = predictive.quantile(np.array([(1 - interval) / 2, (1 + interval) / 2]))
    share = f"{100 * interval:g}%"
    return {name: _numbers(predictive.mean), f"{share} low": _numbers(low), f"{share} high": _numbers(high)}


def _numbers(values: np.ndarray) -> list[str]:
    return [f"{value:.7g}" for value in values]


def _cells(cells: np.ndarray) -> list[str]:
    from jaxmap.data import texts_of

    return ["" if text is None else text for text in texts_of(cells)]
