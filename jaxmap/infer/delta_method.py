"""The delta method: spreads and intervals in the user's space from a covariance in unconstrained coordinates."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from jaxmap.model import Space
from jaxmap.model.space import axis_of

Block = Callable[[int, int], np.ndarray]


class Spread(NamedTuple):
    """Trees in the user's space, float64 numpy; NaN where the covariance is.

    Attributes:
        error: the standard error (or posterior standard deviation) of each number.
        lower, upper: ends of its interval.
        ratio: estimate / error, the Wald statistic of "this number is zero"; NaN where the support leaves zero out
            (a scale, a probability) or ties the numbers together.
    """

    error: Any
    lower: Any
    upper: Any
    ratio: Any


def carry(space: Space, z: Any, variances: np.ndarray, block: Block, level: float) -> Spread:
    """Carry a covariance C of unconstrained coordinates to the user's parameters theta(z).

    error^2 = diag(J C J'), J = d theta / d z. Of each number the interval is t(u +- q error / |t'(u)|), q the normal
    quantile of (1 + level) / 2, t the map from the line to its support, u = t^-1(theta): where the bijection acts entry
    by entry that is the image of the symmetric interval of z, so that it respects the support; without a constraint it
    is theta +- q error; for a simplex it is the logit interval, as Stata's `proportion` gives. Van der Vaart (1998),
    theorem 3.1.

    Args:
        space: the map z -> theta.
        z: where, p numbers.
        variances: the diagonal of C, (p,), in ravel order.
        block: (begin, end) -> C[begin:end, begin:end], asked for where a leaf's numbers are tied together.
        level: of the intervals, between 0 and 1.

    Returns:
        spread: trees like the parameters.
    """
    quantile = float(np.asarray(norm.ppf(0.5 + level / 2)))
    leaves = [np.asarray(leaf, np.float64) for leaf in space.treedef.flatten_up_to(z)]
    ends = np.cumsum([0, *(leaf.size for leaf in leaves)])
    with jax.enable_x64(True):
        made = [
            _carry_leaf(
                support, transform, jnp.asarray(leaf), variances[begin:end], partial(block, begin, end), quantile
            )
            for support, transform, leaf, begin, end in zip(
                space.supports, space.transforms, leaves, ends[:-1], ends[1:], strict=True
            )
        ]
    return Spread(*(space.treedef.unflatten(column) for column in zip(*made, strict=True)))


def average_shares(space: Space, z: Any, shares: np.ndarray) -> Any:
    """Numbers per unconstrained coordinate as a tree in the user's space; a coupled leaf has its average throughout."""
    rows, begin = [], 0
    for support, leaf, shape in zip(space.supports, space.treedef.flatten_up_to(z), _shapes(space, z), strict=True):
        part = shares[begin : begin + np.size(leaf)]
        begin += np.size(leaf)
        rows.append(part.reshape(shape) if axis_of(support)[1] else np.full(shape, np.mean(part)))
    return space.treedef.unflatten(rows)


def _shapes(space: Space, z: Any) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(space.constrain, z))]


def _carry_leaf(
    support: Any, transform: Any, z: Any, variances: np.ndarray, block: Callable[[], np.ndarray], quantile: float
) -> tuple[Any, ...]:
    """The four numbers of `Spread` for each entry of one leaf."""
    axis, own = axis_of(support)
    theta = transform(z)
    if own:
        at, spread = z, np.sqrt(variances).reshape(z.shape)
        slope = np.abs(_slope(axis, at))
        error = slope * spread
    else:
        jacobian = np.asarray(jax.jacfwd(transform)(z)).reshape(theta.size, z.size)
        variance = np.einsum("ij,jk,ik->i", jacobian, block(), jacobian, optimize=True)
        error = np.sqrt(np.maximum(variance, 0.0)).reshape(theta.shape)
        at = axis.inv(theta)
        slope = np.abs(_slope(axis, at))
        spread = np.divide(error, slope, out=np.zeros_like(error), where=error != 0)
    sides = [np.asarray(axis(at + sign * quantile * spread)) for sign in (-1.0, 1.0)]
    theta = np.asarray(theta)
    inside = own & np.isfinite(np.asarray(axis.inv(jnp.zeros(theta.shape))))
    ratio = np.divide(theta, error, out=np.full(theta.shape, np.nan), where=inside & (error > 0))
    return error, np.minimum(*sides), np.maximum(*sides), ratio


def _slope(axis: Any, at: Any) -> np.ndarray:
    """The derivative of a map that acts entry by entry."""
    return np.asarray(jax.jvp(axis, (at,), (jnp.ones_like(at),))[1])
