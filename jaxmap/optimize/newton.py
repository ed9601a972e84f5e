"""Trust-region Newton with the whole Hessian."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from jaxmap.optimize.objective import Objective
from jaxmap.optimize.solver import STALLED_AFTER, SolverState, rounding, scaled_gradient, tolerance_for
from jaxmap.optimize.trust_region import shortened_newton_step, trust_region_step

FIRST_RADIUS = 1.0
"""In coordinates where every curvature is one. Of 1, 10 and 0.1 the one that solves most NIST problems."""


SECANT_TOLERANCE = 1e-13
"""Nats per example that secant steps leave; the last digits would take them many steps."""


CONVEX_TOLERANCE = 1e-13
"""Nats per example that may be left where the loss is convex, by the matrix before the last step."""


class Curvature(NamedTuple):
    """The quadratic model at z: its ball is round in units of 1 / scales, the largest curvatures seen so far."""

    gradient: Float[Array, " p"]
    matrix: Float[Array, "p p"]
    scales: Float[Array, " p"]
    exact: Bool[Array, ""]
    radius: Float[Array, ""]
    small: Bool[Array, ""]
    stalled: Any


@dataclass(frozen=True)
class Newton:
    """Trust-region Newton, for full batches and few parameters.

    Each step minimises the quadratic model inside a ball, exactly, through the eigenvalues of its matrix (More and
    Sorensen, 1983), so that it leaves saddle points and stays put where the loss is not finite. With the Gauss-Newton
    matrix this is the method of Levenberg and Marquardt.

    Attributes:
        steps: the largest number of iterations.
        tolerance: on the scaled gradient; None: 1e-10 in float64, 1e-6 in float32, and for secant steps what they
            reach soon, a predicted gain of 1e-13 nats per example.
        curvature: "exact", the Hessian; "ggn", the Gauss-Newton matrix of a model with outputs; None: the Hessian, and
            where that ends at no maximum, a second climb with the Gauss-Newton matrix (by `MAP`).
        lazy: correct the matrix by secants (SR1, Conn, Gould and Toint 1991) and compute it anew only where it
            predicts badly and at the end. None: where a matrix costs more than several gradients.
    """

    steps: int = 2000
    tolerance: float | None = None
    curvature: str | None = None
    lazy: bool | None = None

    def __post_init__(self) -> None:
        if self.curvature not in (None, "exact", "ggn"):
            raise ValueError(f"Expected curvature='exact', 'ggn' or None; got {self.curvature!r}.")

    @property
    def name(self) -> str:  # noqa: D102
        return "trust-region Newton" if self.curvature != "ggn" else "Levenberg-Marquardt (Gauss-Newton)"

    def init(self, objective: Objective, z: Any) -> SolverState:  # noqa: D102
        value, gradient = jax.value_and_grad(objective.smooth)(z)
        flat, _ = ravel_pytree(gradient)
        radius = jnp.asarray(FIRST_RADIUS, value.dtype)
        matrix = self._matrix(objective, z) if self.lazy else jnp.zeros((flat.size, flat.size), flat.dtype)
        no = jnp.asarray(False)
        inner = Curvature(flat, matrix, jnp.zeros_like(flat), ~no, radius, no, jnp.asarray(0))
        return SolverState(z, value, jnp.asarray(1 + (flat.size if self.lazy else 0)), inner)

    def resume(self, objective: Objective, before: Objective, state: SolverState) -> SolverState:
        """Go on with an objective whose prior alone differs from the one before, keeping what is known."""
        value, gradient = jax.value_and_grad(objective.smooth)(state.z)
        matrix = state.inner.matrix + objective.of_prior(state.z) - before.of_prior(state.z)
        radius, no = jnp.asarray(FIRST_RADIUS, value.dtype), jnp.asarray(False)
        flat, _ = ravel_pytree(gradient)
        inner = Curvature(flat, matrix, jnp.zeros_like(flat), no, radius, no, jnp.asarray(0))
        return SolverState(state.z, value, jnp.asarray(1), inner)

    def step(self, objective: Objective, state: SolverState) -> SolverState:  # noqa: D102
        value, model = state.value, state.inner
        flat, unravel = ravel_pytree(state.z)
        matrix = model.matrix if self.lazy else self._matrix(objective, state.z)
        scales = jnp.maximum(model.scales, _scales(matrix))  # as in MINPACK: where curvature fades, steps stay short
        scaled, root = matrix / (scales[:, None] * scales[None]), None
        if objective.convex and not self.lazy:
            inside, predicted, root = shortened_newton_step(scaled, model.gradient / scales, model.radius)
        else:
            inside, predicted = trust_region_step(scaled, model.gradient / scales, model.radius)
        move = inside / scales
        new, gradient = jax.value_and_grad(objective.smooth)(unravel(flat + move))
        gradient, _ = ravel_pytree(gradient)
        gain = (value - new) / jnp.maximum(predicted, jnp.finfo(value.dtype).tiny)
        converging = predicted <= self._rest(value)
        fine = jnp.isfinite(new) & jnp.all(jnp.isfinite(gradient))
        accepted = fine & ((gain > 1e-4) | (converging & (new <= value + rounding(value))))
        kept = accepted & ((gain > 0.25) | converging)
        far = accepted & (gain > 0.75) & (jnp.linalg.norm(inside) > 0.8 * model.radius) & ~converging
        radius = jnp.where(far, 3.0, 1.0) * jnp.where(kept, model.radius, 0.25 * jnp.linalg.norm(inside))
        stuck = jnp.all(flat + move == flat)
        change = gradient - model.gradient
        gradient = jnp.where(accepted, gradient, model.gradient)
        z = unravel(jnp.where(accepted, flat + move, flat))
        settled = converging & self._small(model.gradient, flat, value)
        if objective.convex:  # the gradient there tells already how much is left
            root = jnp.linalg.cholesky(scaled) if root is None else root
            settled = settled | (
                accepted & (_left(root, gradient / scales) <= CONVEX_TOLERANCE * jnp.maximum(1.0, new))
            )
        exact, cost = jnp.asarray(True), flat.size
        if self.lazy:
            poor = stuck | ((gain < 0.25) & ~converging)
            doubtful = settled & (not objective.convex)  # a secant matrix may miss that this is a saddle
            at_hand = model.exact & ~accepted
            wanted = (poor | doubtful) & ~at_hand
            secant = _secant(matrix, move, change, fine & ~at_hand)
            matrix = jax.lax.cond(wanted, lambda: self._matrix(objective, z), lambda: secant)
            exact, cost = wanted | at_hand, jnp.where(wanted, flat.size, 0)
        stalled = jnp.where(converging | stuck, model.stalled + 1, jnp.where(accepted, 0, model.stalled))
        inner = Curvature(gradient, matrix, scales, exact, radius, settled & (exact | objective.convex), stalled)
        ended = jnp.where(jnp.all(jnp.isfinite(model.gradient)), jnp.where(accepted, new, value), jnp.nan)
        return SolverState(z, ended, state.gradients + 1 + cost, inner)

    def done(self, state: SolverState) -> Bool[Array, "*members"]:  # noqa: D102
        return state.inner.small | (state.inner.stalled >= STALLED_AFTER) | ~jnp.isfinite(state.value)

    def _rest(self, value: Any) -> Any:
        """A predicted decrease that is not worth having; secants would take many steps for the last digits."""
        rest = SECANT_TOLERANCE * jnp.maximum(1.0, jnp.abs(value)) if self.lazy else jnp.zeros_like(value)
        return jnp.maximum(rest, rounding(value))

    def _small(self, gradient: Any, flat: Any, value: Any) -> Any:
        """At a saddle the gradient is small, but the model still predicts a gain: this is one half of the test."""
        if self.lazy and self.tolerance is None:
            return jnp.asarray(True)
        return scaled_gradient(gradient, flat, value) <= tolerance_for(self.tolerance, value.dtype, 1e-10)

    def _matrix(self, objective: Objective, z: Any) -> Float[Array, "p p"]:
        known = objective.gauss_newton
        if self.curvature == "ggn":
            if known is None:
                raise ValueError("Expected a model with outputs for curvature='ggn'. Use jm.Newton().")
            return known(z)
        return objective.hessian(z)


def _scales(matrix: Float[Array, "p p"]) -> Float[Array, " p"]:
    diagonal = jnp.abs(jnp.diagonal(matrix))
    return jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))


def _left(root: Array, gradient: Array) -> Array:
    """What the quadratic model would still gain, infinite where its matrix is not positive definite."""
    left = jnp.sum(jax.scipy.linalg.solve_triangular(root, gradient, lower=True) ** 2) / 2
    return jnp.where(jnp.isfinite(left), left, jnp.inf)


def _secant(matrix: Array, move: Array, change: Array, fine: Any) -> Array:
    """The symmetric rank-one correction that explains the change of the gradient along the move."""
    missing = change - matrix @ move
    along = jnp.dot(missing, move)
    sound = fine & (jnp.abs(along) > 1e-8 * jnp.linalg.norm(missing) * jnp.linalg.norm(move))
    correction = jnp.outer(missing, missing) / jnp.where(sound, along, 1.0)
    return jnp.where(sound, matrix + correction, matrix)
