"""Four jobs of logistic regression, with the best objectives known for them.

A job is a list of problems: minimise sum_i w_i (log(1 + exp(x_i b)) - y_i x_i b) + strength * penalty(b), without an
intercept, the penalty |b|^2 / 2 or sum |b|. An answer is good where its objective is within 1e-9 per example of the
best.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, xlogy
from threadpoolctl import threadpool_limits

SEED = 20260101
GOOD = 1e-9
"""The largest excess of an objective over the best known one, per example."""


@dataclass(frozen=True)
class Job:
    """Problems that share x and y.

    Attributes:
        name: of the job.
        x, y: features (C order) and outcomes 0 or 1.
        l1: the penalty is sum |b|; otherwise |b|^2 / 2.
        strengths: one per problem.
        weights: examples' weights, one row per problem; None: ones.
        best: the best objectives known.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    l1: bool
    strengths: np.ndarray
    weights: np.ndarray | None
    best: np.ndarray

    def __len__(self) -> int:
        return len(self.strengths)

    def excess(self, i: int, b: np.ndarray) -> float:
        """How much higher than the best the objective of problem i is, per example."""
        weights = 1.0 if self.weights is None else self.weights[i]
        value = objective(self.x, self.y, b, self.strengths[i], self.l1, weights)
        return float(value - self.best[i]) / len(self.y)

    def worst_excess(self, found: np.ndarray) -> float:
        """The largest of all problems."""
        return max(self.excess(i, b) for i, b in enumerate(found))


def make_job(name: str, scale: float = 1.0) -> Job:
    """Simulate one of the jobs.

    Args:
        name: "single", "path", "l1_path" or "bootstrap".
        scale: of the numbers of examples and problems.
    """
    rng = np.random.default_rng(SEED)
    n, d = (500, 10) if name == "bootstrap" else (int(20000 * scale), 50)
    x, y = simulate(rng, n, d)
    largest = np.abs(x.T @ (y - 0.5)).max()  # from here on all coefficients of the L1 path are zero
    count = max(3, int(100 * scale))
    strengths = {"single": np.ones(1), "bootstrap": np.ones(10 * count)}.get(
        name, largest * np.geomspace(1.0, 1e-3, count)
    )
    weights = rng.multinomial(n, np.full(n, 1 / n), size=len(strengths)).astype(float) if name == "bootstrap" else None
    with threadpool_limits(1):  # more threads would only wait for each other where the processors are busy
        best = l1_bests(x, y, strengths) if name == "l1_path" else ridge_bests(x, y, strengths, weights)
    return Job(name, x, y, name == "l1_path", strengths, weights, np.array(best))


def simulate(rng: np.random.Generator, n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian features with correlations 0.5^|i-j|, coefficients N(0, 0.2^2)."""
    correlation = 0.5 ** np.abs(np.subtract.outer(np.arange(d), np.arange(d)))
    x = rng.standard_normal((n, d)) @ np.linalg.cholesky(correlation).T
    y = rng.random(n) < expit(x @ rng.normal(0.0, 0.2, d))
    return x, y.astype(float)


def objective(x: np.ndarray, y: np.ndarray, b: np.ndarray, strength: float, l1: bool, weights: object = 1.0) -> float:
    """What is minimised."""
    outputs = x @ b
    penalty = np.abs(b).sum() if l1 else b @ b / 2
    return float(np.sum(weights * (np.logaddexp(0.0, outputs) - y * outputs)) + strength * penalty)


def ridge_bests(x: np.ndarray, y: np.ndarray, strengths: np.ndarray, weights: np.ndarray | None) -> list[float]:
    """The optimal values of ridge problems."""
    rows = [np.ones(len(y))] * len(strengths) if weights is None else weights
    return [objective(x, y, ridge(x, y, s, w), s, False, w) for s, w in zip(strengths, rows, strict=True)]


def ridge(x: np.ndarray, y: np.ndarray, strength: float, weights: np.ndarray) -> np.ndarray:
    """Newton's method until nothing moves."""
    b = np.zeros(x.shape[1])
    for _ in range(50):
        p = expit(x @ b)
        gradient = x.T @ (weights * (p - y)) + strength * b
        curvature = (x.T * (weights * p * (1 - p))) @ x + strength * np.eye(len(b))
        move = np.linalg.solve(curvature, gradient)
        b = b - move
        if np.abs(move).max() < 1e-12:
            break
    return b


def l1_bests(x: np.ndarray, y: np.ndarray, strengths: np.ndarray) -> list[float]:
    """The optimal values of the L1 path, by Newton's method on an active set; the duality gap certifies each."""
    b, bests = np.zeros(x.shape[1]), []
    for strength in strengths:
        b = l1_active_set(x, y, strength, b)
        gap = l1_gap(x, y, strength, b)
        assert gap < GOOD * len(y) / 10, f"no certified optimum at strength {strength}: gap {gap}"
        bests.append(objective(x, y, b, strength, True))
    return bests


def l1_active_set(x: np.ndarray, y: np.ndarray, strength: float, b: np.ndarray) -> np.ndarray:
    """Let coefficients in whose gradient exceeds the strength; put out those that change sign."""
    signs = np.sign(b)
    for _ in range(500):
        gradient = x.T @ (expit(x @ b) - y)
        free = np.abs(gradient) * (signs == 0)
        on = signs != 0
        slope = gradient[on] + strength * signs[on]
        if np.abs(slope).max(initial=0.0) < 1e-7:
            if free.max() <= strength * (1 + 1e-12):
                return b
            signs[free.argmax()] = -np.sign(gradient[free.argmax()])
            continue
        p = expit(x[:, on] @ b[on])
        move = np.linalg.solve((x[:, on].T * (p * (1 - p))) @ x[:, on], slope)
        new = b.copy()
        new[on] -= move
        crossed = on & (np.sign(new) * signs < 0)
        fresh = crossed & (b == 0)  # it came in along its own gradient and cannot cross at once
        step = np.min(b[crossed & ~fresh] / (b - new)[crossed & ~fresh], initial=1.0)
        b = b + step * (new - b)
        if step < 1:
            out = on & (np.abs(b) < 1e-14)
            b[out], signs[out] = 0.0, 0.0
    return b


def l1_gap(x: np.ndarray, y: np.ndarray, strength: float, b: np.ndarray) -> float:
    """The objective minus that of a feasible dual point: no answer is better by more than this."""
    residual = y - expit(x @ b)
    u = residual * min(1.0, strength / np.abs(x.T @ residual).max())
    dual = -np.sum(xlogy(y - u, y - u) + xlogy(1 - y + u, 1 - y + u))
    return objective(x, y, b, strength, True) - float(dual)
