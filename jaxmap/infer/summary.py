"""Tables by parameter path."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from scipy.stats import norm

from jaxmap.infer.delta_method import Spread
from jaxmap.trees import named_leaves
from jaxmap.types import Info, Status

MOST_ROWS = 60

NARROWEST = 78
"""The width of a table with a header, unless its columns need more."""


@dataclass(frozen=True)
class Summary:
    """A table: `rows` are plain dicts with the same keys, `str()` prints them.

    Attributes:
        title: above the table.
        rows: one per number, or per leaf where there are many.
        footer: below it.
        header: facts about the fit, by name, printed in two columns above the table as statsmodels does.
    """

    title: str
    rows: tuple[dict[str, Any], ...]
    footer: str = ""
    header: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.rows:
            return self.title
        names = list(self.rows[0])
        cells = [[_cell(row[name], name) for name in names] for row in self.rows]
        widths = [max(len(name), *(len(row[i]) for row in cells)) for i, name in enumerate(names)]
        footer = [self.footer] if self.footer else []
        if not self.header:
            lines = [_aligned(line, widths) for line in [names, *cells]]
            rule = "-" * len(lines[0])
            return "\n".join([self.title, rule, lines[0], rule, *lines[1:], rule, *footer])
        head, wide = _two_columns(self.header), sum(widths) + 2 * (len(widths) - 1)
        width = max(len(head[0]), wide, NARROWEST)
        head = _two_columns(self.header, width)
        widths[0] += width - wide
        lines = [_aligned(line, widths) for line in [names, *cells]]
        rule, double = "-" * width, "=" * width
        footer = [textwrap.fill(line, width, subsequent_indent="    ") for line in self.footer.splitlines()]
        table = [self.title.center(width).rstrip(), double, *head, double, lines[0], rule, *lines[1:], double]
        return "\n".join([*table, *footer])


def summarize(title: str, columns: dict[str, Any], footer: str = "", header: dict[str, str] | None = None) -> Summary:
    """Tabulate trees of equal structure, one row per number; one per leaf (means) where there are too many.

    Args:
        title: above the table.
        columns: name -> pytree.
        footer: below it.
        header: facts by name, above the table.
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
    return Summary(title, tuple(rows), footer, header or {})


def interval_names(level: float) -> tuple[str, str]:
    """The columns of an interval, as statsmodels names them: `[0.025` and `0.975]`.

    Raises:
        ValueError: a level that is not between 0 and 1.
    """
    if isinstance(level, bool | str) or not 0 < level < 1:
        raise ValueError(f"Expected a level between 0 and 1, such as 0.95; got {level!r}.")
    return f"[{(1 - level) / 2:.3g}", f"{(1 + level) / 2:.3g}]"


def title_of(info: Info) -> str:
    """Method and target, above a table."""
    return f"{info.method}: {info.target}" if info.target else info.method


def estimate_columns(mode: Any, spread: Spread, level: float, *, posterior: bool = False) -> dict[str, Any]:
    """The columns of a table of estimates: with Wald tests, or of a posterior, with its standard deviations."""
    low, high = interval_names(level)
    if posterior:
        return {"estimate": mode, "posterior sd": spread.error, low: spread.lower, high: spread.upper}
    tests = {"z": spread.ratio, "P>|z|": jax.tree.map(lambda z: 2 * norm.sf(np.abs(z)), spread.ratio)}
    return {"estimate": mode, "std err": spread.error} | tests | {low: spread.lower, high: spread.upper}


def fit_header(
    info: Info, count: int, examples: int | None, penalised: bool, kind: str | None = None
) -> dict[str, str]:
    """The facts above a table of estimates.

    AIC = 2 P - 2 log L and BIC = P log n - 2 log L are given at certified maxima of a likelihood alone.

    Args:
        info: of the fit.
        count: P, unconstrained dimensions.
        examples: n, None where there are no data to count.
        penalised: the density has a prior or a Jacobian.
        kind: of standard errors, in words; None where there are none.
    """
    right = {} if examples is None else {"No. Observations": str(examples)}
    right["Parameters"] = str(count)
    numbers = {"Log-Likelihood": info.log_likelihood}
    if penalised:
        numbers |= {"Log-Prior": info.log_prior, "Log-Joint": info.log_joint}
    elif info.log_likelihood is not None and info.status is Status.CONVERGED and examples is not None:
        numbers["AIC"] = 2 * count - 2 * info.log_likelihood
        numbers["BIC"] = count * float(np.log(examples)) - 2 * info.log_likelihood
    right |= {name: f"{value:.3f}" for name, value in numbers.items() if value is not None}
    left = {"Method": _short(info.method), "Status": info.status.name} | ({"Std. Errors": kind} if kind else {})
    left |= {"Solver": _short(info.solver), "Gradients": f"{info.num_gradients:.6g}"}
    kept = list(left.items())[: max(3, len(right))]
    return dict(kept) | right


def status_note(info: Info) -> str:
    """How far the point can be believed, in a sentence."""
    if info.status is not Status.CONVERGED:
        return f"{info.status.name}: {info.status.value}."
    if info.certificate is None or info.certificate.decrement is None:
        return ""
    proof = info.certificate
    return f"Certified maximum: scaled gradient {proof.gradient:.1e}, Newton decrement {proof.decrement:.1e}."


def _short(text: str, most: int = 30) -> str:
    """The beginning of a description, up to its arguments, where it is long."""
    return text if len(text) <= most else textwrap.shorten(text.split("(")[0].split(",")[0], most, placeholder=" ...")


def notes(sentences: Sequence[str]) -> str:
    """Numbered notes below a table; nothing where there are none."""
    found = [sentence for sentence in sentences if sentence]
    return "\n".join(["Notes:", *(f"[{i}] {sentence}" for i, sentence in enumerate(found, 1))]) if found else ""


def _aligned(line: list[str], widths: list[int]) -> str:
    first, *rest = zip(line, widths, strict=True)
    return "  ".join([f"{first[0]:<{first[1]}}", *(f"{text:>{width}}" for text, width in rest)])


def _two_columns(header: dict[str, str], width: int = 0) -> list[str]:
    """`name:   value` twice a line, the first half of the facts on the left."""
    facts = list(header.items())
    half = -(-len(facts) // 2)
    need = max(len(name) + len(value) for name, value in facts) + 3
    left = max(need, (width - 3) // 2)
    right = max(need, width - 3 - left)
    sides = [facts[:half], facts[half:] + [("", "")] * (half - len(facts[half:]))]
    cells = [[_fact(*fact, size) for fact in side] for side, size in zip(sides, (left, right), strict=True)]
    return [f"{a}   {b}".rstrip() for a, b in zip(*cells, strict=True)]


def _fact(name: str, value: str, width: int) -> str:
    return f"{name}:{value:>{width - len(name) - 1}}" if name else ""


def _cell(value: Any, column: str) -> str:
    """As statsmodels prints: four decimals, three for tests; four digits where these would show too few or too many."""
    if not isinstance(value, float):
        return str(value)
    if column in ("z", "P>|z|", "prior share"):
        return "" if np.isnan(value) else f"{value:.3f}"
    if column in ("estimate", "std err", "posterior sd") or column.startswith("[") or column.endswith("]"):
        return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.4g}"
    return f"{value:.4g}"


def host(tree: Any) -> Any:
    """Bring a tree to numpy."""
    return jax.tree.map(np.asarray, tree)
