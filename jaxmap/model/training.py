"""Networks in training mode: dropout is active and batch statistics move, for point estimates alone."""

from collections.abc import Callable
from typing import Any, cast

import jax
from flax import linen, nnx

from jaxmap.model.networks import Network, made_by, squeezed
from jaxmap.types import Key, Params

TRAINING = "training"
"""The one word for `state`."""


def in_training_mode(network: Any) -> Network:
    """Accept an nnx factory or instance whose training mode depends on more than its parameters.

    Its parameters are the tree {"network": parameters, "state": batch statistics}, or the parameters alone where there
    are no statistics. In evaluation mode (`apply`) the network is a function of that tree; in training mode (`train`)
    it also takes a key, and gives the statistics after the batch.

    Args:
        network: nnx factory `rngs -> Module`, or nnx instance.

    Returns:
        network: with `train`.

    Raises:
        TypeError: another kind of network, which has no common switch between the two modes; a factory of one.
    """
    fresh = not isinstance(network, nnx.Module)
    if isinstance(network, linen.Module) or (fresh and not callable(network)):
        raise TypeError(
            f"Expected an nnx factory or module with state={TRAINING!r}; got {network!r}. Others have no common switch "
            "between training and evaluation."
        )
    module = made_by(network, jax.random.key(0))
    module.train()
    training, _, stats, seeds, rest = nnx.split(module, nnx.Param, nnx.BatchStat, nnx.RngKey, ...)
    module.eval()
    evaluation = nnx.split(module, nnx.Param, nnx.BatchStat, nnx.RngKey, ...)[0]
    stateful = bool(jax.tree.leaves(stats))

    def init(key: Key) -> Params:
        _, params, stats, _ = nnx.split(made_by(network, key), nnx.Param, nnx.BatchStat, ...)
        plain = cast(Any, nnx.to_pure_dict(params))
        return {"network": plain, "state": nnx.to_pure_dict(stats)} if stateful else plain

    def parts(params: Params) -> tuple[Any, Any]:
        return (params["network"], params["state"]) if stateful else (params, stats)

    def apply(params: Params, x: Any) -> Any:
        return nnx.merge(evaluation, *parts(params), seeds, rest)(x)

    def train(params: Params, x: Any, key: Key) -> tuple[Any, Any]:
        module = nnx.merge(training, *parts(params), _reseeded(seeds, key), rest, copy=True)
        outputs = module(x)
        return outputs, nnx.to_pure_dict(nnx.split(module, nnx.BatchStat, ...)[1]) if stateful else None

    return Network(init, squeezed(apply, None), fresh, _squeezed_train(train), stateful)


def _squeezed_train(train: Callable[..., Any]) -> Callable[..., Any]:
    """The outputs as `squeezed` makes them, beside the statistics in the dtype that they had."""

    def made(params: Params, x: Any, key: Key) -> tuple[Any, Any]:
        moved: list[Any] = []

        def outputs(params: Params, x: Any) -> Any:
            made, state = train(params, x, key)
            moved.append(state)
            return made

        found = squeezed(outputs, None)(params, x)
        if moved[0] is None:
            return found, None
        return found, jax.tree.map(lambda new, old: new.astype(old.dtype), moved[0], params["state"])

    return made


def _reseeded(seeds: Any, key: Key) -> Any:
    """The keys of a module's random streams, made from one key."""
    leaves, treedef = jax.tree.flatten(seeds)
    return treedef.unflatten([jax.random.fold_in(key, k) for k in range(len(leaves))])
