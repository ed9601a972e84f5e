"""What do MLE, MAP, an ensemble, a last-layer Laplace approximation and SGHMC make of images?

A residual network (`experiments/networks/resnet.py`: group normalisation, since a batch's own statistics are no
log-probability of the parameters) classifies images by cross-entropy. On every split:

    MLE                  Adam on minibatches, no prior;
    MLE, AdamW           the same with decoupled weight decay: regularised by the optimizer, the mode of no density;
    MAP                  N(0, s^2) on all weights: the weight decay d added to the mean loss over n images,
                         s = 1 / sqrt(n d); N(1, 1) on the scales of the norms, flat ones would leave no posterior;
    Ensemble             of MAP estimates from fresh starts;
    Laplace              a Gaussian over the last layer at the MAP estimate, probit predictions, prior as of the MAP;
    Laplace, tuned       its prior chosen anew, and the mode itself if that reads the held-out images better;
    SGHMC                chains from the ensemble's members, on minibatches.

A tenth of the training images is held out: it chooses the decays (on the first split) and Laplace's prior (on each).
AUROC tells test images from the same ones turned by 90 degrees, or with their pixels permuted, by predictive entropy.

    python -m experiments.image_classification --save FOLDER
    python -m experiments.image_classification --images mnist --seeds 1 --members 2 --stem 2 --widths 32 64 128 \\
        --cells 2 --decays 0.01 0.03 --decoupled 0.1
    python -m experiments.image_classification --images FOLDER-OF-CIFAR-10 --stem 1
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
import optax
from scipy.special import entr

import jaxmap as jm
from experiments.image_data import Images, Labelled, read_images
from experiments.networks import ResNet
from experiments.overconfident_mle import auroc, averaged, cell
from experiments.record import Record, color, command, panels
from jaxmap.infer.summary import Summary
from jaxmap.statistics import reliability_curve


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    images: str = "digits"  # or "mnist", or where CIFAR-10 lies
    widths: tuple[int, ...] = (32, 64)
    blocks: int = 1
    stem: int = 1  # stride of the first convolution
    cells: int = 1  # a side, over which the last features are averaged
    steps: int = 1500
    batch_size: int = 64
    rate: float = 3e-3  # of Adam, decaying to zero along a cosine
    decays: tuple[float, ...] = (1e-4, 3e-4, 1e-3)  # d of the MAP
    decoupled: tuple[float, ...] = (0.01, 0.1, 1.0)  # of AdamW, times the rate per step
    members: int = 5
    draws: int = 10  # of each SGHMC chain
    thin: int = 30
    warmup: int = 400
    seeds: int = 5
    most: int = 0  # training images to keep; 0 for all


TINY = {"widths": (8, 16), "stem": 2, "steps": 80, "rate": 0.02, "decays": (1e-3,), "decoupled": (0.1,), "members": 2}
TINY |= {"draws": 3, "thin": 5, "warmup": 25, "most": 400, "seeds": 2}
"""What the tests run."""

MLE, ADAMW, MAP, ENSEMBLE, LAPLACE, TUNED, SGHMC = METHODS = (
    *("MLE", "MLE, AdamW", "MAP", "Ensemble", "Laplace, last layer", "Laplace, tuned", "SGHMC"),
)
SCORES = ("accuracy", "nll", "ece", "AUROC rotated", "AUROC permuted", "gradients", "seconds")
FACTORS = (0.1, 1.0, 10.0, 100.0, 1000.0)
"""On the precision of the last layer's prior; the held-out images choose among them."""


@dataclass(frozen=True)
class Task:
    """One split: what is fitted, what chooses, what is scored."""

    config: Config
    key: Any
    images: Images
    train: Labelled
    held_out: Labelled

    def model(self, decay: float) -> jm.Model:
        """The network with the prior that is this weight decay; zero for a flat prior."""
        classes = int(self.images.train[1].max()) + 1
        return make_model(self.config, self.images.shape[2], classes, decay, len(self.train[1]))

    def method(self, kind: Any, decoupled: float | None = None) -> Any:
        """A point estimate by Adam, or by AdamW with this decay."""
        rate = optax.cosine_decay_schedule(self.config.rate, self.config.steps)
        solver = optax.adam(rate) if decoupled is None else optax.adamw(rate, weight_decay=decoupled)
        return kind(solver, steps=self.config.steps, batch_size=min(self.config.batch_size, len(self.train[1])))

    def held_out_nll(self, model: jm.Model, posterior: Any) -> float:
        """What chooses."""
        how = "probit" if isinstance(posterior, jm.GaussianPosterior) else None
        x, y = self.held_out
        return jm.score(jm.predict(self.key, model, posterior, x, how=how), y)["nll"]


