"""The grade of a Gaussian approximation: importance weights against the true density."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.special import logsumexp, ndtri

from jaxmap.curvature import Precision, leaves_that_move, moving_size
from jaxmap.infer.curved import Curved
from jaxmap.infer.problem import Problem
from jaxmap.model import Density
from jaxmap.statistics import ess_of_weights, pareto_smooth
from jaxmap.trees import in_double, shaper
from jaxmap.types import Data, Key, Params

GRADED_UP_TO = 2_000
"""Parameters beyond which no number of draws would tell; a grade is then only made when asked for."""

DRAWS = 1000
DRAWS_AT_A_TIME = 32


@dataclass(frozen=True, eq=False)
class Grade:
    """How good an approximation q of a density p is, and what importance weighting makes of it.

    Draws z_s from q, spread evenly along each axis, have weights p(z_s) / q(z_s), whose tail is smoothed (Vehtari,
    Simpson, Gelman, Yao and Gabry, 2024). The shape k of that tail says whether they can be trusted: below
    min(1 - 1 / log10 S, 0.7) they can.

    Attributes:
        k_hat: the shape.
        draws: S.
        ess: how many equally weighted draws from p they are worth.
        log_evidence: log of the mean weight, the corrected integral of p, in nats.
        mean: the corrected mean, in the user's space.
        sd: the corrected standard deviation.
    """

    k_hat: float
    draws: int
    ess: float
    log_evidence: float
    mean: Params
    sd: Params

    @property
    def threshold(self) -> float:
        """The largest k-hat that this number of draws can bear."""
        return float(min(1.0 - 1.0 / np.log10(max(self.draws, 11)), 0.7))

    @property
    def trusted(self) -> bool:
        """True where the corrected mean and evidence can be used."""
        return bool(self.k_hat < self.threshold)

    @property
    def note(self) -> str:
        """In a sentence."""
        if np.isneginf(self.k_hat):
            return "Every importance weight is the same: the density is this Gaussian."
        verdict = (
            "the density is close enough to Gaussian for importance weights to correct the rest"
            if self.trusted
            else "the density is not Gaussian here; do not trust tails or evidence, and sample with jm.NUTS()"
        )
        return f"Pareto k-hat {self.k_hat:.2f} (limit {self.threshold:.2f}): {verdict}."

    @property
    def diagnostics(self) -> dict[str, float]:
        """The numbers for `info`."""
        return {
            "k_hat": self.k_hat,
            "k_hat_limit": self.threshold,
            "ess_of_weights": self.ess,
            "log_evidence_corrected": self.log_evidence,
        }


def grade(key: Key, density: Density, problem: Problem, mean: Any, precision: Precision, draws: int) -> Grade:
    """Grade N(mean, H^-1) against a density.

    Args:
        key: for the draws.
        density: what is approximated; the prior and the Jacobian as it says.
        problem: its model and data.
        mean: coordinates.
        precision: H.
        draws: S, about S / 3 gradients.

    Returns:
        grade: an infinite k-hat where the density is not a number at some draw.
    """
    flat = np.asarray(ravel_pytree(mean)[0], np.float64)
    noise = spread_normal(key, draws, precision.size)
    moves = precision.color(noise.T).T
    if moving_size(precision) < precision.size:
        noise = noise[:, precision.positions]  # type: ignore[attr-defined]
    log_normal = 0.5 * precision.log_det - 0.5 * noise.shape[1] * np.log(2 * np.pi) - 0.5 * np.sum(noise**2, axis=1)
    values, moments = density_of_draws(density, problem, mean, flat[None] + moves)
    values = values - _of_held(density, problem, mean, precision)
    log_ratios = values - log_normal
    log_ratios = np.where(np.isnan(log_ratios), np.inf, log_ratios)
    found = pareto_smooth(log_ratios)
    k_hat = _settled(np.inf if np.isnan(found.k_hat) else found.k_hat, log_ratios)
    center, spread = moments(np.exp(found.log_weights))
    log_mean = float(np.asarray(logsumexp(_smoothed(log_ratios, found.log_weights)) - np.log(draws)))
    return Grade(float(k_hat), draws, ess_of_weights(found.log_weights), log_mean, center, spread)


def spread_normal(key: Key, draws: int, size: int) -> np.ndarray:
    """Standard normal draws, one from each of S equally likely slices of every coordinate, (draws, size).

    A Latin hypercube: McKay, Beckman and Conover (1979). Each draw alone is standard normal; averages err less than
    with independent draws by what is a sum of functions of one coordinate each.
    """
    order, within = jax.random.split(key)
    slices = jax.random.permutation(order, jnp.tile(jnp.arange(draws), (size, 1)), axis=1, independent=True)
    uniform = jax.random.uniform(within, (size, draws), np.float32, minval=1e-6)
    return ndtri((np.asarray(slices, np.float64) + np.asarray(uniform, np.float64)) / draws).T


def _of_held(density: Density, problem: Problem, mean: Any, precision: Precision) -> float:
    """The prior's part that belongs to leaves without a variance: the evidence is that of the others given them."""
    leaves = leaves_that_move(precision, [int(np.size(leaf)) for leaf in jax.tree.leaves(mean)])
    return 0.0 if leaves is None else Curved(density, mean, problem, leaves).held_log_prior()


def _settled(k_hat: float, log_ratios: np.ndarray) -> float:
    """No tail at all, where every weight is the same but for rounding: the approximation is exact."""
    return -np.inf if np.ptp(log_ratios) < 1e-6 else k_hat


def _smoothed(log_ratios: np.ndarray, log_weights: np.ndarray) -> np.ndarray:
    """The smoothed weights before they were normalised: those outside the tail are the raw ratios."""
    if not np.isfinite(log_ratios.max()):
        return np.full_like(log_ratios, np.nan)
    smallest = np.argmin(np.where(np.isfinite(log_ratios), log_ratios, np.inf))
    return log_weights + (log_ratios[smallest] - log_weights[smallest])


def density_of_draws(
    density: Density, problem: Problem, mean: Any, z: np.ndarray
) -> tuple[np.ndarray, Callable[..., Any]]:
    """The density at the rows of z, and a function from weights to mean and sd in the user's space."""
    shaped = shaper(mean)

    def values(z: Any, data: Data) -> Any:
        return jax.lax.map(lambda v: density(shaped(v), data), z, batch_size=min(len(z), DRAWS_AT_A_TIME))

    def moments(z: Any, weights: Any) -> Any:
        params = jax.vmap(lambda v: density.model.space.constrain(shaped(v)))(z)
        center = jax.tree.map(lambda p: jnp.tensordot(weights, p, 1), params)
        square = jax.tree.map(lambda p, c: jnp.tensordot(weights, (p - c[None]) ** 2, 1), params, center)
        return center, jax.tree.map(jnp.sqrt, square)

    programs = problem.model.programs
    found = in_double(programs.jitted(("density of draws", density), values), z, problem.data)
    program = programs.jitted(("moments of draws", density), moments)
    return np.asarray(found, np.float64), lambda weights: jax.tree.map(np.asarray, in_double(program, z, weights))
