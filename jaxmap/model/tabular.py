"""The networks that the command line fits to tables: tabular() to bundled ones, Design to a user's own."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from flax import nnx

from jaxmap.data import Scaling, standardize
from jaxmap.model.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    Learned,
    Likelihood,
    NegativeBinomial,
    Poisson,
    Scalar,
)
from jaxmap.model.model import Model
from jaxmap.model.prior import Prior
from jaxmap.model.supervised import supervised


class Perceptron(nnx.Module):
    """Dense layers with tanh between them; no hidden layer is a linear model.

    Args:
        sizes: inputs, hidden widths, outputs.
        rngs: where the weights come from.
        offset: added to the outputs.
    """

    def __init__(self, sizes: Sequence[int], rngs: nnx.Rngs, offset: float = 0.0):
        self.offset = offset
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(sizes)])

    def __call__(self, x: Any) -> Any:
        """Outputs (n, sizes[-1])."""
        *hidden, last = self.layers
        for layer in hidden:
            x = jnp.tanh(layer(x))
        return last(x) + self.offset if self.offset else last(x)


def tabular(train: tuple[Any, Any], widths: Sequence[int] = (50,), *, classes: int = 0) -> Model:
    """Make a Bayesian tanh network for a table: N(0, 1) on every weight, in units standardised on `train`.

    Args:
        train: (x (n, d), y (n,)).
        widths: of the hidden layers; none is a linear model.
        classes: 0 for a real target (Gaussian noise, its scale learned under a half-normal prior), 2 for a Bernoulli,
            more for a Categorical.

    Returns:
        model: in raw units.
    """
    outputs = 1 if classes in (0, 2) else classes
    sizes = (train[0].shape[1], *widths, outputs)
    noise = Gaussian(scale=Learned(dist.HalfNormal(1.0)))
    likelihood = noise if not classes else Bernoulli() if classes == 2 else Categorical()
    scaling = standardize(train, target=not classes)
    return supervised(lambda rngs: Perceptron(sizes, rngs), likelihood, Prior(dist.Normal(0.0, 1.0)), scaling=scaling)


@dataclass(frozen=True, eq=False)
class LogGaussian(Likelihood):
    """log y ~ N(log center + unit * outputs, (unit * scale)^2): a Gaussian of log y, with its Jacobian -log y."""

    scale: Scalar | Learned = 1.0
    center: Scalar = 1.0
    unit: Scalar = 1.0

    def distribution(self, outputs: Any, *, scale: Any, center: Any, unit: Any) -> dist.Distribution:  # noqa: D102
        return dist.LogNormal(np.log(center) + unit * outputs, unit * scale, validate_args=False)


SIGNAL = {"gaussian": 1.0, "log_gaussian": 1.0}
"""The prior standard deviation of a linear model's output, in units of the target's own; 2 for logits and log means."""


@dataclass(frozen=True)
class Design:
    """What makes the model of a table, as plain values.

    Attributes:
        family: the likelihood, one of those of a `Target`.
        inputs: standardised columns.
        outputs: of the network: the number of classes beyond two, else 1.
        widths: of the hidden layers; none is a linear model.
        weight_scale: the prior on weights is N(0, weight_scale^2) in the first layer, N(0, 1) elsewhere.
        center, unit: mean and standard deviation of y, or of log y, in training; log mean and 1 for counts.
    """

    family: str
    inputs: int
    outputs: int
    widths: tuple[int, ...]
    weight_scale: float
    center: float = 0.0
    unit: float = 1.0

    @classmethod
    def of(
        cls,
        y: Any,
        *,
        family: str,
        inputs: int,
        sources: int,
        widths: Sequence[int],
        classes: int = 0,
        weight_scale: float | None = None,
    ) -> "Design":
        """Learn units from the training targets, and choose the prior.

        A linear model's weights have the prior N(0, s^2 / sources): the columns together, not each, may move the output
        by s. A network's first layer has N(0, min(1, 8 / sources)), which is N(0, 1) for up to eight columns.

        Args:
            y: training targets.
            family: of the likelihood.
            inputs: coded columns.
            sources: columns of the file that they come from.
            widths: of the hidden layers.
            classes: how many, 0 for numbers.
            weight_scale: instead of the chosen one.
        """
        y = np.asarray(y, np.float64)
        center, unit = 0.0, 1.0
        if family in ("gaussian", "log_gaussian"):
            z = np.log(y) if family == "log_gaussian" else y
            center, unit = float(z.mean()), float(z.std()) or 1.0
        elif not classes:
            center = float(np.log(max(y.mean(), 1.0 / len(y))))
        chosen = min(1.0, (8 / sources) ** 0.5) if widths else SIGNAL.get(family, 2.0) / sources**0.5
        outputs = classes if classes > 2 else 1
        scale = chosen if weight_scale is None else weight_scale
        return cls(family, inputs, outputs, tuple(widths), float(scale), center, unit)

    @property
    def size(self) -> int:
        """The number of weights."""
        return sum((a + 1) * b for a, b in itertools.pairwise((self.inputs, *self.widths, self.outputs)))

    def model(self) -> Model:
        """Make the model: it takes standardised columns and means y in its own units."""
        sizes = (self.inputs, *self.widths, self.outputs)
        counts = self.family in ("poisson", "negative_binomial")
        prior = Prior.by_path(
            {"layers/0/kernel": dist.Normal(0.0, self.weight_scale), "layers/*": dist.Normal(0.0, 1.0)}
        )
        scaling = None
        if self.family == "gaussian":
            flat = np.zeros(self.inputs), np.ones(self.inputs)
            scaling = Scaling(*flat, np.asarray(self.center), np.asarray(self.unit))
        offset = self.center if counts else 0.0
        network = lambda rngs: Perceptron(sizes, rngs, offset)  # noqa: E731
        return supervised(network, self._likelihood(), prior, scaling=scaling)

    def _likelihood(self) -> Likelihood:
        noise = Learned(dist.HalfNormal(1.0))
        made = {
            "gaussian": lambda: Gaussian(noise),
            "log_gaussian": lambda: LogGaussian(noise, float(np.exp(self.center)), self.unit),
            "bernoulli": Bernoulli,
            "categorical": Categorical,
            "poisson": Poisson,
            "negative_binomial": lambda: NegativeBinomial(Learned(dist.LogNormal(1.0, 1.5))),
        }
        return made[self.family]()

    def plain(self) -> dict[str, Any]:
        """Itself as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Design":
        """The inverse of `plain`."""
        fields: dict[str, Any] = plain | {"widths": tuple(plain["widths"])}
        return cls(**fields)