@functools.cache
def make_model(config: Config, channels: int, classes: int, decay: float, num_examples: int) -> jm.Model:
    """One model for all splits, so that its programs are compiled once."""
    known = jm.weight_decay(decay, per="mean", num_examples=num_examples) if decay else jm.flat
    prior = jm.Prior.by_path({"*": known, "*/scale": dist.Normal(1.0, 1.0) if decay else jm.flat})
    options = {"blocks": config.blocks, "stem": config.stem, "cells": config.cells}
    network = lambda rngs: ResNet(channels, classes, config.widths, rngs, **options)
    return jm.supervised(network, jm.Categorical(), prior)


def make_task(config: Config, seed: int) -> Task:
    """Read the images and hold a tenth of those for training out."""
    images = read_images(config.images, seed, config.most)
    x, y = images.train
    held = len(y) // 10
    return Task(config, jax.random.key(seed), images, (x[held:], y[held:]), (x[:held], y[:held]))


def choose(task: Task) -> tuple[float, float]:
    """The decays of MAP and of AdamW whose fits read the held-out images best."""

    def best(decays: tuple[float, ...], fit: Any) -> float:
        return decays[0] if len(decays) == 1 else min(decays, key=fit)

    def by_prior(decay: float) -> float:
        model = task.model(decay)
        return task.held_out_nll(model, jm.fit(task.key, model, task.train, task.method(jm.MAP)))

    def by_adamw(decay: float) -> float:
        model = task.model(0.0)
        return task.held_out_nll(model, jm.fit(task.key, model, task.train, task.method(jm.MLE, decay)))

    return best(task.config.decays, by_prior), best(task.config.decoupled, by_adamw)


def fit_all(task: Task, decay: float, decoupled: float) -> dict[str, tuple[jm.Model, Any]]:
    """Every method with its model; the MAP estimate is the first member of the ensemble, which has the same key."""
    config, key, train = task.config, task.key, task.train
    free, model = task.model(0.0), task.model(decay)
    ensemble = jm.fit(key, model, train, jm.Ensemble(task.method(jm.MAP), members=config.members))
    point = ensemble.members[0]
    options = {"chains": config.members, "draws": config.draws, "thin": config.thin, "warmup": config.warmup}
    sampler = jm.SGHMC(start=ensemble, batch_size=min(config.batch_size, len(train[1])), **options)
    return {
        MLE: (free, jm.fit(key, free, train, task.method(jm.MLE))),
        ADAMW: (free, jm.fit(key, free, train, task.method(jm.MLE, decoupled))),
        MAP: (model, point),
        ENSEMBLE: (model, ensemble),
        LAPLACE: (model, around(task, model, point)),
        TUNED: tuned(task, decay, point),
        SGHMC: (model, jm.fit(key, model, train, sampler)),
    }


def around(task: Task, model: jm.Model, point: Any) -> Any:
    """The Gaussian over the last layer; relu modes lie at kinks and get no certificate, so that it is forced."""
    return jm.fit(task.key, model, task.train, jm.Laplace(point, curvature="last_layer", grade=0, force=True))


def tuned(task: Task, decay: float, point: Any) -> tuple[jm.Model, Any]:
    """The Gaussian, or the point, that reads the held-out images best; the mode stays where it is."""
    found = [(task.model(decay), point)]
    for factor in FACTORS:
        model = task.model(factor * decay)
        found.append((model, around(task, model, point)))
    return min(found, key=lambda pair: task.held_out_nll(*pair))


def measure(task: Task, model: jm.Model, posterior: Any) -> tuple[dict[str, float], np.ndarray]:
    """One method on one split: its numbers, and its class probabilities of the test images."""
    how = "probit" if isinstance(posterior, jm.GaussianPosterior) else None
    x, y = task.images.test
    order = np.random.default_rng(0).permutation(x.shape[1] * x.shape[2])
    permuted = x.reshape(len(x), -1, x.shape[3])[:, order].reshape(x.shape)
    inside, *outside = (
        jm.predict(task.key, model, posterior, images, how=how)
        for images in (x, np.ascontiguousarray(np.rot90(x, axes=(1, 2))), permuted)
    )
    scores = jm.score(inside, y)
    entropies = [entr(predictive.probs).sum(1) for predictive in (inside, *outside)]
    row = {name: scores[name] for name in ("accuracy", "nll", "ece")}
    row |= {name: auroc(entropies[0], other) for name, other in zip(SCORES[3:5], entropies[1:], strict=True)}
    return row | {"gradients": posterior.info.num_gradients, "seconds": posterior.info.seconds}, inside.probs


