"""What commands print: sentences and tables, names from files never read as markup."""

import sys
from typing import Any


def console(least: int = 0) -> Any:
    """Standard output, as wide as the terminal; in a file or a pipe as wide as is needed."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else max(150, least), markup=False, highlight=False)


def say(*lines: str) -> None:
    """Print sentences as they are."""
    out = console()
    for line in lines:
        out.print(line, soft_wrap=True)


def command_line() -> str:
    """The command that is running, with the options that were given on it but where it writes."""
    import shlex

    import click
    from click.core import ParameterSource

    context = click.get_current_context()
    words = ["jaxmap", str(context.info_name)]
    for parameter in context.command.params:
        name, value = str(parameter.name), context.params.get(str(parameter.name))
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if not given or name in ("out", "save_config") or value in (None, ()):
            continue
        values = value if isinstance(value, tuple) else (value,)
        words += [f"{parameter.opts[0]}={one}" if parameter.opts[0].startswith("-") else str(one) for one in values]
    return shlex.join(words)
