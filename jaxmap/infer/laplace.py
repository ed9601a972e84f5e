"""The Laplace approximation: a Gaussian at the mode, in unconstrained coordinates."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.curvature import Factor, SingularCurvatureError, factorize, ggn, hessian
from jaxmap.infer.gaussian import GaussianPosterior
from jaxmap.infer.point import MAP, Climbs, describe
from jaxmap.infer.posteriors import Point
from jaxmap.infer.problem import Problem, Stopwatch, check_method
from jaxmap.model import Density, Model
from jaxmap.optimize import Budget, choose_solver, maximize
from jaxmap.optimize.certificate import coordinate_paths
from jaxmap.trees import in_double
from jaxmap.types import FitError, Method, Posterior, Seeds, Status

FULL_UP_TO = 12_000
"""Parameters for which a P x P matrix in float64 (about 1 GiB) is still formed."""


@dataclass(frozen=True)
class Laplace:
    """N(mode, H^-1) in unconstrained coordinates, H the curvature of -log density there, Jacobian included.

    log_evidence = log_joint(mode) + log |J| + P/2 log(2 pi) - 1/2 log det H.

    Args:
        at: where: a method or a fitted point. A constrained mode is climbed on to the unconstrained one (said in
            `info.notes`); `MLE()` gives the Gaussian of the likelihood alone, without prior and Jacobian.
        curvature: "full", the P x P matrix.
        hessian: "ggn", the generalised Gauss-Newton matrix (networks), "exact", or None: "ggn" where the model has
            network outputs, else "exact".
        force: accept a point that is not a maximum, with negative eigenvalues turned positive.
    """

    at: Method | Posterior = MAP(space="unconstrained")
    curvature: str = "full"
    hessian: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.curvature != "full":
            raise ValueError(f"Expected curvature='full'; got {self.curvature!r}.")
        if self.hessian not in (None, "ggn", "exact"):
            raise ValueError(f"Expected hessian='ggn', 'exact' or None; got {self.hessian!r}.")
        if not isinstance(self.at, Point):
            check_method(self.at, "`at`")

    def run(self, problem: Problem, seeds: Seeds) -> list[Any]:
        """Find the modes, all in one program where the method can."""
        if self.hessian == "ggn" and problem.model.outputs is None:
            raise ValueError("Expected a model with network outputs for hessian='ggn'. Use hessian='exact'.")
        if problem.num_params > FULL_UP_TO:
            raise ValueError(
                f"Expected at most {FULL_UP_TO} parameters for curvature='full'; got {problem.num_params}, whose "
                "matrix does not fit. Use fewer parameters."
            )
        return list(problem.solve(self.at, seeds))

    def finish(self, problem: Problem, runs: list[Any], index: int) -> GaussianPosterior:
        """Curvature, ladder and evidence at one mode.

        Raises:
            FitError: the mode diverged, is not a maximum, or the curvature is flat; says what to do instead.
        """
        point = runs[index]
        if isinstance(point, FitError):
            raise point
        if not isinstance(point, Point):
            raise TypeError(f"Expected Laplace at a point; got {type(point).__name__}. Use jm.Laplace(at=jm.MAP()).")
        if [jnp.shape(v) for v in jax.tree.leaves(point.mode)] != [
            v.shape for v in jax.tree.leaves(problem.model.start)
        ]:
            raise ValueError("Expected a point of this model; got one over other parameters. Fit it with this model.")
        watch = Stopwatch()
        point, notes = _unconstrained_mode(point, problem)
        if point.info.status in (Status.NOT_A_MAXIMUM, Status.AT_BOUNDARY) and not self.force:
            flat = ", ".join(point.info.certificate.flat) if point.info.certificate else "unknown directions"
            raise FitError(
                f"Laplace needs a maximum; the search ended where the density is flat or grows along {flat}. "
                "Give these parameters a prior, or sample with jm.NUTS(); force=True overrides.",
                last=point.mode,
            )
        density = Density(problem.model, point.prior, point.prior and not problem.model.space.is_real)
        kind = self.hessian or ("exact" if problem.model.outputs is None else "ggn")
        found = Curved(density, point.z, problem)
        factor, rung, spent = found.climb_ladder(kind, self.force, point)
        info = replace(
            point.info,
            method=describe(self),
            target=f"Gaussian at the {point.info.target}",
            notes=(*point.info.notes, *notes, f"Curvature: {rung}.", *found.gradient_note(factor)),
            num_gradients=point.info.num_gradients + spent,
            seconds=point.info.seconds + watch.seconds,
        )
        evidence = found.value + 0.5 * problem.num_params * np.log(2 * np.pi) - 0.5 * factor.log_det
        linear = "Gauss-Newton" in rung
        return GaussianPosterior(point.z, factor, problem.model.space, info, float(evidence), linear)


class Curved:
    """A density, its gradient and its curvatures at one point, in float64."""

    def __init__(self, density: Density, z: Any, problem: Problem):
        self.density, self.problem = density, problem
        self.names = coordinate_paths(z)
        self._at = (jax.tree.map(jnp.asarray, z) if problem.dtype != np.float64 else z, problem.data)
        value, gradient = in_double(self._program("value", jax.value_and_grad(density)), *self._at)
        self.value = float(value)
        self.gradient = np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(gradient)])

    def climb_ladder(self, kind: str, force: bool, point: Point) -> tuple[Factor, str, float]:
        """Exact Hessian, then Gauss-Newton, then clipped eigenvalues; says on which rung it stands."""
        spent = 0.0
        if kind == "exact":
            matrix, cost = self.exact()
            spent += cost
            try:
                return factorize(matrix, self.names), "exact Hessian", spent
            except SingularCurvatureError as error:
                indefinite = "negative curvature" in str(error)
                if not indefinite or (self.problem.model.outputs is None and not force):
                    raise self._refusal(error, point) from error
                if self.problem.model.outputs is None:
                    factor = factorize(matrix, self.names, clip=True)
                    return (
                        factor,
                        f"exact Hessian, eigenvalues clipped (at most {factor.added:.3g} added)",
                        spent,
                    )
        matrix, cost = self.gauss_newton()
        try:
            factor = factorize(matrix, self.names, clip=True)
        except SingularCurvatureError as error:
            raise self._refusal(error, point) from error
        rung = "Gauss-Newton" if kind == "ggn" else "Gauss-Newton (the exact Hessian is indefinite here)"
        if factor.added:
            rung += f", eigenvalues clipped (at most {factor.added:.3g} added)"
        return factor, rung, spent + cost

    def exact(self) -> tuple[np.ndarray, float]:
        """The Hessian of -log density, and its cost in gradients."""

        def curvature(z: Any, data: Any) -> Any:
            return hessian(lambda v: -self.density(v, data), z)

        matrix = np.asarray(in_double(self._program("curvature", curvature), *self._at), np.float64)
        return matrix, 3.0 * len(matrix)

    def gauss_newton(self) -> tuple[np.ndarray, float]:
        """The GGN of the likelihood plus the Hessian of everything else, and its cost in gradients."""
        model, density = self.problem.model, self.density

        def curvature(z: Any, data: Any) -> Any:
            likelihood = ggn(unconstrained_outputs(model), model.emission, z, data)  # type: ignore[arg-type]
            return likelihood + hessian(lambda v: -density.log_prior(v), z)

        matrix = np.asarray(in_double(self._program("ggn", curvature), *self._at), np.float64)
        z, (x, *_) = self._at
        shapes = jax.eval_shape(unconstrained_outputs(model), z, x)
        width = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes)) / self.problem.num_examples
        return matrix, float(np.ceil(width))

    def gradient_note(self, factor: Factor) -> tuple[str, ...]:
        """The remaining gradient in posterior standard deviations, where it is worth a word."""
        from scipy.linalg import solve_triangular

        distance = float(np.linalg.norm(solve_triangular(factor.chol_prec, self.gradient, lower=True)))
        if distance < 1e-2:
            return ()
        return (f"The mode is {distance:.2g} posterior standard deviations away by its gradient.",)

    def _refusal(self, error: Exception, point: Point) -> FitError:
        return FitError(f"Laplace has no curvature to stand on: {error}", last=point.mode)

    def _program(self, name: str, function: Any) -> Any:
        return self.problem.model.programs.setdefault((name, self.density), jax.jit(function))


def unconstrained_outputs(model: Model) -> Any:
    """`model.outputs` as a function of unconstrained coordinates."""

    def outputs(z: Any, x: Any) -> Any:
        return model.outputs(model.space.constrain(z), x)  # type: ignore[misc]

    return outputs


def _unconstrained_mode(point: Point, problem: Problem) -> tuple[Point, tuple[str, ...]]:
    """Climb from the mode of the user's density to that of the unconstrained one, where they differ."""
    if point.jacobian or not point.prior or problem.model.space.is_real or not point.moved:
        return point, ()
    method = MAP(space="unconstrained")
    watch = Stopwatch()
    solver, description = choose_solver(None, problem.num_params, None, None)
    starts = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], point.z)
    budget = Budget(solver.steps, None, problem.progress)
    keys = jax.random.split(jax.random.key(0), 1)  # full batches: no order to draw
    ascent = maximize(method.density(problem), problem.data, starts, keys, solver, budget, "MAP")
    moved = method.finish(problem, Climbs(ascent, keys, solver, description, watch.seconds), 0)
    info = replace(
        moved.info,
        seconds=moved.info.seconds + point.info.seconds,
        num_gradients=moved.info.num_gradients + point.info.num_gradients,
    )
    note = "Given a mode in the user's coordinates, it climbed on to the mode in unconstrained ones."
    return replace(moved, info=info), (note,)
