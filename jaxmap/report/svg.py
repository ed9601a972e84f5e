"""Panels as SVG inside a page: the page's colours and fonts, names of their own, nothing that leads outside."""

import io
import re
import xml.etree.ElementTree as ElementTree
from xml.etree.ElementTree import Element

from jaxmap.report.drawing import BAND, COLORS, INK, QUIET, Panel, alone, printable, styled

VARIABLES = {INK: "--ink", QUIET: "--quiet", BAND: "--band"} | {c: f"--series-{i}" for i, c in enumerate(COLORS, 1)}
"""Colour in a drawing -> variable of the page's style sheet, which has two values for each: light and dark."""

PIXELS_PER_POINT = 4 / 3

_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_COLOR = re.compile("#[0-9a-f]{6}")
_FONT = re.compile(r"font-family:[^;]*;?\s*")
_MEASURES = ("d", "x", "y", "width", "height", "transform")


def inline_svg(panel: Panel, name: str) -> str:
    """Draw a panel as an `<svg>` element for HTML.

    matplotlib's SVG, parsed and written anew: without name spaces, metadata and style sheets; colours as variables;
    identifiers only where something refers to them, and beginning with `name`; an image with a title and a description.
    All text is escaped by ElementTree. The same panel gives the same text.

    Args:
        panel: what to draw.
        name: begins all identifiers; unique on the page.
    """
    content = io.BytesIO()
    with styled():
        alone(panel).savefig(content, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(content.getvalue())
    _plain(root)
    referred = set(re.findall(r'(?:href="|url\()#([^")]+)', ElementTree.tostring(root, encoding="unicode")))
    for element in root.iter():
        _own_names(element, name, referred)
        _own_style(element)
    width, height = (float(number) * PIXELS_PER_POINT for number in root.attrib["viewBox"].split()[2:])
    labels = f"{name}-title {name}-desc"
    kept = {"viewBox": root.attrib["viewBox"], "width": f"{width:.0f}", "height": f"{height:.0f}"}
    root.attrib = kept | {"role": "img", "aria-labelledby": labels}
    for place, (tag, text) in enumerate((("title", panel.title), ("desc", panel.said))):
        said = Element(tag, {"id": f"{name}-{tag}"})
        said.text = printable(text)
        root.insert(place, said)
    return ElementTree.tostring(root, encoding="unicode")


def _plain(element: Element) -> None:
    """Without name spaces, metadata, style sheets and the white space between elements."""
    element.tag = element.tag.rpartition("}")[2]
    element.attrib = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
    for child in list(element):
        if child.tag.rpartition("}")[2] in ("metadata", "style"):
            element.remove(child)
        else:
            _plain(child)
    element.tail = None
    if element.tag != "text":
        element.text = None


def _own_names(element: Element, name: str, referred: set[str]) -> None:
    attributes = element.attrib
    if attributes.get("id") in referred:
        attributes["id"] = f"{name}-{attributes['id']}"
    else:
        attributes.pop("id", None)
    if "href" in attributes:
        attributes["href"] = f"#{name}-{attributes['href'][1:]}"
    if "clip-path" in attributes:
        attributes["clip-path"] = attributes["clip-path"].replace("url(#", f"url(#{name}-")


def _own_style(element: Element) -> None:
    attributes = element.attrib
    if "style" in attributes:
        plain = _FONT.sub("", attributes["style"])
        attributes["style"] = _COLOR.sub(lambda found: _variable(found[0]), plain).strip()
    for measure in _MEASURES:
        if measure in attributes:
            short = _NUMBER.sub(lambda found: f"{float(found[0]):.2f}", attributes[measure])
            attributes[measure] = " ".join(short.split())


def _variable(color: str) -> str:
    return f"var({VARIABLES[color]})" if color in VARIABLES else color
