"""Certificates: evidence that a point is a maximum, in float64 whatever the fit computed in."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxmap.curvature import (
    SingularCurvatureError,
    ggn,
    is_concave,
    negative_hessian,
    scaled_spectrum,
    unconstrained_outputs,
)
from jaxmap.curvature.factor import FLAT, flat_paths
from jaxmap.data import Stream
from jaxmap.model import Density, is_real
from jaxmap.optimize.krylov import MOST_PRODUCTS, lanczos, vectors_of
from jaxmap.optimize.krylov import decrement as decrement_by_products
from jaxmap.optimize.objective import flat_kinks
from jaxmap.optimize.slope import Slope, likelihood_slope, slope_at, summed
from jaxmap.trees import in_double, named_leaves
from jaxmap.types import Certificate, Data, Status

GRADIENT_WORTH_A_HESSIAN = 1e-3
"""Above this scaled gradient nothing is a maximum, and no Hessian is spent on it."""

SMALL = 200
"""Up to this many parameters the Hessian is always spent: a gradient has units, a Newton decrement has none."""

STRIDE = 0.1
"""How far the density is walked along each axis, in posterior standard deviations."""

FAR_OUT = 7.0
"""Unconstrained coordinates beyond this are the edge of the support: exp(-7) is 0.0009."""

DENSE_UP_TO = 1500
"""The largest number of parameters whose Hessian is formed; beyond, Hessian-vector products must do."""

DECREMENT = 1e-2
"""Distance to the maximum, in posterior standard deviations, below which a point counts as the maximum."""

EXAMPLES_AT_A_TIME = 16384

CORNERS = 12
"""Gradients of all examples that the corners cost."""

FEWEST_PRODUCTS = 10
"""Conjugate gradients that are not worth beginning."""


def certify(
    density: Density,
    z: Any,
    data: Data | Stream,
    *,
    resolution: float,
    slope: Slope | None = None,
    worth: float = np.inf,
) -> tuple[Certificate, Status]:
    """Decide whether z is a maximum of the density.

    CONVERGED needs all of these: a scaled gradient below 1e-3, positive curvature in every direction, a Newton
    decrement (the distance to the maximum in posterior standard deviations) below 0.01 plus what the rounding of z
    itself moves and never above 0.1, and a density that falls as the curvature says a tenth of a standard deviation
    away, on both sides. Coordinates at the kink of an L1 prior are held there by the subgradient condition
    |g| < weight; the rest is asked of the others.

    A density that is known to be strongly concave needs no Hessian: the precision of its prior bounds all curvature
    from below, and with it the distance to the one maximum. Beyond 1500 parameters the curvature is known by
    Hessian-vector products alone: conjugate gradients for the decrement, Lanczos iterations for its smallest
    eigenvalue, which must have settled.

    Args:
        density: what was maximised.
        z: where.
        data: all examples, or a stream of them, which is read two or three times up to 1500 parameters; beyond, its
            gradient is all that is looked at.
        resolution: eps of the dtype of the fit.
        slope: `slope_at` there, where it is known already.
        worth: gradients that Hessian-vector products, or the Hessian of a stream, may cost.

    Returns:
        certificate, status: CONVERGED, NOT_A_MAXIMUM, AT_BOUNDARY, or STEPS_EXHAUSTED where it is too early to tell.
    """
    slope = slope_at(density, z, data) if slope is None else slope
    held, relative = np.asarray(slope.held, bool), float(slope.relative)
    held_paths = tuple(name for name, at in zip(coordinate_paths(z), held, strict=True) if at) if held.any() else ()
    if not relative <= GRADIENT_WORTH_A_HESSIAN and held.size > SMALL:
        return Certificate(relative, held=held_paths), Status.STEPS_EXHAUSTED
    if held.all():
        return Certificate(relative, 0.0, held=held_paths), Status.CONVERGED
    if isinstance(data, Stream) and (held.size > DENSE_UP_TO or 3 * held.size + CORNERS > worth):
        return Certificate(relative, held=held_paths), Status.STEPS_EXHAUSTED
    if held.size - held.sum() > DENSE_UP_TO:
        most = affordable_products(held.size, worth)
        if not most:
            return Certificate(relative, held=held_paths), Status.STEPS_EXHAUSTED
        certificate, status = _by_products(density, z, cast(Data, data), slope, resolution, most)
        return replace(certificate, held=held_paths), status
    if not isinstance(data, Stream) and is_concave(density, data, strongly=True) and not held.any():
        bound = _bound(density, z, data, slope)
        if near(bound.decrement or 0.0, 0.0) is Status.CONVERGED:
            return bound, Status.CONVERGED
    known = summed(density, "curvature", lambda each: partial(negative_hessian, each), z, data)
    matrix = np.asarray(known, np.float64)
    point = _Point(density, z, data, np.flatnonzero(~held))
    certificate, status = point.judge(np.asarray(slope.residual, np.float64), relative, matrix, resolution)
    certificate = replace(certificate, held=held_paths)
    return point.walk(matrix, slope, certificate) if status is Status.CONVERGED else (certificate, status)


def affordable_products(size: int, worth: float) -> int:
    """Hessian-vector products that the decrement of so many parameters may take; 0 where they are not worth it."""
    most = min(MOST_PRODUCTS, worth / 3 - vectors_of(size, size))
    return 0 if most < FEWEST_PRODUCTS else int(most)


def within_reach(size: int, worth: float) -> bool:
    """Whether a point of so many parameters can get a certificate at all for what so many gradients cost."""
    return size <= DENSE_UP_TO or affordable_products(size, worth) > 0


def _bound(density: Density, z: Any, data: Data, slope: Slope) -> Certificate:
    """What the precision of the prior says about a strongly concave density, without a Hessian."""

    def evaluate(z: Any, data: Data) -> Any:
        of_prior = jax.grad(lambda v: -density.smooth_log_prior(v))
        precision = jax.jvp(of_prior, (z,), (jax.tree.map(jnp.ones_like, z),))[1]  # separable: this is the diagonal
        outputs, emission = unconstrained_outputs(density.model), density.model.emission
        return ravel_pytree(precision)[0], ggn(outputs, emission, z, data, kind="exact", diagonal=True)  # type: ignore[arg-type]

    found = in_double(_program(density, "bound", evaluate), z, data)
    precision, bends = (np.asarray(v, np.float64) for v in found)
    decrement = float(np.linalg.norm(np.asarray(slope.residual, np.float64) / np.sqrt(precision)))
    return Certificate(float(slope.relative), decrement, float(np.min(precision / (precision + bends))))


class Spectrum(NamedTuple):
    """Curvature scaled to a unit diagonal, and the residual in its eigenvectors; numpy or jax.

    Attributes:
        values, vectors: of the scaled curvature A.
        along: V' residual / scales.
        own: False for eigenvectors that stand for held coordinates.
    """

    values: Any
    vectors: Any
    along: Any
    own: Any = True

    def newton(self) -> Any:
        """The Newton direction, one posterior standard deviation long; zero where the residual is."""
        steps = self.along / self.values * self.own
        length = (self.values * steps**2).sum() ** 0.5
        return self.vectors @ (steps / (length + (length == 0)))

    def corners(self) -> tuple[Any, Any, Any]:
        """Three moves in scaled coordinates: along all eigenvectors at once, all coordinates, and the Newton direction.

        A run-away shows in one of them: where its eigenvector is mixed with another's, in the coordinates or, since
        nothing else has a gradient left, in the Newton direction.
        """
        every = self.vectors @ (self.own / self.values**0.5)
        free = (self.vectors**2) @ (self.own * (self.values > 0))
        return STRIDE * every, STRIDE * (free > 0.5), STRIDE * self.newton()

    def borne_out(self, pulls: Any) -> Any:
        """True where the gradient lost on the way to each corner, (3, p) scaled, is within a factor two of A move."""
        _, second, third = self.corners()
        found = (self.vectors.T @ pulls[0]) / self.values**0.5 / STRIDE
        by_axis = ((found > 0.5) & (found < 2.0) | ~(self.own & (self.values > 0))).all()
        wanted = self.vectors @ (self.own * self.values * (self.vectors.T @ second))
        by_coordinate = (abs(pulls[1] - wanted) * (second > 0) <= 0.5 * STRIDE + 0.5 * abs(wanted)).all()
        size = (third @ self.vectors) ** 2 @ self.values
        work = third @ pulls[2]
        return by_axis & by_coordinate & ((size == 0) | (work > 0.5 * size) & (work < 2.0 * size))


class _Point(NamedTuple):
    """A point under judgement; `free` are the coordinates that no kink holds."""

    density: Density
    z: Any
    data: Data | Stream
    free: np.ndarray

    def judge(
        self, residual: np.ndarray, relative: float, matrix: np.ndarray, resolution: float
    ) -> tuple[Certificate, Status]:
        """Look at gradient and curvature."""
        free = self.free
        try:
            values, vectors, scales = scaled_spectrum(matrix[np.ix_(free, free)])
        except SingularCurvatureError:
            growing = self.growing_outwards()
            status = Status.NOT_A_MAXIMUM if growing else Status.STEPS_EXHAUSTED
            return Certificate(relative, flat=growing), status
        weak = values <= FLAT
        along = vectors.T @ (residual[free] / scales)
        decrement = float(np.sqrt(np.sum(along[~weak] ** 2 / values[~weak])))
        by_sign = [flat_paths(vectors[:, chosen], self.names) for chosen in (values < -FLAT, weak) if chosen.any()]
        paths = tuple(dict.fromkeys(itertools.chain(*by_sign)))[:8]  # first those along which it grows
        certificate = Certificate(relative, decrement, float(values[0]), paths)
        if weak.any():
            return certificate, Status.NOT_A_MAXIMUM
        coordinates = np.abs(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(self.z)]))[free]
        return certificate, near(decrement, float(np.sqrt(np.sum((resolution * coordinates * scales) ** 2))))

    def growing_outwards(self) -> tuple[str, ...]:
        """The coordinates at the edge of their support towards which the density still grows.

        Asked where there is no curvature to ask: a scale that runs to zero overflows its own second derivatives.
        """
        flat = np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(self.z)])
        out = np.flatnonzero((np.abs(flat) > FAR_OUT) & _bounded(self.density, self.z))
        if not out.size:
            return ()
        moves = np.zeros((out.size, flat.size))
        moves[np.arange(out.size), out] = np.sign(flat[out])
        names = coordinate_paths(self.z)
        changes = self._run("change", _change_of, moves)
        return tuple(names[i] for i, grown in zip(out, changes, strict=True) if grown > 0)

    @property
    def names(self) -> list[str]:
        """The paths of the free coordinates."""
        names = coordinate_paths(self.z)
        return [names[i] for i in self.free]

    def walk(self, matrix: np.ndarray, slope: Slope, certificate: Certificate) -> tuple[Certificate, Status]:
        """Believe the curvature only if the density falls as it says, a tenth of a standard deviation along every axis.

        Where gradient and curvature vanish together (a separable logistic regression, a variance that goes to zero, a
        mode at the edge of the support), the Newton decrement alone would call the run-away a maximum. The gradient at
        the corners of `Spectrum` shows this mostly; where it does not, every axis is walked, both ways: eigenvectors,
        coordinates, and the Newton direction.
        """
        free, size = self.free, len(matrix)
        values, vectors, scales = scaled_spectrum(matrix[np.ix_(free, free)])
        along = vectors.T @ (np.asarray(slope.residual, np.float64)[free] / scales)
        spectrum = Spectrum(values, vectors, along)
        corners = np.zeros((3, size))
        corners[:, free] = np.stack(spectrum.corners()) / scales
        pulls = self._run("pull", _pull_of, np.concatenate([corners, -corners]))[:, free] / scales
        here = np.asarray(slope.gradient, np.float64)[free] / scales
        with np.errstate(all="ignore"):  # a run-away's gradient may overflow a tenth of a deviation away
            sure = spectrum.borne_out(here - pulls[:3]) and spectrum.borne_out(pulls[3:] - here)
        if sure:
            return certificate, Status.CONVERGED
        axes = np.zeros((2 * len(values) + 1, size))
        axes[:, free] = (
            np.concatenate([(vectors / np.sqrt(values)).T, np.eye(len(values)), [spectrum.newton()]]) / scales
        )
        axes *= STRIDE
        fall = -self._run("change", _change_of, np.concatenate([axes, -axes])) / (STRIDE**2 / 2)
        weak = ~np.all(fall.reshape(2, -1) > 0.1, axis=0)
        weak[-1] &= bool(certificate.decrement)  # no Newton direction where the gradient is zero
        if not weak.any():  # where it falls faster than the curvature says, the decrement is no distance
            return certificate, Status.CONVERGED if np.all(fall < 10.0) else Status.STEPS_EXHAUSTED
        flat = flat_paths((axes[:, free] * scales)[weak].T / STRIDE, self.names)
        edge = _far_out(self.density, self.z)
        return replace(certificate, flat=flat), Status.AT_BOUNDARY if edge else Status.NOT_A_MAXIMUM

    def _run(self, name: str, make: Any, moves: np.ndarray) -> np.ndarray:
        return np.asarray(summed(self.density, name, make, self.z, self.data, moves), np.float64)


def near(decrement: float, rounding: float) -> Status:
    """CONVERGED within a hundredth of a standard deviation.

    Rounding z to the dtype of the fit moves it by up to eps |z|: no solver can do better than that. Where this is more
    than a tenth of a posterior standard deviation, the fit needs float64 and is not called converged.
    """
    close = decrement <= min(DECREMENT + rounding, 10 * DECREMENT)
    return Status.CONVERGED if close else Status.STEPS_EXHAUSTED


def _by_products(
    density: Density, z: Any, data: Data, slope: Slope, resolution: float, most: int
) -> tuple[Certificate, Status]:
    """The certificate of many parameters, from Hessian-vector products, at most so many for the decrement."""
    free = ~np.asarray(slope.held, bool)
    noise = np.random.default_rng(0).normal(size=free.size) * free

    def evaluate(z: Any, data: Data, residual: Any, free: Any, noise: Any, most: Any) -> Any:
        flat, unravel = ravel_pytree(z)

        def gradient(v: Any) -> Any:
            point = unravel(v)
            of_prior = jax.grad(density.smooth_log_prior)(point)
            return -ravel_pytree(jax.tree.map(jnp.add, likelihood_slope(density, point, data)[1], of_prior))[0]

        def product(v: Any) -> Any:
            return free * jax.jvp(gradient, (flat,), (free * v,))[1]

        distance, step, spent = decrement_by_products(product, free * residual, most)
        ends = lanczos(product, noise, int(flat.size))
        # Three moves of one standard deviation: the Newton step, the weakest direction, a random one.
        moves = jnp.stack([step, ends.vector, noise])
        bends = jnp.stack([jnp.dot(move, product(move)) for move in moves])
        return distance, ends, moves * free[None] / jnp.sqrt(jnp.where(bends > 0, bends, 1.0))[:, None], spent

    program = _program(density, "products", evaluate)
    distance, ends, moves, spent = in_double(program, z, data, slope.residual, free.astype(float), noise, most)
    weakest, largest, error = (float(v) for v in (ends.smallest, ends.largest, ends.residual))
    products = int(spent) + vectors_of(free.size, free.size) + 3
    relative = weakest / max(largest, np.finfo(float).tiny)
    certificate = Certificate(float(slope.relative), float(distance), relative, products=products)
    names = coordinate_paths(z)
    if (certificate.smallest_curvature or 0.0) <= FLAT and error <= 1e-3 * largest:
        flat = flat_paths(np.asarray(ends.vector, np.float64)[:, None], names)
        return replace(certificate, flat=flat), Status.NOT_A_MAXIMUM
    if not (np.isfinite(distance) and error <= 0.1 * weakest):
        return certificate, Status.STEPS_EXHAUSTED
    moves = STRIDE * np.asarray(moves, np.float64)
    change = in_double(_program(density, "change", _change_of(density)), z, data, np.concatenate([moves, -moves]))
    fall = -np.asarray(change, np.float64).reshape(2, -1) / (STRIDE**2 / 2)
    weak = np.any(fall <= 0.1, axis=0) & (np.linalg.norm(moves, axis=1) > 0)
    if weak.any():
        axes = moves[weak].T / np.linalg.norm(moves[weak], axis=1)
        return replace(certificate, flat=flat_paths(axes, names)), Status.NOT_A_MAXIMUM
    if np.any(fall > 10.0):
        return certificate, Status.STEPS_EXHAUSTED
    flat_z = np.abs(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(z)]))
    return certificate, near(float(distance), float(np.linalg.norm(resolution * flat_z) * np.sqrt(largest)))


def _pull_of(density: Density) -> Any:
    """The smooth part's gradient at each of several moves from z."""

    def pull(z: Any, data: Data, moves: Any) -> Any:
        flat, unravel = ravel_pytree(z)

        def at(move: Any) -> Any:
            point = unravel(flat + move)
            of_prior = jax.grad(density.smooth_log_prior)(point)
            return ravel_pytree(jax.tree.map(jnp.add, likelihood_slope(density, point, data)[1], of_prior))[0]

        return jax.lax.map(at, moves)

    return pull


