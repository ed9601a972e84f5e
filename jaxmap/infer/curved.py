"""A log density at one point: value, gradient, curvatures and scores, in float64."""

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxmap.curvature import ggn, hessian, sum_over_examples
from jaxmap.infer.problem import Problem
from jaxmap.model import Density, Model
from jaxmap.optimize.certificate import EXAMPLES_AT_A_TIME, coordinate_paths
from jaxmap.trees import in_double
from jaxmap.types import Data

SCORE_NUMBERS = 2**23
"""How many numbers of per-example gradients are held at a time."""


class Curved:
    """A density, its gradient and its curvatures at one point, in unconstrained coordinates and in float64.

    Programs are compiled once per model and density, and shared with the certificate.
    """

    def __init__(self, density: Density, z: Any, problem: Problem):
        self.density, self.problem = density, problem
        self.names = coordinate_paths(z)
        self._at = (jax.tree.map(jnp.asarray, z) if problem.dtype != np.float64 else z, problem.data)

    @property
    def value(self) -> float:
        """The density, in nats."""
        return self._value_and_gradient[0]

    @property
    def gradient(self) -> np.ndarray:
        """Its gradient, (p,)."""
        return self._value_and_gradient[1]

    @cached_property
    def _value_and_gradient(self) -> tuple[float, np.ndarray]:
        value, gradient = self._run("value", jax.value_and_grad(self.density))
        flat = [np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(gradient)]
        return float(value), np.concatenate(flat)

    def exact(self) -> tuple[np.ndarray, float]:
        """The Hessian of -log density, (p, p), and its cost in gradients."""

        def curvature(z: Any, data: Data) -> Any:
            return hessian(lambda v: -self.density(v, data), z)

        matrix = np.asarray(self._run("curvature", curvature), np.float64)
        return matrix, 3.0 * len(matrix)

    def gauss_newton(self) -> tuple[np.ndarray, float]:
        """The GGN of the likelihood plus the Hessian of everything else, (p, p), and its cost in gradients."""
        model, density = self.problem.model, self.density

        def curvature(z: Any, data: Data) -> Any:
            likelihood = ggn(unconstrained_outputs(model), model.emission, z, data)  # type: ignore[arg-type]
            return likelihood + hessian(lambda v: -density.log_prior(v), z)

        matrix = np.asarray(self._run("ggn", curvature), np.float64)
        z, (x, *_) = self._at
        shapes = jax.eval_shape(unconstrained_outputs(model), z, x)
        width = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes)) / self.problem.num_examples
        return matrix, float(np.ceil(width))

    def of_prior(self) -> np.ndarray:
        """The Hessian of everything that does not depend on the data, negated, (p, p)."""

        def curvature(z: Any, data: Data) -> Any:
            return hessian(lambda v: -self.density.log_prior(v), z)

        return np.asarray(self._run("prior curvature", curvature), np.float64)

    def score_products(self) -> np.ndarray:
        """Sum over the examples of g g', g the gradient of one log-likelihood, (p, p), in bounded memory."""

        def products(z: Any, data: Data) -> Any:
            flat, unravel = ravel_pytree(z)

            def score(example: Any) -> Any:
                batch = jax.tree.map(lambda leaf: leaf[None], example)
                return jax.grad(lambda v: jnp.sum(self.density.log_likelihoods(unravel(v), batch)))(flat)

            def part(batch: Data, weights: Any) -> Any:
                scores = jnp.where(weights[:, None] > 0, jax.vmap(score)(batch), 0.0)
                return scores.T @ scores

            chunk = min(EXAMPLES_AT_A_TIME, max(1, SCORE_NUMBERS // flat.size))
            return sum_over_examples(part, data, chunk)

        return np.asarray(self._run("score products", products), np.float64)

    def _run(self, name: str, function: Any) -> Any:
        program = self.problem.model.programs.setdefault((name, self.density), jax.jit(function))
        return in_double(program, *self._at)


def unconstrained_outputs(model: Model) -> Any:
    """`model.outputs` as a function of unconstrained coordinates."""

    def outputs(z: Any, x: Any) -> Any:
        return model.outputs(model.space.constrain(z), x)  # type: ignore[misc]

    return outputs
