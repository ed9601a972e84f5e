"""The curvature ladder: from a density at one point to the best precision that a structure allows."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxmap.curvature import (
    Conditional,
    LayeredNetwork,
    Precision,
    SingularCurvatureError,
    assembled,
    diagonal_precision,
    factorize,
    hutchinson,
    kronecker_factors,
    kronecker_precision,
    layered_diagonal,
    layered_ggn,
    leading_eigenpairs,
    likelihood_product,
    low_rank_precision,
)
from jaxmap.curvature.low_rank import OVERSAMPLING
from jaxmap.infer.curved import Curved
from jaxmap.infer.prior_curvature import prior_diagonal
from jaxmap.model import information
from jaxmap.trees import named_leaves
from jaxmap.types import Data

STRUCTURES = ("full", "diagonal", "kronecker", "low_rank")
"""What a Laplace approximation can be made of."""

HESSIANS = ("exact", "ggn", "fisher")

FULL_UP_TO = 12_000
"""Parameters for which a P x P matrix in float64 (about 1 GiB) is still formed."""

LAYERS_UP_TO = 16_384
"""Inputs or outputs of a layer for which a Kronecker factor (2 GiB in float64) is still formed."""

NAMES = {"exact": "exact Hessian", "ggn": "Gauss-Newton", "fisher": "empirical Fisher matrix"}


@dataclass(frozen=True)
class Structure:
    """What a curvature is made of.

    Attributes:
        name: "full", "diagonal", "kronecker" or "low_rank".
        rank: of the low-rank part.
        probes: random vectors that estimate a diagonal; None for the exact one.
    """

    name: str
    rank: int = 64
    probes: int | None = None


class Rung(NamedTuple):
    """Where on the ladder a curvature stands.

    Attributes:
        precision: of the Gaussian.
        kind: which curvature of the likelihood: "exact", "ggn" or "fisher".
        text: the same in words, with all that was changed.
        cost: in gradients.
    """

    precision: Precision
    kind: str
    text: str
    cost: float


class Ladder:
    """The curvatures of a density at one point in one structure, from the best downwards.

    Args:
        at: the density at the point.
        structure: what to build.
        key: for random directions.
    """

    def __init__(self, at: Curved, structure: Structure, key: Any):
        self.at, self.structure, self.key = at, structure, key

    def climb(self, kind: str, force: bool) -> Rung:
        """Exact Hessian, then Gauss-Newton, then negative eigenvalues turned positive; says on which rung it stands.

        Raises:
            SingularCurvatureError: a flat direction; without outputs and `force` also a negative one.
        """
        spent, fallen, has_outputs = 0.0, "", self.at.problem.model.outputs is not None
        if kind == "exact":
            try:
                return self._embedded(self._build(kind, clip=False))
            except SingularCurvatureError as error:
                if not error.negative or not (has_outputs or force):
                    raise
                spent, kind = self._cost(kind), "ggn" if has_outputs else "exact"
                fallen = " (the exact Hessian is indefinite here)" if has_outputs else ""
        found = self._build(kind, clip=True)
        name, *changes = found.text.split(", ")
        return self._embedded(found._replace(text=", ".join([name + fallen, *changes]), cost=found.cost + spent))

    def _build(self, kind: str, clip: bool) -> Rung:
        build = {
            "full": self._full,
            "diagonal": self._diagonal,
            "kronecker": self._kronecker,
            "low_rank": self._low_rank,
        }
        precision, remarks = build[self.structure.name](kind, clip)
        text = ", ".join([self._described(kind), *remarks])
        return Rung(precision, kind, text, self._cost(kind))

    def _described(self, kind: str) -> str:
        part = {"full": "", "diagonal": "diagonal of the ", "kronecker": "Kronecker factors of the "}
        name = part.get(self.structure.name, f"part of rank {self.structure.rank} of the ") + NAMES[kind]
        if kind != "ggn":
            return name
        return name + (" (Fisher information of the outputs)" if self._informed() else " (Hessian in the outputs)")

    def _informed(self) -> bool:
        """True where the Fisher information of the outputs has a closed form: a matter of the distribution's kind."""
        model, (z, (x, *_)) = self.at.problem.model, (self.at.z, self.at.problem.data)

        def look() -> bool:
            first = jax.tree.map(lambda leaf: leaf[:1], x)
            return information(model.emission(*model.outputs(model.space.constrain(z), first))) is not None  # type: ignore[misc]

        return model.programs.made("informed", look)

    def _cost(self, kind: str) -> float:
        """In gradients: a column of the outputs is one, a Hessian-vector product three."""
        count = len(self.at.positions)
        if self.structure.name == "low_rank":
            return 3.0 * 2 * min(count, self.structure.rank + OVERSAMPLING)
        if self.structure.probes is not None and self.structure.name == "diagonal":
            return 3.0 * self.structure.probes
        return 3.0 * count if kind == "exact" else 1.0 if kind == "fisher" else float(np.ceil(self.at.output_width))

    def _embedded(self, rung: Rung) -> Rung:
        """The precision over all coordinates, where only some move."""
        if self.at.view.leaves is None:
            return rung
        total = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(self.at.z))
        return rung._replace(precision=Conditional(self.at.positions, rung.precision, total))

    def _full(self, kind: str, clip: bool) -> tuple[Precision, list[str]]:
        if kind == "fisher" and self.at.problem.model.outputs is None:
            matrix = self.at.score_products() + self.at.of_prior()
        else:
            matrix = self.at.exact()[0] if kind == "exact" else self._gauss_newton(kind)
        precision, added = factorize(matrix, lambda: self.at.names, clip=clip)
        return precision, _clipped(added)

    def _gauss_newton(self, kind: str) -> np.ndarray:
        network, view, emission = self.network, self.at.view, self.at.problem.model.emission
        if not network.is_dense:
            return self.at.gauss_newton(kind)[0]

        def blocks(z: Any, data: Data) -> Any:
            here = network._replace(outputs=view.outputs(z))
            return layered_ggn(here, emission, view.of(z), data, kind)  # type: ignore[arg-type]

        matrix = assembled(network, self.at.run(("layered ggn", kind, network.layers), blocks))
        prior, remarks = prior_diagonal(self.at)
        if remarks:
            return matrix + self.at.of_prior()
        matrix[np.diag_indices_from(matrix)] += prior
        return matrix

    def _diagonal(self, kind: str, clip: bool) -> tuple[Precision, list[str]]:
        prior, remarks = prior_diagonal(self.at)
        probes = self.structure.probes
        if probes is not None:
            found = self._estimated(kind, probes)
            remarks = [f"estimated from {probes} random vectors", *remarks]
        elif kind == "exact" or self.at.problem.model.outputs is None:
            found = self._products_of_units(kind)
        else:
            found = self._layered(kind)
        precision, added = diagonal_precision(found + prior, self.paths, clip=clip)
        return precision, [*remarks, *_clipped(added)]

    def _kronecker(self, kind: str, clip: bool) -> tuple[Precision, list[str]]:
        network, view, emission = self.network, self.at.view, self.at.problem.model.emission
        prior, remarks = prior_diagonal(self.at)

        def factors(z: Any, data: Data) -> Any:
            here = network._replace(outputs=view.outputs(z))
            return kronecker_factors(here, emission, view.of(z), data, kind)  # type: ignore[arg-type]

        found, rest = jax.tree.map(np.asarray, self.at.run(("kronecker", kind, network.layers), factors, double=False))
        precision, remark = kronecker_precision(network, found, rest, prior, self.paths)
        outside = len(network.rest_positions)
        remarks += [f"{outside} parameters outside dense and convolution layers diagonal"] * (outside > 0)
        return precision, [*remarks, *([remark] if remark else [])]

    def _low_rank(self, kind: str, clip: bool) -> tuple[Precision, list[str]]:
        prior, remarks = prior_diagonal(self.at)
        if np.any(prior <= 0):
            raise SingularCurvatureError(
                "Expected a prior with curvature on every parameter for a low-rank precision; got none on "
                f"{', '.join(self.paths(np.flatnonzero(prior <= 0))[:8])}. Give them a Gaussian prior."
            )
        rank, view = min(self.structure.rank, len(prior)), self.at.view

        def pairs(z: Any, data: Data, scales: Any, key: Any) -> Any:
            product = likelihood_product(view, z, data, kind, scales=scales)
            return leading_eigenpairs(product, scales.size, rank, key, scales.dtype)

        scales = np.sqrt(prior).astype(self.at.problem.dtype)
        extra = (jnp.asarray(scales), self.key)
        basis, values = self.at.run(("low rank", kind, rank), pairs, *extra, double=False)
        precision, added = low_rank_precision(np.asarray(basis), np.asarray(values), scales, clip=clip)
        return precision, [*remarks, *_clipped(added)]

    @cached_property
    def network(self) -> LayeredNetwork:
        """The layers of the outputs among the moving leaves."""
        view, z, x = self.at.view, self.at.z, self.at.problem.data[0]

        def find() -> LayeredNetwork:
            leaves = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in view.of(z)]
            found = LayeredNetwork.of(view.outputs(z), leaves, x, limit=LAYERS_UP_TO)
            return found._replace(outputs=None)  # type: ignore[arg-type]  # which would hold on to this z

        shapes = tuple(leaf.shape[1:] for leaf in jax.tree.leaves(x))
        return self.at.problem.model.programs.made(("layers", view, shapes), find)

    def paths(self, positions: np.ndarray) -> tuple[str, ...]:
        """The leaves that moving coordinates belong to."""
        names = [path for path, _ in named_leaves(self.at.z)]
        sizes = [int(np.size(leaf)) for leaf in jax.tree.leaves(self.at.z)]
        whole = np.asarray(self.at.positions)[positions]
        return tuple(dict.fromkeys(names[k] for k in np.searchsorted(np.cumsum(sizes), whole, side="right")))

    def _products_of_units(self, kind: str) -> np.ndarray:
        view = self.at.view

        def diagonal(z: Any, data: Data) -> Any:
            product = likelihood_product(view, z, data, kind)
            size = sum(leaf.size for leaf in view.of(z))

            def entry(i: Any) -> Any:
                unit = jnp.zeros((1, size), float).at[0, i].set(1.0)
                return product(unit)[0, i]

            return jax.lax.map(entry, jnp.arange(size), batch_size=min(size, 32))

        return np.asarray(self.at.run(("unit products", kind), diagonal), np.float64)

    def _estimated(self, kind: str, probes: int) -> np.ndarray:
        view = self.at.view

        def diagonal(z: Any, data: Data, key: Any) -> Any:
            flat = ravel_pytree(view.of(z))[0]
            return hutchinson(likelihood_product(view, z, data, kind), flat.size, probes, key, flat.dtype)

        return np.asarray(self.at.run(("hutchinson", kind, probes), diagonal, self.key, double=False))

    def _layered(self, kind: str) -> np.ndarray:
        network, view, emission = self.network, self.at.view, self.at.problem.model.emission

        def diagonal(z: Any, data: Data) -> Any:
            here = network._replace(outputs=view.outputs(z))
            return layered_diagonal(here, emission, view.of(z), data, kind)  # type: ignore[arg-type]

        blocks, rest = self.at.run(("layered diagonal", kind, network.layers), diagonal, double=False)
        found = np.empty(len(self.at.positions), self.at.problem.dtype)
        found[network.rest_positions] = np.asarray(rest)
        for places, block in zip(network.positions, blocks, strict=True):
            found[places] = np.asarray(block)
        return found


def _clipped(added: float) -> list[str]:
    return [f"eigenvalues clipped (at most {added:.3g} added)"] if added else []
