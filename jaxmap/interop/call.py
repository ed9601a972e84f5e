"""Call: a numpyro model together with the arguments that it is run with."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.trees import has_tracers, named_leaves


@dataclass(frozen=True, eq=False)
class Call:
    """A model and its arguments, whose leaves can be replaced one by one.

    Attributes:
        model: the user's numpyro model.
        signature: of the model.
        names: the path of each leaf, beginning with the name of its argument.
        leaves: arrays and anything else that the arguments hold.
        treedef: the structure of the arguments, a dict by name.
    """

    model: Callable[..., Any]
    signature: inspect.Signature
    names: tuple[str, ...]
    leaves: tuple[Any, ...]
    treedef: Any

    @classmethod
    def of(cls, model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> "Call":
        """Bind the arguments to the model.

        Raises:
            TypeError: no function, arguments that it does not take, or traced ones.
        """
        if not callable(model):
            raise TypeError(f"Expected a numpyro model, a function of its data; got {model!r}.")
        if has_tracers(args, dict(kwargs)):
            raise TypeError(
                "Expected jm.from_numpyro to run on the host; got traced arguments (inside jit, jm.path or jm.tune). "
                "Make them latent sites of the model."
            )
        try:
            signature = inspect.signature(model)
            arguments = dict(signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise TypeError(
                f"Expected the arguments of the numpyro model; {error}. Give jm.from_numpyro(model, ...) what "
                "MCMC.run(key, ...) gets after the key."
            ) from error
        named = named_leaves(arguments)
        return cls(
            model,
            signature,
            tuple(name for name, _ in named),
            tuple(leaf for _, leaf in named),
            jax.tree.structure(arguments),
        )

    def arguments(self, replaced: Mapping[str, Any], dtype: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments, some leaves replaced, floating ones in `dtype`."""
        pairs = zip(self.names, self.leaves, strict=True)
        leaves = [_constant(replaced.get(name, leaf), dtype) for name, leaf in pairs]
        bound = inspect.BoundArguments(self.signature, self.treedef.unflatten(leaves))  # type: ignore[arg-type]
        return bound.args, bound.kwargs

    def leading(self, n: int) -> dict[str, Any]:
        """The arrays among the leaves whose leading axis has length n, by name."""
        pairs = zip(self.names, self.leaves, strict=True)
        return {name: leaf for name, leaf in pairs if _is_array(leaf) and np.shape(leaf)[:1] == (n,)}


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray | jax.Array) and (
        jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == np.dtype(bool)
    )


def _constant(leaf: Any, dtype: Any) -> Any:
    """A leaf as the model shall see it: of the kind that was given, and known while a program is made if it can be.

    It is a fresh copy: jax remembers a numpy array in the precision that saw it first.
    """
    if not isinstance(leaf, np.ndarray | jax.Array) or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    if isinstance(leaf, np.ndarray):
        return np.array(leaf, dtype)
    if has_tracers(leaf):
        return leaf
    with jax.ensure_compile_time_eval():
        return jnp.asarray(leaf, dtype)
