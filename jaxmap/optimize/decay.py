"""Solvers that decay weights: found by trying them, not by their names."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

PROBE_STEPS, MOST_PROBES = 32, 1024
"""A warm-up schedule may keep the rate at zero for the first steps; accumulated gradients move nothing for longer."""


def decay_of(transformation: Any, like: Any = None) -> float | None:
    """The decay d of a transformation that moves weights although the gradient is zero, None for others.

    The update at a zero gradient is -rate * d * params; the rate is read off the update of a unit gradient at zero
    params. Noise that a transformation adds is the same at params and -params, so that it cancels.

    Args:
        transformation: of optax.
        like: parameters as it will see them. Where it treats leaves apart (`optax.masked`, `optax.partition`), it is
            tried on a tree of the same paths and ranks, one number a leaf.

    Returns:
        decay: d, as far as it can be read; None where there is no decay or the transformation needs a loss to move.
    """
    update, params = jax.jit(optax.with_extra_args_support(transformation).update), jnp.ones(3)
    if like is not None and _tells_leaves_apart(transformation, params):
        params = jax.tree.map(lambda leaf: jnp.ones((1,) * jnp.ndim(leaf)), like)

    def updates(gradient: float, sign: float, count: int = PROBE_STEPS) -> np.ndarray:
        point = jax.tree.map(lambda leaf: sign * leaf, params)
        slope = jax.tree.map(lambda leaf: gradient * leaf, params)
        state, seen = transformation.init(point), []
        for _ in range(count):
            change, state = update(slope, state, point)
            seen.append(np.asarray(ravel_pytree(change)[0]))
        return np.stack(seen)

    try:
        rates, count = -updates(1.0, 0.0), PROBE_STEPS
        if not np.any(rates):
            count = MOST_PROBES
            rates = -updates(1.0, 0.0, count)
        pulled = (updates(0.0, 1.0, count) - updates(0.0, -1.0, count)) / 2
        if not np.any(pulled < 0):
            return None
    except (TypeError, ValueError, KeyError):
        return None
    largest = np.unravel_index(np.argmin(pulled), pulled.shape)
    rate = rates[largest]
    return float(-pulled[largest] / rate) if rate > 0 else float("nan")


def _tells_leaves_apart(transformation: Any, params: Any) -> bool:
    """True where a part of it is for some leaves only, as its state shows; or its masks do not fit other trees."""
    apart = (optax.MaskedState, optax.transforms.PartitionState)
    try:
        state = transformation.init(params)
    except (TypeError, ValueError, KeyError, AttributeError):
        return True
    return any(isinstance(part, apart) for part in jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, apart)))
