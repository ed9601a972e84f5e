"""A log density at one point: value, gradient, curvatures and scores, in float64."""

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxmap.curvature import View, examples_at_a_time, ggn, hessian, negative_hessian, sum_over_examples
from jaxmap.infer.problem import Problem
from jaxmap.model import Density, weighted_sum
from jaxmap.trees import cast_floats, coordinate_paths, doubled, full_products, in_double, signature
from jaxmap.types import Data

SCORE_NUMBERS = 2**23
"""How many numbers of per-example gradients are held at a time."""

EXAMPLES_AT_A_TIME = 16384
"""The most examples whose gradients are held at a time."""


class Curved:
    """A density, its gradient and its curvatures at one point, in unconstrained coordinates and in float64.

    Programs are compiled once per model and density, and shared with the certificate.

    Args:
        density: what is looked at.
        z: where.
        problem: its model and data.
        leaves: numbers of the leaves that move, in flattening order; None for all. The gradient and all matrices are
            those of these leaves.
    """

    def __init__(self, density: Density, z: Any, problem: Problem, leaves: tuple[int, ...] | None = None):
        self.density, self.problem = density, problem
        self.view = View(density, leaves)
        self.z = cast_floats(z, problem.dtype) if problem.dtype != np.float64 else z
        self._at = (self.z, problem.data)

    @cached_property
    def positions(self) -> np.ndarray:
        """Where the moving coordinates lie in ravel order of z."""
        return self.view.positions(self.z)

    @cached_property
    def names(self) -> list[str]:
        """The path of each moving coordinate."""
        return coordinate_paths(self.z, self.view.leaves)

    @property
    def value(self) -> float:
        """The density, in nats."""
        return self._value_and_gradient[0]

    @property
    def gradient(self) -> np.ndarray:
        """Its gradient along the leaves that move, (p,)."""
        return self._value_and_gradient[1]

    @cached_property
    def _value_and_gradient(self) -> tuple[float, np.ndarray]:
        view = self.view

        def evaluate(z: Any, data: Data) -> Any:
            def part(batch: Data, weights: Any) -> Any:
                return jax.value_and_grad(lambda m: weighted_sum(weights, likelihoods(m, batch)))(view.of(z))

            likelihoods = view.log_likelihoods(z)
            chunk = examples_at_a_time(lambda batch: likelihoods(view.of(z), batch), data)
            of_prior = jax.value_and_grad(view.log_prior(z))(view.of(z))
            return jax.tree.map(jnp.add, of_prior, sum_over_examples(part, data, chunk))

        value, gradient = self.run("value", evaluate)
        flat = [np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(gradient)]
        return float(value), np.concatenate(flat)

    def exact(self) -> tuple[np.ndarray, float]:
        """The Hessian of -log density, (p, p), and its cost in gradients."""
        view = self.view

        def curvature(z: Any, data: Data) -> Any:
            if view.leaves is None:
                return negative_hessian(view.density, z, data)
            return hessian(lambda m: -view.density(view.into(z, m), data), view.of(z))

        matrix = np.asarray(self.run("curvature", curvature), np.float64)
        return matrix, 3.0 * len(matrix)

    def gauss_newton(self, kind: str = "ggn") -> tuple[np.ndarray, float]:
        """The GGN (or empirical Fisher matrix) of the likelihood plus the Hessian of the rest, and its cost."""
        view, emission = self.view, self.problem.model.emission

        def curvature(z: Any, data: Data) -> Any:
            return ggn(view.outputs(z), emission, view.of(z), data, kind=kind)  # type: ignore[arg-type]

        matrix = np.asarray(self.run(kind, curvature), np.float64)
        return matrix + self.of_prior(), float(np.ceil(self.output_width))

    @property
    def output_width(self) -> float:
        """How many numbers the network outputs per example."""
        x = self.problem.data[0]

        def look() -> float:
            made, _ = jax.eval_shape(self.view.outputs(self.z), self.view.of(self.z), x)
            return made.size / self.problem.num_examples

        return self.problem.model.programs.made(("output width", signature(x)), look)

    def of_prior(self) -> np.ndarray:
        """The Hessian of everything that does not depend on the data, negated, (p, p)."""
        view = self.view

        def curvature(z: Any, data: Data) -> Any:
            return hessian(lambda m: -view.density.smooth_log_prior(view.into(z, m)), view.of(z))

        return np.asarray(self.run("prior curvature", curvature), np.float64)

    def score_products(self) -> np.ndarray:
        """Sum over the examples of g g', g the gradient of one log-likelihood, (p, p), in bounded memory."""
        view = self.view

        def products(z: Any, data: Data) -> Any:
            flat, unravel = ravel_pytree(view.of(z))

            def score(example: Any) -> Any:
                batch = jax.tree.map(lambda leaf: leaf[None], example)
                return jax.grad(lambda v: jnp.sum(view.log_likelihoods(z)(unravel(v), batch)))(flat)

            def part(batch: Data, weights: Any) -> Any:
                scores = jnp.where(weights[:, None] > 0, jax.vmap(score)(batch), 0.0)
                return scores.T @ scores

            chunk = min(EXAMPLES_AT_A_TIME, max(1, SCORE_NUMBERS // flat.size))
            return sum_over_examples(part, data, chunk)

        return np.asarray(self.run("score products", products), np.float64)

    def held_log_prior(self) -> float:
        """The prior's part that belongs to the leaves that do not move."""
        return float(self.run("held prior", lambda z, data: self.view.held_log_prior(z)))

    def run(self, name: Any, function: Any, *extra: Any, double: bool = True) -> Any:
        """Call function(z, data, *extra), compiled once per model, density and moving leaves.

        Args:
            name: of the program; with the density and the leaves it says all that the function closes over.
            function: what to compile.
            extra: further arrays.
            double: compute in float64.
        """
        program = self.problem.model.programs.jitted((name, self.view), function)
        if not double:
            with full_products():
                return program(*self._at, *extra)
        return in_double(program, *self._at, *extra, known=(*self._doubled, *extra))

    @cached_property
    def _doubled(self) -> tuple[Any, Any]:
        return self.problem.model.programs.jitted("doubled", doubled)(self._at)
