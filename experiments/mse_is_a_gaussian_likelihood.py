"""Which model is fitted by the mean squared error?

y ~ N(f(x), sigma^2) has, per example and for any parameters,

    log p(y | x) = -squared_error / (2 sigma^2) - log(sigma sqrt(2 pi)) = -l2_loss / sigma^2 - log(sigma sqrt(2 pi)),

squared_error and l2_loss as optax defines them (the second is half the first). The constants do not depend on the
parameters: training on either loss, by whatever loop, finds the maximum-likelihood estimate, for every sigma. Here
the strength of concrete is a linear function of its eight ingredients; the loop is optax's Adam on optax's loss.

    python -m experiments.mse_is_a_gaussian_likelihood
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxmap as jm
from experiments.record import Record, command, panels


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    noises: tuple[float, ...] = (0.3, 1.0, 3.0)  # sigma, in deviations of the strength
    steps: int = 2000  # of the training loop
    seed: int = 0


TINY = {"noises": (0.3,)}
"""What the tests run."""


def train(loss: Callable[[Any], Any], params: Any, steps: int) -> tuple[Any, np.ndarray]:
    """Minimise a loss by Adam, in a loop that knows nothing of jaxmap: the parameters, the losses seen."""
    solver = optax.adam(optax.cosine_decay_schedule(0.1, steps))

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = solver.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, _), losses = jax.jit(lambda p: jax.lax.scan(step, (p, solver.init(p)), length=steps))(params)
    return jax.tree.map(np.asarray, params), np.asarray(losses)


def start(key: Any = None) -> Any:
    """Where both begin, whatever the key."""
    return {"kernel": jnp.zeros(8), "bias": jnp.zeros(())}


def linear(params: Any, x: Any) -> Any:
    """The network of this experiment."""
    return x @ params["kernel"] + params["bias"]


def concrete() -> tuple[np.ndarray, np.ndarray]:
    """Ingredients and strength, standardised."""
    data = jm.load_dataset("concrete")
    x, y = ((v - v.mean(0)) / v.std(0) for v in (data.x, data.y))
    return x, y


def run(config: Config) -> Record:
    """Compare loss and likelihood example by example at random parameters, then the two minimisers."""
    x, y = concrete()
    rng = np.random.default_rng(config.seed)
    random = {"kernel": rng.normal(size=8), "bias": rng.normal(size=())}
    with jax.enable_x64(True):
        trained, losses = train(lambda p: jnp.mean(optax.squared_error(linear(p, x), y)), start(), config.steps)
        square, half = (np.asarray(loss(linear(random, x), y)) for loss in (optax.squared_error, optax.l2_loss))
    rows, likelihoods, pairs = [], {}, list[Any]()
    for sigma in config.noises:
        model = jm.supervised((start, linear), jm.Gaussian(scale=sigma))
        fit = jm.fit(jax.random.key(config.seed), model, (x, y), jm.MLE(), precision="float64")
        with jax.enable_x64(True):
            likelihoods[sigma] = np.asarray(model.log_likelihood(random, (x, y)))
        constant = -np.log(sigma * np.sqrt(2 * np.pi))
        pairs = [(trained[name], fit.mode[name]) for name in trained]
        rows.append(
            {"sigma": sigma, "constant": float(constant)}
            | {"off, squared_error": float(np.max(np.abs(likelihoods[sigma] + square / (2 * sigma**2) - constant)))}
            | {"off, l2_loss": float(np.max(np.abs(likelihoods[sigma] + half / sigma**2 - constant)))}
            | {"mean log p": fit.info.log_likelihood / len(y)}
            | {"mean log p, exact": float(constant - losses.min() / (2 * sigma**2))}
            | {"MLE - trained": max(float(np.max(np.abs(a - b))) for a, b in pairs)}
        )
    note = "'off': largest distance of any example's log p from the formula; 'exact': from the loss after training."
    return Record("Concrete strength by squared error", config, rows, lambda: draw(square, likelihoods, pairs), (note,))


def draw(square: np.ndarray, likelihoods: dict[float, np.ndarray], pairs: list[tuple[Any, Any]]) -> Any:
    figure, (left, right) = panels("Each example at random parameters", "Parameters: trained on the loss, and MLE")
    grid = np.linspace(0, 10, 2)
    shown = square < grid[-1]
    for sigma, values in likelihoods.items():
        (line,) = left.plot(square[shown], values[shown], "o", ms=2.5, label=f"sigma = {sigma:g}")
        law = -grid / (2 * sigma**2) - np.log(sigma * np.sqrt(2 * np.pi))
        left.plot(grid, law, color=line.get_color(), lw=0.9)
    left.set(xlabel="optax.squared_error", ylabel="log p(y | x) (nats)", ylim=(-12, 1))
    left.legend(fontsize=8, frameon=False, title="dots: jaxmap, lines: formula", title_fontsize=8)
    agreement(right, {"eight coefficients and an intercept": pairs})
    return figure


def agreement(axis: Any, groups: dict[str, list[tuple[Any, Any]]]) -> None:
    """Trained parameters against those of jaxmap, one marker per group, on the line where they are equal."""
    for (name, pairs), marker in zip(groups.items(), "os", strict=False):
        trained, mle = (np.concatenate([np.ravel(pair[i]) for pair in pairs]) for i in (0, 1))
        axis.plot(trained, mle, marker, ms=5, mfc="none", label=f"{name}, off by {np.max(np.abs(trained - mle)):.0e}")
    axis.axline((0, 0), slope=1, color="#999999", lw=0.8, zorder=0)
    axis.set(xlabel="minimiser found by optax.adam on the loss", ylabel="jm.MLE()")
    axis.legend(fontsize=8, frameon=False)


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
