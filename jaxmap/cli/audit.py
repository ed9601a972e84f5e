"""jaxmap audit: can this point stand in for full Bayes?"""

import json
from pathlib import Path

import click

from jaxmap.cli.folder import load_model
from jaxmap.cli.options import check_file
from jaxmap.cli.output import say

EXAMPLES = """
Examples:

\b
  jaxmap fit sales.csv --target price --save model
  jaxmap audit model
  jaxmap audit model --out audit.json
"""


@click.command(epilog=EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the audit as JSON too.")
@click.option("--seed", default=0, type=click.IntRange(0), help="Of everything random in the audit.")
def audit(model: Path, out: Path | None, seed: int) -> None:
    """Ask whether a saved point estimate suffices, or what more it takes: the verdict with its reasons."""
    import jax

    from jaxmap import assess
    from jaxmap.infer.storage import write_atomically

    if out is not None:
        check_file("--out", out)
    saved = load_model(model)
    found = assess.audit(jax.random.key(seed), saved.design.model(), saved.data, saved.posterior)
    say(str(found))
    if out is not None:
        write_atomically(out, json.dumps(found.as_dict(), indent=2).encode())
        say(f"Written to {out}.")
