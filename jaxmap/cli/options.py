"""Options that several commands share, and what their texts mean."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

SHOWN = ("MLE", "MAP", "Laplace", "Ensemble", "NUTS")
METHODS = (*SHOWN, "VI", "Pathfinder")

AUTO = "auto"
LEVELS = click.FloatRange(0, 1, min_open=True, max_open=True)


def table_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how a file becomes a model."""
    options = (
        click.option("--target", metavar="COLUMN", help="The column to predict."),
        click.option(
            "--task",
            type=click.Choice([AUTO, "regression", "binary", "classes", "counts"]),
            default=AUTO,
            help="What the target is; auto reads it off its values, and says so.",
        ),
        click.option(
            "--log-target",
            type=click.Choice([AUTO, "yes", "no"]),
            default=AUTO,
            help="A log-normal likelihood, for a positive skewed target such as a price.",
        ),
        click.option(
            "--missing",
            type=click.Choice(["refuse", "drop", "impute"]),
            default="refuse",
            help="Missing cells: refuse the table; drop their rows; or impute the median or most frequent level of the "
            "training rows, with a column that tells where.",
        ),
        click.option("--drop", multiple=True, metavar="COLUMN", help="Leave a column out. May be given several times."),
        click.option(
            "--category", multiple=True, metavar="COLUMN", help="A column whose numbers are names. As often as needed."
        ),
        click.option("--network", default=AUTO, help="Widths of hidden layers, `50` or `50,50`; `linear` for none."),
        click.option(
            "--weight-scale",
            type=click.FloatRange(0, min_open=True),
            help="Prior standard deviation of first-layer weights, in standardised units.  [default: by the number of "
            "columns]",
            show_default=False,
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def chosen_methods(text: str) -> list[str]:
    """Row names from a list with commas; empty for `auto`."""
    names = {name.lower(): name for name in METHODS}
    if text.strip().lower() == AUTO:
        return []
    wanted = [part.strip().lower() for part in text.split(",") if part.strip()]
    if not wanted or any(part not in names for part in wanted):
        raise click.UsageError(f"Expected --methods from {', '.join(METHODS)}; got {text!r}.")
    return list(dict.fromkeys(names[part] for part in wanted))


def chosen_widths(text: str) -> tuple[int, ...] | None:
    """Widths of hidden layers, none for a linear model; None for `auto`."""
    if text in ("linear", AUTO):
        return () if text == "linear" else None
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        widths = ()
    if not widths or min(widths) < 1:
        raise click.UsageError(f"Expected --network as widths such as 50 or 50,50, or linear; got {text!r}.")
    return widths


def check_folder(option: str, folder: Path) -> None:
    """Refuse a folder that cannot be made or written, and make nothing.

    Raises:
        UsageError: with the reason.
    """
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"Expected {option} to be a folder that can be written; got the file {folder}.")
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise click.UsageError(
            f"Expected {option} to be a folder that can be written; {existing} does not allow it ({folder})."
        )


def make_folder(option: str, folder: Path) -> None:
    """Make a folder and try to write there, as far as `check_folder` cannot tell.

    Raises:
        UsageError: with the reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise click.UsageError(
            f"Expected {option} to be a folder that can be written; got {folder}: {error.strerror}."
        ) from error


def check_file(option: str, path: Path) -> None:
    """Refuse a file that cannot be written, and write nothing.

    Raises:
        UsageError: with the reason.
    """
    if path.is_dir():
        raise click.UsageError(f"Expected {option} to be a file; got the folder {path}.")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise click.UsageError(f"Expected {option} in a folder that exists and can be written; got {path}.")
