"""jaxmap compare: several methods on one table, a bundled one or the user's own."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.core import ParameterSource

from jaxmap.cli.config import check_config, config_options, write_config
from jaxmap.cli.job import WIDE, Job, model_in_words, prepare
from jaxmap.cli.methods import affordable, make_methods
from jaxmap.cli.options import METHODS, SHOWN, check_folder, chosen_methods, chosen_widths, make_folder, table_options
from jaxmap.cli.output import command_line, console, say

RUN, RECORDS, AUDIT = "run.json", "records", "audit.json"
BUNDLED = "concrete"
OF_FILES = ("target", "task", "log_target", "missing", "drop", "category", "weight_scale", "test", "splits")

EXAMPLES = """
Examples:

\b
  jaxmap compare sales.csv --target price
  jaxmap compare sales.csv.gz --target price --missing impute --drop comment --out sales
  jaxmap compare visits.parquet --target count --methods MLE,MAP,Laplace --network linear
  jaxmap compare sales.csv --target price --save-config sales.toml
  jaxmap compare --config sales.toml --splits 5
  jaxmap compare --data ames

The page is written to --out. With a file, every row of the table is kept in --out/records as soon as it is there: the
same command goes on where it was stopped, and `jaxmap report` shows what there is.
"""


@click.command(epilog=EXAMPLES)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--data", help=f"A bundled data set instead of a file; `jaxmap datasets` lists them.  [default: {BUNDLED}]"
)
@table_options
@click.option("--methods", default="auto", help=f"Which rows, joined by commas, of {', '.join(METHODS)}.")
@click.option(
    "--test",
    default=0.2,
    type=click.FloatRange(0, 1, True, True),
    help="Share held out, of a file; of each class alike.",
)
@click.option("--split", default=0, type=click.IntRange(0), help="Which random split.")
@click.option("--splits", default=1, type=click.IntRange(1), help="How many splits, from --split on, of a file.")
@click.option("--seed", default=0, type=click.IntRange(0), help="Of everything random in the fits.")
@click.option("--warmup", default=300, type=click.IntRange(1), help="NUTS: adaptation steps per chain.")
@click.option("--draws", default=800, type=click.IntRange(4), help="NUTS: kept draws per chain.")
@click.option("--audit/--no-audit", default=True, help="Ask whether the MAP estimate is enough, without sampling.")
@click.option("--out", default="report", type=click.Path(path_type=Path), help="Folder for the report.")
@config_options
def compare(file: Path | None, data: str | None, out: Path, save_config: Path | None, **options: Any) -> None:
    """Compare point estimates with full Bayes on held-out rows of a table: CSV, compressed CSV, or Parquet.

    Types are inferred, categories get one 0/1 column per level, and the likelihood follows from the target; everything
    that was decided is said. Without FILE it compares on real data that ships with jaxmap, a tenth of its rows held
    out.
    """
    names = chosen_methods(options["methods"])
    chosen_widths(options["network"])
    check_folder("--out", out)
    check_config(save_config)
    if file is not None and data is not None:
        raise click.UsageError(f"Expected a file or --data; got both, {file} and {data}. Leave one out.")
    given = click.get_current_context().get_parameter_source
    alone = [name for name in OF_FILES if given(name) is ParameterSource.COMMANDLINE]
    if file is None and alone:
        option = f"--{alone[0].replace('_', '-')}"
        raise click.UsageError(f"Expected a file with {option}; got none. Write jaxmap compare FILE --target COLUMN.")
    if file is None:
        _compare_bundled(data or BUNDLED, names or list(SHOWN), options, out, save_config)
    else:
        _compare_file(file, names, options, out, save_config)


def _compare_file(file: Path, names: list[str], options: dict[str, Any], out: Path, config: Path | None) -> None:
    """Read, decide, say, fit row by row, save."""
    import jax

    from jaxmap import assess
    from jaxmap.data import read_table

    job = prepare(read_table(file), options, share=options["test"], split=options["split"], splits=options["splits"])
    pairs = job.pairs()
    train, test = pairs[0]
    design = job.design(train)
    warmup, draws = options["warmup"], options["draws"]
    left_out: list[str] = []
    if not names:
        names, left_out = affordable(len(train[0]), design.size, not job.widths, warmup, draws)
    methods = make_methods(names, warmup, draws, design.size)
    reference = "NUTS" if "NUTS" in methods and len(methods) > 1 else None
    notes = [*job.notes, model_in_words(design, job.widths, train[0].shape[1]), *left_out]
    title = f"{file.name}: {job.target.name}"
    about = {"title": title, "data": file.name, "target": job.target.name, "unit": "", "network": list(job.widths)}
    about |= {"split": options["split"], "seed": options["seed"], "reference": reference, "decided": notes}
    about |= {"log_target": job.target.log, "classes": list(job.target.classes), "order": names}
    about |= {"model": model_in_words(design, job.widths, train[0].shape[1]), "rows": job.table.rows}
    about |= {"command": command_line()}
    write_config(config)
    _begin(out, about)
    say(f"{file.name}: {job.table.rows} rows, {len(test[0])} of them held out.", *notes)
    model, key = design.model(), jax.random.key(options["seed"])
    comparison = assess.compare(
        key,
        lambda rows: model if rows is train else job.design(rows).model(),
        pairs,
        methods,
        reference=reference,
        folder=out / RECORDS,
        precision=job.precision,
        on_record=lambda record: _tell(record, job),
    )
    comparison.config.update(about)
    looked = _audited(key, model, train, job.precision) if options["audit"] and _whole(comparison) else None
    _finish(comparison, out, job, looked)


def _begin(out: Path, about: dict[str, Any]) -> None:
    """Write what was decided, before anything is fitted; a folder that this made is removed where it fails."""
    from jaxmap.infer.storage import write_atomically

    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / RUN, json.dumps(about, indent=2).encode())
    except OSError:
        if made and out.is_dir():
            out.rmdir()
        raise


def _tell(record: Any, job: Job | None) -> None:
    """Print one row as it comes."""
    lppd = f"lppd {record.scores['lppd']:.3f}" if record.scores else "no result"
    if job is not None and job.target.log and record.scores:
        lppd += f"  RMSE of log {log_error(record):.4f}"
    seconds = f"{record.info['seconds']:.1f} s" if "seconds" in record.info else ""
    where = f"split {record.split}  " if job is not None and len(job.splits) > 1 else ""
    say(f"  {where}{record.method:<10}{lppd:<14}{seconds:>8}")


def log_error(record: Any) -> float:
    """sqrt(mean((log median - log y)^2)) of the predictive medians."""
    median, y = record.arrays["quantiles"][3], record.arrays["y"]
    return float(np.sqrt(np.mean((np.log(median) - np.log(y)) ** 2)))


def _whole(comparison: Any) -> bool:
    """Nobody stopped it."""
    return "interrupted" not in comparison.config


def _audited(key: Any, model: Any, train: Any, precision: str | None) -> Any:
    """The audit of the MAP estimate, printed; None where there is none."""
    from jaxmap import assess, infer
    from jaxmap.types import FitError

    try:
        point = infer.fit(key, model, train, infer.MAP(), precision=precision)
        found = assess.audit(key, model, train, point, precision=precision)
    except FitError as error:
        say(f"No audit: {error}")
        return None
    say("", f"Is the MAP estimate enough? {found.verdict.name}: {found.verdict.value}.", *found.reasons)
    return found


def _finish(comparison: Any, out: Path, job: Job, looked: Any) -> None:
    """Print the table and save the report."""
    if job.target.log:
        errors = {
            m: [log_error(r) for r in comparison.records if r.method == m and r.scores] for m in comparison.methods
        }
        means = {method: float(np.mean(values)) for method, values in errors.items() if values}
        comparison.config["rmse_log"] = means
    _show(comparison)
    if job.target.log:
        say(
            f"RMSE of log {job.target.name}, of the predictive median: "
            + ", ".join(f"{method} {value:.4f}" for method, value in means.items())
        )
    save_report(comparison, out, looked)
    if not _whole(comparison):
        raise KeyboardInterrupt


def _show(comparison: Any) -> None:
    from jaxmap import report

    table = report.comparison_table(comparison)
    out = console(13 * len(table.columns))
    out.print()
    out.print(table)
    say(*report.verdict_lines(comparison))


def save_report(comparison: Any, out: Path, looked: Any = None) -> None:
    """Write the report, with an audit where there is one, and say where it is."""
    from jaxmap.infer.storage import write_atomically

    written = comparison.save(out, audit=looked)
    if hasattr(looked, "as_dict"):
        write_atomically(out / AUDIT, json.dumps(looked.as_dict(), indent=2).encode())
    page = next((path for path in written or [] if path.name == "report.html"), out / "table.md")
    say(f"Report: {page}, figures and record.json beside it.")


def _compare_bundled(name: str, methods: list[str], options: dict[str, Any], out: Path, config: Path | None) -> None:
    """The main job: split, build, compare, print, save."""
    import jax

    from jaxmap import assess, data, model

    table, widths = data.load_dataset(name), chosen_widths(options["network"])
    if widths is None:
        widths = (50,) if len(table.columns) <= WIDE else ()
    make_folder("--out", out)
    write_config(config)
    size = f"{' x '.join(map(str, widths))} tanh units" if widths else "a linear model"
    say(f"{table.name}: {table.target} from {len(table.columns)} columns, {len(table.x)} rows; {size}")
    split, seed = options["split"], options["seed"]
    train, test = data.split(jax.random.fold_in(jax.random.key(20240), split), (table.x, table.y), 0.1)
    made = make_methods(methods, options["warmup"], options["draws"])
    key, built = jax.random.key(seed), model.tabular(train, widths, classes=len(table.classes))
    comparison = assess.compare(
        key,
        built,
        (train, test),
        made,
        reference="NUTS" if "NUTS" in made and len(made) > 1 else None,
        on_record=lambda record: _tell(record, None),
    )
    title = f"{table.name}, split {split}: {table.target}" + (f" in {table.unit}" if table.unit else "")
    comparison.config.update(title=title, data=table.name, target=table.target, unit=table.unit)
    comparison.config.update(network=list(widths), split=split, seed=seed, source=table.source)
    comparison.config.update(model=size, rows=len(table.x), command=command_line())
    looked = _audited(key, built, train, None) if options["audit"] and _whole(comparison) else None
    _show(comparison)
    save_report(comparison, out, looked)
    if not _whole(comparison):
        raise KeyboardInterrupt
