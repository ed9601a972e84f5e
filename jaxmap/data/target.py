"""The target of a table: what kind of quantity it is, which likelihood follows, and why, in a sentence."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from jaxmap.data.cells import absent, holds, listed, numbers_of, skewness, texts_of
from jaxmap.data.table import Table

TASKS = ("regression", "binary", "classes", "counts")
FAMILIES = ("gaussian", "log_gaussian", "bernoulli", "categorical", "poisson", "negative_binomial")

MOST_CLASSES = 100
NUMBERS_AS_CLASSES = 10
"""Whole numbers from 0 or 1 up to so many, all of them common, are taken for the names of classes."""

COMMON = 0.02
OVERDISPERSED = 1.2
LARGEST_MEAN_COUNT = 100.0
SKEWED = 1.0


@dataclass(frozen=True)
class Target:
    """What is to be predicted.

    Attributes:
        name: of the column.
        task: one of `TASKS`.
        family: one of `FAMILIES`.
        classes: names of the classes in the order of their numbers; empty for numbers.
        sentence: what was chosen and why.
    """

    name: str
    task: str
    family: str
    classes: tuple[str, ...] = ()
    sentence: str = ""

    @property
    def log(self) -> bool:
        """Whether the logarithm of y is modelled."""
        return self.family == "log_gaussian"

    def encode(self, table: Table) -> np.ndarray:
        """The targets of a table, (n,): numbers, counts, or the numbers of classes.

        Raises:
            ValueError: a cell of another kind.
        """
        if self.name not in table.columns:
            raise ValueError(f"Expected the target {self.name!r} in {table.name}; there is no such column.")
        cells, where = table.columns[self.name], f"the target {self.name!r} of {table.name}"
        if not self.classes:
            numbers = numbers_of(cells, where)
            return numbers.astype(np.int64) if self.task == "counts" else numbers
        numbers = {label: i for i, label in enumerate(self.classes)}
        texts = labels_of(cells)
        new = [text for text in texts if text not in numbers]
        if new:
            raise ValueError(f"Expected the classes {listed(self.classes)} in {where}; got {new[0]!r}.")
        return np.array([numbers[text] for text in texts], np.int64)

    def plain(self) -> dict[str, Any]:
        """Itself as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Target":
        """The inverse of `plain`."""
        fields: dict[str, Any] = plain | {"classes": tuple(plain["classes"])}
        return cls(**fields)


def check_target_name(table: Table, name: str) -> None:
    """Refuse a target that the table does not have.

    Raises:
        ValueError: names the columns that look like it.
    """
    if name not in table.columns:
        near = [column for column in table.columns if column.lower().strip() == name.lower().strip()]
        hint = f"Did you mean {near[0]!r}?" if near else f"It has {listed(list(table.columns))}."
        raise ValueError(f"Expected --target to be a column of {table.name}; got {name!r}. {hint}")
    if absent(table.columns[name]).all():
        raise ValueError(f"Expected values in the target {name!r} of {table.name}; all its cells are missing.")


def labels_of(cells: np.ndarray) -> list[str]:
    """The cells as names of classes; numbers that are equal have one name."""
    number = holds(cells) == "number"
    return [f"{float(text):.15g}" if number else str(text) for text in texts_of(cells)]


def choose_target(table: Table, train: np.ndarray, name: str, *, task: str = "auto", log: str = "auto") -> Target:
    """Choose the task and the likelihood from the target's values.

    Texts are classes, two values a binary outcome, whole numbers from zero counts (unless they look like numbered
    classes), all else a regression. Positive targets of skewness above 1 whose logarithm is less skewed get a
    log-normal likelihood; counts whose variance exceeds 1.2 means a negative binomial one, which learns how much of it
    the columns do not explain. Classes are those of all rows, moments those of the training rows.

    Args:
        table: without missing targets.
        train: the numbers of the training rows.
        name: of the target.
        task: one of `TASKS`, or "auto".
        log: "yes", "no" or "auto".

    Raises:
        ValueError: a constant target, too many classes, or a task that the values do not allow.
    """
    cells = table.columns[name]
    where = f"the target {name!r} of {table.name}"
    values = set(labels_of(cells))
    if len(values) < 2:
        raise ValueError(f"Expected different values in {where}; it is {values.pop()[:40]!r} in all rows.")
    kind = holds(cells)
    if kind == "date":
        raise ValueError(f"Expected numbers or classes in {where}; got dates. Give the days since a fixed date.")
    found, reason = _task(cells, kind, where) if task == "auto" else (task, "as told by --task")
    if log == "yes" and found != "regression":
        raise ValueError(f"Expected --log-target with a regression; {where} is read as {found}. Add --task regression.")
    if found in ("binary", "classes"):
        return _classes(name, cells, found, reason, where)
    numbers = numbers_of(cells, where)
    if found == "counts":
        if np.any(numbers < 0) or np.any(numbers != np.round(numbers)):
            raise ValueError(f"Expected whole numbers from zero in {where} for --task counts; got others.")
        return _counts(name, numbers[train], reason)
    return _regression(name, numbers, numbers[train], log, reason, where)


