"""tabular(): the network that the command line fits to a table."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx

from jaxmap.data import standardize
from jaxmap.model.likelihoods import Bernoulli, Categorical, Gaussian, Learned
from jaxmap.model.model import Model
from jaxmap.model.prior import Prior
from jaxmap.model.supervised import supervised


class Perceptron(nnx.Module):
    """Dense layers with tanh between them; no hidden layer is a linear model.

    Args:
        sizes: inputs, hidden widths, outputs.
        rngs: where the weights come from.
    """

    def __init__(self, sizes: Sequence[int], rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(sizes)])

    def __call__(self, x: Any) -> Any:
        """Outputs (n, sizes[-1])."""
        *hidden, last = self.layers
        for layer in hidden:
            x = jnp.tanh(layer(x))
        return last(x)


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
