"""Reports: what people look at."""

from jaxmap.report.table import comparison_markdown, comparison_table, comparison_text, verdict_lines
from jaxmap.report.figures import comparison_figures
from jaxmap.report.save import save_comparison

__all__ = [
    "comparison_figures",
    "comparison_markdown",
    "comparison_table",
    "comparison_text",
    "save_comparison",
    "verdict_lines",
]
