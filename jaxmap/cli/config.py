"""Options from a TOML file, and back into one; the command line wins."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from jaxmap.cli.options import check_file

OWN = ("config", "save_config", "help")


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --config, read before all other options, and --save-config."""
    read = click.option(
        "--config",
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_read,
        metavar="FILE",
        help="Take options from a TOML file; those given here win.",
    )
    write = click.option(
        "--save-config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write the options of this call to a TOML file.",
    )
    return read(write(command))


def write_config(path: Path | None) -> None:
    """Write the options of the current command, where asked to.

    Raises:
        UsageError: a place that cannot be written.
    """
    if path is None:
        return
    import tomli_w

    from jaxmap.infer.storage import write_atomically

    context = click.get_current_context()
    chosen = {name: _plain(value) for name, value in context.params.items() if name not in OWN and value is not None}
    write_atomically(path, tomli_w.dumps(chosen).encode())


def check_config(path: Path | None) -> None:
    """Refuse a place for --save-config before anything is fitted."""
    if path is not None:
        check_file("--save-config", path)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def _read(context: click.Context, option: click.Parameter, path: Path | None) -> None:
    """Make the entries of the file the defaults of the command's options."""
    if path is None:
        return
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.UsageError(f"Expected --config to be a file that can be read; {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"Expected TOML in {path}; got {error}.") from error
    entries = {name.replace("-", "_"): value for name, value in entries.items()}
    known = {p.name: p for p in context.command.params if p.name not in OWN}
    unknown = [name for name in entries if name not in known]
    if unknown:
        raise click.UsageError(
            f"Expected options of `jaxmap {context.info_name}` in {path}; got {', '.join(map(repr, unknown))}. "
            f"It knows {', '.join(sorted(map(str, known)))}."
        )
    for name, value in entries.items():
        several = getattr(known[name], "multiple", False)
        if isinstance(value, list) != several or isinstance(value, dict):
            raise click.UsageError(
                f"Expected {'a list' if several else 'one value'} for {name!r} in {path}; got {value!r}."
            )
    context.default_map = {**(context.default_map or {}), **entries}
