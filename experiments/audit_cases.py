"""Cases for the audit: small models of many kinds, each with training data and a large test set of the same truth."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import jaxmap as jm

TEST = 4000
"""Simulated test examples."""


@dataclass(frozen=True)
class Case:
    """One kind of model at one size; replicates differ by their truth and data.

    Attributes:
        name: of the case.
        family: of models.
        n: training examples.
        draw: seed -> (train, test), each (x, y).
        build: train -> model.
    """

    name: str
    family: str
    n: int
    draw: Callable[[int], tuple[Any, Any]]
    build: Callable[[Any], jm.Model]


def linear(n: int, d: int, prior: float, noise: float = 1.0) -> Case:
    """y = x'b + noise, b ~ N(0, 1): the prior N(0, prior^2) is right at 1."""

    def draw(seed: int) -> tuple[Any, Any]:
        rng = np.random.default_rng([1, seed, n, d])
        b = rng.normal(size=d)
        return tuple((x, x @ b + noise * rng.normal(size=len(x))) for x in _inputs(rng, n, d))  # type: ignore[return-value]

    return Case(f"linear n={n} d={d} prior={prior:g}", "linear", n, draw, lambda _: _glm(d, LINEAR, prior))


def logistic(n: int, d: int, prior: float) -> Case:
    """Binary y with logit 1.5 x'b / sqrt(d)."""

    def draw(seed: int) -> tuple[Any, Any]:
        rng = np.random.default_rng([2, seed, n, d])
        b = 1.5 * rng.normal(size=d) / np.sqrt(d)
        return tuple((x, (rng.random(len(x)) < 1 / (1 + np.exp(-x @ b))).astype(int)) for x in _inputs(rng, n, d))  # type: ignore[return-value]

    return Case(f"logistic n={n} d={d} prior={prior:g}", "generalised linear", n, draw, _of(d, jm.Bernoulli(), prior))


def poisson(n: int, d: int, prior: float, dispersion: float = 0.0) -> Case:
    """Counts with log mean 0.5 + 0.5 x'b / sqrt(d); with dispersion the likelihood of the model is wrong."""

    def draw(seed: int) -> tuple[Any, Any]:
        rng = np.random.default_rng([3, seed, n, d])
        b = rng.normal(size=d) / np.sqrt(d)

        def counts(x: np.ndarray) -> np.ndarray:
            rate = np.exp(0.5 + 0.5 * x @ b)
            rate = rate * rng.gamma(1 / dispersion, dispersion, len(x)) if dispersion else rate
            return rng.poisson(rate)

        return tuple((x, counts(x)) for x in _inputs(rng, n, d))  # type: ignore[return-value]

    wrong = f" dispersion={dispersion:g}" if dispersion else ""
    name = f"Poisson n={n} d={d} prior={prior:g}{wrong}"
    return Case(name, "generalised linear", n, draw, _of(d, jm.Poisson(), prior))


def groups(count: int, each: int, spread: float, centered: bool = False) -> Case:
    """Means of groups, N(mu, tau^2), seen `each` times with noise sigma = 1; new examples of the same groups."""

    def draw(seed: int) -> tuple[Any, Any]:
        rng = np.random.default_rng([4, seed, count, each])
        means = 1.0 + spread * rng.normal(size=count)
        g = np.repeat(np.arange(count), each)
        h = rng.integers(0, count, TEST)
        return (g, means[g] + rng.normal(size=len(g))), (h, means[h] + rng.normal(size=TEST))

    def build(_: Any) -> jm.Model:
        def observe(params: Any, x: Any) -> Any:
            means = params["means"] if centered else params["mu"] + params["tau"] * params["z"]
            return dist.Normal(means[x], params["sigma"])

        own: Any = lambda params: dist.Normal(params["mu"], params["tau"])
        prior = {"mu": dist.Normal(0.0, 5.0), "tau": dist.HalfNormal(2.0), "sigma": dist.HalfNormal(2.0)}
        prior |= {"means": own} if centered else {"z": dist.Normal(0.0, 1.0)}
        effects = {"means" if centered else "z": jnp.zeros(count)}
        init = {"mu": 0.0, "tau": 1.0, "sigma": 1.0} | effects
        return jm.Model(observe=observe, log_prior=jm.Prior(prior), init=init)

    kind = "centered " if centered else ""
    return Case(f"{kind}groups {count}x{each} tau={spread:g}", "hierarchical", count * each, draw, build)


def mixture(n: int, apart: float) -> Case:
    """y from two Gaussians, `apart` sds of each from one another, weights 0.3 and 0.7; x says nothing."""

    def draw(seed: int) -> tuple[Any, Any]:
        rng = np.random.default_rng([5, seed, n])

        def some(m: int) -> tuple[Any, Any]:
            return np.zeros((m, 1)), np.where(rng.random(m) < 0.3, 0.0, apart) + rng.normal(size=m)

        return some(n), some(TEST)

    def build(_: Any) -> jm.Model:
        def observe(params: Any, x: Any) -> Any:
            parts = dist.Normal(params["means"][None].repeat(len(x), 0), params["scale"])
            weights = jnp.stack([params["weight"], 1 - params["weight"]])[None].repeat(len(x), 0)
            return dist.MixtureSameFamily(dist.Categorical(probs=weights), parts)

        prior = {"means": dist.Normal(0.0, 5.0), "scale": dist.HalfNormal(2.0), "weight": dist.Beta(2.0, 2.0)}
        init = {"means": jnp.array([0.0, 1.0]), "scale": 1.0, "weight": 0.5}
        return jm.Model(observe=observe, log_prior=jm.Prior(prior), init=init)

    return Case(f"mixture n={n} apart={apart:g}", "mixture", n, draw, build)


