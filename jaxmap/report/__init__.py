"""Reports: what people look at."""

from jaxmap.report.table import comparison_markdown, comparison_table, comparison_text, verdict_lines
from jaxmap.report.drawing import Drawing, Panel
from jaxmap.report.prediction_drawings import bands, calibration, cost
from jaxmap.report.fit_drawings import losses, marginals, traces
from jaxmap.report.figures import comparison_drawings, comparison_figures
from jaxmap.report.svg import inline_svg
from jaxmap.report.meanings import MEANINGS
from jaxmap.report.page import audit_page, comparison_page
from jaxmap.report.save import save_comparison

__all__ = [
    "audit_page",
    "comparison_figures",
    "comparison_markdown",
    "comparison_page",
    "comparison_table",
    "comparison_text",
    "save_comparison",
    "verdict_lines",
]
