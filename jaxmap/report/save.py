"""A comparison on disk."""

import io
import json
from pathlib import Path
from typing import Any

from jaxmap.infer.storage import folder_for, write_atomically
from jaxmap.report.drawing import styled
from jaxmap.report.figures import comparison_figures
from jaxmap.report.page import comparison_page
from jaxmap.report.table import comparison_markdown


def save_comparison(comparison: Any, folder: str | Path, audit: Any = None) -> list[Path]:
    """Write report.html, table.md, record.json and one PNG per figure, each under a temporary name first.

    Args:
        comparison: what `jm.compare` returned.
        folder: made if absent.
        audit: an `Audit`, or its `as_dict()`; its verdict then opens the page.

    Returns:
        paths: of the files written.

    Raises:
        ValueError: the path is a file; something that is no audit.
    """
    record = record_of(comparison)
    page = comparison_page(comparison, record, audit)
    folder = folder_for("the report", folder)
    written = [
        write_atomically(folder / "report.html", page.encode(errors="replace")),
        write_atomically(folder / "table.md", comparison_markdown(comparison).encode(errors="replace")),
        write_atomically(folder / "record.json", json.dumps(record, indent=2).encode()),
    ]
    for name, figure in comparison_figures(comparison).items():
        content = io.BytesIO()
        with styled():
            figure.savefig(content, dpi=160, format="png")
        written.append(write_atomically(folder / f"{name}.png", content.getvalue()))
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