def network(n: int, width: int, prior: float = 1.0, noise: float = 0.3) -> Case:
    """y = sin(2 x1) + x1 x2 / 2 + noise, by a tanh network."""

    def draw(seed: int) -> tuple[Any, Any]:
        rng = np.random.default_rng([6, seed, n])

        def some(x: np.ndarray) -> tuple[Any, Any]:
            return x, np.sin(2 * x[:, 0]) + x[:, 0] * x[:, 1] / 2 + noise * rng.normal(size=len(x))

        return tuple(some(x) for x in _inputs(rng, n, 2))  # type: ignore[return-value]

    return Case(f"network n={n} width={width} prior={prior:g}", "network", n, draw, _perceptron(2, width, prior))


def real(folder: str, name: str, n: int, width: int = 0) -> Case:
    """n rows of a UCI data set, tested on up to 4000 of the others; width 0 is a linear model."""

    def draw(seed: int) -> tuple[Any, Any]:
        table = np.load(Path(folder) / f"{name}.npz")
        x, y = table["X"].astype(float), table["y"].astype(float)
        order = np.random.default_rng([7, seed, n]).permutation(len(y))
        train, test = order[:n], order[n : n + TEST]
        moved = x.std(axis=0) > 0
        x = (x[:, moved] - x[train][:, moved].mean(0)) / x[train][:, moved].std(0).clip(1e-9)
        y = (y - y[train].mean()) / y[train].std()
        return (x[train], y[train]), (x[test], y[test])

    def build(train: Any) -> jm.Model:
        d = train[0].shape[1]
        return _glm(d, LINEAR, 1.0) if not width else _perceptron(d, width, 1.0)(train)

    kind = f"width={width}" if width else "linear"
    return Case(f"{name} n={n} {kind}", "network" if width else "linear", n, draw, build)


LINEAR = jm.Gaussian(scale=jm.Learned(dist.HalfNormal(2.0)))
"""Noise of unknown scale."""


def _inputs(rng: np.random.Generator, n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(n, d)), rng.normal(size=(TEST, d))


def _glm(d: int, likelihood: Any, prior: float) -> jm.Model:
    pair: Any = (
        lambda key: {"b": jnp.zeros(d), "intercept": jnp.zeros(())},
        lambda params, x: x @ params["b"] + params["intercept"],
    )
    return jm.supervised(pair, likelihood, jm.Prior(dist.Normal(0.0, prior)))


def _of(d: int, likelihood: Any, prior: float) -> Callable[[Any], jm.Model]:
    return lambda _: _glm(d, likelihood, prior)


def _perceptron(d: int, width: int, prior: float) -> Callable[[Any], jm.Model]:
    def init(key: Any) -> Any:
        first, last = jax.random.split(key)
        return {
            "in": {"kernel": jax.random.normal(first, (d, width)) / np.sqrt(d), "bias": jnp.zeros(width)},
            "out": {"kernel": jax.random.normal(last, (width, 1)) / np.sqrt(width), "bias": jnp.zeros(1)},
        }

    def apply(params: Any, x: Any) -> Any:
        hidden = jnp.tanh(x @ params["in"]["kernel"] + params["in"]["bias"][None])
        return hidden @ params["out"]["kernel"] + params["out"]["bias"][None]

    return lambda _: jm.supervised((init, apply), LINEAR, jm.Prior(dist.Normal(0.0, prior)))


def all_cases(folder: str) -> list[Case]:
    """The cases, in an order in which every other one is of the same kinds."""
    cases = [linear(n, d, p) for n, d, p in ((10, 1, 1), (20, 5, 1), (60, 5, 10), (60, 20, 0.1), (200, 20, 1))]
    cases += [linear(n, d, p) for n, d, p in ((30, 20, 10), (1000, 5, 0.05), (10_000, 50, 1))]
    cases += [logistic(n, d, p) for n, d, p in ((30, 2, 1), (30, 5, 10), (100, 20, 1), (100, 5, 0.2))]
    cases += [logistic(n, d, p) for n, d, p in ((1000, 20, 10), (10_000, 5, 1))]
    cases += [poisson(n, d, p) for n, d, p in ((20, 2, 1), (50, 10, 1), (50, 10, 10), (500, 10, 0.2))]
    cases += [poisson(100, 5, 1, 0.5), poisson(2000, 5, 1, 0.5)]
    cases += [groups(8, 2, 1.0), groups(8, 2, 0.1), groups(20, 5, 1.0), groups(30, 30, 0.5)]
    cases += [groups(8, 4, 1.0, True), groups(20, 20, 1.0, True)]
    cases += [mixture(n, a) for n, a in ((20, 3), (50, 1.5), (200, 3), (1000, 4))]
    cases += [network(n, w, p) for n, w, p in ((30, 5, 1), (100, 10, 1), (100, 5, 3), (400, 10, 1), (1000, 5, 1))]
    reals = [("concrete", 100, 0), ("power-plant", 50, 0), ("kin8nm", 200, 8), ("airfoil", 300, 8)]
    reals += [("protein-tertiary-structure", 40, 0), ("wine-quality-red", 400, 0)]
    return cases + ([real(folder, *r) for r in reals] if Path(folder).exists() else [])
