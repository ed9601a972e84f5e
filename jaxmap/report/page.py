"""The page: one file of HTML with the verdict, the table, the figures and the record."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from jaxmap.report.drawing import Drawing, Mark, printable
from jaxmap.report.figures import comparison_drawings
from jaxmap.report.meanings import MEANINGS, Meaning
from jaxmap.report.svg import VARIABLES, inline_svg
from jaxmap.report.table import (
    CEILING,
    number_text,
    present_columns,
    row_name,
    status_text,
    title_text,
    verdict_lines,
)

LONGEST_RECORD = 200_000
"""Characters of JSON; a longer record is shown without its cells."""

MARKS = {"none": ("\u2713", "no concern"), "some": ("!", "some concern"), "serious": ("\u2715", "serious concern")}
"""Concern of a finding -> the sign and the words before it."""


class Cell(NamedTuple):
    """A number as it is read, and as it is sorted by."""

    text: str
    value: float | str


def comparison_page(comparison: Any, record: dict[str, Any], audit: Any = None) -> str:
    """Write a comparison as one self-contained page.

    Args:
        comparison: what `jm.compare` returned.
        record: what says how the numbers came about, for the end of the page.
        audit: an `Audit`, or its `as_dict()`; its verdict then opens the page.

    Returns:
        html: the same for the same comparison; nothing in it leads to another file or machine, all text is escaped.
    """
    verdict = None if audit is None else audit_of(audit)
    if verdict is not None:
        record = {**record, "audit": verdict}
    notes = list(dict.fromkeys(f"{r.method}: {note}" for r in comparison.records for note in r.info.get("notes", [])))
    elsewhere = {*notes, *(row.get("sentence") for row in comparison.summary())}
    lines = [line for line in verdict_lines(comparison) if line not in elsewhere]
    return _rendered(
        title=title_text(comparison).replace("+- ", "\u00b1 "),
        facts=_facts(comparison),
        audit=verdict,
        opening=[] if verdict else opening(comparison, differences=not lines),
        lines=[_minus(line) for line in lines],
        table=_table(comparison),
        sections=[_section(drawing) for drawing in comparison_drawings(comparison)],
        notes=notes,
        again=_again(comparison),
        record=_record_text(record),
    )


def audit_page(audit: Any, *, title: str = "Audit", facts: Mapping[str, str] | None = None, again: str = "") -> str:
    """Write an audit as one self-contained page.

    Args:
        audit: an `Audit`, or its `as_dict()`.
        title: of the page.
        facts: what was audited, by name: data, model, method, date.
        again: the command that makes it again.

    Returns:
        html: as `comparison_page`.
    """
    plain = audit_of(audit)
    return _rendered(
        title=title,
        facts=list((facts or {}).items()),
        audit=plain,
        opening=[],
        lines=[],
        table=None,
        sections=[],
        notes=[],
        again=again,
        record=_record_text({"audit": plain}),
    )


def audit_of(audit: Any) -> dict[str, Any]:
    """Read an audit from anything with `as_dict`, or from the dict itself.

    Raises:
        TypeError: something else.
        ValueError: a dict without verdict and sentence, or a finding with an unknown concern.
    """
    plain = audit.as_dict() if hasattr(audit, "as_dict") else audit
    if not isinstance(plain, Mapping):
        raise TypeError(f"Expected an audit from jm.audit, or its as_dict(); got {type(audit).__name__}.")
    missing = [name for name in ("verdict", "sentence") if name not in plain]
    if missing:
        raise ValueError(f"Expected an audit with verdict and sentence; got none of {', '.join(missing)}.")
    findings = [dict(finding) for finding in plain.get("findings") or ()]
    for finding in findings:
        if finding.get("concern", "none") not in MARKS:
            raise ValueError(
                f"Expected a finding's concern to be one of {', '.join(MARKS)}; got {finding['concern']!r}."
            )
    return {**plain, "reasons": list(plain.get("reasons") or ()), "findings": findings, "next": plain.get("next") or ""}


def opening(comparison: Any, *, differences: bool) -> list[str]:
    """What the table says, in up to three sentences, the main one first; `differences` from the reference if wanted."""
    rows = [row for row in comparison.summary() if row["method"] != CEILING and row.get("lppd", float("nan")) > -1e300]
    if not rows:
        return ["No method gave a result that could be scored."]
    best = max(rows, key=lambda row: row["lppd"])
    score = _minus(f"{best['lppd']:.3f}")
    said = [f"{best['method']} predicts the held-out data best: lppd {score} nats per test point."]
    others = [row for row in rows if row["method"] != comparison.reference]
    reference = next((row for row in rows if row["method"] == comparison.reference), None)
    if differences and reference is not None and others:
        gaps = [f"{row['method']} {row['lppd'] - reference['lppd']:+.3f}" for row in others]
        said.append(
            f"Against {comparison.reference}, in nats per test point: {', '.join(gaps)}.".replace(" -", " \u2212")
        )
    if rows[0]["cells"] == 1 and len(rows) > 1:
        said.append("This is one split of the data: small differences may be chance.")
    return said


def _rendered(**content: Any) -> str:
    environment = Environment(
        loader=PackageLoader("jaxmap.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"plain": _plain_number, "fingerprint": _fingerprint}
    content |= {"concerns": MARKS}
    return printable(environment.get_template("page.html.j2").render(content)).strip() + "\n"


def _fingerprint(script: str) -> str:
    """The hash by which a content security policy allows one script and no other."""
    return base64.b64encode(hashlib.sha256(str(script).encode()).digest()).decode()


def _plain_number(value: Any) -> str:
    """A finding's value: four digits of a number, anything else as it prints."""
    if value is None or isinstance(value, str | bool):
        return "" if value is None else str(value)
    try:
        return _minus(f"{float(value):.4g}")
    except (TypeError, ValueError):
        return str(value)


