"""The Laplace approximation: a Gaussian at the mode, in unconstrained coordinates."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.curvature import Precision, SingularCurvatureError, find_layers, moving_size
from jaxmap.infer.curved import Curved
from jaxmap.infer.gaussian import GaussianPosterior
from jaxmap.infer.grade import DRAWS, GRADED_UP_TO, Grade, grade
from jaxmap.infer.ladder import FULL_UP_TO, HESSIANS, STRUCTURES, Ladder, Structure
from jaxmap.infer.point import MAP, check_counts, continued, describe
from jaxmap.infer.posteriors import Point
from jaxmap.infer.problem import Problem, Stopwatch, check_method
from jaxmap.infer.seen import one_by_one
from jaxmap.model import Density
from jaxmap.trees import paths, signature
from jaxmap.types import FitError, Key, Method, Posterior, Seeds, Status

LAST_LAYER = "last_layer"


@dataclass(frozen=True)
class Laplace:
    """N(mode, H^-1) in unconstrained coordinates, H the curvature of -log density there, Jacobian included.

    log_evidence = log_joint(mode) + log |J| + P/2 log(2 pi) - 1/2 log det H.

    Args:
        at: where: a method or a fitted point. A constrained mode is climbed on to the unconstrained one (said in
            `info.notes`); `MLE()` gives the Gaussian of the likelihood alone, without prior and Jacobian.
        curvature: what H is made of. "full", the P x P matrix; "diagonal"; "kronecker", a Kronecker product per dense
            and convolution layer plus the prior (K-FAC), the rest diagonal; "low_rank", the leading `rank` eigenpairs
            of the likelihood's curvature plus the prior's diagonal; "last_layer", short for subset="last_layer".
        hessian: "exact", the Hessian; "ggn", the generalised Gauss-Newton matrix; "fisher", the empirical Fisher
            matrix; None: "ggn" where the model has network outputs, else "exact".
        subset: which leaves move, the others stay at the mode: "last_layer", or path patterns such as "*/bias"; None
            for all.
        rank: of the low-rank part.
        probes: random vectors that estimate the diagonal (Hutchinson) instead of computing it; None: exact.
        grade: draws that grade the result against the true density (about a third of a gradient each), 0 for none;
            None: 1000 for up to 2000 parameters.
        force: accept a point that is not a maximum, with negative eigenvalues turned positive.
    """

    at: Method | Posterior = MAP(space="unconstrained")
    curvature: str = "full"
    hessian: str | None = None
    subset: str | Sequence[str] | None = None
    rank: int = 64
    probes: int | None = None
    grade: int | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.curvature == LAST_LAYER:
            object.__setattr__(self, "curvature", "full")
            object.__setattr__(self, "subset", self.subset or LAST_LAYER)
        if self.subset is not None and not isinstance(self.subset, str):
            object.__setattr__(self, "subset", tuple(self.subset))
        if self.curvature not in STRUCTURES:
            known = ", ".join(map(repr, (*STRUCTURES, LAST_LAYER)))
            raise ValueError(f"Expected curvature to be one of {known}; got {self.curvature!r}.")
        if self.hessian not in (None, *HESSIANS):
            raise ValueError(f"Expected hessian='ggn', 'exact', 'fisher' or None; got {self.hessian!r}.")
        if self.curvature == "kronecker" and self.hessian == "exact":
            raise ValueError("Expected hessian='ggn' or 'fisher' with curvature='kronecker'; got 'exact'.")
        check_counts(rank=self.rank, probes=self.probes)
        if self.grade is not None and (not isinstance(self.grade, int) or self.grade < 0 or 0 < self.grade < 25):
            raise ValueError(f"Expected grade to be 0 or at least 25 draws; got {self.grade!r}.")
        if not isinstance(self.at, Point):
            check_method(self.at, "`at`")

    def run(self, problem: Problem, seeds: Seeds) -> "Modes":
        """Find the modes, all in one program where the method can."""
        outputs = problem.model.outputs
        if outputs is None and (self.hessian == "ggn" or self.curvature == "kronecker"):
            asked = "hessian='ggn'" if self.hessian == "ggn" else "curvature='kronecker'"
            raise ValueError(f"Expected a model with network outputs for {asked}. Use hessian='exact'.")
        if self.curvature == "full" and self.subset is None and problem.num_params > FULL_UP_TO:
            raise ValueError(
                f"Expected at most {FULL_UP_TO} parameters for curvature='full'; got {problem.num_params}, whose "
                "matrix does not fit. Use curvature='kronecker' or 'diagonal', or subset='last_layer'."
            )
        return Modes(list(problem.solve(self.at, seeds)), seeds.keys)

    def density(self, problem: Problem, prior: bool) -> Density:
        """What is curved: with the prior in unconstrained coordinates, or the likelihood alone around an MLE."""
        return Density(problem.model, prior, prior and not problem.model.space.is_real)

    def seen(self, problem: Problem, found: Any, z: Any) -> np.ndarray:
        """What its curvature is of, as in `infer/seen.py`."""
        density = self.density(problem, found.prior)
        return one_by_one(lambda v: Curved(density, v, problem).value, z)

    def finish(self, problem: Problem, runs: "Modes", index: int) -> GaussianPosterior:
        """Curvature, ladder, evidence and grade at one mode.

        Raises:
            FitError: the mode diverged, is not a maximum, or the curvature is flat; says what to do instead.
        """
        point = self._usable(problem, runs.points[index])
        watch = Stopwatch()
        point, notes = _unconstrained_mode(point, problem)
        self._refuse(point)
        density = self.density(problem, point.prior)
        leaves = moving_leaves(self.subset, problem, point.z)
        at = Curved(density, point.z, problem, leaves)
        draw, probe = _keys_of_one(runs.keys, index)
        kind = self.hessian or ("exact" if problem.model.outputs is None else "ggn")
        try:
            rung = Ladder(at, Structure(self.curvature, self.rank, self.probes), probe).climb(kind, self.force)
        except SingularCurvatureError as error:
            raise FitError(f"Laplace has no curvature to stand on: {error}", last=point.mode) from error
        graded = self._graded(draw, density, problem, point, rung.precision)
        held = f"Only {', '.join(_named(problem, leaves))} move; the rest stays at the mode." if leaves else ""
        said = [*point.info.notes, *notes, f"Curvature: {rung.text}.", held, gradient_note(at, rung.precision)]
        info = replace(
            point.info,
            method=describe(self),
            target=f"Gaussian at the {point.info.target}",
            notes=tuple(note for note in [*said, graded.note if graded else self._ungraded()] if note),
            diagnostics=point.info.diagnostics | (graded.diagnostics if graded else {}),
            num_gradients=point.info.num_gradients + rung.cost + (graded.draws / 3 if graded else 0.0),
            seconds=point.info.seconds + watch.seconds,
        )
        size = moving_size(rung.precision)
        value = at.value - (at.held_log_prior() if leaves else 0.0)
        evidence = float(value + 0.5 * size * np.log(2 * np.pi) - 0.5 * rung.precision.log_det)
        tangent = rung.kind != "exact" and problem.model.outputs is not None
        space = problem.model.space
        return GaussianPosterior(point.z, rung.precision, space, info, evidence, tangent, point.prior, graded)

    def _usable(self, problem: Problem, point: Any) -> Point:
        """A point of this model.

        Raises:
            FitError: the fit of the point failed.
            TypeError, ValueError: another kind of posterior, or another model's.
        """
        if isinstance(point, FitError):
            raise point
        if not isinstance(point, Point):
            raise TypeError(f"Expected Laplace at a point; got {type(point).__name__}. Use jm.Laplace(at=jm.MAP()).")
        shapes, own = ([jnp.shape(v) for v in jax.tree.leaves(t)] for t in (point.mode, problem.model.start))
        if shapes != own:
            raise ValueError("Expected a point of this model; got one over other parameters. Fit it with this model.")
        return point

    def _refuse(self, point: Point) -> None:
        """Refuse what is no smooth maximum, unless told otherwise.

        Raises:
            FitError: says what to do instead.
        """
        if self.force:
            return
        certificate = point.info.certificate
        if point.info.status in (Status.NOT_A_MAXIMUM, Status.AT_BOUNDARY):
            flat = ", ".join(certificate.flat) if certificate else "unknown directions"
            raise FitError(
                f"Laplace needs a maximum; the search ended where the density is flat or grows along {flat}. "
                "Give these parameters a prior that holds them, write them in other coordinates (effects in units of "
                "their scale), or sample with jm.NUTS(); force=True overrides.",
                last=point.mode,
            )
        if certificate and certificate.held:
            raise FitError(
                f"Laplace needs a smooth mode; {', '.join(certificate.held[:8])} lie at the kink of an L1 prior, where "
                "no Gaussian fits. Sample with jm.NUTS(), use a Gaussian prior, or drop these parameters; force=True "
                "overrides.",
                last=point.mode,
            )

    def _graded(self, key: Key, density: Density, problem: Problem, point: Point, precision: Precision) -> Grade | None:
        """The grade; None where none was wanted or there are too many parameters for one."""
        if self.grade == 0 or (self.grade is None and moving_size(precision) > GRADED_UP_TO):
            return None
        return grade(key, density, problem, point.z, precision, self.grade or DRAWS)

    def _ungraded(self) -> str:
        return "" if self.grade == 0 else "Not graded: too many parameters for importance weights; grade=1000 insists."


CURVATURE = 4
"""The tag folded into a key for random directions and for the draws of the grade."""


@jax.jit
def _keys_of_one(keys: Key, index: Any) -> tuple[Key, Key]:
    """For the draws of the grade and for random directions, of one member."""
    made = jax.random.split(jax.random.fold_in(keys[index], CURVATURE))
    return made[0], made[1]


class Modes(NamedTuple):
    """What `run` leaves for `finish`."""

    points: list[Any]
    keys: Any


def moving_leaves(subset: Any, problem: Problem, z: Any) -> tuple[int, ...] | None:
    """The numbers of the leaves that a subset names, None for all.

    Raises:
        ValueError: it names none.
    """
    if subset is None:
        return None
    named = paths(z)
    if subset == LAST_LAYER:
        return _last_layer(problem, z)
    patterns = (subset,) if isinstance(subset, str) else subset
    for pattern in patterns:
        if not any(_matches(path, pattern) for path in named):
            raise ValueError(f"Expected subset to name parameters; {pattern!r} matches none of {', '.join(named)}.")
    chosen = tuple(k for k, path in enumerate(named) if any(_matches(path, pattern) for pattern in patterns))
    return None if len(chosen) == len(named) else chosen


def _matches(path: str, pattern: str) -> bool:
    inner = path.removeprefix("network/")
    return any(fnmatch.fnmatchcase(name, pattern) for name in (path, "/" + path, inner, "/" + inner))


def _last_layer(problem: Problem, z: Any) -> tuple[int, ...]:
    model = problem.model
    if model.outputs is None:
        raise ValueError("Expected a model with a network for subset='last_layer'; got none. Name paths instead.")
    x = problem.data[0]
    outputs = lambda z, x: model.outputs(model.space.constrain(z), x)[0]  # type: ignore[misc]  # noqa: E731
    found = model.programs.made(("layers of all", signature(x)), lambda: find_layers(outputs, z, x))
    if not found:
        raise ValueError(
            "Expected a network with dense or convolution layers for subset='last_layer'; found none. "
            f"Name paths instead, of {', '.join(paths(z))}."
        )
    return tuple(sorted(found[-1].leaves))


def _named(problem: Problem, leaves: tuple[int, ...] | None) -> list[str]:
    return [path for k, path in enumerate(paths(problem.model.start)) if leaves is None or k in leaves][:8]


def gradient_note(at: Curved, precision: Precision) -> str:
    """The remaining gradient in posterior standard deviations, sqrt(g' H^-1 g), where it is worth a word."""
    moves = np.zeros((precision.size, 1))
    moves[at.positions, 0] = at.gradient
    with np.errstate(over="ignore", invalid="ignore"):  # a run-away that was forced
        distance = float(np.sqrt(max(float(moves[:, 0] @ precision.solve(moves)[:, 0]), 0.0)))
    if distance < 1e-2:
        return ""
    return f"The mode is {distance:.2g} posterior standard deviations away by its gradient."


def _unconstrained_mode(point: Point, problem: Problem) -> tuple[Point, tuple[str, ...]]:
    """Climb from the mode of the user's density to that of the unconstrained one, where they differ."""
    if point.jacobian or not point.prior or problem.model.space.is_real or not point.moved:
        return point, ()
    moved = continued(MAP(space="unconstrained"), problem, point.z)
    info = replace(
        moved.info,
        seconds=moved.info.seconds + point.info.seconds,
        num_gradients=moved.info.num_gradients + point.info.num_gradients,
    )
    note = "Given a mode in the user's coordinates, it climbed on to the mode in unconstrained ones."
    return replace(moved, info=info), (note,)
