"""supervised(): a network, a likelihood and a prior make a model."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from jaxmap.data import Scaling
from jaxmap.model.likelihoods import (
    Bernoulli,
    Categorical,
    Likelihood,
    NegativeBinomial,
    Poisson,
    affine,
    as_likelihood,
)
from jaxmap.model.model import Model
from jaxmap.model.networks import Network, as_network
from jaxmap.model.prior import Prior
from jaxmap.model.rules import flat
from jaxmap.model.training import TRAINING, in_training_mode
from jaxmap.types import Data, Key, Params

DISCRETE = (Bernoulli, Categorical, Poisson, NegativeBinomial)


def supervised(
    network: Any,
    likelihood: Any,
    prior: Any = None,
    *,
    example: Any = None,
    scaling: Scaling | None = None,
    compute_dtype: Any = None,
    state: str | None = None,
) -> Model:
    """Make the model y ~ likelihood(network(x)), with a prior on the network's parameters.

    Params are the network's own tree; with learned likelihood parameters they are
    `{"network": ..., "likelihood": {"scale": ...}}`. The rules of the prior speak of the network's own paths.

    Args:
        network: nnx factory `rngs -> Module`, nnx instance (its values are the one start), linen module (give
            `example`), or a pair of pure functions (init(key), apply(params, x)).
        likelihood: such as `jm.Gaussian(scale=jm.Learned(dist.HalfNormal(1.0)))`, or `outputs -> Distribution`.
        prior: a `Prior` on the network's parameters, or what `Prior` takes; flat if left out.
        example: `x[:1]`, for linen modules.
        scaling: from `jm.standardize(train)`: the model then takes raw x and means raw y, its density including
            the log-Jacobian -log y_scale, while the parameters live in standardised units.
        compute_dtype: `jnp.bfloat16` for mixed precision: the network computes in it, parameters, likelihood, its
            sums, products' sums and the solver stay in float32; other sums inside the network, such as the gradient of
            a bias over a batch, are its own, in bfloat16. A module with a `dtype` of its own does the same where that
            says so. The certificate is then that of the rounded network, and rarely certain.
        state: "training" lets `MLE` and `MAP` train an nnx network with active dropout and moving batch statistics, by
            an optax transformation. What is minimised is then no log-probability of the parameters alone, and the
            result says so. Batch statistics are a part of the parameters, `{"network": ..., "state": ...}`, under a
            flat prior, moved by the network's own rule; all else (scores, predictions, held-out data) sees evaluation
            mode. The padding row of a ragged batch counts in its statistics. None: such a network is refused.

    Returns:
        model: with `apply` and `observe`.

    Raises:
        TypeError: a part of the wrong kind.
        ValueError: active dropout or batch statistics without `state`; prior rules that do not fit the parameters.
    """
    if scaling is not None and not isinstance(scaling, Scaling):
        raise TypeError(f"Expected scaling=jm.standardize(train); got {scaling!r}.")
    if state not in (None, TRAINING):
        raise ValueError(f"Expected state={TRAINING!r} or None; got {state!r}.")
    if state is not None and compute_dtype is not None:
        raise ValueError(
            "Expected compute_dtype or state='training'; got both. Give the modules dtype=jnp.bfloat16, which keeps "
            "batch statistics in float32."
        )
    if state is None:
        net = as_network(
            network, example if scaling is None or example is None else scaling.inputs(example), compute_dtype
        )
    else:
        net = in_training_mode(network)
    emit = as_likelihood(likelihood)
    if scaling is not None and scaling.y_shift is not None and isinstance(emit, DISCRETE):
        raise ValueError(
            f"Expected scaling of x alone with {type(emit).__name__}; got one that scales y. "
            "Use jm.standardize(train, target=False)."
        )
    prior = Prior(flat) if prior is None else prior if isinstance(prior, Prior) else Prior(prior)
    made = _Supervised(net, emit, scaling)
    rules = {"network": prior, **({"state": Prior(flat)} if net.stateful else {}), **made.priors()}
    return Model(
        log_likelihood=made.log_likelihood,
        init=made.init,
        log_prior=Prior(rules) if len(rules) > 1 else prior,
        observe=made.observe,
        apply=made.apply,
        outputs=made.outputs,
        emission=made.emission,
        restartable=net.fresh,
        concave=emit.concave,
        train=None if net.train is None else made.train,
    )


class _Supervised:
    """The functions of a model y ~ likelihood(network(x)).

    Args:
        net: the network; its parameters stand alone, or under "network" where the likelihood has some too.
        emit: (outputs, values of the likelihood's parameters) -> distribution.
        scaling: of raw data, or None.
    """

    def __init__(self, net: Network, emit: Likelihood, scaling: Scaling | None):
        self.net, self.emit, self.scaling, self.learned = net, emit, scaling, emit.learned()
        self.begun = {name: slot.start() for name, slot in self.learned.items()}  # once, and not in a trace

    def priors(self) -> dict[str, Any]:
        """The rules of the likelihood's parameters, if it has any."""
        found = {name: slot.prior for name, slot in self.learned.items()}
        return {"likelihood": found} if found else {}

    def init(self, key: Key) -> Params:
        weights = self.net.init(key)
        if not self.learned:
            return weights
        return (weights if self.net.stateful else {"network": weights}) | {"likelihood": self.begun}

    def weights(self, params: Params) -> Params:
        """The network's part of the parameters."""
        return params if self.net.stateful or not self.learned else params["network"]

    def values(self, params: Params) -> dict[str, Any]:
        """The likelihood's part of the parameters."""
        return params["likelihood"] if self.learned else {}

    def inputs(self, x: Any) -> Any:
        """What the network takes."""
        return x if self.scaling is None else self.scaling.inputs(x)

    def apply(self, params: Params, x: Any) -> Any:
        return self.net.apply(self.weights(params), self.inputs(x))

    def outputs(self, params: Params, x: Any) -> tuple[Any, dict[str, Any]]:
        return self.apply(params, x), self.values(params)

    def emission(self, made: Any, values: dict[str, Any]) -> Distribution:
        distribution, scaling = self.emit(made, values), self.scaling
        if scaling is None or scaling.y_shift is None:
            return distribution
        dtype = jnp.result_type(made)
        return affine(distribution, scaling.y_shift.astype(dtype), scaling.y_scale.astype(dtype))  # type: ignore[union-attr]

    def observe(self, params: Params, x: Any) -> Distribution:
        return self.emission(*self.outputs(params, x))

    def log_likelihood(self, params: Params, batch: Data) -> Float[Array, " n"]:
        x, y = batch
        return _log_prob(self.observe(params, x), y)

    def train(self, params: Params, key: Key, batch: Data) -> tuple[Float[Array, " n"], Any]:
        """The log-likelihood in training mode, and the batch statistics moved on."""
        x, y = batch
        made, moved = self.net.train(self.weights(params), self.inputs(x), key)  # type: ignore[misc]
        return _log_prob(self.emission(made, self.values(params)), y), moved


def _log_prob(distribution: Distribution, y: Any) -> Float[Array, " n"]:
    check_target(distribution, y)
    return jnp.asarray(distribution.log_prob(y))


def check_target(distribution: Distribution, y: Any) -> None:
    """Refuse targets whose shape is not that of the distribution, before anything broadcasts.

    Raises:
        ValueError: with both shapes and the remedy.
    """
    expected, got = distribution.shape(), jnp.shape(y)
    if expected == got:
        return
    squeezable = got == (*expected, 1)
    remedy = "Squeeze y." if squeezable else "Make the last layer as wide as the target."
    raise ValueError(f"Expected y with shape {expected} to match the network's outputs; got {got}. {remedy}")
