"""The model folder of `jaxmap fit`: a posterior, how new rows are coded, and the rows it was fitted to."""

import hashlib
import json
import os
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from jaxmap import infer
from jaxmap.data import Coding, Target
from jaxmap.infer.storage import write_atomically
from jaxmap.model import Design

VERSION = 1
HEADER, ROWS, POSTERIOR = "model.json", "rows.safetensors", "posterior"


@dataclass(frozen=True, eq=False)
class ModelFolder:
    """What a fit of a table leaves behind.

    Attributes:
        coding: from a table to standardised columns.
        target: what is predicted.
        design: what makes the model.
        posterior: over its parameters.
        data: (x, y), the rows it was fitted to, coded.
        config: how it came about, for people.
    """

    coding: Coding
    target: Target
    design: Design
    posterior: Any
    data: tuple[np.ndarray, np.ndarray] = field(repr=False)
    config: dict[str, Any] = field(default_factory=dict)


def save_model(folder: Path, saved: ModelFolder) -> Path:
    """Write a model folder under a temporary name beside its place, then rename it: the old one or the new one.

    Raises:
        ValueError: something else than a model folder is there.
    """
    check_place(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    begun = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    try:
        begun.mkdir()
        saved.posterior.save(begun / POSTERIOR)
        x, y = saved.data
        rows = save({"x": np.asarray(x, order="C"), "y": np.asarray(y, order="C")})
        write_atomically(begun / ROWS, rows)
        body = json.dumps(
            {
                "version": VERSION,
                "coding": saved.coding.plain(),
                "target": saved.target.plain(),
                "design": saved.design.plain(),
                "config": saved.config,
                "rows": _digest(rows),
                "posterior": _digest((begun / POSTERIOR / "posterior.json").read_bytes()),
            }
        )
        sealed = {"checksum": _digest(body.encode()), "body": body}
        write_atomically(begun / HEADER, json.dumps(sealed).encode())
        old = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
        if folder.exists():
            os.replace(folder, old)
        os.replace(begun, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    return folder


def check_place(folder: Path) -> None:
    """Refuse to write a model over something else.

    Raises:
        ValueError: the path is a file, or a folder with other things in it.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / HEADER).exists())):
        raise ValueError(f"Expected a new or an old model folder in {folder}; something else is there. Name another.")


def load_model(folder: Path) -> ModelFolder:
    """Read what `save_model` wrote.

    Raises:
        ValueError: nothing was saved there, by another version, or files were truncated or changed.
    """
    try:
        sealed = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        body = sealed["body"]
        if _digest(body.encode()) != sealed["checksum"]:
            raise ValueError(f"Expected the model that was saved in {folder}; {HEADER} was changed. Fit it again.")
        plain = json.loads(body)
        if plain["version"] != VERSION:
            raise ValueError(
                f"Expected a model folder of version {VERSION} in {folder}; got version {plain['version']}. Fit it "
                "again, or use the jaxmap that wrote it."
            )
        rows = (folder / ROWS).read_bytes()
        of_posterior = (folder / POSTERIOR / "posterior.json").read_bytes()
        for name, content in (("rows", rows), ("posterior", of_posterior)):
            if _digest(content) != plain[name]:
                raise ValueError(f"Expected the {name} that were saved in {folder}; they were changed. Fit it again.")
        arrays = load(rows)
        design = Design.from_plain(plain["design"])
        return ModelFolder(
            Coding.from_plain(plain["coding"]),
            Target.from_plain(plain["target"]),
            design,
            infer.load(folder / POSTERIOR),
            (arrays["x"], arrays["y"]),
            plain["config"],
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = Path(error.filename).name if error.filename else HEADER
        raise ValueError(
            f"Expected a model folder of `jaxmap fit ... --save` in {folder}; got no {missing}."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"Expected a whole model folder in {folder}; it cannot be read: {error}") from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
