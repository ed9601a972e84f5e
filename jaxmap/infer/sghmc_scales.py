"""What stochastic gradients tell of scales: coordinates, the length of a step, and the gradients' own noise."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.infer.nuts_frame import Frame
from jaxmap.infer.problem import Problem
from jaxmap.infer.sghmc_chains import Estimator, Tuning
from jaxmap.trees import shaper
from jaxmap.types import Key

PROBES = 16
"""Minibatches whose gradients are compared, for each chain."""

PRODUCTS = 12
"""Hessian-vector products that look for the largest curvature."""

LOOKED_AT = 1024
"""Examples in these products at most."""

STABLE = 0.7
"""The longest step, in units of the shortest width of the density; 2 is where it becomes unstable."""

HEAT = 0.3
"""The most that the gradients' noise may make up of the noise a step needs."""

LOUDER = 8.0
"""The most by which the noise may be corrected at a time."""

FLOOR = 1e-4
"""The least curvature of a coordinate, relative to the median."""


class Scales(NamedTuple):
    """Of one seed.

    Attributes:
        frame: the coordinates, float64.
        tuning: of the chains in it.
        gradients: spent.
    """

    frame: Frame
    tuning: Tuning
    gradients: float

    @property
    def forgetting(self) -> int:
        """Steps after which a direction of unit curvature has forgotten its place, by a factor of e.

        Of x'' = -x - gamma x' with gamma = -log(c) / h the slower rate, over h.
        """
        friction = -np.log(self.tuning.memory) / self.tuning.step
        rate = friction / 2 if friction < 2 else (friction - np.sqrt(friction**2 - 4)) / 2
        return int(np.ceil(1.0 / (rate * self.tuning.step)))

    def heard(self, kinetic: float, temperature: float, gain: float, *, fixed: bool) -> "Scales":
        """The same with the noise that the momenta betray, and a step that is short enough for it.

        Momenta into which q is injected for a noise n are in truth as warm as T + c^2 h^2 (v - n) / (1 - c^2), v the
        noise that there is. It is measured at the places of one moment, and where a fit is close it grows fast away
        from there.

        Args:
            kinetic: mean squared momentum over T.
            temperature: T.
            gain: the share of the difference that is believed.
            fixed: leave the step as it is.
        """
        h, c, noise = self.tuning
        if not np.any(noise > 0):
            return self
        unit = (1 - c**2) * temperature / (c * h) ** 2  # the noise that is as warm as T by itself
        told = np.mean(np.minimum(noise, unit)) + gain * (kinetic - 1) * unit
        noise = noise * np.clip(told / np.mean(noise), 1 / LOUDER, LOUDER)
        return self._replace(tuning=Tuning(h if fixed else min(h, _quiet(noise, temperature, c)), c, noise))


class Probed(NamedTuple):
    """Means over chains.

    Attributes:
        noise: variance of the estimated gradient of the log-likelihood of a probing batch, (P,).
        of_prior: the diagonal of minus the prior's Hessian where priors are independent, (P,).
    """

    noise: Any
    of_prior: Any


