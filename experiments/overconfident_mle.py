"""Is a network trained by maximum likelihood overconfident far from its data?

A relu network for scikit-learn's digits, pixels in [0, 1], trained by Adam on minibatches: without a prior (MLE), and
with N(0, tau^2) on every weight (MAP), tau of the highest log evidence of a Kronecker Laplace approximation of the
first split. Around the MAP estimate stand Laplace approximations with the Gauss-Newton matrix, which predict by the
linearised network; relu modes lie at kinks and get no certificate, so that they are forced. Confidence is the mean top
probability, and it is asked on inputs that are no digits of this kind:

    rotated     test digits turned by 90 degrees: strokes as in training, and some still look like a digit;
    permuted    test digits with one random order of the pixels: the same brightness, no strokes;
    noise       independent uniform pixels;
    alpha x     test digits times alpha, out along their rays, where the logits of a relu network grow linearly in
                alpha and its confidence tends to one (Hein, Andriushchenko and Bitterwolf, 2019). The deviation of a
                Gaussian's linearised logits grows as fast, and holds it back (Kristiadi, Hein and Hennig, 2020).

AUROC: how often an input of such a set has a higher predictive entropy than a test digit, ties counted half.

Three splits, five members: yes. MLE is calibrated on test images (98.1 % right, 98.7 % sure) and as sure of rotated
digits (99 %), 96 % of which get one and the same class. It is 92 % sure of noise, and at 10 x surer than of test
images, so that entropy tells the wrong way round (AUROC 0.02). The prior helps against noise (65 %), not along rays,
and five members hardly differ from one. The Kronecker Gaussian is unsure of what is no digit (AUROC 0.92, 1.00, 1.00,
and 0.63 at 10 x), at a price: it is underconfident on test images (98 % right, 76 % sure, NLL 0.31 against 0.08 of its
mode). The last layer alone lies between.

    python -m experiments.overconfident_mle
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
import optax
from flax import nnx
from scipy.special import entr
from scipy.stats import rankdata

import jaxmap as jm
from experiments.record import Record, color, command, panels
from jaxmap.infer.summary import Summary


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    widths: tuple[int, ...] = (50,)  # of the hidden layers
    scales: tuple[float, ...] = (0.5, 1.0, 2.0)  # tau, among which the evidence chooses
    alphas: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0)  # the first is the test set itself
    far: float = 10.0  # the alpha that is told from test digits by its entropy
    members: int = 5
    train: int = 1297
    steps: int = 3000
    batch_size: int = 128
    rate: float = 5e-3  # of Adam, decaying to zero along a cosine
    seeds: int = 3  # splits, starts and orders of minibatches


TINY = {"widths": (16,), "scales": (1.0,), "alphas": (1.0, 10.0), "members": 2, "steps": 400, "seeds": 1}
"""What the tests run."""

METHODS = ("MLE", "MAP", "Laplace, last layer", "Laplace, Kronecker", "Ensemble", "Ensemble of Laplace")
SETS = ("rotated", "permuted", "noise", "far")
SCORES = ("accuracy", "nll", "ece")
COMMONEST = "rotated, commonest class"
TEST = 500


def digits(seed: int, train: int) -> tuple[Any, Any]:
    """Training and test images of one split."""
    data = jm.load_dataset("digits")
    order = np.random.default_rng(seed).permutation(len(data.y))
    x, y = (data.x / 16)[order], data.y[order]
    return (x[:train], y[:train]), (x[-TEST:], y[-TEST:])


def inputs(x: np.ndarray, seed: int, config: Config) -> dict[str, np.ndarray]:
    """The test images, and from as many what lies off the data; rays by their alpha."""
    rng = np.random.default_rng(seed)
    turned = np.rot90(x.reshape(-1, 8, 8), axes=(1, 2)).reshape(x.shape)
    off = {"rotated": turned, "permuted": x[:, rng.permutation(64)], "noise": rng.uniform(size=x.shape)}
    return off | {ray(alpha): alpha * x for alpha in (*config.alphas, config.far)}


def ray(alpha: float) -> str:
    """The column of the confidence at alpha x."""
    return f"{alpha:g} x"


def make_model(widths: tuple[int, ...], scale: float) -> jm.Model:
    """A classifier of 64 pixels."""

    def network(rngs: nnx.Rngs) -> nnx.Module:
        pairs = itertools.pairwise((64, *widths, 10))
        layers = [part for a, b in pairs for part in (nnx.Linear(a, b, rngs=rngs), nnx.relu)]
        return nnx.Sequential(*layers[:-1])

    return jm.supervised(network, jm.Categorical(), jm.Prior(dist.Normal(0.0, scale)))


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """P(outside > inside) + P(outside = inside) / 2, by ranks (Mann and Whitney, 1947)."""
    ranks = rankdata(np.concatenate([inside, outside]))[len(inside) :]
    return float((ranks.mean() - (len(outside) + 1) / 2) / len(inside))


def around(key: Any, model: jm.Model, train: Any, point: Any, curvature: str = "kronecker") -> Any:
    """The Gaussian at a fitted point."""
    return jm.fit(key, model, train, jm.Laplace(point, curvature=curvature, grade=0, force=True))


def fit_all(key: Any, model: jm.Model, train: Any, options: dict[str, Any], members: int) -> list[Any]:
    """All `METHODS`; the MAP estimate is the first member of the ensemble, which has the same key."""
    mle = jm.fit(key, model, train, jm.MLE(**options))
    ensemble = jm.fit(key, model, train, jm.Ensemble(jm.MAP(**options), members=members))
    point = ensemble.members[0]
    gaussians = tuple(around(key, model, train, member) for member in ensemble.members)
    last = around(key, model, train, point, "last_layer")
    return [mle, point, last, gaussians[0], ensemble, replace(ensemble, members=gaussians)]


def measure(
    key: Any, model: jm.Model, posterior: Any, y: np.ndarray, sets: dict[str, np.ndarray], config: Config
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """One method on one split: its numbers, and the entropies of its predictions by set."""
    found = {name: jm.predict(key, model, posterior, x) for name, x in sets.items()}
    entropies = {name: entr(predictive.probs).sum(1) for name, predictive in found.items()}
    entropies["far"] = entropies[ray(config.far)]
    test = ray(config.alphas[0])
    scores = jm.score(found[test], y)
    row = {score: scores[score] for score in SCORES}
    row[COMMONEST] = float(np.bincount(found["rotated"].probs.argmax(1)).max() / len(y))
    row |= {name: float(predictive.probs.max(1).mean()) for name, predictive in found.items()}
    return row | {f"AUROC {name}": auroc(entropies[test], entropies[name]) for name in SETS}, entropies


def choose(config: Config, options: dict[str, Any]) -> tuple[jm.Model, str]:
    """The model whose prior has the highest evidence on the training images of the first split, and why."""
    models = [make_model(config.widths, scale) for scale in config.scales]
    if len(models) == 1:
        return models[0], f"Prior N(0, {config.scales[0]:g}^2), as given."
    key, (train, _) = jax.random.key(0), digits(0, config.train)
    points = [jm.fit(key, model, train, jm.MAP(**options)) for model in models]
    found = [around(key, model, train, point).log_evidence for model, point in zip(models, points, strict=True)]
    best = int(np.argmax(found))
    weighed = ", ".join(f"{value:.0f} at {tau:g}" for tau, value in zip(config.scales, found, strict=True))
    return models[best], f"Prior N(0, {config.scales[best]:g}^2), by the log evidence in nats: {weighed}."


def run(config: Config) -> Record:
    """Every method on every split."""
    solver = optax.adam(optax.cosine_decay_schedule(config.rate, config.steps))
    options = {"solver": solver, "steps": config.steps, "batch_size": config.batch_size}
    model, chosen = choose(config, options)
    measured: dict[str, list[Any]] = {method: [] for method in METHODS}
    for seed in range(config.seeds):
        key, (train, (x, y)) = jax.random.key(seed), digits(seed, config.train)
        sets = inputs(x, seed, config)
        for method, posterior in zip(METHODS, fit_all(key, model, train, options, config.members), strict=True):
            measured[method].append(measure(key, model, posterior, y, sets, config))
    rows = [{"method": method, **averaged([row for row, _ in found])} for method, found in measured.items()]
    entropies = {
        method: {name: np.concatenate([part[name] for _, part in found]) for name in found[0][1]}
        for method, found in measured.items()
    }
    title = f"Confidence of a digits network on {TEST} test images and off the data, {config.seeds} splits"
    notes = (chosen, *sentences(config, rows))
    return Record(title, config, rows, lambda: draw(config, rows, entropies), notes, tables(title, config, rows))


def averaged(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean and standard error of each column over splits; one split has no error."""
    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    root = np.sqrt(len(rows))
    errors = {f"{name} se": float(v.std(ddof=1) / root) if len(rows) > 1 else None for name, v in table.items()}
    return {name: float(v.mean()) for name, v in table.items()} | errors


