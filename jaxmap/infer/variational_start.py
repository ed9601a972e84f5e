"""Where a variational fit begins: a point, and the curvature of the density there."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.curvature import Conditional, SingularCurvatureError, scaled_spectrum
from jaxmap.infer.curved import Curved
from jaxmap.infer.gaussian import GaussianPosterior
from jaxmap.infer.ladder import Ladder, Structure
from jaxmap.infer.posteriors import Point
from jaxmap.infer.problem import Problem, Stopwatch
from jaxmap.model import Density
from jaxmap.trees import take
from jaxmap.types import Seeds

CURVATURE_UP_TO = 1000
"""Parameters for which the whole curvature is formed; beyond, its diagonal."""

PROBES = 64
"""Random vectors that estimate a diagonal where neither the whole curvature nor a layered network gives it."""

FLAT = 1e-11
"""An eigenvalue of the curvature, scaled to a unit diagonal, that is no curvature."""


@dataclass(frozen=True)
class Start:
    """Where one climb begins, and what finding it cost.

    Attributes:
        z: unconstrained coordinates, a tree.
        curvature: of -log density there, positive definite, (p, p), or its diagonal, (p,); float64.
        gradients, seconds: everything counted.
        notes: what a reader must know.
    """

    z: Any
    curvature: np.ndarray
    gradients: float
    seconds: float
    notes: tuple[str, ...]

    @property
    def center(self) -> np.ndarray:
        """The coordinates in ravel order, float64."""
        return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(self.z)])


def start_at(found: Any, density: Density, problem: Problem, key: Any) -> Start:
    """Make a start of a fitted posterior: of a point its coordinates, of a Gaussian its covariance too.

    Args:
        found: the posterior.
        density: what is approximated.
        problem: its model and data.
        key: for random directions.

    Raises:
        TypeError, ValueError: another kind of posterior, or one over other parameters.
    """
    watch = Stopwatch()
    if not isinstance(found, Point | GaussianPosterior):
        raise TypeError(
            f"Expected a start at a point or a Gaussian; got {type(found).__name__}. Use jm.MAP() or jm.Laplace()."
        )
    z = found.z if isinstance(found, Point) else found.mean
    own = jax.tree.leaves(problem.model.start_unconstrained(problem.dtype))
    if [np.shape(leaf) for leaf in jax.tree.leaves(z)] != [leaf.shape for leaf in own]:
        raise ValueError("Expected a start of this model; got one over other parameters. Fit it with this model.")
    if isinstance(found, GaussianPosterior) and not isinstance(found.precision, Conditional):
        curvature, cost, notes = _of_precision(found), 0.0, ("Began at the mean and with the covariance of the start.",)
    else:
        curvature, cost, notes = _curvature(Curved(density, z, problem), key)
    z = jax.tree.map(lambda leaf: jnp.asarray(leaf, problem.dtype), z)
    return Start(z, curvature, found.info.num_gradients + cost, found.info.seconds + watch.seconds, notes)


def own_start(density: Density, problem: Problem, seed: Seeds, key: Any) -> Start:
    """Start where the model's own runs begin; the arguments as above, and the seed of this one."""
    watch = Stopwatch()
    z = take(problem.starts(seed), 0)
    curvature, cost, notes = _curvature(Curved(density, z, problem), key)
    return Start(z, curvature, cost, watch.seconds, notes)


def _of_precision(found: GaussianPosterior) -> np.ndarray:
    """H where it is small enough, else the inverse variances."""
    if found.precision.size > CURVATURE_UP_TO:
        return 1.0 / np.asarray(found.precision.variances(), np.float64)
    root = np.asarray(found.precision.whiten(np.eye(found.precision.size)), np.float64)
    return root.T @ root


def _curvature(at: Curved, key: Any) -> tuple[np.ndarray, float, tuple[str, ...]]:
    """The curvature at a point, made positive; one in every direction where there is none; its cost; a note."""
    whole = len(at.positions) <= CURVATURE_UP_TO
    try:
        if whole:
            matrix, cost = at.exact() if at.problem.model.outputs is None else at.gauss_newton()
            positive, note = _positive(matrix)
            return positive, cost, note
        layered = at.problem.model.outputs is not None
        ladder = Ladder(at, Structure("diagonal", probes=None if layered else PROBES), key)
        rung = ladder.climb("ggn" if layered else "exact", force=True)
        return 1.0 / np.asarray(rung.precision.variances(), np.float64), rung.cost, ()
    except SingularCurvatureError as error:
        said = f"Began with scale one in every coordinate: {error}"
        ones = np.ones(len(at.positions))
        return (np.diag(ones), 3.0 * ones.size, (said,)) if whole else (ones, 1.0, (said,))


def _positive(matrix: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Turn eigenvalues that are negative positive, and those that are zero one, after scaling to a unit diagonal."""
    values, vectors, scales = scaled_spectrum(matrix)
    if values[0] > FLAT:
        return matrix, ()
    size = np.where(np.abs(values) > FLAT, np.abs(values), 1.0)
    root = scales[:, None] * vectors * np.sqrt(size)
    count = int(np.sum(values <= FLAT))
    note = (
        f"The curvature at the start is not positive in {count} direction(s); its size was taken for the first scale."
    )
    return root @ root.T, (note,)
