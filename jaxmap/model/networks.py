"""Networks: flax nnx factories and instances, flax linen modules, pairs of pure functions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import errors, linen, nnx

from jaxmap.trees import cast_floats, float_dtype
from jaxmap.types import Key, Params

NOT_PURE = (
    "Expected a network in evaluation mode; got {what}, which makes the output depend on more than the parameters: "
    "not a log-probability of the parameters. {remedy}"
)

OR_TRAIN = ', or give jm.supervised(..., state="training") for a point estimate that says so.'


@dataclass(frozen=True, eq=False)
class Network:
    """A pure network: `init(key) -> params` and `apply(params, x) -> outputs`.

    Attributes:
        init: makes parameters, nested dicts.
        apply: outputs with the leading axis of x; (n, 1) comes out as (n,).
        fresh: True where other keys give other parameters, so that restarts and ensembles are possible.
        train: (params, x, key) -> (outputs, batch statistics after x or None), in training mode; None where that is
            evaluation mode.
        stateful: True where the parameters hold batch statistics.
    """

    init: Callable[[Key], Params]
    apply: Callable[[Params, Any], Any]
    fresh: bool = True
    train: Callable[[Params, Any, Key], tuple[Any, Any]] | None = None
    stateful: bool = False


def as_network(network: Any, example: Any = None, compute_dtype: Any = None) -> Network:
    """Accept every kind of network that `jm.supervised` names.

    Args:
        network: nnx factory `rngs -> Module`, nnx instance, linen module, or a pair (init, apply).
        example: one example of x with its leading axis, `x[:1]`; linen modules need it.
        compute_dtype: bfloat16, or None: that of the parameters.

    Returns:
        network: pure functions; outputs of shape (n, 1) are squeezed, those in half precision brought to the precision
            of the parameters.

    Raises:
        TypeError: something else, another `compute_dtype`.
        ValueError: active dropout or batch statistics, or a linen module without example.
    """
    if compute_dtype is not None and jnp.dtype(compute_dtype) != jnp.bfloat16:
        raise TypeError(
            f"Expected compute_dtype=jnp.bfloat16 or None; got {compute_dtype!r}. float16 would need its loss scaled."
        )
    if isinstance(network, nnx.Module):
        pure = _from_nnx_instance(network)
    elif isinstance(network, linen.Module):
        pure = _from_linen(network, example)
    elif isinstance(network, tuple) and len(network) == 2 and all(callable(part) for part in network):
        pure = Network(*network)
    elif callable(network):
        pure = _from_nnx_factory(cast(Any, network))
    else:
        raise TypeError(
            "Expected an nnx factory `lambda rngs: MLP(rngs)`, an nnx module, a linen module, or a pair "
            f"(init, apply); got {network!r}."
        )
    return Network(pure.init, squeezed(pure.apply, compute_dtype), pure.fresh)


def squeezed(apply: Callable[[Params, Any], Any], compute_dtype: Any) -> Callable[[Params, Any], Any]:
    """The network with outputs (n,) for (n, 1), computed in one dtype and given in that of the parameters."""

    def made(params: Params, x: Any) -> Any:
        given = (params, x) if compute_dtype is None else cast_floats((params, x), compute_dtype)
        outputs = jax.tree.map(lambda leaf: _raised(leaf, float_dtype(params)), apply(*given))
        return outputs[:, 0] if getattr(outputs, "ndim", 0) == 2 and outputs.shape[1] == 1 else outputs

    return made


def _raised(outputs: Any, dtype: Any) -> Any:
    """Outputs in half precision in the precision of the parameters: densities are never summed with three digits."""
    half = jnp.issubdtype(jnp.result_type(outputs), jnp.floating) and jnp.result_type(outputs).itemsize < HALF
    return outputs.astype(dtype) if half else outputs


HALF = 4
"""Bytes below which a number has half precision."""


def _from_nnx_instance(module: nnx.Module) -> Network:
    _refuse_training_mode(module)
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    values = nnx.to_pure_dict(params)
    return Network(lambda key: values, _nnx_apply(graphdef, rest), fresh=False)


def made_by(network: Any, key: Key) -> nnx.Module:
    """The module that an nnx factory makes, or a copy of an nnx instance.

    Raises:
        TypeError: a factory that makes something else.
    """
    if isinstance(network, nnx.Module):
        return nnx.clone(network)
    try:
        module = network(nnx.Rngs(key))
    except TypeError as error:
        raise TypeError(
            f"Expected a network factory `rngs -> nnx.Module`; calling it with rngs failed: {error}. "
            "Write `lambda rngs: MyNetwork(..., rngs=rngs)`."
        ) from error
    if not isinstance(module, nnx.Module):
        raise TypeError(f"Expected the network factory to return an nnx.Module; got {type(module).__name__}.")
    return module


def _from_nnx_factory(factory: Callable[[nnx.Rngs], nnx.Module]) -> Network:
    module = made_by(factory, jax.random.key(0))
    _refuse_training_mode(module)
    graphdef, _, rest = nnx.split(module, nnx.Param, ...)

    def init(key: Key) -> Params:
        return nnx.to_pure_dict(nnx.split(made_by(factory, key), nnx.Param, ...)[1])

    return Network(init, _nnx_apply(graphdef, rest))


def _nnx_apply(graphdef: Any, rest: Any) -> Callable[[Params, Any], Any]:
    def apply(params: Params, x: Any) -> Any:
        try:
            return nnx.merge(graphdef, params, rest)(x)
        except errors.TraceContextError as error:
            raise ValueError(
                NOT_PURE.format(what="a module that changes its own state", remedy="Call module.eval() first.")
            ) from error

    return apply


def _refuse_training_mode(module: nnx.Module) -> None:
    for path, part in nnx.iter_modules(module):
        where = "/".join(map(str, path)) or type(part).__name__
        if isinstance(part, nnx.Dropout) and part.rate > 0 and not part.deterministic:
            remedy = f"Build it with deterministic=True or call module.eval(){OR_TRAIN}"
            raise ValueError(NOT_PURE.format(what=f"active dropout in {where!r}", remedy=remedy))
        if isinstance(part, nnx.BatchNorm) and not part.use_running_average:
            remedy = (
                f"Use GroupNorm or LayerNorm, or frozen statistics (use_running_average=True, module.eval()){OR_TRAIN}"
            )
            raise ValueError(NOT_PURE.format(what=f"batch statistics in training in {where!r}", remedy=remedy))


def _from_linen(module: linen.Module, example: Any) -> Network:
    if example is None:
        raise ValueError("Expected example=x[:1] with a linen module, to learn its shapes; got none.")
    example = jax.tree.map(jnp.asarray, example)
    dropout = jax.random.key(0)
    frozen = {k: v for k, v in module.init({"params": dropout, "dropout": dropout}, example).items() if k != "params"}

    def init(key: Key) -> Params:
        return dict(module.init(key, example)["params"])

    def apply(params: Params, x: Any) -> Any:
        return module.apply({"params": params, **cast_floats(frozen, float_dtype(params))}, x)

    try:
        jax.eval_shape(lambda: apply(init(dropout), example))
    except errors.InvalidRngError as error:
        remedy = "Build the module with deterministic=True."
        raise ValueError(NOT_PURE.format(what="active dropout (it asks for random numbers)", remedy=remedy)) from error
    except errors.ModifyScopeVariableError as error:
        remedy = "Use GroupNorm or LayerNorm, or use_running_average=True."
        raise ValueError(NOT_PURE.format(what="batch statistics in training", remedy=remedy)) from error
    return Network(init, apply)
