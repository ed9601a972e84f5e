"""Laplace's log evidence as a function that can be differentiated in what the model was built from."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmap.curvature import LayeredNetwork, View, gauss_newton, kronecker_factors, layered_diagonal, negative_hessian
from jaxmap.infer.prior_curvature import separable_diagonal
from jaxmap.model import Density
from jaxmap.types import Data

EVIDENCE_STRUCTURES = ("full", "diagonal", "kronecker")


def log_evidence(
    density: Density, z: Any, data: Data, structure: str, kind: str, network: LayeredNetwork | None = None
) -> Float[Array, ""]:
    """f(z) + P/2 log(2 pi) - 1/2 log det H, H the curvature of -f at z in a structure; NaN where H is not positive.

    Args:
        density: f, all that the evidence shall be differentiated in closed over.
        z: where, P coordinates.
        data: all examples.
        structure: "full", "diagonal" or "kronecker".
        kind: "ggn" or, for "full", "exact".
        network: the layers, for "diagonal" and "kronecker".
    """
    size = sum(leaf.size for leaf in jax.tree.leaves(z))
    return density(z, data) + 0.5 * size * np.log(2 * np.pi) - 0.5 * log_det(density, z, data, structure, kind, network)


def log_det(
    density: Density, z: Any, data: Data, structure: str, kind: str, network: LayeredNetwork | None = None
) -> Float[Array, ""]:
    """Log det H; the arguments are those of `log_evidence`."""
    if structure == "full":
        root = jnp.linalg.cholesky(curvature_matrix(density, z, data, kind))
        return 2.0 * jnp.sum(jnp.log(jnp.diagonal(root)))
    view = View(density)
    here = network._replace(outputs=view.outputs(z))  # type: ignore[union-attr]
    prior, emission = separable_diagonal(view, z), density.model.emission
    if structure == "diagonal":
        blocks, rest = layered_diagonal(here, emission, view.of(z), data)  # type: ignore[arg-type]
        terms = [jnp.log(block + prior[places]) for block, places in zip(blocks, here.positions, strict=True)]
        return sum((jnp.sum(t) for t in terms), start=jnp.sum(jnp.log(rest + prior[here.rest_positions])))
    factors, rest = kronecker_factors(here, emission, view.of(z), data)  # type: ignore[arg-type]
    total = jnp.sum(jnp.log(rest + prior[here.rest_positions]))
    for (of_inputs, of_outputs), places in zip(factors, here.positions, strict=True):
        per_input = jnp.mean(prior[places], axis=1)
        scales = jnp.sqrt(per_input)
        a = jnp.linalg.eigvalsh(of_inputs / scales[:, None] / scales[None])
        g = jnp.linalg.eigvalsh(of_outputs)
        total += jnp.sum(jnp.log1p(jnp.maximum(a, 0.0)[:, None] * jnp.maximum(g, 0.0)[None]))
        total += len(of_outputs) * jnp.sum(jnp.log(per_input))
    return total


def curvature_matrix(density: Density, z: Any, data: Data, kind: str, weights: Any = None) -> Float[Array, "p p"]:
    """H, in ravel order."""
    return (gauss_newton if kind == "ggn" else negative_hessian)(density, z, data, weights)