def _change_of(density: Density) -> Any:
    """The density at each of several moves from z, less the density at z; kinks keep the slope they have there."""

    def change(z: Any, data: Data, moves: Any) -> Any:
        flat, unravel = ravel_pytree(z)
        weights, centers = flat_kinks(density.kinks(z), z)
        pull = weights * jnp.sign(flat - centers)

        def at(move: Any) -> Any:
            point = unravel(flat + move)
            likelihood = jnp.sum(density.log_likelihoods(point, data))
            return likelihood + density.smooth_log_prior(point) - jnp.dot(pull, move)

        here = at(jnp.zeros_like(flat))
        return jax.lax.map(lambda move: at(move) - here, moves)

    return change


def _far_out(density: Density, z: Any) -> bool:
    """True where a constrained parameter has run so far that it lies on the edge of its support."""
    flat = np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(z)])
    return bool(np.any((np.abs(flat) > FAR_OUT) & _bounded(density, z)))


def _bounded(density: Density, z: Any) -> np.ndarray:
    """True for the coordinates of parameters that have a support other than the real line, (p,)."""
    pairs = zip(density.model.space.supports, jax.tree.leaves(z), strict=True)
    return np.concatenate([np.full(np.size(leaf), not is_real(support)) for support, leaf in pairs])


def coordinate_paths(z: Any, leaves: Sequence[int] | None = None) -> list[str]:
    """The path of each number in ravel order: `kernel` for a scalar, `kernel[0,2]` inside an array.

    Args:
        z: a tree.
        leaves: numbers of the leaves that are wanted; None for all.
    """
    names, every = [], named_leaves(z)
    for path, leaf in every if leaves is None else [every[k] for k in leaves]:
        for index in np.ndindex(np.shape(leaf)):
            names.append(f"{path}[{','.join(map(str, index))}]" if index else path)
    return names


def _program(density: Density, name: str, function: Any) -> Any:
    """Compile once per model and density."""
    return density.model.programs.jitted((name, density), function)
