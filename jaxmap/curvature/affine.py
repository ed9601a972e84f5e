"""Whether a function is affine in its first argument: found by reading its program, not by trying values."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

LINEAR = frozenset(
    {
        *("add", "sub", "add_any", "neg", "reduce_sum", "cumsum", "broadcast_in_dim", "reshape", "squeeze"),
        *("expand_dims", "transpose", "concatenate", "slice", "split", "pad", "rev", "copy", "copy_p"),
    }
)
"""Operations that are linear in all their operands together, as long as indices do not depend on them."""

BILINEAR = frozenset({"mul", "dot_general", "conv_general_dilated"})
"""Linear in each operand: at most one may depend on the argument."""

CALLS = frozenset({"jit", "pjit", "closed_call", "remat2", "checkpoint"})


def is_affine(function: Callable[..., Any], z: Any, *arguments: Any) -> bool:
    """True where the function is affine in z, for any value of the arguments.

    Its program is read from z to the results: every operation that z reaches must be linear in it. What is not known to
    be linear, a comparison, a rounding, a loop, counts as not linear, so that True is always right.

    Args:
        function: (z, *arguments) -> pytree of arrays.
        z: a pytree of floating arrays; only shapes are used.
        arguments: pytrees; only shapes are used.
    """
    shapes = jax.tree.map(lambda v: jax.ShapeDtypeStruct(jnp.shape(v), jnp.result_type(v)), (z, *arguments))
    program = jax.make_jaxpr(function)(*shapes)
    size = len(jax.tree.leaves(z))
    return _reached(program.jaxpr, [i < size for i in range(len(program.jaxpr.invars))]) is not None


def _reached(program: Jaxpr, given: list[bool]) -> list[bool] | None:
    """Which results depend on the given inputs, None where one does in a way that is not known to be linear."""
    live = {v for v, g in zip(program.invars, given, strict=True) if g}
    for step in program.eqns:
        inputs = [not isinstance(v, Literal) and v in live for v in step.invars]
        if not any(inputs):
            continue
        outputs = _through(step, inputs)
        if outputs is None:
            return None
        live |= {v for v, reached in zip(step.outvars, outputs, strict=True) if reached}
    return [not isinstance(v, Literal) and v in live for v in program.outvars]


def _through(step: Any, inputs: list[bool]) -> list[bool] | None:
    """Which results of one operation are reached; None where it is not linear in what reaches it."""
    name, every = step.primitive.name, [True] * len(step.outvars)
    if name in CALLS:
        inner = [p for p in step.params.values() if isinstance(p, ClosedJaxpr)]
        inner = [p.jaxpr for p in inner] or [p for p in step.params.values() if isinstance(p, Jaxpr)]
        return _reached(inner[0], inputs) if len(inner) == 1 and len(inner[0].invars) == len(inputs) else None
    if name == "convert_element_type":
        return every if jnp.issubdtype(step.params["new_dtype"], jnp.floating) else None
    if name in ("gather", "dynamic_slice", "div", "select_n"):
        # reached are the operand, the numerator, the cases; not the indices, the denominator, the predicate
        rest = inputs[:1] if name == "select_n" else inputs[1:]
        return None if any(rest) else every
    if name in BILINEAR:
        return every if sum(inputs) == 1 else None
    return every if name in LINEAR else None
