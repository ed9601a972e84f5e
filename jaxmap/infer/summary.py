"""Tables by parameter path."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxmap.trees import named_leaves

MOST_ROWS = 60


@dataclass(frozen=True)
class Summary:
    """A table: `rows` are plain dicts with the same keys, `str()` prints them."""

    title: str
    rows: tuple[dict[str, Any], ...]
    footer: str = ""

    def __str__(self) -> str:
        if not self.rows:
            return self.title
        names = list(self.rows[0])
        cells = [[_cell(row[name]) for name in names] for row in self.rows]
        widths = [max(len(name), *(len(row[i]) for row in cells)) for i, name in enumerate(names)]
        lines = [_aligned(line, widths) for line in [names, *cells]]
        rule = "-" * len(lines[0])
        return "\n".join([self.title, rule, lines[0], rule, *lines[1:], rule] + ([self.footer] if self.footer else []))


def summarize(title: str, columns: dict[str, Any], footer: str = "") -> Summary:
    """Tabulate trees of equal structure, one row per number; one per leaf (means) where there are too many.

    Args:
        title: above the table.
        columns: name -> pytree.
        footer: below it.
    """
    trees = {name: named_leaves(tree) for name, tree in columns.items()}
    first = next(iter(trees.values()))
    numbers = sum(int(np.size(leaf)) for _, leaf in first)
    rows = []
    for i, (path, leaf) in enumerate(first):
        shape = np.shape(leaf)
        if numbers > MOST_ROWS and shape:
            label = f"{path}{list(shape)} (mean)"
            rows.append({"parameter": label} | {n: float(np.mean(np.asarray(t[i][1]))) for n, t in trees.items()})
            continue
        for index in np.ndindex(shape):
            label = f"{path}[{','.join(map(str, index))}]" if index else path
            rows.append({"parameter": label} | {n: float(np.asarray(t[i][1])[index]) for n, t in trees.items()})
    return Summary(title, tuple(rows), footer)


def _aligned(line: list[str], widths: list[int]) -> str:
    first, *rest = zip(line, widths, strict=True)
    return "  ".join([f"{first[0]:<{first[1]}}", *(f"{text:>{width}}" for text, width in rest)])


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def host(tree: Any) -> Any:
    """Bring a tree to numpy."""
    return jax.tree.map(np.asarray, tree)
