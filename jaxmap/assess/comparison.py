"""Comparison: what the methods scored, as rows, tables and figures."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxmap.assess.contents import check_of_folder, read_contents
from jaxmap.assess.diagnostics import fidelity
from jaxmap.assess.paired import SPLITS, Difference, by_split, mean_and_error, over_points, over_runs
from jaxmap.assess.records import Record, RecordFolder
from jaxmap.assess.same_target import same_target
from jaxmap.assess.sentences import sentence, sentences_of

CEILING = "ceiling"

KEPT = (
    *("status", "seconds", "num_gradients", "budget", "k_hat", "rhat", "rhat_median"),
    *("elpd_loo", "se_elpd_loo", "p_loo", "bad_pareto_k", "log_evidence", "notes"),
)
"""What rows show of a fit."""


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

    @classmethod
    def load(cls, folder: str | Path) -> "Comparison":
        """Read back what `jm.compare(..., folder=folder)` has made so far.

        Args:
            folder: of the records.

        Returns:
            comparison: of the call that wrote there last; cells that it had not come to are in `config["missing"]`.

        Raises:
            ValueError: nothing was written there, a file is damaged, or a record is of another comparison.
        """
        folder = Path(folder)
        contents = read_contents(folder) if folder.is_dir() else None
        if contents is None:
            raise ValueError(
                f"Expected the records of jm.compare(..., folder=...) in {folder}; got no comparison.json there."
            )
        store, records, missing = RecordFolder(folder), [], []
        for cell in contents["cells"]:
            found = store.find(*cell)
            if found is None:
                missing.append(f"{cell[2]} (split {cell[0]}, seed {cell[1]})")
                continue
            check_of_folder(folder, contents, found)
            records.append(found)
        config = contents["config"] | ({"missing": missing} if missing else {})
        return cls(tuple(records), contents["reference"], config)

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
        """One dict per method: the mean of every number over the splits and seeds that have it.

        `cells` counts the method's cells, `scored` those with predictions (a fit that failed has none). With several
        also `<score>_se`, the standard error of the mean over splits, or over the seeds of one split. With a reference
        `<score>_diff` and `<score>_diff_se`, of `difference(method, reference)`; `lppd_diff_over` says what it is
        paired over. `sentence` says what the method costs and buys.
        """
        names = [*self.methods, *([CEILING] if self.reference else [])]
        return [self._summarise(name) for name in names]

    @property
    def same_target(self) -> list[dict[str, Any]]:
        """One dict per method: did its own programs evaluate the density that it says, at common probe points?

        See `jaxmap.assess.same_target`.
        """
        return same_target(self.records)

    @property
    def sentences(self) -> list[str]:
        """Which density was seen, and what is missing, in words."""
        return sentences_of(self)

    def difference(self, method: str, base: str, score: str = "lppd") -> Difference | None:
        """The paired difference of a score between two methods; None where they share no run.

        Paired over the (split, seed) that both have: over splits, the seeds of each averaged; `lppd` with one split
        over its test points, other scores then over its seeds.
        """
        values, others = self.values(method, score), self.values(base, score)
        found = over_runs(values, others)
        if found is None or found.over == SPLITS or score != "lppd":
            return found
        pairs = [(self.of(*cell, method), self.of(*cell, base)) for cell in values if cell in others]
        points = [tuple(r.arrays.get("log_prob") for r in pair) for pair in pairs]
        if any(a is None or b is None for a, b in points):
            return found
        return over_points(*zip(*points, strict=True))

    def values(self, method: str, key: str) -> dict[tuple[int, int], float]:
        """A number by (split, seed), where the method has it."""
        rows = (row for row in self.rows if row["method"] == method and isinstance(row.get(key), float))
        return {(row["split"], row["seed"]): row[key] for row in rows}

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
        cells = {(r.split, r.seed) for r in self.records if r.method == self.reference}
        if record.method != self.reference and (record.split, record.seed) in cells:
            target = self.of(record.split, record.seed, self.reference)  # type: ignore[arg-type]
            row |= _distance(record.arrays.get("view"), target.arrays.get("view_a"), target)
        return row | {name: record.info[name] for name in KEPT if name in record.info}

    def _ceiling(self, record: Record) -> dict[str, Any]:
        row = {"split": record.split, "seed": record.seed, "method": CEILING, "status": "", "notes": []}
        return row | _distance(record.arrays.get("view_b"), record.arrays.get("view_a"), record)

    def _summarise(self, name: str) -> dict[str, Any]:
        rows = [row for row in self.rows if row["method"] == name]
        scored = sum("lppd" in row for row in rows)
        result: dict[str, Any] = {"method": name, "cells": len(rows)} | ({} if name == CEILING else {"scored": scored})
        for key in dict.fromkeys(key for row in rows for key, value in row.items() if isinstance(value, float)):
            mean, error = mean_and_error(by_split(self.values(name, key)))
            result |= {key: mean} | ({} if error is None else {f"{key}_se": error})
            if self.reference is not None and name not in (self.reference, CEILING):
                found = self.difference(name, self.reference, key)
                result |= {} if found is None else _told(key, found)
        statuses = list(dict.fromkeys(row["status"] for row in rows))
        budget = max((row["budget"] for row in rows if "budget" in row), default=None)
        result |= {} if budget is None else {"budget": budget}
        result |= {"status": " / ".join(statuses)}
        return result if name == CEILING else result | {"sentence": sentence(self, name)}


def _told(key: str, found: Difference) -> dict[str, Any]:
    """A difference as entries of a summary."""
    said: dict[str, Any] = {f"{key}_diff": found.mean}
    if found.se is not None:
        said |= {f"{key}_diff_se": found.se}
    return said | ({"lppd_diff_over": f"{found.count} {found.over}"} if key == "lppd" else {})


def _distance(view: np.ndarray | None, target: np.ndarray | None, record: Record) -> dict[str, float]:
    if view is None or target is None:
        return {}
    found = fidelity(view, target, classes="probs" in record.arrays)
    return {name: value for name, value in found._asdict().items() if value is not None}
