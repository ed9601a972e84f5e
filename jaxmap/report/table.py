"""Tables of a comparison: on the terminal and as Markdown."""

import io
from html import escape
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

CEILING = "ceiling"

WITHOUT_ERRORS = ("seconds", "num_gradients", "bad_pareto_k")


class Column(NamedTuple):
    """One column: the key in the summary, its heading, and how its numbers print."""

    key: str
    heading: str
    form: str


COLUMNS = (
    Column("lppd", "lppd (higher is better)", "{:.3f}"),
    Column("rmse", "RMSE", "{:.3g}"),
    Column("crps", "CRPS", "{:.3g}"),
    Column("coverage90", "in 90% band", "{:.0%}"),
    Column("accuracy", "accuracy", "{:.1%}"),
    Column("brier", "Brier", "{:.3f}"),
    Column("ece", "ECE", "{:.3f}"),
    Column("wasserstein1", "W1 to {reference}", "{:.3g}"),
    Column("total_variation", "TV to {reference}", "{:.3f}"),
    Column("agreement", "agrees with {reference}", "{:.1%}"),
    Column("elpd_loo", "elpd LOO", "{:.1f}"),
    Column("bad_pareto_k", "k > 0.7", "{:.3g}"),
    Column("log_evidence", "log evidence", "{:.2f}"),
    Column("k_hat", "k-hat", "{:.2f}"),
    Column("rhat_median", "R-hat (median point)", "{:.3f}"),
    Column("rhat", "R-hat (95% of points)", "{:.3f}"),
    Column("num_gradients", "gradients", "{:,.0f}"),
    Column("seconds", "seconds", "{:.1f}"),
)


def comparison_table(comparison: Any) -> Table:
    """The comparison as a rich table, one row per method; several cells print mean and standard error."""
    headings, rows = _cells(comparison)
    table = Table(title=Text(title_text(comparison)), title_justify="left", caption_justify="left")
    for i, heading in enumerate(headings):
        ends = i in (0, len(headings) - 1)  # words, that shall not be cut in two
        table.add_column(heading, justify="left" if ends else "right", overflow="fold", min_width=9 if ends else None)
    for row in rows:
        table.add_row(*row, style="dim" if row[0].startswith(CEILING) else None)
    return table


def comparison_text(comparison: Any, width: int | None = None) -> str:
    """The table and its sentences as plain text; None: as wide as its columns need."""
    table = comparison_table(comparison)
    width = max(140, 13 * len(table.columns)) if width is None else width
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    for line in verdict_lines(comparison):
        console.print(line, soft_wrap=True, highlight=False)
    return console.file.getvalue().rstrip()  # type: ignore[attr-defined]


def comparison_markdown(comparison: Any) -> str:
    """The table and its sentences as Markdown."""
    headings, rows = _cells(comparison)
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in [headings, *rows]]
    rule = ["---", *["---:"] * (len(headings) - 2), "---"]
    lines = ["| " + " | ".join(row) + " |" for row in [escaped[0], rule, *escaped[1:]]]
    sentences = [f"- {line}" for line in verdict_lines(comparison)]
    return "\n".join([f"# {escape(title_text(comparison), quote=False)}", "", *lines, "", *sentences]) + "\n"


def verdict_lines(comparison: Any) -> list[str]:
    """What each method costs against the reference, and what a reader must know of its fit, in sentences."""
    summary = comparison.summary()
    lines = [row["sentence"] for row in summary if "sentence" in row]
    lines += comparison.sentences
    for row in summary:
        if "lppd_diff" in row and "lppd_diff_se" in row:
            gap, error = row["lppd_diff"], row["lppd_diff_se"]
            same = not abs(gap) >= 2 * error
            word = "no different from" if same else "better than" if gap > 0 else "worse than"
            lines.append(
                f"{row['method']}: lppd {gap:+.3f} +- {error:.3f} nats per test point against {comparison.reference}, "
                f"paired over {row['lppd_diff_over']}: {word} it{', within two standard errors' if same else ''}."
            )
    for record in comparison.records:
        lines += [f"{record.method}: {note}" for note in record.info.get("notes", [])]
    return list(dict.fromkeys(lines))


def title_text(comparison: Any) -> str:
    """What was compared, and over how many runs."""
    name = comparison.config.get("title", "Comparison")
    cells = comparison.config.get("splits", 1) * comparison.config.get("seeds", 1)
    return name if cells == 1 else f"{name} (mean +- standard error over {cells} runs)"


def _cells(comparison: Any) -> tuple[list[str], list[list[str]]]:
    summary = comparison.summary()
    present = present_columns(summary)
    headings = ["method", *(c.heading.format(reference=comparison.reference) for c in present), "status"]
    rows = []
    for row in summary:
        rows.append([row_name(row, comparison), *(number_text(row, column) for column in present), status_text(row)])
    return headings, rows


def present_columns(summary: list[dict[str, Any]]) -> list[Column]:
    """The columns that some row has a number for."""
    return [column for column in COLUMNS if any(_shown(row, column.key) for row in summary)]


def _shown(row: dict[str, Any], key: str) -> bool:
    """A column is there for the rows that have it, and warnings only where there is something to warn of."""
    return bool(row.get(key)) if key == "bad_pareto_k" else key in row


def row_name(row: dict[str, Any], comparison: Any) -> str:
    """What a row is called; the ceiling says of what."""
    return f"{CEILING} ({comparison.reference} against itself)" if row["method"] == CEILING else row["method"]


def status_text(row: dict[str, Any]) -> str:
    """A status in small letters."""
    return row["status"].lower().replace("_", " ")


def number_text(row: dict[str, Any], column: Column) -> str:
    """A number as its column prints it, with its standard error where there is one; empty without a number."""
    if column.key not in row:
        return ""
    text = column.form.format(row[column.key])
    if column.key == "num_gradients" and "budget" in row:
        return f"{text} / {row['budget']:,.0f}"
    error = row.get(f"{column.key}_se", row.get(f"se_{column.key}"))  # its own, where there is one cell
    if error is None or column.key in WITHOUT_ERRORS:
        return text
    return f"{text} +- {error:.1%}" if "%" in column.form else f"{text} +- {error:.2g}"
