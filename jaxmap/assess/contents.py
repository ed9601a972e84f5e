"""What a folder of records is of: one comparison, written beside them, so that it can be read back as a whole."""

import json
from pathlib import Path
from typing import Any

from jaxmap.assess.records import Record
from jaxmap.infer.storage import write_atomically

FILE = "comparison.json"

FORMAT = 1


def read_contents(folder: Path) -> dict[str, Any] | None:
    """What was written about the folder's comparison; None where nothing was.

    Raises:
        ValueError: the file cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']!r}")
        cells = [(int(split), int(seed), str(method)) for split, seed, method in found["cells"]]
        kinds = {"reference": (str, type(None)), "config": dict, "identity": dict}
        for name, kind in kinds.items():
            if not isinstance(found[name], kind):
                raise TypeError(f"{name} is {found[name]!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"Expected what jm.compare wrote in {path}; it cannot be read ({error}). Delete it and run jm.compare "
            "again: whole records are taken up."
        ) from error
    return found | {"cells": cells}


def write_contents(
    folder: Path,
    reference: str | None,
    config: dict[str, Any],
    identity: dict[str, dict[str, str]],
    cells: list[tuple[int, int, str]],
) -> None:
    """Write down, before anything is fitted, what the folder is going to hold.

    Args:
        folder: of the records.
        reference: of the comparison.
        config: of the comparison.
        identity: by split, what all of its records depend on.
        cells: in order.

    Raises:
        ValueError: the folder holds another comparison; names the difference.
    """
    before = read_contents(folder)
    if before is not None:
        _refuse_another(folder, before["identity"], identity)
        identity = before["identity"] | identity
    content = {"format": FORMAT, "reference": reference, "config": config, "identity": identity, "cells": cells}
    write_atomically(folder / FILE, json.dumps(content, indent=1).encode())


def _refuse_another(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """More methods, seeds and splits may be asked for; not other data, models, keys or budgets."""
    differs = [
        f"{name} of split {split} was {before[split].get(name)!r}, now {value!r}"
        for split, identity in now.items()
        if split in before
        for name, value in identity.items()
        if before[split].get(name) != value
    ]
    if differs:
        raise ValueError(
            f"Expected the records in {folder} to be of this comparison; {'; '.join(differs)}. Use another folder."
        )


def check_of_folder(folder: Path, contents: dict[str, Any], record: Record) -> None:
    """Refuse a record that is not of the comparison that the folder says it holds.

    Raises:
        ValueError: names the difference.
    """
    expected = contents["identity"].get(str(record.split), {})
    differs = [name for name, value in expected.items() if record.identity.get(name, value) != value and name != "key"]
    if differs:
        raise ValueError(
            f"Expected {record.name} in {folder} to be of the comparison that {FILE} names; its "
            f"{' and '.join(differs)} differ. Delete the record, or use another folder."
        )
