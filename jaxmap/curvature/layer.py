"""A layer: an operation of a program that is a dense layer or a convolution of one leaf."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        kernel: the leaf's number in flattening order.
        axes: the kernel's axes, inputs first, then outputs.
        inputs: how many of these are inputs.
        shape: of the kernel.
        bias: the number of the leaf that is added to the result, or None.
        positions: T, how often the kernel is applied per example.
    """

    kernel: int
    axes: tuple[int, ...]
    inputs: int
    shape: tuple[int, ...]
    bias: int | None = None
    positions: int = 1

    @property
    def width(self) -> tuple[int, int]:
        """(inputs, outputs), the constant of the bias not counted."""
        sizes = [self.shape[axis] for axis in self.axes]
        return int(np.prod(sizes[: self.inputs])), int(np.prod(sizes[self.inputs :]))

    @property
    def leaves(self) -> tuple[int, ...]:
        """Kernel and bias."""
        return (self.kernel,) if self.bias is None else (self.kernel, self.bias)

    def matrix(self, kernel: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        """The leaves as one matrix (inputs and the constant, outputs)."""
        weights = kernel.transpose(self.axes).reshape(self.width)
        return weights if bias is None else np.concatenate([weights, bias.reshape(1, -1)])

    def places(self, offsets: Int[np.ndarray, " leaves"]) -> Int[np.ndarray, "i o"]:
        """Where the entries of `matrix` lie in ravel order, given where each leaf begins."""
        kernel = offsets[self.kernel] + np.arange(int(np.prod(self.shape))).reshape(self.shape)
        bias = None if self.bias is None else offsets[self.bias] + np.arange(self.width[1])
        return self.matrix(kernel, bias)


class Mark(NamedTuple):
    """Marks a value as a parameter leaf.

    Attributes:
        number, size: of the leaf.
        axes: the order of its axes, None where it was reshaped.
        trailing: True where its entries lie along the last axes, so that adding it adds a bias.
    """

    number: int
    size: int
    axes: tuple[int, ...] | None
    trailing: bool


class Result(NamedTuple):
    """Marks a value as the result of a layer to which no bias was added yet."""

    number: int
    outputs: tuple[int, ...]


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes longer than one."""
    return tuple(size for size in shape if size != 1)


def is_trailing(shape: tuple[int, ...]) -> bool:
    """True where every axis longer than one comes after all axes of length one."""
    return shape == (1,) * (len(shape) - len(squeezed(shape))) + squeezed(shape)


def layer_of(
    name: str, params: Any, values: list[Any], marks: list[Any], examples: int
) -> tuple[Layer, Callable[[list[Any]], Array]] | None:
    """The layer that an operation is, and how to read its activations (n, T, inputs); None where it is none."""
    other, mark = values[0], marks[1]
    if not isinstance(mark, Mark) or mark.axes is None or (marks[0] is not None and not isinstance(marks[0], Result)):
        return None
    if not jnp.ndim(other) or other.shape[0] != examples:
        return None
    if name == "dot_general":
        return _dense(params, other, values[1], mark)
    return _convolution(params, other, values[1], mark)


def _dense(params: Any, other: Any, kernel: Any, mark: Mark) -> Any:
    (left, right), (batch, _) = params["dimension_numbers"]
    if batch or 0 in left or mark.axes is None:
        return None
    free = [k for k in range(jnp.ndim(kernel)) if k not in right]
    order = tuple(mark.axes[k] for k in (*right, *free))
    shape = tuple(np.array(kernel.shape)[np.argsort(mark.axes)].tolist())
    lead = [k for k in range(other.ndim) if k not in left]
    count = int(np.prod([other.shape[k] for k in lead[1:]]))
    layer = Layer(mark.number, order, len(right), shape, positions=count)

    def rows(values: list[Any]) -> Array:
        return values[0].transpose((*lead, *left)).reshape(values[0].shape[0], count, layer.width[0])

    return layer, rows


def _convolution(params: Any, other: Any, kernel: Any, mark: Mark) -> Any:
    numbers = params["dimension_numbers"]
    grouped = params["feature_group_count"] != 1 or params["batch_group_count"] != 1
    last = other.ndim - 1
    straight = numbers.lhs_spec[:2] == (0, last) and numbers.out_spec[:2] == (0, last)
    if grouped or not straight or mark.axes is None or mark.axes != tuple(range(other.ndim)):
        return None
    out, inside, *window = numbers.rhs_spec
    layer_axes = (inside, *window, out)
    filters = [kernel.shape[k] for k in window]
    settings = {name: params[name] for name in ("padding", "lhs_dilation", "rhs_dilation")}

    def patches(lhs: Any) -> Any:
        return jax.lax.conv_general_dilated_patches(
            lhs, filters, params["window_strides"], **settings, dimension_numbers=numbers
        )

    count = int(np.prod(jax.eval_shape(patches, jax.ShapeDtypeStruct(other.shape, other.dtype)).shape[1:-1]))
    layer = Layer(mark.number, layer_axes, len(layer_axes) - 1, tuple(kernel.shape), positions=count)

    def rows(values: list[Any]) -> Array:
        return patches(values[0]).reshape(values[0].shape[0], count, layer.width[0])

    return layer, rows
