"""Is the lasso a MAP estimate, exact zeros included?

Laplace priors on the coefficients, written as the loss terms that people use (`jm.l1`):

    |y - a - X b|^2 / (2 n) + alpha |b|_1          scikit-learn's Lasso(alpha): log prices of houses in Ames,
    sum log(1 + exp(-y (a + X b))) + |b|_1 / C     its LogisticRegression(C): Parkinson's disease from 751 properties
                                                   of the speech of 252 people, more columns than rows.

The minimisers must be the same coefficients and the same zeros. (In the second, liblinear counts the intercept among
the penalised coefficients; so does the prior here.)

    python -m experiments.lasso_is_a_laplace_prior          # needs the reference data beside the repository
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxmap as jm
from experiments.record import Record, color, command, panels
from experiments.ridge_is_a_gaussian_prior import COLUMNS


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    data: str = "../shared/data/tabular/pd_speech.npz"
    alphas: tuple[float, ...] = (0.3, 0.1, 0.03, 0.01)  # of the lasso on houses
    strengths: tuple[float, ...] = (30.0, 20.0, 15.0, 10.0)  # 1 / C of the logistic regression on speech
    people: int = 252  # of the speech, from the first
    columns: int = 751  # of it, from the first
    noise: float = 0.4  # of the houses


TINY = {"alphas": (0.1,), "strengths": (4.0,), "people": 50, "columns": 60}
"""What the tests run."""


def linear(params: Any, x: Any) -> Any:
    """One output per example."""
    return x @ params["kernel"] + params["bias"]


def zeros(columns: int) -> Any:
    """Make `init(key)`: all coefficients zero."""
    return lambda key: {"kernel": jnp.zeros(columns), "bias": jnp.zeros(())}


def standardized(x: np.ndarray) -> np.ndarray:
    """Mean 0, deviation 1, by column."""
    return (x - x.mean(0)) / x.std(0)


def fitted(model: jm.Model, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, str]:
    """The MAP coefficients, the intercept last, and the status."""
    fit = jm.fit(jax.random.key(0), model, (x, y), jm.MAP(), precision="float64")
    return np.append(fit.mode["kernel"], fit.mode["bias"]), fit.info.status.name


def row_of(problem: str, strength: float, found: np.ndarray, status: str, exact: np.ndarray) -> dict[str, Any]:
    """Compare coefficients and zeros with those of scikit-learn."""
    same = np.array_equal(found == 0, exact == 0)
    return (
        {"problem": problem, "strength": strength, "coefficients": len(found) - 1}
        | {"not zero": int(np.sum(found[:-1] != 0)), "not zero, exact": int(np.sum(exact[:-1] != 0))}
        | {"same zeros": same, "largest": float(np.max(np.abs(found)))}
        | {"largest difference": float(np.max(np.abs(found - exact))), "status": status}
    )


def lasso(x: np.ndarray, y: np.ndarray, alpha: float, noise: float) -> tuple[np.ndarray, str, np.ndarray]:
    """By jaxmap and by scikit-learn; the intercept is free."""
    from sklearn.linear_model import Lasso

    penalty = jm.l1(alpha, per="mean", num_examples=len(x), loss="half_mse", noise_scale=noise)
    prior = jm.Prior({"kernel": penalty, "bias": jm.flat})
    model = jm.supervised((zeros(x.shape[1]), linear), jm.Gaussian(scale=noise), prior)
    theirs = Lasso(alpha=alpha, tol=1e-14, max_iter=100_000).fit(x, y)
    return *fitted(model, x, y), np.append(theirs.coef_, theirs.intercept_)


def logistic(x: np.ndarray, y: np.ndarray, strength: float) -> tuple[np.ndarray, str, np.ndarray]:
    """By jaxmap and by scikit-learn's liblinear."""
    from sklearn.linear_model import LogisticRegression

    model = jm.supervised((zeros(x.shape[1]), linear), jm.Bernoulli(), jm.l1(strength))
    # l1_ratio alone means the L1 penalty from scikit-learn 1.8 on
    theirs = LogisticRegression(l1_ratio=1.0, C=1 / strength, solver="liblinear", tol=1e-10, max_iter=100_000)
    theirs.fit(x, y)
    return *fitted(model, x, y), np.append(theirs.coef_[0], theirs.intercept_)


def run(config: Config) -> Record:
    """Fit both problems at every strength, by both."""
    houses = jm.load_dataset("ames")
    x = standardized(houses.x[:, [houses.columns.index(name) for name in COLUMNS]])
    y = standardized(np.log(houses.y))
    table = np.load(config.data)
    speech, ill = standardized(table["X"][: config.people, : config.columns]), table["y"][: config.people].astype(int)
    rows, pairs = [], {"houses": [], "speech": []}
    for name, strengths in (("houses", config.alphas), ("speech", config.strengths)):
        for strength in strengths:
            args = lasso(x, y, strength, config.noise) if name == "houses" else logistic(speech, ill, strength)
            rows.append(row_of(name, strength, *args))
            pairs[name].append((args[0], args[2]))
    note = "'exact' is scikit-learn: Lasso for the houses, liblinear for the speech."
    return Record("The lasso as a MAP estimate", config, rows, lambda: draw(config, pairs), (note,))


def draw(config: Config, pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]]) -> Any:
    titles = ("House prices: Lasso", "Parkinson's from speech: L1 logistic regression")
    figure, axes = panels(*titles, height=4.0)
    strengths = {"houses": config.alphas, "speech": config.strengths}
    for axis, (name, fits) in zip(axes, pairs.items(), strict=True):
        for i, (strength, (found, exact)) in enumerate(zip(strengths[name], fits, strict=True)):
            label = f"{'alpha' if name == 'houses' else '1 / C'} = {strength:g}: {np.sum(found[:-1] != 0)} not zero"
            axis.plot(exact, found, "o", ms=8 - 1.5 * i, color=color(i), mfc="none", label=label)
        ends = [min(exact.min() for _, exact in fits), max(exact.max() for _, exact in fits)]
        axis.plot(ends, ends, color="#999999", lw=0.8, zorder=0)
        axis.set(xlabel="coefficient by scikit-learn", ylabel="MAP coefficient by jaxmap")
        axis.legend(fontsize=8, frameon=False)
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
