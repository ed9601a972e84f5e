"""What stochastic chains say about themselves: how warm their momenta and their positions are."""

from typing import NamedTuple

import numpy as np

TOLERATED = 0.1
"""How far the momenta's temperature may be from the one asked for."""

FAR = 2.0
"""Chains lie far below a mode where they lie so many times lower than draws of a Gaussian around it."""


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


def fallen(height: float | None, log_joint: np.ndarray, params: int, temperature: float) -> list[str]:
    """Say so where chains lie far lower than where they began, (chains, draws).

    Around a mode of P parameters a Gaussian posterior has draws that lie T P / 2 nats below it on average.
    """
    if height is None:
        return []
    lower, usual = height - log_joint.mean(axis=1), temperature * params / 2
    far = lower > FAR * usual + np.sqrt(usual)
    if not far.any():
        return []
    count = f"{far.sum()} of the {len(far)} chains" if len(far) > 1 else "The chain"
    return [
        f"{count} left the modes they began at: their draws lie {lower.max():,.0f} nats of log joint density below, "
        f"where {usual:,.0f} are usual around a mode of {params:,} parameters. Either the steps are too long, or most "
        "of the posterior is not near its modes, as under a wide prior. Halve step_size, or use a narrower prior."
    ]
