"""Did all methods see one density? Measured at common points, against its parts as the user wrote them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.assess.records import Record
from jaxmap.curvature import examples_at_a_time
from jaxmap.data import num_examples, on_host, take_examples
from jaxmap.infer import Draws, GaussianPosterior, MixturePosterior, Problem, Replicates
from jaxmap.trees import in_double
from jaxmap.types import Data, Method

PROBES = 5
"""Points at which densities are compared: the start, and steps from it, uniform on (-1, 1) in unconstrained space."""

DIGITS = 200.0
"""How many units of rounding of its largest term a density may be off."""

PARTS = ("log likelihood", "log prior", "log Jacobian")


class Parts(NamedTuple):
    """The log joint density at the probes, part by part, in float64 where that can be had, each (k,).

    Attributes:
        likelihood: summed over examples.
        prior: of the parameters in the user's space.
        jacobian: log |d params / d z|.
        size: the sum of the absolute values of all terms, which rounding is measured by.
    """

    likelihood: np.ndarray
    prior: np.ndarray
    jacobian: np.ndarray
    size: np.ndarray

    def total(self, prior: bool, jacobian: bool) -> np.ndarray:
        """The parts that a method says it sees."""
        return self.likelihood + prior * self.prior + jacobian * self.jacobian


class Probes:
    """Points in the unconstrained space of one problem, and what the user's own functions say there.

    Args:
        problem: model and data; where a density of all examples would not fit in bounded memory, the first ones stand
            for all, for the user's functions and for the methods alike.
    """

    def __init__(self, problem: Problem):
        model = problem.model
        start, rng = model.start_unconstrained(problem.dtype), np.random.default_rng(0)
        self.z = jax.tree.map(
            lambda v: (
                v[None]
                + jnp.asarray(np.r_[np.zeros((1, *v.shape)), rng.uniform(-1.0, 1.0, (PROBES - 1, *v.shape))], v.dtype)
            ),
            start,
        )
        few = 1
        if problem.data is not None:
            few = examples_at_a_time(lambda batch: model.log_likelihood(model.start, batch), problem.data)
        whole = problem.data is None or few >= num_examples(problem.data)
        self.problem = (
            problem if whole else replace(problem, data=take_examples(problem.data, slice(0, few)), mesh=None)
        )
        self.examples = None if whole else few
        program = model.programs.jitted("parts at probes", self._parts)
        found = in_double(program, self.z, self.problem.data)
        self.parts = Parts(*(on_host(part) for part in found))

    def _parts(self, z: Any, data: Data) -> Any:
        model = self.problem.model

        def one(v: Any) -> Any:
            params = model.space.constrain(v)
            each, prior, jacobian = (
                model.log_likelihood(params, data),
                model.log_prior(params),
                model.space.log_jacobian(v),
            )
            return jnp.sum(each), prior, jacobian, jnp.sum(jnp.abs(each)) + jnp.abs(prior) + jnp.abs(jacobian)

        return jax.lax.map(one, z)

    def measured(self, method: Method, found: Any) -> dict[str, np.ndarray]:
        """What the method's own programs evaluate at the probes, and the parts, as arrays of a record.

        Empty for a method that cannot be asked, and for networks in training mode, whose loss is no density.
        """
        if not hasattr(method, "seen") or self.problem.model.train is not None:
            return {}
        with self.problem.scope():
            seen = np.asarray(method.seen(self.problem, found, self.z))  # type: ignore[attr-defined]
        return {"seen": seen, "seen_parts": np.stack(self.parts), "seen_expected": np.array(expected(found))}


def expected(found: Any) -> tuple[bool, bool]:
    """Whether a posterior is of a density with the prior, and with the Jacobian."""
    if isinstance(found, MixturePosterior):
        return expected(found.members[0])
    if isinstance(found, Replicates):
        return expected(found.estimate)
    if isinstance(found, GaussianPosterior):
        return found.prior, found.prior
    return (True, True) if isinstance(found, Draws) else (found.prior, found.jacobian)


class Seen(NamedTuple):
    """What one method saw in one cell.

    Attributes:
        values: the density of its own programs at the probes, what it says it leaves out put back, (k,).
        leaves_out: the parts that are not in it, as it says, of those that vary.
        deviation: how far it is from the sum of its parts, less their mean difference, nats.
        constant: that mean difference.
        tolerance: what rounding may do.
        fits: the parts that it is made of where these are others than it says; None where no sum of parts is it.
    """

    values: np.ndarray
    leaves_out: tuple[str, ...]
    deviation: float
    constant: float
    tolerance: float
    fits: tuple[str, ...] | None


def seen_in(record: Record) -> Seen | None:
    """Judge the measurement that a record keeps; None where it has none."""
    if "seen" not in record.arrays:
        return None
    raw, parts = record.arrays["seen"], Parts(*record.arrays["seen_parts"])
    prior, jacobian = (bool(flag) for flag in record.arrays["seen_expected"])
    finite = np.isfinite(raw) & np.isfinite(np.stack(parts)).all(axis=0)
    if finite.sum() < 2:
        return None
    rounding = max(float(np.finfo(array.dtype).eps) for array in (raw, record.arrays["seen_parts"]))
    values, parts = np.asarray(raw, np.float64)[finite], Parts(*(np.asarray(p, np.float64)[finite] for p in parts))
    tolerance = DIGITS * rounding * float(parts.size.max())
    away = values - parts.total(prior, jacobian)
    varies = {"the prior": np.ptp(parts.prior) > 0, "the log-Jacobian": np.ptp(parts.jacobian) > 0}
    left = tuple(
        name for name, has in (("the prior", prior), ("the log-Jacobian", jacobian)) if varies[name] and not has
    )
    deviation = float(np.max(np.abs(away - away.mean())))
    return Seen(
        values=values + (parts.total(True, True) - parts.total(prior, jacobian)),
        leaves_out=left,
        deviation=deviation,
        constant=float(away.mean()),
        tolerance=tolerance,
        fits=_fits(values, parts, tolerance) if deviation > tolerance else None,
    )


def _fits(values: np.ndarray, parts: Parts, tolerance: float) -> tuple[str, ...] | None:
    """The parts whose sum the values are, up to a constant; None for no sum."""
    for prior, jacobian in ((True, True), (True, False), (False, True), (False, False)):
        away = values - parts.total(prior, jacobian)
        if np.max(np.abs(away - away.mean())) <= tolerance:
            return tuple(name for name, has in zip(PARTS, (True, prior, jacobian), strict=True) if has)
    return None


def same_target(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One dict per method that was measured: the worst of its cells.

    Returns:
        rows: `method`; `same`, True where its own programs evaluate, up to a constant, the parts that it says;
            `leaves_out`, the parts it says it leaves out; `deviation` from the sum of its parts, and `tolerance`, what
            rounding may do, nats; `constant`; `fits`, where it is not the same, the parts that it is made of (None: no
            sum of them); `probes`; `examples` (None: all); `cells`.
    """
    rows = []
    for name in dict.fromkeys(record.method for record in records):
        cells = [(r, seen) for r in records if r.method == name and (seen := seen_in(r)) is not None]
        if not cells:
            continue
        record, worst = max(cells, key=lambda cell: _badness(cell[1]))
        rows.append(
            {
                "method": name,
                "same": bool(worst.deviation <= worst.tolerance),
                "leaves_out": list(worst.leaves_out),
                "deviation": worst.deviation,
                "tolerance": worst.tolerance,
                "constant": worst.constant,
                "fits": None if worst.fits is None else list(worst.fits),
                "probes": len(worst.values),
                "examples": record.info.get("probed_examples"),
                "cells": len(cells),
            }
        )
    return rows


