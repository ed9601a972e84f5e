"""jaxmap datasets."""

import sys

import click


@click.command()
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
