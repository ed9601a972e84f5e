"""Rules of a prior: which parameters a pattern names, and what a rule means there."""

import fnmatch
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro.distributions import Delta, Distribution, constraints

from jaxmap.trees import at_path
from jaxmap.types import Params


class Flat:
    """The flat prior: adds nothing to the log density, anywhere in the support. Use the instance `flat`."""

    def __repr__(self) -> str:
        return "flat"


flat = Flat()


Rule = Distribution | Flat | Callable[[Params], Distribution]


class Row(NamedTuple):
    """One leaf of the parameters: its path, its rule, its value, and the path of the tree that functions see."""

    path: str
    rule: Rule
    leaf: Any
    root: str


def match_rules(patterns: dict[str, Rule], leaves: list[str]) -> list[Rule]:
    """The rule of each leaf, by the pattern with the most literal characters.

    Raises:
        ValueError: a leaf without a rule, a tie, or a pattern that matches nothing; names the path.
    """
    chosen: list[str] = []
    for path in leaves:
        hits = [p for p in patterns if fnmatch.fnmatchcase(path, p) or fnmatch.fnmatchcase("/" + path, p)]
        if not hits:
            raise ValueError(
                f"Expected a prior rule for every parameter; got none for {path!r}. Add a rule, or '*': jm.flat."
            )
        best = max(_literals(p, path) for p in hits)
        winners = [p for p in hits if _literals(p, path) == best]
        if len(winners) > 1:
            raise ValueError(
                f"Expected one prior rule for {path!r}; got a tie between {' and '.join(map(repr, winners))}. "
                "Make one of them more specific."
            )
        chosen.append(winners[0])
    idle = [
        p for p in patterns if not any(fnmatch.fnmatchcase(q, p) or fnmatch.fnmatchcase("/" + q, p) for q in leaves)
    ]
    if idle:
        raise ValueError(
            f"Expected every prior rule to cover a parameter; got {', '.join(map(repr, idle))} that matches nothing. "
            f"The parameters are {', '.join(leaves)}."
        )
    return [patterns[p] for p in chosen]


def _literals(pattern: str, path: str) -> float:
    """How specific a pattern is: its characters that are no wildcards; the path itself beats them all."""
    if pattern == path:
        return float("inf")
    return float(len(re.sub(r"\[[^\]]*\]|[*?]", "", pattern)))


def resolve(row: Row, params: Params) -> Distribution | None:
    """The distribution of one leaf, None where it is flat; its shape must broadcast to the leaf's."""
    if isinstance(row.rule, Flat):
        return None
    distribution = row.rule if isinstance(row.rule, Distribution) else row.rule(at_path(params, row.root))
    if not isinstance(distribution, Distribution):
        raise TypeError(f"Expected the prior function of {row.path!r} to return a distribution; got {distribution!r}.")
    shape, given, event = jnp.shape(row.leaf), distribution.shape(), distribution.event_shape
    fits = len(given) <= len(shape) and (not event or shape[-len(event) :] == event)
    pairs = zip(given[::-1], shape[::-1], strict=False)
    if not fits or not all(a in (1, b) for a, b in pairs):
        raise ValueError(
            f"Expected a prior for {row.path!r} that broadcasts to its shape {shape}; got one of shape {given}."
        )
    # numpy arguments become arrays of the precision in force here, whatever it was when the prior was made
    return jax.tree.map(lambda v: jnp.asarray(np.array(v)) if isinstance(v, np.ndarray) else v, distribution)


def check_distribution(distribution: Distribution, where: str) -> None:
    """Refuse concrete arguments outside their constraint, and discrete distributions.

    Raises:
        ValueError: naming the distribution, the argument and its value.
    """
    base = getattr(distribution, "base_dist", None)
    if base is not None:
        check_distribution(base, where)
    for name, constraint in distribution.arg_constraints.items():
        value = vars(distribution).get(name)
        if value is None or constraints.is_dependent(constraint) or isinstance(value, Tracer):
            continue
        with jax.ensure_compile_time_eval():  # also inside a program, where a path builds its models
            inside = bool(jnp.all(constraint(value)))
        if not inside:
            raise ValueError(
                f"Expected {name} of the {where} {type(distribution).__name__} to be "
                f"{type(constraint).__name__.lstrip('_').lower()}; got {np.asarray(value)}."
            )
    support = distribution.support
    discrete = isinstance(distribution, Delta) or (support is not None and support.is_discrete)
    if discrete and where == "prior":
        raise ValueError(f"Expected a continuous prior; got {type(distribution).__name__}. Sum the parameter out.")