def _badness(seen: Seen) -> float:
    return seen.deviation / seen.tolerance if seen.tolerance else np.inf


def between(records: Sequence[Record], names: Sequence[str]) -> float:
    """How far the densities of methods are apart, less a constant for each pair, nats: the largest over all cells.

    What a method says it leaves out is put back.
    """
    largest = 0.0
    for cell in dict.fromkeys((r.split, r.seed) for r in records):
        here = [r for r in records if (r.split, r.seed) == cell and r.method in names]
        values = [seen.values for r in here if (seen := seen_in(r)) is not None]
        for k, a in enumerate(values):
            for b in values[k + 1 :]:
                if len(a) == len(b):
                    largest = max(largest, float(np.max(np.abs(a - b - np.mean(a - b)))))
    return largest


def target_sentences(records: Sequence[Record]) -> list[str]:
    """What the measurement says, in sentences: first which methods saw one density, then what differs."""
    rows = same_target(records)
    if not rows:
        return []
    same = [row["method"] for row in rows if row["same"]]
    of = f"at {rows[0]['probes']} points"
    of += f", on the first {rows[0]['examples']:,} examples" if rows[0]["examples"] else ""
    said = []
    if len(same) > 1:
        said.append(
            f"{_listed(same)} saw the same density up to a constant: largest deviation {between(records, same):.1g} "
            f"nats {of}{', what they leave out put back' if any(row['leaves_out'] for row in rows) else ''}."
        )
    by_parts: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if row["same"] and row["leaves_out"]:
            by_parts.setdefault(tuple(row["leaves_out"]), []).append(row["method"])
    for parts, names in by_parts.items():
        said.append(f"{_listed(names)} {'leaves' if len(names) == 1 else 'leave'} out {_listed(parts)}.")
    for row in rows:
        if not row["same"]:
            fits = "no sum of the model's parts" if row["fits"] is None else f"{_listed(row['fits'])} alone"
            said.append(
                f"{row['method']} saw ANOTHER density than it says: off by {row['deviation']:.3g} nats {of}, where "
                f"rounding may do {row['tolerance']:.1g}; what it evaluates is {fits}."
            )
    return said


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