def measure(
    key: Key, problem: Problem, z: np.ndarray, size: int | None, temperature: float, momentum: float, step: float | None
) -> Scales:
    """Scales from gradients at the places of the chains.

    A coordinate's curvature is taken as its Fisher information, N Var over examples of d log p, plus the prior's; the
    frame makes it one. The step is the longest that is stable for the largest eigenvalue of the Hessian there, and
    that lets the gradients' noise make up at most a share `HEAT` of what is injected.

    Args:
        key: for the batches.
        problem: model and data.
        z: places, (chains, P).
        size: examples per step; None: all.
        temperature: T.
        momentum: c.
        step: the user's step; None: chosen.
    """
    n, estimator = problem.num_examples, Estimator.of(problem)
    probing = size or max(1, n // PROBES)
    places = jnp.asarray(z, problem.dtype)
    found = _probe(estimator, probing, key, places, problem)
    if not np.all(np.isfinite(found.noise + found.of_prior)):  # the chains are nowhere; their steps will say so
        found = Probed(np.ones(z.shape[1]), np.ones(z.shape[1]))
    curvature = found.noise * probing / n + np.maximum(found.of_prior, 0.0)
    root = np.maximum(curvature, FLOOR * np.median(curvature) + np.finfo(float).tiny) ** -0.5
    noise = np.zeros_like(root) if size is None else found.noise * root**2
    rows = None if n <= LOOKED_AT else estimator.rows(key, LOOKED_AT)
    if step is None:
        steepest = _steepest(estimator, key, places, jnp.asarray(root, problem.dtype), rows, problem)
        step = float(min(STABLE / np.sqrt(steepest), _quiet(noise, temperature, momentum)))
    spent = len(z) * (PROBES * probing + 3.0 * PRODUCTS * min(n, LOOKED_AT)) / n
    return Scales(Frame(z.mean(axis=0), root), Tuning(step, momentum, noise), spent)


def _quiet(noise: np.ndarray, temperature: float, momentum: float) -> float:
    """The longest step whose gradients' noise is no more than its share."""
    hot = momentum**2 * np.quantile(noise, 0.95)
    return float(np.sqrt(HEAT * (1 - momentum**2) * temperature / hot)) if hot > 0 else np.inf


def _probe(estimator: Estimator, size: int, key: Key, places: Any, problem: Problem) -> Probed:
    density = estimator.density
    shaped = shaper(density.model.start_unconstrained(problem.dtype))

    def of_chain(z: Any, key: Key, data: Any) -> Probed:
        def likelihood(z: Any, rows: Any) -> Any:
            return estimator(z, data, rows) - density.log_prior(shaped(z))

        slopes = jax.lax.map(lambda k: jax.grad(likelihood)(z, estimator.rows(k, size)), jax.random.split(key, PROBES))
        of_prior = jax.jvp(jax.grad(lambda v: -density.log_prior(shaped(v))), (z,), (jnp.ones_like(z),))[1]
        return Probed(jnp.var(slopes, axis=0, ddof=1), of_prior)

    def probe(places: Any, key: Key, data: Any) -> Probed:
        keys = jax.random.split(key, len(places))
        found = jax.lax.map(lambda one: of_chain(one[0], one[1], data), (places, keys))
        return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), found)

    program = problem.model.programs.jitted(("probe", estimator, size), probe)
    return Probed(*(np.asarray(leaf, np.float64) for leaf in program(places, key, problem.data)))


def _steepest(estimator: Estimator, key: Key, places: Any, root: Any, rows: Any, problem: Problem) -> float:
    """The largest absolute eigenvalue of the Hessian in the frame over all places, by power iteration."""

    def of_chain(z: Any, key: Key, root: Any, rows: Any, data: Any) -> Any:
        def product(v: Any) -> Any:
            return root * jax.jvp(jax.grad(lambda z: estimator(z, data, rows)), (z,), (root * v,))[1]

        def sharpen(_: Any, carry: Any) -> Any:
            v, _ = carry
            image = product(v)
            length = jnp.linalg.norm(image)
            return image / jnp.maximum(length, jnp.finfo(image.dtype).tiny), length

        start = jax.random.normal(key, z.shape, z.dtype)
        return jax.lax.fori_loop(0, PRODUCTS, sharpen, (start / jnp.linalg.norm(start), jnp.zeros((), z.dtype)))[1]

    def steepest(places: Any, key: Key, root: Any, rows: Any, data: Any) -> Any:
        keys = jax.random.split(key, len(places))
        return jnp.max(jax.lax.map(lambda one: of_chain(one[0], one[1], root, rows, data), (places, keys)))

    program = problem.model.programs.jitted(("steepest", estimator), steepest)
    return float(program(places, key, root, rows, problem.data))
