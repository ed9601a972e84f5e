"""The commands together, and how they end: 0, 2 with one line on what was wrong, 130 where interrupted."""

import errno
import sys
from importlib.metadata import version

import click

from jaxmap.cli.audit import audit
from jaxmap.cli.compare import compare
from jaxmap.cli.datasets import datasets
from jaxmap.cli.fit import fit
from jaxmap.cli.predict import predict
from jaxmap.cli.report import report

EPILOG = """
Start with your own table:

\b
  jaxmap compare sales.csv --target price

Completion of commands and options, in bash (zsh and fish likewise):

\b
  eval "$(_JAXMAP_COMPLETE=bash_source jaxmap)"
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True}, epilog=EPILOG)
@click.version_option(version("jaxmap"), prog_name="jaxmap", message="%(prog)s %(version)s")
def app() -> None:
    """Fit one model by maximum likelihood, MAP, Laplace, ensembles and full Bayes, and compare them."""


for command in (compare, fit, predict, audit, report, datasets):
    app.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a bad option ends with one line and exit code 2."""
    try:
        code = app.main(arguments, prog_name="jaxmap", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        _end(error.format_message())
    except OSError as error:
        if error.errno == errno.EPIPE:
            sys.exit(0)  # `| head` has seen enough
        where = f" for {error.filename}" if error.filename else ""
        _end(f"Expected files that can be read and written; got {error.strerror or error}{where}.")
    except (ValueError, TypeError, ImportError) as error:
        _end(str(error))
    except (KeyboardInterrupt, click.Abort):
        click.echo("jaxmap: interrupted", err=True)
        sys.exit(130)
    sys.exit(code or 0)


def _end(message: str) -> None:
    click.echo(f"jaxmap: {' '.join(message.split())}", err=True)
    sys.exit(2)
