"""Standardisation: learned on the training rows, carried by the model."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.data.arrays import check_data


@dataclass(frozen=True, eq=False)
class Scaling:
    """An affine map of inputs, and of targets where they are real: z = (raw - shift) / scale.

    Attributes:
        x_shift, x_scale: trees like x without the leading axis.
        y_shift, y_scale: arrays of shape y.shape[1:], or None where the target is not scaled.
    """

    x_shift: Any
    x_scale: Any
    y_shift: np.ndarray | None = None
    y_scale: np.ndarray | None = None

    def inputs(self, x: Any) -> Any:
        """Bring raw inputs to the network's units, in the dtype of x (integers become floats).

        Raises:
            ValueError: columns of another shape than those the scaling was learned on.
        """
        if jax.tree.structure(x) != jax.tree.structure(self.x_shift):
            raise ValueError("Expected x of the structure that the scaling was learned on; got another. Give the same.")
        return jax.tree.map(_scaled, x, self.x_shift, self.x_scale)


def standardize(train: tuple[Any, Any], *, target: bool | None = None) -> Scaling:
    """Learn means and standard deviations (divisor n) from training data.

    A constant column keeps the scale 1, so that it becomes zero.

    Args:
        train: (x, y); x an array (n, ...) or a tree of such.
        target: scale y too. None: only where y is floating (a regression).

    Returns:
        scaling: to give to `jm.supervised(..., scaling=scaling)`.

    Raises:
        ValueError: see `check_data`.
    """
    if not (isinstance(train, tuple | list) and len(train) == 2):
        raise ValueError(f"Expected the training data as a pair (x, y); got {type(train).__name__}.")
    x, y = check_data(tuple(train), name="train")
    x_shift = jax.tree.map(lambda leaf: np.asarray(np.mean(np.asarray(leaf, np.float64), axis=0)), x)
    x_scale = jax.tree.map(_spread, x)
    floating = jnp.issubdtype(y.dtype, jnp.floating)
    if target is None:
        target = bool(floating)
    if not target:
        return Scaling(x_shift, x_scale)
    if not floating:
        raise ValueError(f"Expected a floating y to standardise; got {y.dtype}. Leave labels and counts as they are.")
    return Scaling(x_shift, x_scale, np.asarray(np.mean(np.asarray(y, np.float64), axis=0)), _spread(y))


def _scaled(leaf: Any, shift: Any, scale: Any) -> jax.Array:
    leaf = jnp.asarray(leaf)
    if leaf.shape[1:] != np.shape(shift):
        raise ValueError(
            f"Expected x with examples of shape {np.shape(shift)}, as the scaling was learned on; got {leaf.shape[1:]}."
        )
    dtype = leaf.dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.result_type(float)
    shift, scale = (jnp.asarray(np.expand_dims(v, 0), dtype) for v in (shift, scale))
    return (leaf.astype(dtype) - shift) / scale


def _spread(leaf: Any) -> np.ndarray:
    spread = np.std(np.asarray(leaf, np.float64), axis=0)
    return np.asarray(np.where(spread > 0, spread, 1.0))