def tables(title: str, config: Config, rows: list[dict[str, Any]]) -> str:
    """The scores on test images, confidences off the data, and how well entropy tells."""
    test, far = ray(config.alphas[0]), ray(config.far)
    parts = {
        title: {score: score for score in SCORES} | {"confidence": test},
        "Confidence off the data": {name: name for name in (*SETS[:3], far)},
        "AUROC of the entropy against test images": dict(
            zip((*SETS[:3], far), (f"AUROC {name}" for name in SETS), strict=True)
        ),
    }
    made = []
    for head, columns in parts.items():
        lines = tuple({"method": row["method"]} | {k: cell(row, name) for k, name in columns.items()} for row in rows)
        made.append(str(Summary(head, lines)))
    return "\n\n".join(made)


def cell(row: dict[str, Any], name: str) -> str:
    """A mean with its standard error."""
    error = row[f"{name} se"]
    return f"{row[name]:.3f}" + (f" ± {error:.3f}" if error is not None else "")


def sentences(config: Config, rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """What the numbers say."""
    by = {row["method"]: row for row in rows}
    test, end, mle = ray(config.alphas[0]), ray(max(config.alphas)), by["MLE"]
    names = {name: name for name in SETS[:3]} | {"far": ray(config.far)}

    def listed(value: Callable[[dict[str, Any]], str]) -> str:
        return ", ".join(f"{row['method']} {value(row)}" for row in rows)

    off = ", ".join(f"{mle[name]:.2f} on {name}" for name in names.values())
    extremes = []
    for column in ("nll", "ece"):
        ordered = sorted(rows, key=lambda row, c=column: row[c])
        low, high = (f"{row['method']} ({row[column]:.3f})" for row in (ordered[0], ordered[-1]))
        extremes.append(f"lowest {column.upper()} {low}, highest {high}")
    told = {name: max(rows, key=lambda row, c=f"AUROC {name}": row[c]) for name in SETS}
    highest = ", ".join(f"{row[f'AUROC {name}']:.2f} on {names[name]} ({row['method']})" for name, row in told.items())
    return (
        f"MLE is right on {mle['accuracy']:.1%} of test images and says {mle[test]:.1%}; its confidence is {off}.",
        f"Rotated digits that get the class most of them get: {listed(lambda row: f'{row[COMMONEST]:.0%}')}.",
        f"Confidence from {test} to {end}: {listed(lambda row: f'{row[test]:.2f} to {row[end]:.2f}')}.",
        f"Within the data: {'; '.join(extremes)}.",
        f"Highest AUROC: {highest}.",
    )


def draw(config: Config, rows: list[dict[str, Any]], entropies: dict[str, dict[str, np.ndarray]]) -> Any:
    titles = ("Out along rays", "Entropy: test digits (solid), permuted (dashed)", "Told from test digits by entropy")
    figure, (left, middle, right) = panels(*titles, height=4.0)
    for i, row in enumerate(rows):
        confidence = np.array([row[ray(alpha)] for alpha in config.alphas])
        error = np.array([row[f"{ray(alpha)} se"] or 0.0 for alpha in config.alphas])
        line, face = ("s--", "white") if "Ensemble" in row["method"] else ("o-", color(i))
        left.semilogx(config.alphas, confidence, line, mfc=face, ms=4.5, lw=1.4, color=color(i), label=row["method"])
        left.fill_between(config.alphas, confidence - error, confidence + error, color=color(i), alpha=0.2, lw=0)
        values = [row[f"AUROC {name}"] for name in SETS]
        right.bar(np.arange(len(SETS)) + 0.14 * (i - 2.5), values, 0.13, color=color(i))
    left.set(xlabel="alpha", ylabel="mean top probability at alpha x", ylim=(0, 1.02))
    left.set_xticks(config.alphas, [f"{alpha:g}" for alpha in config.alphas])
    left.minorticks_off()
    left.legend(fontsize=8, frameon=False, loc="lower left")
    for name in ("MLE", "Laplace, Kronecker", "Ensemble"):
        for which, style in ((ray(config.alphas[0]), "-"), ("permuted", "--")):
            values = np.sort(entropies[name][which])
            share = np.arange(1, len(values) + 1) / len(values)
            label = name if style == "-" else None
            middle.plot(values, share, style, lw=1.4, color=color(METHODS.index(name)), label=label)
    middle.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(0.78, 0.02))
    middle.set(xlabel="entropy of the prediction, nats", ylabel="share below", xlim=(0, np.log(10)), ylim=(0, 1.02))
    right.axhline(0.5, color="#444444", lw=0.9, ls="--")
    right.set(xlabel="inputs", ylabel="AUROC, chance dashed", ylim=(0, 1.02))
    right.set_xticks(np.arange(len(SETS)), [*SETS[:3], ray(config.far)])
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
