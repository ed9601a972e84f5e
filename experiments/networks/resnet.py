"""A small residual network for images, without batch statistics.

Batch normalisation in training makes an image's prediction depend on the other images of its batch: that is no
log-probability of the parameters. Group normalisation (Wu and He, 2018) looks at one image alone.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

REACH = 3
"""Height and width of a kernel."""


def shifts(x: Any, stride: int) -> list[Any]:
    """What lies under each of the nine entries of a kernel, zeros around the image: nine images."""
    height, width = x.shape[1:3]
    wide = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    pairs = itertools.product(range(REACH), repeat=2)
    return [wide[:, i : i + height : stride, j : j + width : stride] for i, j in pairs]


def by_patches(x: Any, kernel: Any, stride: int) -> Any:
    """One product of all neighbourhoods and a matrix."""
    return jnp.concatenate(shifts(x, stride), axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def by_shifts(x: Any, kernel: Any, stride: int) -> Any:
    """A sum of nine products of the shifted image."""
    matrices = kernel.reshape(-1, *kernel.shape[2:])
    return sum(part @ matrix for part, matrix in zip(shifts(x, stride), matrices, strict=True))


def by_rows(x: Any, kernel: Any, stride: int) -> Any:
    """A sum of three products of neighbourhoods in a row."""
    parts, matrices = shifts(x, stride), kernel.reshape(REACH, -1, kernel.shape[-1])
    return sum(jnp.concatenate(parts[REACH * i : REACH * (i + 1)], axis=-1) @ matrices[i] for i in range(REACH))


def by_xla(x: Any, kernel: Any, stride: int) -> Any:
    """XLA's own convolution."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=numbers)


CONVOLUTIONS: dict[str, Callable[[Any, Any, int], Any]] = {
    "patches": by_patches,
    "shifts": by_shifts,
    "rows": by_rows,
    "xla": by_xla,
}
"""Ways to compute the same convolution.

XLA's own is slow on a CPU, most of all its kernel's gradient inside a compiled loop, and training is one
(https://github.com/jax-ml/jax/issues/12868); `experiments.benchmarks.training_speed` compares them. On a GPU it is
cuDNN's, and XLA 0.11.2 ends on a failed check of its own when it fuses patches into products for one.
"""


def usual_convolution() -> str:
    """The way that suits the device: patches on a CPU, XLA's own elsewhere."""
    return "patches" if jax.default_backend() == "cpu" else "xla"


class Convolution(nnx.Module):
    """Convolution of 3 x 3 pixels, images in (n, height, width, channels)."""

    def __init__(self, inside: int, outside: int, stride: int, how: str, rngs: nnx.Rngs):
        begin = nnx.initializers.he_normal()
        self.kernel = nnx.Param(begin(rngs.params(), (REACH, REACH, inside, outside)))
        self.stride, self.how = stride, how

    def __call__(self, x: Any) -> Any:
        return CONVOLUTIONS[self.how](x, self.kernel[...], self.stride)


class Norm(nnx.Module):
    """Zero mean and unit variance of each group of channels of one image, then a scale and a shift per channel."""

    def __init__(self, channels: int, groups: int):
        if channels % groups:
            raise ValueError(f"Expected channels that {groups} groups can share; got {channels}.")
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.groups = groups

    def __call__(self, x: Any) -> Any:
        n, height, width, channels = x.shape
        parts = (n, self.groups, channels // self.groups)
        size = height * width * parts[2]
        # Sums over pixels first, which run along memory; those of each channel are few numbers.
        total, squares = (jnp.sum(v, axis=(1, 2)).reshape(parts).sum(2) / size for v in (x, x * x))
        root = jax.lax.rsqrt(jnp.maximum(squares - total**2, 0.0) + 1e-5)
        root, mean = (jnp.repeat(v, parts[2], axis=1) for v in (root, total))
        factor = root * self.scale[...][None]
        return x * factor[:, None, None] + (self.bias[...][None] - mean * factor)[:, None, None]


class Block(nnx.Module):
    """Two convolutions, added to what came in (He et al., 2016, in the order of their second paper)."""

    def __init__(self, inside: int, outside: int, stride: int, groups: int, how: str, rngs: nnx.Rngs):
        self.norms = nnx.List([Norm(inside, groups), Norm(outside, groups)])
        self.first = Convolution(inside, outside, stride, how, rngs)
        self.second = Convolution(outside, outside, 1, how, rngs)
        same = inside == outside and stride == 1
        begin = nnx.initializers.he_normal()
        self.short = None if same else nnx.Linear(inside, outside, use_bias=False, kernel_init=begin, rngs=rngs)
        self.stride = stride

    def __call__(self, x: Any) -> Any:
        seen = nnx.relu(self.norms[0](x))
        short = x if self.short is None else self.short(seen[:, :: self.stride, :: self.stride])
        return short + self.second(nnx.relu(self.norms[1](self.first(seen))))


class ResNet(nnx.Module):
    """Images (n, height, width, channels) to logits (n, classes).

    Args:
        channels: of the images.
        classes: how many.
        widths: channels of each stage; every stage but the first halves height and width.
        rngs: for new weights.
        blocks: in each stage.
        stem: stride of the first convolution.
        groups: of channels that are normalised together.
        cells: the last features are averaged over cells x cells parts of the image, each with weights of its own in the
            head; 1 forgets where they were seen.
        how: one of `CONVOLUTIONS`, which all give the same numbers; None: what suits the device.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        widths: Sequence[int],
        rngs: nnx.Rngs,
        blocks: int = 1,
        stem: int = 1,
        groups: int = 4,
        how: str | None = None,
        cells: int = 1,
    ):
        how = how or usual_convolution()
        self.stem = Convolution(channels, widths[0], stem, how, rngs)
        made, inside = [], widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                made.append(Block(inside, width, stride, groups, how, rngs))
                inside = width
        self.blocks = nnx.List(made)
        self.norm = Norm(inside, groups)
        self.cells = cells
        self.head = nnx.Linear(inside * cells**2, classes, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(averages(nnx.relu(self.norm(x)), self.cells))


def averages(x: Any, cells: int) -> Any:
    """Means over cells x cells equal parts of each image, (n, cells^2 channels)."""
    n, height, width, channels = x.shape
    if height % cells or width % cells:
        raise ValueError(f"Expected features that {cells} cells a side share evenly; got {height} x {width} of them.")
    parts = x.reshape(n, cells, height // cells, cells, width // cells, channels)
    return jnp.mean(parts, axis=(2, 4)).reshape(n, -1)
