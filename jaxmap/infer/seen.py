"""What a method's own machinery evaluates at given coordinates: the evidence that all methods see one density.

Each method has `seen(problem, found, z)`: the log density (k,) at coordinates stacked on a leading axis, by the
programs that its `run` climbs or samples with, in the precision in which they can compute. `found` is what the fit
returned.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxmap.infer.problem import Problem
from jaxmap.model import Density
from jaxmap.optimize import objective_of
from jaxmap.trees import in_double, take
from jaxmap.types import Data


def by_objective(density: Density, problem: Problem, z: Any) -> np.ndarray:
    """What a climb minimises, -f / N, turned back into f."""
    count = problem.num_examples

    def value(v: Any, data: Data) -> Any:
        return -count * objective_of(density, data)(v)

    return at_each(problem, ("seen by climbs", density), value, z)


def at_each(problem: Problem, name: Any, function: Callable[[Any, Data], Any], z: Any) -> np.ndarray:
    """function(z, data) at stacked coordinates, one after the other, in float64 where that can be had."""

    def values(z: Any, data: Data) -> Any:
        return jax.lax.map(lambda v: function(v, data), z)

    return np.asarray(in_double(problem.model.programs.jitted(name, values), z, problem.data))


def one_by_one(function: Callable[[Any], float], z: Any) -> np.ndarray:
    """A function on the host at stacked coordinates."""
    return np.array([float(function(take(z, i))) for i in range(len(jax.tree.leaves(z)[0]))])


def as_rows(z: Any) -> np.ndarray:
    """Stacked coordinates as rows, (k, P) in ravel order, float64."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(z)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def in_chains(rows: np.ndarray, chains: int) -> np.ndarray:
    """Rows as positions (times, 1, chains, P), the last one repeated where their number does not come out even."""
    times = -(-len(rows) // chains)
    padded = rows[np.minimum(np.arange(times * chains), len(rows) - 1)]
    return padded.reshape(times, 1, chains, -1)
