"""What commands print: sentences and tables, names from files never read as markup."""

import sys
from typing import Any


def console() -> Any:
    """Standard output, as wide as the terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 150, markup=False, highlight=False)


def say(*lines: str) -> None:
    """Print sentences as they are."""
    out = console()
    for line in lines:
        out.print(line, soft_wrap=True)