def _task(cells: np.ndarray, kind: str, where: str) -> tuple[str, str]:
    """The task, and why."""
    if kind == "category":
        levels = len(set(cells))
        if levels > min(MOST_CLASSES, max(2, len(cells) / 2)):
            example = next(cell for cell in cells if holds(np.array([cell], object)) == "category")
            raise ValueError(
                f"Expected numbers or a few classes in {where}; got {levels} different texts in {len(cells)} rows, as "
                f"{example[:40]!r}."
            )
        return ("binary", "two values") if levels == 2 else ("classes", f"{levels} values")
    numbers = numbers_of(cells, where)
    values, counts = np.unique(numbers, return_counts=True)
    if len(values) == 2:
        return "binary", "two values"
    if np.any(values != np.round(values)) or values[0] < 0:
        return "regression", "numbers"
    consecutive = values[0] in (0, 1) and np.all(np.diff(values) == 1)
    if consecutive and len(values) <= NUMBERS_AS_CLASSES and counts.min() >= COMMON * len(numbers):
        return "classes", f"the whole numbers {values[0]:g} to {values[-1]:g}, all of them common"
    if values[0] == 0 and numbers.mean() <= LARGEST_MEAN_COUNT:
        return "counts", f"whole numbers from 0 to {values[-1]:g}"
    return "regression", "numbers"


def _classes(name: str, cells: np.ndarray, task: str, reason: str, where: str) -> Target:
    labels = sorted(set(labels_of(cells)), key=float if holds(cells) == "number" else str)
    if len(labels) > MOST_CLASSES:
        raise ValueError(
            f"Expected at most {MOST_CLASSES} classes in {where}; got {len(labels)}. Use --task regression."
        )
    if task == "binary" and len(labels) != 2:
        raise ValueError(f"Expected two values in {where} for --task binary; got {len(labels)}. Use --task classes.")
    if len(labels) == 2:
        sentence = f"{name} is a yes-or-no outcome ({reason}): the probability of {labels[1]} against {labels[0]}."
        return Target(name, "binary", "bernoulli", tuple(labels), sentence)
    sentence = f"{name} is one of {len(labels)} classes ({reason}): {listed(labels)}."
    return Target(name, "classes", "categorical", tuple(labels), sentence)


def _counts(name: str, numbers: np.ndarray, reason: str) -> Target:
    ratio = float(np.var(numbers) / max(numbers.mean(), 1e-12))
    over = ratio > OVERDISPERSED
    family = "negative_binomial" if over else "poisson"
    why = f"their variance (what the columns may explain of it included) is {ratio:.1f} times their mean"
    sentence = f"{name} is a count ({reason}): {family.replace('_', ' ')} likelihood, as {why}."
    return Target(name, "counts", family, (), sentence)


def _regression(name: str, numbers: np.ndarray, train: np.ndarray, log: str, reason: str, where: str) -> Target:
    positive = numbers.min() > 0
    if log == "yes" and not positive:
        raise ValueError(
            f"Expected positive numbers in {where} for --log-target yes; the smallest is {numbers.min():g}."
        )
    plain = Target(name, "regression", "gaussian", (), f"{name} is a number ({reason}): Gaussian likelihood.")
    if log == "no" or not positive:
        return plain
    raw, logged = skewness(train), skewness(np.log(train))
    if log == "auto" and not (raw > SKEWED and abs(logged) < raw):
        return plain
    why = f"skewness {raw:.1f}, of the logarithm {logged:.1f}; --log-target no undoes it"
    why = "as told" if log == "yes" else why
    sentence = (
        f"{name} is a positive number, modelled on its log scale ({why}): log-normal likelihood, scored in the "
        f"units of {name} itself."
    )
    return replace(plain, family="log_gaussian", sentence=sentence)
