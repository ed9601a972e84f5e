"""Turns the formulas of the pages into MathML, which browsers draw by themselves."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)

NAMED = re.compile(r"<mi>log</mi>(?=<mi>|<mo>&#x02223;)")
"""Browsers put no space between the name of a function and its argument."""


def on_page_content(content: str, **_: Any) -> str:
    """Replace each formula that arithmatex has marked, in line or on a line of its own."""
    return FORMULA.sub(lambda found: mathml(html.unescape(found[3]), found[2] == "["), content)


def mathml(latex: str, block: bool) -> str:
    """MathML of a formula.

    Raises:
        ValueError: a command that the converter does not know, which it would print as text.
    """
    made = convert(latex.strip(), display="block" if block else "inline")
    if "\\" in re.sub(r"&#x0005C;", r"\\", made):
        raise ValueError(f"Expected a formula that latex2mathml knows; got {latex!r}. Write it in other commands.")
    return NAMED.sub(r"\g<0><mspace width='0.17em'/>", made)
