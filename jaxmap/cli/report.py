"""jaxmap report: the page of a comparison, from its records."""

import json
from pathlib import Path
from typing import Any

import click

from jaxmap.cli.compare import AUDIT, RECORDS, RUN, save_report
from jaxmap.cli.options import check_folder
from jaxmap.cli.output import console, say

EXAMPLES = """
Examples:

\b
  jaxmap compare sales.csv --target price --out sales
  jaxmap report sales
"""


@click.command(epilog=EXAMPLES)
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Rebuild the page of a comparison, finished or interrupted, from the folder that `jaxmap compare --out` made.

    Nothing is fitted: it shows the rows that are there.
    """
    from jaxmap import assess
    from jaxmap.report import comparison_table, verdict_lines

    records = run / RECORDS if (run / RECORDS).is_dir() else run
    if not records.is_dir() or not any(records.glob("*.safetensors")):
        raise click.UsageError(f"Expected the folder of a comparison, with records in it; {run} has none.")
    check_folder("RUN", run)
    about, looked = _kept(run, RUN), _kept(run, AUDIT)
    comparison = assess.Comparison.load(records)
    comparison.config.update(about or {})
    console().print(comparison_table(comparison))
    say(*verdict_lines(comparison))
    save_report(comparison, run, looked)


def _kept(run: Path, name: str) -> Any:
    """What a file of the folder holds, None where it is not there.

    Raises:
        ValueError: it is no JSON.
    """
    if not (run / name).exists():
        return None
    try:
        return json.loads((run / name).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"Expected a whole {name} in {run}; it cannot be read: {error}. Delete it.") from error
