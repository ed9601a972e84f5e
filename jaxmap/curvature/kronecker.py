"""A precision that is a Kronecker product in each layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

Vectors = Float[np.ndarray, "p n"]


@dataclass(frozen=True, eq=False)
class KroneckerBlock:
    """One layer's part of H, whose inverse is (B x U) diag(1 / h) (B x U)', x the Kronecker product.

    Attributes:
        positions: where the entries of the layer's matrix (inputs and the constant, outputs) lie in ravel order.
        inputs: B, (in, in), invertible.
        outputs: U, (out, out), orthogonal.
        precisions: h, positive, (in, out).
    """

    positions: Int[np.ndarray, "i o"]
    inputs: Float[np.ndarray, "i i"]
    outputs: Float[np.ndarray, "o o"]
    precisions: Float[np.ndarray, "i o"]

    @cached_property
    def inverse(self) -> Float[np.ndarray, "i i"]:
        """B^-1."""
        return np.linalg.inv(np.asarray(self.inputs, np.float64)).astype(self.inputs.dtype)

    @property
    def log_det(self) -> float:
        """Log det of the block."""
        of_inputs = np.linalg.slogdet(np.asarray(self.inputs, np.float64))[1]
        return float(np.sum(np.log(np.asarray(self.precisions, np.float64))) - 2 * len(self.outputs) * of_inputs)

    def to_axes(self, left: np.ndarray, blocks: Float[np.ndarray, "i o n"]) -> np.ndarray:
        """(left x U') applied to layers' matrices."""
        return _on_both_sides(left, blocks, self.outputs.T)

    def from_axes(self, left: np.ndarray, blocks: Float[np.ndarray, "i o n"]) -> np.ndarray:
        """(left x U) applied to layers' matrices."""
        return _on_both_sides(left, blocks, self.outputs)


def _on_both_sides(left: np.ndarray, blocks: Float[np.ndarray, "i o n"], right: np.ndarray) -> np.ndarray:
    """Left M right' for each matrix M of the stack."""
    inside, out, count = blocks.shape
    turned = (left @ blocks.reshape(inside, -1)).reshape(-1, out, count)
    return right @ turned


BLOCK_PARTS = ("positions", "inputs", "outputs", "precisions")


@dataclass(frozen=True, eq=False)
class Kronecker:
    """H block diagonal over layers, each a Kronecker product plus the prior; the rest diagonal.

    Attributes:
        blocks: one per layer.
        rest: positions of the coordinates outside the blocks.
        diagonal: their precisions.
    """

    blocks: Sequence[KroneckerBlock]
    rest: Int[np.ndarray, " m"]
    diagonal: Float[np.ndarray, " m"]

    @property
    def size(self) -> int:  # noqa: D102
        return len(self.rest) + sum(block.positions.size for block in self.blocks)

    @property
    def log_det(self) -> float:  # noqa: D102
        of_rest = float(np.sum(np.log(np.asarray(self.diagonal, np.float64))))
        return of_rest + sum(block.log_det for block in self.blocks)

    def whiten(self, vectors: Vectors) -> Vectors:  # noqa: D102
        def one(block: KroneckerBlock, v: np.ndarray) -> np.ndarray:
            return np.sqrt(block.precisions)[..., None] * block.to_axes(block.inverse, v)

        return self._blockwise(one, vectors, np.sqrt(self.diagonal))

    def color(self, vectors: Vectors) -> Vectors:  # noqa: D102
        def one(block: KroneckerBlock, v: np.ndarray) -> np.ndarray:
            return block.from_axes(block.inputs, v / np.sqrt(block.precisions)[..., None])

        return self._blockwise(one, vectors, 1.0 / np.sqrt(self.diagonal))

    def solve(self, vectors: Vectors) -> Vectors:  # noqa: D102
        def one(block: KroneckerBlock, v: np.ndarray) -> np.ndarray:
            return block.from_axes(block.inputs, block.to_axes(block.inputs.T, v) / block.precisions[..., None])

        return self._blockwise(one, vectors, 1.0 / self.diagonal)

    def variances(self) -> Float[np.ndarray, " p"]:  # noqa: D102
        found = np.empty(self.size, self.diagonal.dtype)
        found[self.rest] = 1.0 / self.diagonal
        for block in self.blocks:
            found[block.positions] = block.inputs**2 @ (1.0 / block.precisions) @ (block.outputs**2).T
        return found

    def _blockwise(self, one: Any, vectors: Vectors, factors: np.ndarray) -> Vectors:
        found = np.empty(vectors.shape, np.result_type(vectors, self.diagonal))
        found[self.rest] = factors[:, None] * vectors[self.rest]
        for block in self.blocks:
            found[block.positions] = one(block, vectors[block.positions])
        return found

    def packed(self, arrays: dict[str, np.ndarray], name: str) -> dict[str, Any]:  # noqa: D102
        arrays |= {f"{name}/rest": self.rest, f"{name}/diagonal": self.diagonal}
        for k, block in enumerate(self.blocks):
            arrays |= {f"{name}/{k}/{part}": getattr(block, part) for part in BLOCK_PARTS}
        return {"structure": "kronecker", "blocks": len(self.blocks)}

    @classmethod
    def from_packed(cls, header: dict[str, Any], arrays: dict[str, np.ndarray], name: str) -> "Kronecker":
        """The inverse of `packed`."""
        numbers = range(header["blocks"])
        blocks = [KroneckerBlock(*(arrays[f"{name}/{k}/{part}"] for part in BLOCK_PARTS)) for k in numbers]
        return cls(blocks, arrays[f"{name}/rest"], arrays[f"{name}/diagonal"])
