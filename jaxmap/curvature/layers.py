"""Layers: the dense and convolution layers of any network, found by reading its program.

A layer is an operation with one parameter leaf as its kernel, and the leaf that is added to its result as its bias.
What enters it (activations a) and the gradient of something at its result (g) tell everything about the gradient in its
parameters, sum_t a_t g_t' over the positions t, without forming one such matrix per example.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import Array, Float

from jaxmap.curvature.layer import Layer, Mark, Result, is_trailing, layer_of, squeezed

CALLS = frozenset({"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"})
"""Operations that only hold a program."""

EXAMPLES = 7919
"""How many examples to look for layers with: a number that no other axis has, so that none is taken for theirs."""


class Taps(NamedTuple):
    """What `tap` found at one batch.

    Attributes:
        outputs: of the network.
        activations: (n, T, inputs and the constant) per layer.
        pull: cotangent of the outputs -> gradients (n, T, outputs) per layer.
    """

    outputs: Any
    activations: list[Float[Array, "n t i"]]
    pull: Callable[[Any], list[Float[Array, "n t o"]]]

    def columns(self) -> list[Float[Array, "k n t o"]]:
        """The gradients of each of the k outputs."""
        count, width = len(self.outputs), self.outputs[0].size
        units = jnp.broadcast_to(jnp.eye(width, dtype=self.outputs.dtype)[:, None], (width, count, width))
        return jax.lax.map(lambda unit: self.pull(unit.reshape(self.outputs.shape)), units)


def find_layers(function: Callable[[Any, Any], Any], z: Any, x: Any) -> tuple[Layer, ...]:
    """Find the layers of function(z, x).

    Kernels and biases that are used more than once (tied weights), inside loops, or in any other operation belong to no
    layer. So do layers that do not see the examples on their leading axis, and a bias where the layer's result is read
    elsewhere too, which then has another gradient.

    Args:
        function: (z, x) -> outputs, a pytree; for any number of examples.
        z: a pytree of parameters; only shapes are used.
        x: inputs with leading axis n; only shapes are used.

    Returns:
        layers: in the order in which they are applied.
    """
    walk = _Walk(EXAMPLES)
    many = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((EXAMPLES, *jnp.shape(leaf)[1:]), jnp.result_type(leaf)), x)
    jax.eval_shape(lambda z, x: walk(function, z, x), z, many)
    single = [found for found in walk.layers if walk.uses[found.kernel] == 1]
    alone = {f.kernel for f in single if f.bias is not None and walk.reads[f.kernel] == 1 == walk.uses[f.bias]}
    return tuple(found if found.kernel in alone else replace(found, bias=None) for found in single)


def tap(function: Callable[[Any, Any], Any], z: Any, x: Any, layers: tuple[Layer, ...]) -> Taps:
    """Run function(z, x) and open it at its layers.

    The arguments are those of `find_layers`, and the layers that it found.
    """
    kernels = {layer.kernel: k for k, layer in enumerate(layers)}
    shapes = jax.eval_shape(lambda z, x: _opened(function, z, x, kernels, None)[1], z, x)
    nothing = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes[1]]

    def moved(shifts: list[Array]) -> Any:
        outputs, (activations, _) = _opened(function, z, x, kernels, shifts)
        return outputs, activations

    outputs, pull, activations = jax.vjp(moved, nothing, has_aux=True)

    def gradients(cotangent: Any) -> list[Array]:
        (found,) = pull(cotangent)
        pairs = zip(found, layers, strict=True)
        return [g.reshape(g.shape[0], layer.positions, layer.width[1]) for g, layer in pairs]

    with_constant = [
        a if layer.bias is None else jnp.concatenate([a, jnp.ones_like(a[..., :1])], axis=-1)
        for a, layer in zip(activations, layers, strict=True)
    ]
    return Taps(outputs, with_constant, gradients)


def _examples(x: Any) -> int:
    return jnp.shape(jax.tree.leaves(x)[0])[0]


def _opened(function: Any, z: Any, x: Any, kernels: dict[int, int], shifts: list[Array] | None) -> Any:
    """The outputs, and (activations, results) of the layers whose kernels are given, each result shifted."""
    walk = _Walk(_examples(x), kernels, shifts)
    outputs = walk(function, z, x)
    return outputs, (walk.in_order(walk.activations), walk.in_order(walk.results))


@dataclass
class _Walk:
    """Runs a program, following the parameters through it.

    Attributes:
        examples: n.
        kernels: number of each kernel whose layer is opened, and its place; None where layers are looked for.
        shifts: what is added to the results of these layers.
        layers: found so far.
        uses: how often each leaf was used.
        reads: how often the result of each kernel was.
        activations, results: of the opened layers, by kernel.
    """

    examples: int
    kernels: dict[int, int] | None = None
    shifts: list[Array] | None = None
    layers: list[Layer] = field(default_factory=list)
    uses: dict[int, int] = field(default_factory=dict)
    reads: dict[int, int] = field(default_factory=dict)
    activations: dict[int, Array] = field(default_factory=dict)
    results: dict[int, Array] = field(default_factory=dict)

    def __call__(self, function: Any, z: Any, x: Any) -> Any:
        program, shapes = jax.make_jaxpr(function, return_shape=True)(z, x)
        leaves = jax.tree.leaves(z)
        self.uses, self.reads = (dict.fromkeys(range(len(leaves)), 0) for _ in range(2))
        marks: list[Any] = [
            Mark(k, jnp.size(leaf), tuple(range(jnp.ndim(leaf))), True) for k, leaf in enumerate(leaves)
        ]
        values = [jnp.asarray(value) for value in (*leaves, *jax.tree.leaves(x))]
        marks += [None] * (len(values) - len(leaves))
        outputs, ends = self._run(program.jaxpr, program.consts, values, marks)
        self._use(ends)
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    def in_order(self, found: dict[int, Array]) -> list[Array]:
        """Of the layers that were asked for, in their order."""
        order = {} if self.kernels is None else self.kernels
        return [found[kernel] for kernel in sorted(order, key=order.__getitem__)]

    def _use(self, marks: Any) -> None:
        for mark in marks:
            if isinstance(mark, Mark):
                self.uses[mark.number] += 1
            if isinstance(mark, Result):
                self.reads[mark.number] += 1

    def _run(self, program: Jaxpr, constants: Any, values: Any, marks: Any) -> tuple[list[Any], list[Any]]:
        env = dict(zip(program.constvars, ((c, None) for c in constants), strict=True))
        env |= dict(zip(program.invars, zip(values, marks, strict=True), strict=True))

        def read(v: Any) -> tuple[Any, Any]:
            return (v.val, None) if isinstance(v, Literal) else env[v]

        for step in _needed(program):
            pairs = [read(v) for v in step.invars]
            outs, made = self._step(step, [p[0] for p in pairs], [p[1] for p in pairs])
            env |= dict(zip(step.outvars, zip(outs, made, strict=True), strict=True))
        ends = [read(v) for v in program.outvars]
        return [end[0] for end in ends], [end[1] for end in ends]

    def _step(self, step: Any, values: list[Any], marks: list[Any]) -> tuple[list[Any], list[Any]]:
        name = step.primitive.name
        if name in CALLS and any(mark is not None for mark in marks):
            inner = next((p for p in step.params.values() if isinstance(p, ClosedJaxpr | Jaxpr)), None)
            if inner is not None:
                closed = isinstance(inner, ClosedJaxpr)
                return self._run(inner.jaxpr if closed else inner, inner.consts if closed else [], values, marks)
        outs = _evaluated(step, values)
        if not any(mark is not None for mark in marks):
            return outs, [None] * len(outs)
        followed = self._followed(name, step.params, values, marks, outs[0])
        if followed is not None:
            return outs, [followed]
        if name in ("dot_general", "conv_general_dilated"):
            layer = layer_of(name, step.params, values, marks, self.examples)
            if layer is not None:
                return self._layer(layer, values, marks, outs[0])
        if name == "add" and self._biased(marks):
            return outs, [None]
        self._use(marks)
        return outs, [None] * len(outs)

    def _followed(self, name: str, params: Any, values: list[Any], marks: list[Any], out: Any) -> Any:
        """The mark of a value that is only another form of a marked one."""
        mark = marks[0]
        if name in ("convert_element_type", "pvary", "pcast", "reshard", "sharding_constraint"):
            return mark
        if not isinstance(mark, Mark):
            return None
        shape = jnp.shape(values[0])
        if name == "transpose" and mark.axes is not None:
            axes = tuple(mark.axes[k] for k in params["permutation"])
            return mark._replace(axes=axes, trailing=mark.trailing and axes == mark.axes)
        if name == "reshape":
            kept = mark.trailing and squeezed(out.shape) == squeezed(shape) and is_trailing(out.shape)
            return mark._replace(axes=None, trailing=kept)
        if name == "broadcast_in_dim":
            along = params["broadcast_dimensions"]
            real = [k for k, size in zip(along, shape, strict=True) if size != 1]
            kept = mark.trailing and real == list(range(out.ndim - len(real), out.ndim))
            return mark._replace(axes=None, trailing=kept)
        return None

    def _layer(self, found: tuple[Layer, Any], values: list[Any], marks: list[Any], out: Any) -> Any:
        layer, rows = found
        self._use(marks)
        first = layer.kernel not in self.results
        if self.kernels is None:
            self.layers.append(layer)
        elif layer.kernel in self.kernels and first:
            self.activations[layer.kernel] = rows(values)
            if self.shifts is not None:
                out = out + self.shifts[self.kernels[layer.kernel]]
        self.results[layer.kernel] = out
        return [out], [Result(layer.kernel, tuple(layer.shape[k] for k in layer.axes[layer.inputs :]))]

    def _biased(self, marks: list[Any]) -> bool:
        """True where a bias is added to the result of a layer."""
        result = next((m for m in marks if isinstance(m, Result)), None)
        leaf = next((m for m in marks if isinstance(m, Mark)), None)
        if result is None or leaf is None or not leaf.trailing or leaf.size != int(np.prod(result.outputs)):
            return False
        self._use(marks)
        self.layers = [
            replace(layer, bias=leaf.number) if layer.kernel == result.number and layer.bias is None else layer
            for layer in self.layers
        ]
        return True


def _needed(program: Jaxpr) -> list[Any]:
    """The operations that the results depend on: a second run of the network whose result is dropped uses nothing."""
    wanted = {v for v in program.outvars if not isinstance(v, Literal)}
    kept = []
    for step in reversed(program.eqns):
        if step.effects or not wanted.isdisjoint(step.outvars):
            wanted |= {v for v in step.invars if not isinstance(v, Literal)}
            kept.append(step)
    return kept[::-1]


def _evaluated(step: Any, values: list[Any]) -> list[Any]:
    """Run one operation, as jax's own interpreter does."""
    with step.ctx.manager:
        found = step.primitive.bind(*values, **step.primitive.get_bind_params(step.params))
    return list(found) if step.primitive.multiple_results else [found]
