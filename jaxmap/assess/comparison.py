"""Comparison: what the methods scored, as rows, tables and figures."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxmap.assess.diagnostics import fidelity
from jaxmap.assess.records import Record

CEILING = "ceiling"


@dataclass(frozen=True, eq=False)
class Comparison:
    """All cells of a comparison.

    Attributes:
        records: one per (split, seed, method).
        reference: the row that the others are compared with, or None.
        config: what was run, for the record.
    """

    records: tuple[Record, ...] = field(repr=False)
    reference: str | None = None
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """Row names, in the order in which they were given."""
        return list(dict.fromkeys(record.method for record in self.records))

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """One plain dict per cell: scores, fidelity to the reference, cost and status."""
        rows = [self._row(record) for record in self.records]
        return rows + [self._ceiling(record) for record in self.records if record.method == self.reference]

    def summary(self) -> list[dict[str, Any]]:
        """One dict per method: the mean of every number over splits and seeds.

        With several cells also `<score>_se`, the standard error of the mean; with a reference `<score>_diff` and
        `<score>_diff_se`, of the paired differences method - reference.
        """
        names = [*self.methods, *([CEILING] if self.reference else [])]
        table = {name: [row for row in self.rows if row["method"] == name] for name in names}
        return [self._summarise(name, table) for name in names]

    def __str__(self) -> str:
        from jaxmap.report import comparison_text

        return comparison_text(self)

    def figures(self) -> dict[str, Any]:
        """Matplotlib figures by name: bands, calibration, cost, marginals, traces, losses; those that can be drawn."""
        from jaxmap.report import comparison_figures

        return comparison_figures(self)

    def save(self, folder: str | Path, audit: Any = None) -> list[Path]:
        """Write report.html (one page, for colleagues), table.md, record.json and the figures; returns the paths.

        Args:
            folder: made if absent.
            audit: an `Audit`, or its `as_dict()`; its verdict then opens the page.
        """
        from jaxmap.report import save_comparison

        return save_comparison(self, folder, audit)

    def of(self, split: int, seed: int, method: str) -> Record:
        """The record of one cell."""
        return next(r for r in self.records if (r.split, r.seed, r.method) == (split, seed, method))

    def _row(self, record: Record) -> dict[str, Any]:
        row: dict[str, Any] = {"split": record.split, "seed": record.seed, "method": record.method}
        row |= record.scores
        if self.reference and record.method != self.reference:
            target = self.of(record.split, record.seed, self.reference)
            row |= _distance(record.arrays.get("view"), target.arrays.get("view_a"), target)
        kept = ("status", "seconds", "num_gradients", "k_hat", "rhat", "rhat_median", "notes")
        return row | {name: record.info[name] for name in kept if name in record.info}

    def _ceiling(self, record: Record) -> dict[str, Any]:
        row = {"split": record.split, "seed": record.seed, "method": CEILING, "status": "", "notes": []}
        return row | _distance(record.arrays.get("view_b"), record.arrays.get("view_a"), record)

    def _summarise(self, name: str, table: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        rows = table[name]
        result: dict[str, Any] = {"method": name, "cells": len(rows)}
        numbers = [key for key, value in rows[0].items() if isinstance(value, float)]
        for key in numbers:
            values = np.array([row.get(key, np.nan) for row in rows])
            result[key] = float(values.mean())
            if len(values) > 1:
                result[f"{key}_se"] = float(values.std(ddof=1) / np.sqrt(len(values)))
            others = [row.get(key) for row in table.get(self.reference or "", [])]
            if name not in (self.reference, CEILING) and others and None not in others:
                paired = values - np.array(others)
                result[f"{key}_diff"] = float(paired.mean())
                if len(values) > 1:
                    result[f"{key}_diff_se"] = float(paired.std(ddof=1) / np.sqrt(len(paired)))
        statuses = list(dict.fromkeys(row["status"] for row in rows))
        return result | {"status": " / ".join(statuses)}


def _distance(view: np.ndarray | None, target: np.ndarray | None, record: Record) -> dict[str, float]:
    if view is None or target is None:
        return {}
    found = fidelity(view, target, classes="probs" in record.arrays)
    return {name: value for name, value in found._asdict().items() if value is not None}
