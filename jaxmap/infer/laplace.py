"""The Laplace approximation: a Gaussian at the mode, in unconstrained coordinates."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.curvature import Factor, SingularCurvatureError, factorize
from jaxmap.infer.curved import Curved
from jaxmap.infer.gaussian import GaussianPosterior
from jaxmap.infer.point import MAP, Climbs, describe
from jaxmap.infer.posteriors import Point
from jaxmap.infer.problem import Problem, Stopwatch, check_method
from jaxmap.model import Density
from jaxmap.optimize import Budget, choose_solver, maximize
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
        held = point.info.certificate.held if point.info.certificate else ()
        if held and not self.force:
            raise FitError(
                f"Laplace needs a smooth mode; {', '.join(held[:8])} lie at the kink of an L1 prior, where no Gaussian "
                "fits. Sample with jm.NUTS(), use a Gaussian prior, or drop these parameters; force=True overrides.",
                last=point.mode,
            )
        density = Density(problem.model, point.prior, point.prior and not problem.model.space.is_real)
        kind = self.hessian or ("exact" if problem.model.outputs is None else "ggn")
        found = Ladder(density, point.z, problem)
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
        return GaussianPosterior(point.z, factor, problem.model.space, info, float(evidence), linear, point.prior)


class Ladder(Curved):
    """The curvatures of a density at one point, from the best downwards."""

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

    def gradient_note(self, factor: Factor) -> tuple[str, ...]:
        """The remaining gradient in posterior standard deviations, where it is worth a word."""
        from scipy.linalg import solve_triangular

        with np.errstate(over="ignore"):  # a run-away that was forced
            distance = float(np.linalg.norm(solve_triangular(factor.chol_prec, self.gradient, lower=True)))
        if distance < 1e-2:
            return ()
        return (f"The mode is {distance:.2g} posterior standard deviations away by its gradient.",)

    def _refusal(self, error: Exception, point: Point) -> FitError:
        return FitError(f"Laplace has no curvature to stand on: {error}", last=point.mode)


def _unconstrained_mode(point: Point, problem: Problem) -> tuple[Point, tuple[str, ...]]:
    """Climb from the mode of the user's density to that of the unconstrained one, where they differ."""
    if point.jacobian or not point.prior or problem.model.space.is_real or not point.moved:
        return point, ()
    method = MAP(space="unconstrained")
    watch = Stopwatch()
    solver, description = choose_solver(None, method.task(problem, method.density(problem)))
    starts = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], point.z)
    budget = Budget(solver.steps, None, problem.progress)
    keys = jax.random.split(jax.random.key(0), 1)  # full batches: no order to draw
    ascent = maximize(method.density(problem), problem.data, starts, keys, solver, budget, "MAP")
    moved = method.finish(problem, Climbs(ascent, keys, starts, solver, description, watch.seconds), 0)
    info = replace(
        moved.info,
        seconds=moved.info.seconds + point.info.seconds,
        num_gradients=moved.info.num_gradients + point.info.num_gradients,
    )
    note = "Given a mode in the user's coordinates, it climbed on to the mode in unconstrained ones."
    return replace(moved, info=info), (note,)
