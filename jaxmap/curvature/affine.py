"""Whether a function is affine in its first argument: found by reading its derivative, not by trying values."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


def is_affine(function: Callable[..., Any], z: Any, *arguments: Any) -> bool:
    """True where d function / d z does not depend on z, for any value of the arguments.

    The derivative is traced and its program read backwards from the result: f is affine exactly where z is never met.
    What cannot be read (a loop over z, say) counts as met, so that True is always right.

    Args:
        function: (z, *arguments) -> pytree of arrays.
        z: a pytree of floating arrays; only shapes are used.
        arguments: pytrees; only shapes are used.
    """

    def derivative(z: Any, direction: Any, *rest: Any) -> Any:
        return jax.jvp(lambda v: function(v, *rest), (z,), (direction,))[1]

    shapes = jax.tree.map(lambda v: jax.ShapeDtypeStruct(jnp.shape(v), jnp.result_type(v)), (z, z, *arguments))
    program = jax.make_jaxpr(derivative)(*shapes)
    size = len(jax.tree.leaves(z))
    return not any(_needed(program.jaxpr, [True] * len(program.jaxpr.outvars))[:size])


def _needed(program: Jaxpr, wanted: list[bool]) -> list[bool]:
    """Which inputs of a program its wanted outputs depend on."""
    live = {v for v, w in zip(program.outvars, wanted, strict=True) if w and not isinstance(v, Literal)}
    for step in reversed(program.eqns):
        outputs = [v in live for v in step.outvars]
        if not any(outputs):
            continue
        inner = [p for p in step.params.values() if isinstance(p, ClosedJaxpr)]
        plain = step.primitive.name in ("jit", "pjit", "closed_call", "custom_jvp_call", "remat2", "checkpoint")
        if plain and len(inner) == 1 and len(inner[0].jaxpr.invars) == len(step.invars):
            used = _needed(inner[0].jaxpr, outputs)
        else:
            used = [True] * len(step.invars)
        live |= {v for v, u in zip(step.invars, used, strict=True) if u and not isinstance(v, Literal)}
    return [v in live for v in program.invars]
