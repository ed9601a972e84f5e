"""What all posteriors share, and the simplest of them: a point."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmap.infer.delta_method import average_shares, carry
from jaxmap.infer.problem import Problem
from jaxmap.infer.standard_errors import KINDS, check_kind, has_penalty, standard_errors
from jaxmap.infer.storage import Saved, pack_info, pack_tree, unpack_info, unpack_tree, write_saved
from jaxmap.infer.summary import (
    Summary,
    estimate_columns,
    fit_header,
    interval_names,
    notes,
    status_note,
    summarize,
    title_of,
)
from jaxmap.model import Density
from jaxmap.optimize.certificate import DENSE_UP_TO
from jaxmap.trees import size
from jaxmap.types import Info, Key, Params, Status


class Particles(NamedTuple):
    """A posterior as weighted parameter trees, stacked on a leading axis; weights sum to one."""

    params: Params
    log_weights: np.ndarray


def equal_weights(count: int) -> np.ndarray:
    """log(1/count), count times."""
    return np.full(count, -np.log(count))


@dataclass(frozen=True, eq=False)
class Point:
    """All mass at one parameter tree: an MLE, a MAP estimate, or the user's own.

    Attributes:
        mode: the parameters, in the user's space.
        info: how it was found.
        z: the same in unconstrained coordinates.
        prior, jacobian: what it is a mode of, as in `Density`.
        moved: False where the parameters were given and not optimised.
        problem: the model and data that it was fitted to, for `summary()`; not saved, None after loading.
    """

    mode: Params
    info: Info
    z: Any = field(repr=False)
    prior: bool = True
    jacobian: bool = False
    moved: bool = True
    problem: Problem | None = field(default=None, repr=False, compare=False)

    def sample(self, key: Key, n: int) -> Params:
        """Repeat the point n times."""
        return jax.tree.map(lambda leaf: leaf[None].repeat(n, axis=0), self.mode)

    def particles(self, key: Key, draws: int | None) -> Particles:
        """The point itself."""
        return Particles(jax.tree.map(lambda leaf: leaf[None], self.mode), equal_weights(1))

    def summary(self, *, errors: str = "observed", level: float = 0.95) -> Summary:
        """Tabulate estimates, standard errors, Wald tests and intervals by path, as statsmodels does.

        All is in the user's space. Standard errors are those of the density whose mode this is (the likelihood alone
        for an MLE, the log joint for a MAP estimate), from its curvature in unconstrained coordinates by the delta
        method; formulas and sources stand in `infer/standard_errors.py` and `infer/delta_method.py`. `z` is
        estimate / std err and `P>|z|` its two-sided normal probability, blank where the support leaves zero out.

        Intervals respect the support: those of a number with a range of its own (a scale, a probability) are symmetric
        in its unconstrained coordinate and mapped back, all others estimate +- q std err. `prior share` is the prior's
        part of the information, 0 where the data decide, 1 where the prior does (all rows of a simplex or another
        coupled leaf show its average). NaN stands where the curvature gives no standard error, and a note says why.

        Args:
            errors: "observed" (inverse negative Hessian), "ggn" (Gauss-Newton; needs a model with network outputs) or
                "sandwich" (robust, HC0).
            level: of the intervals.

        Returns:
            table: `rows` are dicts with `parameter`, `estimate`, `std err`, `z`, `P>|z|`, `[0.025`, `0.975]` and, with
                a prior, `prior share`; one row per number, or of means per leaf where there are more than 60. `header`
                has the log-likelihood, and AIC and BIC at a certified maximum of a likelihood alone.

        Raises:
            ValueError: unknown `errors`, or such as this model or its data do not have.
        """
        interval_names(level)
        check_kind(errors)
        if self.problem is None:
            return estimates_alone(self)
        with self.problem.scope():
            return estimates_with_errors(self, self.problem, errors, level)

    def packed(self) -> Saved:
        """As plain values and arrays."""
        arrays: dict[str, np.ndarray] = {}
        header = {"kind": "Point", "prior": self.prior, "jacobian": self.jacobian, "moved": self.moved}
        header |= {"info": pack_info(self.info, arrays)}
        header |= {name: pack_tree(getattr(self, name), name, arrays) for name in ("mode", "z")}
        return Saved(header, arrays)

    @classmethod
    def from_saved(cls, saved: Saved, model: Any = None) -> "Point":
        """The inverse of `packed`."""
        header, arrays = saved.header, saved.arrays
        template = None if model is None else model.start
        trees = [unpack_tree(header[name], name, arrays, template) for name in ("mode", "z")]
        flags = (header["prior"], header["jacobian"], header["moved"])
        return cls(trees[0], unpack_info(header["info"], arrays), trees[1], *flags)

    def save(self, folder: str | Path) -> Path:
        """Write to a folder, atomically; `jm.load` reads it."""
        return write_saved(folder, self.packed())

    def __repr__(self) -> str:
        return f"Point({line_of(self.info)})"


def line_of(info: Info) -> str:
    """Method and status, inside a repr."""
    return f"{info.method}, {info.status.name}"


def estimates_with_errors(point: Point, problem: Problem, errors: str, level: float) -> Summary:
    """The table of a point whose model and data are at hand."""
    density, space = Density(problem.model, point.prior, point.jacobian), problem.model.space
    count, examples = problem.num_params, None if problem.data is None else problem.num_examples
    found = standard_errors(density, point.z, problem, point.info, errors)
    kind = KINDS[errors] if found else None
    header = fit_header(point.info, count, examples, has_penalty(density), kind)
    said, columns = [status_note(point.info)], {"estimate": point.mode}
    if found is None:
        said.append(f"No standard errors: {count} parameters, and their matrix is formed up to {DENSE_UP_TO}.")
    else:
        matrix = found.covariance
        spread = carry(space, point.z, np.diag(matrix), lambda begin, end: matrix[begin:end, begin:end], level)
        columns = estimate_columns(point.mode, spread, level)
        early = point.info.status in (Status.STEPS_EXHAUSTED, Status.INTERRUPTED)
        some = bool(np.isfinite(found.covariance).any())
        said += [HERE if early and some else "", *found.remarks, "" if space.is_real else SUPPORTS]
    if found is not None and found.prior_share is not None:
        columns["prior share"] = average_shares(space, point.z, found.prior_share)
        said.append(share_note(found.prior_share))
    said += [f"Solver: {point.info.solver}." if "decaying weights" in point.info.solver else "", *point.info.notes]
    return summarize(title_of(point.info), columns, notes(said), header)


HERE = "The standard errors are those of the curvature where the search ended."

SUPPORTS = "Intervals of constrained parameters respect the support; z only where it has zero inside."


def share_note(shares: np.ndarray) -> str:
    """What the column of prior shares says, and the effective number of parameters."""
    note = "Prior share: 0 where the data decide, 1 where the prior does."
    if np.any((shares < -1e-6) | (shares > 1 + 1e-6)):
        note += " A share outside 0 to 1: the likelihood or the prior curves the wrong way there."
    effective = len(shares) - float(np.sum(shares))
    return note if np.isnan(effective) else f"{note} Effective parameters: {effective:.4g} of {len(shares)}."


def estimates_alone(point: Point) -> Summary:
    """The table of a point that was loaded: model and data were not saved."""
    method = "jm.Given(point.mode)" if point.prior and not point.jacobian else 'jm.Laplace(point, hessian="exact")'
    remedy = (
        "No standard errors: model and data are not saved with a point. "
        f"Get them by jm.fit(key, model, data, {method}).summary()."
    )
    header = fit_header(point.info, size(point.z), None, point.prior or point.jacobian)
    said = [status_note(point.info), remedy, *point.info.notes]
    return summarize(title_of(point.info), {"estimate": point.mode}, notes(said), header)


def is_posterior(value: Any) -> bool:
    """True for anything fitted."""
    return not isinstance(value, type) and hasattr(value, "particles") and hasattr(value, "info")
