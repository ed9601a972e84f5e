"""What a record keeps for figures: ranks of the outcomes, draws of a few parameters, the curves of the fits."""

import math
from typing import Any

import jax
import numpy as np

from jaxmap.assess.predictive import Predictive
from jaxmap.infer import Draws, MixturePosterior, Point, Replicates
from jaxmap.trees import named_leaves, size
from jaxmap.types import Key

DRAWN = "draws/"
"""Names of arrays (chains, draws) begin so, the parameter's path follows; a point has one draw per member."""

TRACE = "trace/log joint"
"""The array (chains, draws) of log joint densities, of rows that sampled with chains."""

CURVE = "history/"
"""Names of arrays (2, steps) begin so, the member's number follows: steps from 1, and the minimised loss there."""

MOST_PARAMETERS = 6
MOST_CHAINS = 4
MOST_DRAWS = 250
"""Per chain."""
MOST_STEPS = 100
MOST_FITS = 16
MOST_NUMBERS = 2**25
"""As many numbers are drawn at once from a Gaussian; where that is under 100 draws, none are kept."""


def keep(key: Key, posterior: Any) -> dict[str, np.ndarray]:
    """Thin a posterior to what figures of it need: at most 4 x 250 draws of 6 numbers, and 16 curves of 100 steps.

    Which numbers depends on the shapes of the parameters alone, so that they are the same for every method: leaves of
    one number first, then one number of each array in turn.

    Args:
        key: for draws from a density in closed form.
        posterior: what a fit returned.

    Returns:
        arrays: by name, as `DRAWN`, `TRACE` and `CURVE` say; float32.
    """
    arrays: dict[str, np.ndarray] = {}
    tree = _chains(key, posterior)
    if tree is not None:
        leaves = named_leaves(tree)
        for k, index in chosen([np.shape(leaf)[2:] for _, leaf in leaves]):
            path, leaf = leaves[k]
            arrays[DRAWN + _name(path, index)] = np.asarray(leaf[(..., *index)], np.float32)
    density = _densities(posterior)
    if density is not None:
        arrays[TRACE] = density.astype(np.float32)
    return arrays | _curves(posterior)


def ranks(key: Key, predictive: Predictive, y: Any) -> np.ndarray:
    """F(y), the probability integral transform; of counts a uniform draw between F(y-) and F(y) (Smith, 1985)."""
    found = predictive.cdf(y)
    if predictive.kind != "counts":
        return found
    jump = np.exp(predictive.log_prob(y)) * np.asarray(jax.random.uniform(key, found.shape))
    return np.clip(found - jump, 0.0, 1.0).astype(found.dtype)


def chosen(shapes: list[tuple[int, ...]], most: int = MOST_PARAMETERS) -> list[tuple[int, tuple[int, ...]]]:
    """Pick numbers to look at, as (leaf, index): leaves of one number first, then one of each array in turn."""
    sizes = [math.prod(shape) for shape in shapes]
    order = sorted((k for k in range(len(shapes)) if sizes[k]), key=lambda k: sizes[k] > 1)
    found: list[tuple[int, tuple[int, ...]]] = []
    for turn in range(max((sizes[k] for k in order), default=0)):
        found += [(k, tuple(map(int, np.unravel_index(turn, shapes[k])))) for k in order if turn < sizes[k]]
        if len(found) >= most:
            break
    return found[:most]


def _name(path: str, index: tuple[int, ...]) -> str:
    return f"{path}[{','.join(map(str, index))}]" if index else path


def _chains(key: Key, posterior: Any) -> Any:
    """The draws as a tree whose arrays lead with (chain, draw), thinned; None where they would not fit in memory."""
    match posterior:
        case Draws():
            return _thin(posterior.draws, posterior.shape)
        case Point():
            return jax.tree.map(lambda leaf: np.asarray(leaf)[None, None], posterior.mode)
        case Replicates():
            return jax.tree.map(lambda leaf: leaf[None, : MOST_CHAINS * MOST_DRAWS], posterior.replicates)
        case MixturePosterior(members=members) if all(isinstance(m, Draws) for m in members):
            firsts = [jax.tree.map(lambda leaf: leaf[0], m.draws) for m in _spread(members)]
            return _thin(jax.tree.map(lambda *leaves: np.stack(leaves), *firsts), (len(firsts), members[0].shape[1]))
        case MixturePosterior(members=members) if all(isinstance(m, Point) for m in members):
            modes = [m.mode for m in members[: MOST_CHAINS * MOST_DRAWS]]
            return jax.tree.map(lambda *leaves: np.stack(leaves)[:, None], *modes)
        case _:
            return _drawn(key, posterior)


def _thin(tree: Any, shape: tuple[int, int]) -> Any:
    """At most 4 chains, spread over all, and every k-th draw of each."""
    picked, every = _spread(range(shape[0])), -(-shape[1] // MOST_DRAWS)
    return jax.tree.map(lambda leaf: leaf[np.array(picked), every - 1 :: every], tree)


def _spread(things: Any) -> list[Any]:
    count = len(things)
    return [things[int(i)] for i in np.linspace(0, count - 1, min(count, MOST_CHAINS)).round()]


def _drawn(key: Key, posterior: Any) -> Any:
    """Draws from a density in closed form, as one chain."""
    members = posterior.members if isinstance(posterior, MixturePosterior) else (posterior,)
    if any(member.mode is None for member in members):
        return None
    held = MOST_NUMBERS // max(1, size(members[0].mode) * len(members))
    if held < 100:
        return None
    drawn = posterior.sample(key, min(MOST_CHAINS * MOST_DRAWS, held))
    return jax.tree.map(lambda leaf: leaf[None], drawn)


def _densities(posterior: Any) -> np.ndarray | None:
    """The log joint density of the draws that `_chains` keeps; None where there are no chains."""
    match posterior:
        case Draws():
            return _thin(np.asarray(posterior.log_joint), posterior.shape)
        case MixturePosterior(members=members) if all(isinstance(m, Draws) for m in members):
            firsts = np.stack([np.asarray(m.log_joint)[0] for m in _spread(members)])
            return _thin(firsts, firsts.shape)
        case _:
            return None


def _curves(posterior: Any) -> dict[str, np.ndarray]:
    """The minimised loss of each fit at steps spaced evenly in their logarithm, where most of the descent is seen."""
    fits = posterior.members if isinstance(posterior, MixturePosterior) else (posterior,)
    arrays = {}
    for k, fit in enumerate(fits[:MOST_FITS]):
        losses = np.asarray(fit.info.history)
        if losses.ndim == 1 and len(losses) > 1:
            steps = np.unique(np.geomspace(1, len(losses), MOST_STEPS).round().astype(int))
            arrays[f"{CURVE}{k}"] = np.stack([steps, losses[steps - 1]]).astype(np.float32)
    return arrays
