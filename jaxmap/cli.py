"""The command line: jaxmap compare | datasets."""

import shlex
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

WIDE = 100
"""More columns than this, and the automatic network is linear."""

SHOWN = ("MLE", "MAP", "Laplace", "Ensemble", "NUTS")
METHODS = (*SHOWN, "VI", "Pathfinder")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(version("jaxmap"), prog_name="jaxmap", message="%(prog)s %(version)s")
def app() -> None:
    """Fit one model by maximum likelihood, MAP, Laplace, ensembles and full Bayes, and compare them."""


@app.command()
def datasets() -> None:
    """List the data sets that `jaxmap compare --data` knows."""
    from rich.console import Console
    from rich.table import Table

    from jaxmap import data

    table = Table("name", "rows", "columns", "task", "target", "source")
    for entry in data.datasets():
        target = f"{entry.target} ({entry.unit})" if entry.unit else entry.target
        needs = f" [needs jaxmap\\[{entry.extra}]]" if entry.extra else ""
        table.add_row(entry.name, str(entry.rows), str(entry.columns), entry.task, target, entry.source + needs)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@app.command()
@click.option("--data", default="concrete", help="A data set; `jaxmap datasets` lists them.")
@click.option("--methods", default=",".join(SHOWN), help=f"Which rows, joined by commas, of {', '.join(METHODS)}.")
@click.option("--network", default="auto", help="Widths of hidden layers, `50` or `50,50`; `linear` for none.")
@click.option("--split", default=0, type=click.IntRange(0), help="Which random split.")
@click.option("--seed", default=0, type=click.IntRange(0), help="Of everything random in the fits.")
@click.option("--warmup", default=300, type=click.IntRange(1), help="NUTS: adaptation steps per chain.")
@click.option("--draws", default=800, type=click.IntRange(4), help="NUTS: kept draws per chain.")
@click.option("--out", default="report", type=click.Path(path_type=Path), help="Folder for the report.")
def compare(data: str, methods: str, network: str, split: int, seed: int, warmup: int, draws: int, out: Path) -> None:
    """Compare methods on real data: a Bayesian neural network with a N(0, 1) prior, a tenth of the rows held out.

    Prints a table and writes the report to the folder: report.html, one page for colleagues; table, figures and
    record.json beside it.
    """
    chosen = _chosen(methods)
    widths = _widths(network)
    _writable(out)
    from jaxmap.data import load_dataset

    table = load_dataset(data)
    if widths is None:
        widths = (50,) if len(table.columns) <= WIDE else ()
    _compare(table, _methods(chosen, warmup, draws), widths, split, seed, out)


def _compare(table: Any, methods: dict[str, Any], widths: tuple[int, ...], split: int, seed: int, out: Path) -> None:
    """The main job: split, build, compare, print, save."""
    import jax
    from rich.console import Console

    from jaxmap import assess, data, model, report

    console = Console(width=None if sys.stdout.isatty() else 150)
    size = f"{' x '.join(map(str, widths))} tanh units" if widths else "a linear model"
    console.print(
        f"{table.name}: {table.target} from {len(table.columns)} columns, {len(table.x)} rows; {size}",
        highlight=False,
    )
    train, test = data.split(jax.random.fold_in(jax.random.key(20240), split), (table.x, table.y), 0.1)
    reference = "NUTS" if "NUTS" in methods and len(methods) > 1 else None

    def tell(record: Any) -> None:
        lppd = f"lppd {record.scores['lppd']:.3f}" if record.scores else "no result"
        seconds = f"{record.info['seconds']:.1f} s" if "seconds" in record.info else ""
        console.print(f"  {record.method:<10}{lppd:<14}{seconds:>8}", highlight=False)

    comparison = assess.compare(
        jax.random.key(seed),
        lambda rows: model.tabular(rows, widths, classes=len(table.classes)),
        (train, test),
        methods,
        reference=reference,
        on_record=tell,
    )
    title = f"{table.name}, split {split}: {table.target}" + (f" in {table.unit}" if table.unit else "")
    comparison.config.update(title=title, data=table.name, target=table.target, unit=table.unit)
    comparison.config.update(network=list(widths), split=split, seed=seed, source=table.source)
    comparison.config.update(model=size, rows=len(table.x), command=_command())
    console.print()
    console.print(report.comparison_table(comparison))
    for line in report.verdict_lines(comparison):
        console.print(line, highlight=False, soft_wrap=True)
    comparison.save(out)
    console.print(
        f"Report: {out / 'report.html'}, one page; table, figures and record beside it.",
        highlight=False,
        soft_wrap=True,
    )


def _command() -> str:
    """The command that is running, with all options that its numbers depend on."""
    context = click.get_current_context()
    options = [f"--{name}={value}" for name, value in context.params.items() if name != "out"]
    return shlex.join(["jaxmap", str(context.info_name), *options])


def _methods(names: list[str], warmup: int, draws: int) -> dict[str, Any]:
    from jaxmap import infer

    made = {
        "MLE": infer.MLE(),
        "MAP": infer.MAP(),
        "Laplace": infer.Laplace(),
        "Ensemble": infer.Ensemble(infer.MAP(), members=8),
        "NUTS": infer.NUTS(warmup=warmup, draws=draws, max_tree_depth=8, target_accept_prob=0.7),
        "VI": infer.VI(),
        "Pathfinder": infer.Pathfinder(),
    }
    return {name: made[name] for name in names}


def _chosen(text: str) -> list[str]:
    names = {name.lower(): name for name in METHODS}
    wanted = [part.strip().lower() for part in text.split(",") if part.strip()]
    unknown = [part for part in wanted if part not in names]
    if unknown or not wanted:
        raise click.UsageError(f"Expected --methods from {', '.join(METHODS)}; got {text!r}.")
    return list(dict.fromkeys(names[part] for part in wanted))


def _widths(text: str) -> tuple[int, ...] | None:
    if text in ("linear", "auto"):
        return () if text == "linear" else None
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        widths = ()
    if not widths or min(widths) < 1:
        raise click.UsageError(f"Expected --network as widths such as 50 or 50,50, or linear; got {text!r}.")
    return widths


def _writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise click.UsageError(
            f"Expected --out to be a folder that can be written; got {folder}: {error.strerror}."
        ) from error


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a bad option ends with one line and exit code 2."""
    try:
        code = app.main(arguments, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"jaxmap: {' '.join(error.format_message().split())}", err=True)
        sys.exit(2)
    except (ValueError, TypeError, ImportError) as error:
        click.echo(f"jaxmap: {error}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("jaxmap: interrupted", err=True)
        sys.exit(130)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
