"""Recipe: what the estimators for scikit-learn make their models of."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx

from jaxmap.data import Scaling
from jaxmap.model.likelihoods import Bernoulli, Categorical, Gaussian, HeteroscedasticGaussian, Learned
from jaxmap.model.model import Model
from jaxmap.model.networks import as_network
from jaxmap.model.prior import Prior
from jaxmap.model.supervised import supervised
from jaxmap.model.tabular import Perceptron
from jaxmap.types import Params

GIVEN, LEARNED, TWO_CLASSES, CLASSES = "given noise", "learned noise", "two classes", "classes"
"""The default likelihoods by name, so that equal recipes are equal."""


class Recipe(NamedTuple):
    """A perceptron, its likelihood and its prior, before the units of any data.

    Attributes:
        sizes: inputs, hidden widths, outputs.
        likelihood: a likelihood, or the name of a default one.
        prior: a prior, or None: N(0, 1) on every weight.
    """

    sizes: tuple[int, ...]
    likelihood: Any
    prior: Any

    def network(self, rngs: nnx.Rngs) -> nnx.Module:
        """Dense layers with tanh between them."""
        return Perceptron(self.sizes, rngs)

    def model(self, scaling: Scaling | None = None, likelihood: Any = None) -> Model:
        """The model, in raw units with a scaling; with another likelihood where one is given."""
        prior = Prior(dist.Normal(0.0, 1.0)) if self.prior is None else self.prior
        own = self.likelihood if likelihood is None else likelihood
        if isinstance(own, str) and own == GIVEN:
            return given_noise(self.network, prior)
        named = {LEARNED: _learned_noise, TWO_CLASSES: Bernoulli, CLASSES: Categorical}
        made = named[own]() if isinstance(own, str) else own
        return supervised(self.network, made, prior, scaling=scaling)


def _learned_noise() -> Gaussian:
    return Gaussian(scale=Learned(dist.HalfNormal(1.0)))


def given_noise(network: Any, prior: Any) -> Model:
    """Make the model y ~ N(network(x), s^2) on inputs {"x": x, "noise": s}, s of shape (n,).

    The scale is data, so that one compiled program serves all scales.

    Args:
        network: as for `supervised`; one output.
        prior: on its parameters.

    Returns:
        model: its params are the network's own.
    """
    net = as_network(network)

    def apply(params: Params, inputs: Any) -> Any:
        return jnp.stack([net.apply(params, inputs["x"]), jnp.log(inputs["noise"])], axis=-1)

    return supervised((net.init, apply), HeteroscedasticGaussian(), prior)