def run(config: Config) -> Record:
    """Every method on every split."""
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    probs: dict[str, list[np.ndarray]] = {name: [] for name in METHODS}
    tasks, said, ended = [], "", []
    decay = decoupled = 0.0
    for seed in range(config.seeds):
        task = make_task(config, seed)
        decay, decoupled = (decay, decoupled) if tasks else choose(task)
        tasks.append(task)
        for name, (model, posterior) in fit_all(task, decay, decoupled).items():
            row, seen = measure(task, model, posterior)
            measured[name].append(row)
            probs[name].append(seen)
            said = posterior.info.solver if name == ADAMW else said
            ended += [posterior.info.status.name] if name == SGHMC else []
    rows = [{"method": name, **against(name, measured), **averaged(found)} for name, found in measured.items()]
    title = f"{tasks[0].images.name}: {len(tasks[0].train[1])} training, {len(tasks[0].images.test[1])} test images"
    chosen = f"Chosen on held-out images: d = {decay:g} for MAP, {decoupled:g} for AdamW ({said})."
    sampled = f"SGHMC ended as {', '.join(sorted(set(ended)))}; its row is the posterior's only where it is CONVERGED."
    notes = (f"Means and standard errors over {config.seeds} seeds.", chosen, *sentences(rows), sampled)
    return Record(title, config, rows, lambda: draw(tasks, probs), notes, tables(title, rows))


def against(name: str, measured: dict[str, list[dict[str, float]]]) -> dict[str, float | None]:
    """The paired differences of NLL from MLE and from MAP, with their standard errors."""
    found: dict[str, float | None] = {}
    for other in (MLE, MAP):
        pairs = zip(measured[name], measured[other], strict=True)
        away = averaged([{f"nll from {other}": row["nll"] - base["nll"]} for row, base in pairs])
        found |= away
    return found


def tables(title: str, rows: list[dict[str, Any]]) -> str:
    """Scores, and paired differences with cost."""
    parts = {title: SCORES[:5], "Paired differences of NLL, and cost": (f"nll from {MLE}", f"nll from {MAP}")}
    made = []
    for head, columns in parts.items():
        lines = [{"method": row["method"]} | {name: cell(row, name) for name in columns} for row in rows]
        if head != title:
            lines = [
                line | {name: f"{row[name]:,.0f}" for name in SCORES[5:]} for line, row in zip(lines, rows, strict=True)
            ]
        made.append(str(Summary(head, tuple(lines))))
    return "\n\n".join(made)


def sentences(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """What the numbers say, harm included."""
    by = {row["method"]: row for row in rows}
    said = [f"NLL of the ensemble less that of MLE: {cell(by[ENSEMBLE], f'nll from {MLE}')}."]
    for name in (LAPLACE, TUNED):
        away = by[name][f"nll from {MAP}"]
        verdict = "HARMS: its NLL is worse than its MAP's" if away > 1e-3 else "does no harm to NLL"
        said.append(f"{name}: {verdict} ({cell(by[name], f'nll from {MAP}')}).")
    return tuple(said)


def draw(tasks: list[Task], probs: dict[str, list[np.ndarray]]) -> Any:
    """Claimed and reached accuracy of all splits together, and images that the first ensemble is least sure of."""
    figure, (left, *places) = panels("Reliability", *[""] * 4, height=3.6)
    labels = np.concatenate([task.images.test[1] for task in tasks])
    left.plot([0, 1], [0, 1], color="#999999", lw=1.0, ls="--")
    for i, name in enumerate(METHODS):
        curve = reliability_curve(np.concatenate(probs[name]), labels)
        held = curve.count > 0
        left.plot(curve.confidence[held], curve.accuracy[held], "o-", ms=3, lw=1.2, color=color(i), label=name)
    left.set(xlabel="top probability", ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02))
    left.legend(fontsize=7, frameon=False)
    seen, (x, y) = probs[ENSEMBLE][0], tasks[0].images.test
    for place, i in zip(places, np.argsort(-entr(seen).sum(1)), strict=False):
        low, high = x[i].min(), x[i].max()
        place.imshow(((x[i] - low) / (high - low + 1e-6)).squeeze(), cmap="gray_r")
        top = np.argsort(-seen[i])[:2]
        guesses = " or ".join(f"{k} ({seen[i, k]:.0%})" for k in top)
        place.set(xlabel=f"says {guesses}, is {y[i]}", xticks=[], yticks=[])
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
