"""jaxmap fit: one method on all rows of a table, kept in a folder."""

from pathlib import Path
from typing import Any

import click

from jaxmap.cli.config import check_config, config_options, write_config
from jaxmap.cli.folder import ModelFolder, check_place, save_model
from jaxmap.cli.job import model_in_words, prepare
from jaxmap.cli.methods import make_methods
from jaxmap.cli.options import METHODS, check_folder, chosen_methods, chosen_widths, table_options
from jaxmap.cli.output import say

EXAMPLES = """
Examples:

\b
  jaxmap fit sales.csv --target price --save model
  jaxmap fit sales.csv --target price --method Laplace --missing impute --save model
  jaxmap predict model new.csv --out predictions.csv
  jaxmap audit model

The folder holds the posterior, how new rows are coded, and the rows themselves, which the audit needs.
"""


@click.command(epilog=EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path), required=False)
@table_options
@click.option("--method", default="MAP", help=f"One of {', '.join(METHODS)}.")
@click.option("--seed", default=0, type=click.IntRange(0), help="Of everything random in the fit.")
@click.option("--warmup", default=300, type=click.IntRange(1), help="NUTS: adaptation steps per chain.")
@click.option("--draws", default=800, type=click.IntRange(4), help="NUTS: kept draws per chain.")
@click.option("--save", type=click.Path(path_type=Path), metavar="FOLDER", help="Where to keep the model.")
@config_options
def fit(file: Path | None, save: Path | None, save_config: Path | None, **options: Any) -> None:
    """Fit one model to all rows of a table, and keep it for predictions and audits.

    What was decided about columns and target is said, as in `jaxmap compare`.
    """
    names = chosen_methods(options["method"])
    if len(names) != 1:
        raise click.UsageError(f"Expected one --method of {', '.join(METHODS)}; got {options['method']!r}.")
    if file is None or save is None:
        missing = "FILE, the table" if file is None else "--save FOLDER, to keep the model in"
        raise click.UsageError(f"Expected {missing}; got none. Write jaxmap fit FILE --target COLUMN --save FOLDER.")
    chosen_widths(options["network"])
    check_folder("--save", save)
    check_place(save)
    check_config(save_config)
    _fit(file, names[0], save, save_config, options)


def _fit(file: Path, name: str, save: Path, config: Path | None, options: dict[str, Any]) -> None:
    import jax

    from jaxmap import infer
    from jaxmap.data import read_table

    job = prepare(read_table(file), options)
    data = job.pairs()[0][0]
    design = job.design(data)
    method = make_methods([name], options["warmup"], options["draws"], design.size)[name]
    write_config(config)
    notes = [*job.notes, model_in_words(design, job.widths, data[0].shape[1])]
    say(f"{file.name}: {job.table.rows} rows.", *notes)
    posterior = infer.fit(jax.random.key(options["seed"]), design.model(), data, method, precision=job.precision)
    info = posterior.info
    if info.status.name == "INTERRUPTED":
        raise KeyboardInterrupt
    about = {"data": file.name, "method": name, "seed": options["seed"], "decided": notes}
    save_model(save, ModelFolder(job.codings[0], job.target, design, posterior, data, about))
    say(f"{name}: {info.status.value}.", *info.notes, f"Model: {save} ({info.seconds:.1f} s).")
