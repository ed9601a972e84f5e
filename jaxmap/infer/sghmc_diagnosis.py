"""What stochastic chains say about themselves: how warm their momenta and their positions are."""

from typing import NamedTuple

import numpy as np

TOLERATED = 0.1
"""How far the momenta's temperature may be from the one asked for."""


class Kept(NamedTuple):
    """Draws, (seeds, chains, draws, ...): z is unconstrained, position and slope are in the frame."""

    z: np.ndarray
    position: np.ndarray
    slope: np.ndarray
    kinetic: np.ndarray
    failed: np.ndarray


def configurational(kept: Kept) -> float:
    """-Cov(x, grad f) within chains, averaged over coordinates: T in equilibrium, less where a chain is too short.

    By parts, E[(x - c) d f / dx] = -T for any c; an estimated gradient serves as well as the gradient.
    """
    x, g = (np.asarray(v, np.float64) for v in (kept.position, kept.slope))
    count = x.shape[1]
    if count < 2:
        return float("nan")
    x, g = (v - v.mean(axis=1, keepdims=True) for v in (x, g))
    return float(-np.sum(x * g) / (count - 1) / x.shape[0] / x.shape[2])


def doubts(kinetic: float, failed: float) -> list[str]:
    """What a reader must know of draws from which none was refused."""
    said = [
        f"Unadjusted draws have a bias that falls with the step; the momenta are {kinetic:.2f} times as warm as asked "
        f"for (limits {1 - TOLERATED:.1f} and {1 + TOLERATED:.1f}). Halve step_size to see how large it is."
    ]
    if failed:
        said.append(f"{failed:.0f} steps were taken back: they did not end at finite numbers. Halve step_size.")
    return said
