"""Slow, obvious truth, in float64 numpy: what every fast version is compared with."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np


class LinearGaussian(NamedTuple):
    """The posterior N(mean, covariance) of a linear model with Gaussian prior and noise, and log p(y)."""

    mean: np.ndarray
    covariance: np.ndarray
    log_evidence: float


def log_normal_density(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    """log N(x | mean, covariance), by determinant and inverse."""
    _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
    return float(-0.5 * log_det - 0.5 * (x - mean) @ np.linalg.solve(covariance, x - mean))


def linear_gaussian(
    design: np.ndarray, y: np.ndarray, prior_mean: np.ndarray, prior_covariance: np.ndarray, noise: float
) -> LinearGaussian:
    """Condition b ~ N(m, S) on y = X b + e, e ~ N(0, noise^2).

    A prior is data: rows S^-1/2 b = S^-1/2 m beside the rows X b / noise = y / noise, and the posterior is the least
    squares solution with its covariance, here by singular values. The evidence is the density of y under
    N(X m, X S X' + noise^2 I), which knows of no posterior.
    """
    root = np.linalg.inv(np.linalg.cholesky(prior_covariance))
    rows = np.concatenate([design / noise, root])
    left, values, right = np.linalg.svd(rows, full_matrices=False)
    mean = right.T @ (left.T @ np.concatenate([y / noise, root @ prior_mean]) / values)
    covariance = (right.T / values**2) @ right
    of_y = design @ prior_covariance @ design.T + noise**2 * np.eye(len(y))
    return LinearGaussian(mean, (covariance + covariance.T) / 2, log_normal_density(y, design @ prior_mean, of_y))


def predictive(posterior: LinearGaussian, design: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of new y, entry by entry, at new rows of the design."""
    mean = np.array([row @ posterior.mean for row in design])
    variance = np.array([row @ posterior.covariance @ row + noise**2 for row in design])
    return mean, variance


def least_squares(design: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The maximum-likelihood estimate, by the normal equations' QR."""
    return np.linalg.lstsq(design, y, rcond=None)[0]


def gradient(function: Callable[[np.ndarray], float], z: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """First derivatives by central differences of fourth order, relative to the size of each coordinate."""
    found = np.zeros(len(z))
    for i, h in enumerate(step * np.maximum(1.0, np.abs(z))):
        e = np.zeros(len(z))
        e[i] = h
        near, far = function(z + e) - function(z - e), function(z + 2 * e) - function(z - 2 * e)
        found[i] = (8 * near - far) / (12 * h)
    return found


def jacobian(function: Callable[[np.ndarray], np.ndarray], z: np.ndarray, step: float = 1e-4) -> np.ndarray:
    """Rows of first derivatives of a vector function, by central differences of fourth order."""
    columns = []
    for i in range(len(z)):
        e = np.zeros(len(z))
        e[i] = step
        near, far = function(z + e) - function(z - e), function(z + 2 * e) - function(z - 2 * e)
        columns.append((8 * near - far) / (12 * step))
    return np.stack(columns, axis=1)


def hessian(function: Callable[[np.ndarray], float], z: np.ndarray, step: float = 1e-3) -> np.ndarray:
    """Second derivatives by central differences of central differences."""
    return jacobian(lambda v: gradient(function, v, step), z, step)


def fisher(log_prob: Callable[[np.ndarray, np.ndarray], np.ndarray], u: np.ndarray, y: np.ndarray, weights: np.ndarray):
    """E[score score'] at u, the score by differences, the expectation a sum over y.

    Args:
        log_prob: (u, y) -> log p(y | u) for all y at once.
        u: what the distribution depends on, (k,).
        y: a grid, all values of a count or quadrature points.
        weights: of the quadrature; ones for counts.
    """
    score = jacobian(lambda v: log_prob(v, y), u)
    mass = np.exp(log_prob(u, y)) * weights
    total = np.zeros((len(u), len(u)))
    for row, m in zip(score, mass, strict=True):
        total += m * np.outer(row, row)
    return total


def ggn(outputs: Callable[[np.ndarray, int], np.ndarray], curvature: Callable[[np.ndarray, int], np.ndarray],
        z: np.ndarray, examples: int) -> np.ndarray:  # fmt: skip
    """Sum J' L J, one example after the other.

    Args:
        outputs: (z, i) -> u of example i, (k,): network outputs and learned likelihood parameters.
        curvature: (u, i) -> L of example i, (k, k).
        z: where.
        examples: how many there are.
    """
    total = np.zeros((len(z), len(z)))
    for i in range(examples):
        j = jacobian(lambda v, i=i: outputs(v, i), z)
        total += j.T @ curvature(outputs(z, i), i) @ j
    return total


def real_line(center: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of a quadrature over the real line, good for heavy tails: y = center + scale sinh(s)."""
    s = np.linspace(-25.0, 25.0, 4001)
    return center + scale * np.sinh(s), scale * np.cosh(s) * (s[1] - s[0])


def half_line() -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of a quadrature over y > 0: y = exp(s)."""
    s = np.linspace(-40.0, 8.0, 8001)
    return np.exp(s), np.exp(s) * (s[1] - s[0])


def trust_region_minimum(matrix: np.ndarray, gradient: np.ndarray, radius: float) -> float:
    """The least g's + s'Hs/2 over |s| <= radius: the interior minimum, or the best of a fine search on the sphere.

    The sphere is searched in two dimensions by angle, in more by many projected-gradient descents.
    """

    def model(s: np.ndarray) -> np.ndarray:
        return s @ gradient + 0.5 * np.einsum("...i,ij,...j->...", s, matrix, s)

    found = []
    if np.linalg.eigvalsh(matrix)[0] > 0:
        inside = np.linalg.solve(matrix, -gradient)
        found += [model(inside)] if np.linalg.norm(inside) <= radius else []
    for s in _sphere(len(gradient), radius):
        step = 1.0 / (1e-12 + np.abs(np.linalg.eigvalsh(matrix)).max() * 2 + np.linalg.norm(gradient) / radius)
        for _ in range(2000):
            s = s - step * (gradient + s @ matrix)
            s = radius * s / np.linalg.norm(s, axis=1, keepdims=True)
        found.append(model(s).min())
    return float(min(found))


def _sphere(size: int, radius: float) -> Iterator[np.ndarray]:
    points = np.random.default_rng(0).normal(size=(200, size))
    yield radius * points / np.linalg.norm(points, axis=1, keepdims=True)
