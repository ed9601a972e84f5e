"""Records: what one method scored on one split with one seed, as one file written at once."""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jaxmap.infer.storage import folder_for, write_atomically


@dataclass(frozen=True, eq=False)
class Record:
    """One cell of a comparison.

    Attributes:
        split, seed, method: which cell; `method` is the row's name.
        identity: what the numbers depend on: model, data, method and versions.
        scores: by name.
        info: of the fit, as plain values.
        arrays: of the predictions, for figures and fidelity: y, log_prob, and quantiles and pit or probs, and the
            two halves `view_a`, `view_b`.
    """

    split: int
    seed: int
    method: str
    identity: dict[str, str]
    scores: dict[str, float]
    info: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(repr=False)

    @property
    def cell(self) -> str:
        """Which cell it is, in words."""
        return f"{self.method} (split {self.split}, seed {self.seed})"

    @property
    def name(self) -> str:
        """The record's file name without its ending."""
        safe = re.sub(r"[^A-Za-z0-9_.-]+", "_", self.method)
        return f"split{self.split}-seed{self.seed}-{safe}"


class RecordFolder:
    """A folder of records; each is one safetensors file whose header holds the JSON.

    Args:
        folder: made if absent.

    Raises:
        ValueError: the path is a file.
    """

    def __init__(self, folder: str | Path):
        self.folder = folder_for("records", folder)

    def write(self, record: Record) -> None:
        """Write a record atomically: under a temporary name, flushed, then renamed."""
        header = asdict(record)
        header.pop("arrays")
        arrays = {name: np.asarray(value, order="C") for name, value in record.arrays.items()}
        content = save(arrays, metadata={"record": json.dumps(header)})
        write_atomically(self.folder / f"{record.name}.safetensors", content)

    def read(self, blank: Record) -> Record | None:
        """Take up the record of a cell, None where there is none.

        Args:
            blank: a record with the cell's names and identity.

        Raises:
            ValueError: the file is damaged, or of another model, data, method or version; names the difference.
        """
        path = self.folder / f"{blank.name}.safetensors"
        if not path.exists():
            return None
        found = _read(path)
        differs = [
            f"{key} was {found.identity.get(key)!r}, now {value!r}"
            for key, value in blank.identity.items()
            if found.identity.get(key) != value
        ]
        if differs or found.method != blank.method:
            raise ValueError(
                f"Expected {path.name} to be of this comparison; {'; '.join(differs) or 'another row has its name'}. "
                "Use another folder, or delete the record."
            )
        return found

    def find(self, split: int, seed: int, method: str) -> Record | None:
        """The record of a cell, of whatever identity; None where there is none.

        Raises:
            ValueError: the file is damaged, or another row's.
        """
        blank = Record(split, seed, method, {}, {}, {}, {})
        return self.read(blank)


def _read(path: Path) -> Record:
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})["record"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Record(**header, arrays=arrays)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"Expected a whole record in {path.name}; it cannot be read ({error}). Delete it to compute it anew."
        ) from error
