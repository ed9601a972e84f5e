"""Curvature in its own directions, and the moves along them that show whether it can be believed."""

from typing import Any, NamedTuple

from jaxmap.types import Status

STRIDE = 0.1
"""How far the density is walked along each axis, in posterior standard deviations."""

DECREMENT = 1e-2
"""Distance to the maximum, in posterior standard deviations, below which a point counts as the maximum."""


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


def near(decrement: float, rounding: float) -> Status:
    """CONVERGED within a hundredth of a standard deviation.

    Rounding z to the dtype of the fit moves it by up to eps |z|: no solver can do better than that. Where this is more
    than a tenth of a posterior standard deviation, the fit needs float64 and is not called converged.
    """
    close = decrement <= min(DECREMENT + rounding, 10 * DECREMENT)
    return Status.CONVERGED if close else Status.STEPS_EXHAUSTED
