"""Certificates: evidence that a point is a maximum, in float64 whatever the fit computed in."""

import itertools
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
from jaxmap.model import Density
from jaxmap.optimize.certificate_by_products import certify_by_products
from jaxmap.optimize.krylov import MOST_PRODUCTS, vectors_of
from jaxmap.optimize.nearby import change_of, far_out, growing_outwards, pull_of
from jaxmap.optimize.slope import Slope, slope_at, summed
from jaxmap.optimize.spectrum import STRIDE, Spectrum, near
from jaxmap.trees import coordinate_paths, in_double
from jaxmap.types import Certificate, Data, Status

GRADIENT_WORTH_A_HESSIAN = 1e-3
"""Above this scaled gradient nothing is a maximum, and no Hessian is spent on it."""

SMALL = 200
"""Up to this many parameters the Hessian is always spent: a gradient has units, a Newton decrement has none."""

DENSE_UP_TO = 1500
"""The largest number of parameters whose Hessian is formed; beyond, Hessian-vector products must do."""

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
        certificate, status = certify_by_products(density, z, cast(Data, data), slope, resolution, most)
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

    found = in_double(density.model.programs.jitted(("bound", density), evaluate), z, data)
    precision, bends = (np.asarray(v, np.float64) for v in found)
    decrement = float(np.linalg.norm(np.asarray(slope.residual, np.float64) / np.sqrt(precision)))
    return Certificate(float(slope.relative), decrement, float(np.min(precision / (precision + bends))))


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
            growing = growing_outwards(self.density, self.z, self.data)
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
        pulls = self._run("pull", pull_of, np.concatenate([corners, -corners]))[:, free] / scales
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
        fall = -self._run("change", change_of, np.concatenate([axes, -axes])) / (STRIDE**2 / 2)
        weak = ~np.all(fall.reshape(2, -1) > 0.1, axis=0)
        weak[-1] &= bool(certificate.decrement)  # no Newton direction where the gradient is zero
        if not weak.any():  # where it falls faster than the curvature says, the decrement is no distance
            return certificate, Status.CONVERGED if np.all(fall < 10.0) else Status.STEPS_EXHAUSTED
        flat = flat_paths((axes[:, free] * scales)[weak].T / STRIDE, self.names)
        edge = far_out(self.density, self.z)
        return replace(certificate, flat=flat), Status.AT_BOUNDARY if edge else Status.NOT_A_MAXIMUM

    def _run(self, name: str, make: Any, moves: np.ndarray) -> np.ndarray:
        return np.asarray(summed(self.density, name, make, self.z, self.data, moves), np.float64)
