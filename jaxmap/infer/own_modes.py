"""Chains of networks begin each at a mode of its own, found by a first-order climb."""

from dataclasses import replace

import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxmap.infer.beginning import Beginning, Candidate
from jaxmap.infer.nuts_frame import Frame
from jaxmap.infer.nuts_start import LONG, Starter
from jaxmap.infer.point import MAP
from jaxmap.infer.posteriors import Point
from jaxmap.infer.problem import multiply

TO_THE_MODE = MAP(optax.adam(optax.cosine_decay_schedule(0.01, 2000)), steps=2000, space="unconstrained")
"""How a chain finds its mode; one transformation, so that it is compiled once."""


def begin_at_own_modes(starter: Starter, batch_size: int | None = None) -> Beginning:
    """One climb per chain, in plain coordinates; the chains share what was found where some climbs diverged.

    Raises:
        FitError: interrupted by the user.
    """
    problem, chains = starter.problem, starter.chains
    climb = replace(TO_THE_MODE, batch_size=batch_size)
    points = starter.solve(climb, multiply(starter.seed, chains))
    found = [point for point in points if isinstance(point, Point)]
    if not found:
        return starter.begin_plain().after(0.0, 0.0, "Started without a mode: every climb diverged.")
    z = np.stack([np.asarray(ravel_pytree(found[c % len(found)].z)[0]) for c in range(chains)])
    plain = Frame(np.zeros(problem.num_params), np.ones(problem.num_params))
    note = (
        "Each chain began at a mode of its own."
        if len(found) == chains
        else f"{len(found)} of {chains} climbs found a mode; the chains begin at them in turn."
    )
    spent = sum(p.info.num_gradients for p in found), sum(p.info.seconds for p in found)
    return Beginning((Candidate("at modes", plain, z.astype(np.float64), LONG),), *spent, (note,))
