"""Which model is fitted by the cross-entropy?

With logits f(x), per example and for any parameters, and with nothing left over,

    log p(y | x) = -softmax_cross_entropy_with_integer_labels(f(x), y)     for y ~ Categorical(logits = f(x)),
    log p(y | x) = -sigmoid_binary_cross_entropy(f(x), y)                  for y ~ Bernoulli(logits = f(x)),

so that a classifier trained on either loss of optax is a maximum-likelihood estimate. Here concrete is weak, medium
or strong (thirds of the data), or strong or not, and the logits are linear in its ingredients; those of the first
class are fixed at zero, without which the minimiser would not be unique. The loop is optax's Adam.

    python -m experiments.cross_entropy_is_a_categorical_likelihood
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxmap as jm
from experiments.mse_is_a_gaussian_likelihood import agreement, concrete, linear, start, train
from experiments.record import Record, command, panels


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    steps: int = 2000  # of the training loop
    seed: int = 0


TINY: dict[str, Any] = {}
"""What the tests run."""


def start_of_classes(key: Any = None) -> Any:
    """One column of coefficients for each class after the first."""
    return {"kernel": jnp.zeros((8, 2)), "bias": jnp.zeros(2)}


def class_logits(params: Any, x: Any) -> Any:
    """Three logits, the first of them zero."""
    logits = x @ params["kernel"] + params["bias"][None]
    return jnp.concatenate([jnp.zeros_like(logits[:, :1]), logits], axis=1)


FAMILIES = {
    "softmax": ((start_of_classes, class_logits), jm.Categorical(), optax.softmax_cross_entropy_with_integer_labels),
    "sigmoid": ((start, linear), jm.Bernoulli(), optax.sigmoid_binary_cross_entropy),
}
"""The network, its likelihood, and the loss that people train it with."""


def by_hand(network: Any, loss: Any, model: jm.Model, data: Any, config: Config) -> tuple[Any, Any, Any]:
    """Train on the loss: the parameters, the losses seen, and (loss, log-likelihood) per example at random ones."""
    (init, apply), (x, y), rng = network, data, np.random.default_rng(config.seed)
    random = jax.tree.map(lambda v: rng.normal(size=v.shape), init())
    with jax.enable_x64(True):
        trained, losses = train(lambda p: jnp.mean(loss(apply(p, x), y)), init(), config.steps)
        both = np.asarray(loss(apply(random, x), y)), np.asarray(model.log_likelihood(random, data))
    return trained, losses, both


def run(config: Config) -> Record:
    """For both losses: compare with the likelihood example by example, then the two minimisers."""
    x, strength = concrete()
    classes = np.searchsorted(np.quantile(strength, [1 / 3, 2 / 3]), strength)
    targets = {"softmax": classes, "sigmoid": (classes == 2).astype(int)}
    rows, seen, pairs = [], {}, {}
    for name, (network, likelihood, loss) in FAMILIES.items():
        y, model = targets[name], jm.supervised(network, likelihood)
        fit = jm.fit(jax.random.key(config.seed), model, (x, y), jm.MLE(), precision="float64")
        trained, losses, seen[name] = by_hand(network, loss, model, (x, y), config)
        pairs[name] = [(trained[part], fit.mode[part]) for part in trained]
        rows.append(
            {"loss": loss.__name__, "off": float(np.max(np.abs(seen[name][0] + seen[name][1])))}
            | {"mean log p": fit.info.log_likelihood / len(y), "mean log p, exact": -float(losses.min())}
            | {"MLE - trained": max(float(np.max(np.abs(a - b))) for a, b in pairs[name])}
            | {"largest coefficient": float(np.max(np.abs(fit.mode["kernel"])))}
        )
    note = "'off': largest |log p + loss| of any example; 'exact': minus the loss after training."
    return Record("Classes of concrete by cross-entropy", config, rows, lambda: draw(seen, pairs), (note,))


def draw(seen: dict[str, Any], pairs: dict[str, Any]) -> Any:
    figure, (left, right) = panels("Each example at random parameters", "Parameters: trained on the loss, and MLE")
    for (name, (values, log_likelihoods)), marker in zip(seen.items(), "os", strict=True):
        left.plot(values, log_likelihoods, marker, ms=4, mfc="none", label=name)
    left.axline((0, 0), slope=-1, color="#999999", lw=0.8, zorder=0, label="log p = -loss")
    left.set(xlabel="loss by optax (nats)", ylabel="log p(y | x) by jaxmap (nats)")
    left.legend(fontsize=8, frameon=False)
    agreement(right, pairs)
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