def _minus(text: str) -> str:
    """A hyphen before a digit is a minus sign, `+-` a plus-minus sign."""
    return re.sub(r"-(?=[\d.])", "\u2212", text.replace("+-", "\u00b1"))


def _facts(comparison: Any) -> list[tuple[str, str]]:
    """Data, model and date, as far as they are known."""
    config = comparison.config
    cells = len({(record.split, record.seed) for record in comparison.records})
    ends = sorted(record.info["ended"] for record in comparison.records if record.info.get("ended"))
    target, unit = config.get("target") or "", config.get("unit")
    points = next((len(record.arrays["y"]) for record in comparison.records if "y" in record.arrays), None)
    rows = [f"{config['rows']:,}"] if isinstance(config.get("rows"), int) else []
    rows += [f"{points:,} held out"] if points else []
    facts = {
        "Data": ", ".join(str(config[name]) for name in ("data", "source") if config.get(name)),
        "Target": f"{target} in {unit}" if target and unit else str(target),
        "Rows": ", ".join(rows),
        "Model": str(config.get("model") or ""),
        "Reference": comparison.reference or "",
        "Runs": f"{cells} splits and seeds" if cells > 1 else "",
        "Made": ends[-1].replace("T", " ")[:16] + " UTC" if ends else "",
        "With": f"jaxmap {config['versions']['jaxmap']}" if "versions" in config else "",
    }
    return [(name, value) for name, value in facts.items() if value]


def _table(comparison: Any) -> dict[str, Any]:
    """Headings, and one row per method; the ceiling stands apart, it is no method."""
    summary, unit = comparison.summary(), comparison.config.get("unit") or ""
    columns = present_columns(summary)
    headings = []
    for column in columns:
        meaning = MEANINGS.get(column.key, Meaning(""))
        text = column.heading.format(reference=comparison.reference)
        headings.append({"text": text.removesuffix(" (higher is better)"), "said": meaning.said})
        headings[-1]["unit"] = unit if meaning.unit == "y" else meaning.unit
    rows, ceiling = [], []
    for row in summary:
        cells = [Cell(_minus(number_text(row, column)), row.get(column.key, "")) for column in columns]
        place = ceiling if row["method"] == CEILING else rows
        place.append({"name": row_name(row, comparison), "cells": cells, "status": status_text(row)})
        place[-1]["sentence"] = row.get("sentence") or ""
    return {"headings": headings, "rows": rows, "ceiling": ceiling, "status": MEANINGS["status"].said}


def _section(drawing: Drawing) -> dict[str, Any]:
    names = [f"{drawing.name}-{i}" for i in range(len(drawing.panels))]
    # Ours, and escaped by ElementTree.
    panels = [(p.title, Markup(inline_svg(p, name))) for p, name in zip(drawing.panels, names, strict=True)]
    key = [_key_entry(mark) for mark in drawing.key]
    caption = drawing.caption.replace(" %", "\u00a0%")
    return {"name": drawing.name, "heading": drawing.heading, "caption": caption, "panels": panels, "key": key}


def _key_entry(mark: Mark) -> dict[str, str]:
    return {"name": mark.name, "color": VARIABLES[mark.color], "dash": " ".join(map(str, mark.dash))}


def _again(comparison: Any) -> str:
    """The command, or the call with the methods as they describe themselves."""
    config = comparison.config
    if config.get("command"):
        return str(config["command"])
    calls = {name: f"{text}()" if text.isidentifier() else text for name, text in config.get("methods", {}).items()}
    methods = "".join(f"    {name!r}: jm.{text},\n" for name, text in calls.items())
    options = f", reference={comparison.reference!r}" if comparison.reference else ""
    options += f", seeds={config['seeds']}" if config.get("seeds", 1) != 1 else ""
    given = config.get("given_key")
    key = f"key = jax.random.wrap_key_data(jnp.array({given}, jnp.uint32))\n" if given else ""
    return f"{key}methods = {{\n{methods}}}\njm.compare(key, model, splits, methods{options})"


def _record_text(record: dict[str, Any]) -> str:
    text = json.dumps(record, indent=2, default=str)
    if len(text) <= LONGEST_RECORD:
        return text
    return json.dumps(
        {**record, "cells": "left out here for their length; they are in record.json"}, indent=2, default=str
    )
