"""A comparison on disk."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from jaxmap.report.figures import comparison_figures
from jaxmap.report.table import comparison_markdown


def save_comparison(comparison: Any, folder: str | Path) -> list[Path]:
    """Write table.md, record.json and one PNG per figure, each under a temporary name first.

    Args:
        comparison: what `jm.compare` returned.
        folder: made if absent.

    Returns:
        paths: of the files written.

    Raises:
        ValueError: the path is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"Expected a folder to write the report to; got the file {folder}. Name another.")
    folder.mkdir(parents=True, exist_ok=True)
    written = [
        _write(folder / "table.md", comparison_markdown(comparison).encode()),
        _write(folder / "record.json", json.dumps(record_of(comparison), indent=2).encode()),
    ]
    for name, figure in comparison_figures(comparison).items():
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".png")
        os.close(handle)
        figure.savefig(temporary, dpi=160)
        os.replace(temporary, folder / f"{name}.png")
        written.append(folder / f"{name}.png")
    return written


def record_of(comparison: Any) -> dict[str, Any]:
    """Everything that says how the numbers came about: config, versions, seeds, fingerprints, scores, cost."""
    return {
        "config": comparison.config,
        "reference": comparison.reference,
        "summary": comparison.summary(),
        "cells": [
            {
                "split": record.split,
                "seed": record.seed,
                "method": record.method,
                "identity": record.identity,
                "scores": record.scores,
                "info": record.info,
            }
            for record in comparison.records
        ],
    }


def _write(path: Path, content: bytes) -> Path:
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return path
