"""Likelihoods: from network outputs to the distribution of y."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxmap.model.distributions import Affine, BernoulliByLogit, CategoricalByLogits
from jaxmap.model.rules import check_distribution

Scalar = float | int | np.ndarray | jax.Array


@dataclass(frozen=True, eq=False)
class Learned:
    """A likelihood parameter that is learned: a parameter with a prior and a support like any other.

    It has the shape of the prior and starts at the prior's mean (at the image of zero where there is none).
    """

    prior: dist.Distribution

    def __post_init__(self) -> None:
        if not isinstance(self.prior, dist.Distribution):
            raise TypeError(f"Expected jm.Learned(a numpyro distribution); got {self.prior!r}.")
        check_distribution(self.prior, "prior")

    def start(self) -> jax.Array:
        """The value at which every fit begins, of the prior's shape."""
        support: Any = self.prior.support
        try:
            mean = jnp.broadcast_to(jnp.asarray(self.prior.mean, float), self.prior.shape())
            if bool(jnp.all(jnp.isfinite(mean)) & jnp.all(support(mean))):
                return mean
        except (NotImplementedError, ArithmeticError):
            pass
        transform = dist.biject_to(support)
        return transform(jnp.zeros(transform.inverse_shape(self.prior.shape())))


@dataclass(frozen=True, eq=False)
class Likelihood:
    """The distribution of y given network outputs: one distribution per example.

    Axis 0 of the outputs is the example; all other axes of y belong to one example, so that `log_prob(y)` has
    shape (n,). Subclasses are dataclasses whose fields are numbers or `Learned`. numpyro's own validation is off: a fit
    checks once that all targets lie in the support, instead of selecting in every step.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Learned):
                _check_positive(field.name, value.prior)
                continue
            if isinstance(value, Tracer):
                continue  # a strength of a path
            name = f"{type(self).__name__}({field.name}=...)"
            if not isinstance(value, float | int | np.ndarray | np.number | jax.Array):
                raise TypeError(f"Expected {name} to be a number or jm.Learned(distribution); got {value!r}.")
            if not np.all(np.isfinite(np.asarray(value, float))) or not np.all(np.asarray(value) > 0):
                raise ValueError(f"Expected {name} > 0; got {value}.")

    @property
    def concave(self) -> bool:
        """True where log p(y) is concave in the outputs for every y."""
        kinds = (Gaussian, Bernoulli, Categorical, Poisson)
        return isinstance(self, kinds) and not self.learned()

    def learned(self) -> dict[str, Learned]:
        """The learned parameters by name."""
        return {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Learned)}

    def __call__(self, outputs: Float[Array, "n *event"], values: dict[str, Any]) -> dist.Distribution:
        """Make the distribution of y.

        Args:
            outputs: what the network returns for n examples.
            values: the learned parameters by name, constrained.

        Returns:
            distribution: batch shape (n,).
        """
        return self.distribution(outputs, **{f.name: getattr(self, f.name) for f in fields(self)} | values)

    def distribution(self, outputs: Any, **values: Any) -> dist.Distribution:
        """Make the distribution from outputs and all parameters of the family."""
        raise TypeError(f"Expected a likelihood of jaxmap or a callable; got {type(self).__name__}.")


def _check_positive(name: str, prior: dist.Distribution) -> None:
    support: Any = prior.support
    with jax.ensure_compile_time_eval():
        negative = bool(jnp.any(support(jnp.full(prior.shape(), -1.0))))
    if negative:
        raise ValueError(
            f"Expected a prior on positive numbers for {name}=jm.Learned(...); got {type(prior).__name__}. "
            "Use dist.HalfNormal or dist.LogNormal."
        )


def _per_example(distribution: Any) -> dist.Distribution:
    """Move all batch axes but the first into the event."""
    extra = len(distribution.batch_shape) - 1
    return distribution.to_event(extra) if extra > 0 else distribution


@dataclass(frozen=True, eq=False)
class Gaussian(Likelihood):
    """y ~ N(outputs, scale^2): squared error, as a likelihood."""

    scale: Scalar | Learned = 1.0

    def distribution(self, outputs: Any, *, scale: Any) -> dist.Distribution:  # noqa: D102
        return _per_example(dist.Normal(outputs, scale, validate_args=False))


@dataclass(frozen=True, eq=False)
class HeteroscedasticGaussian(Likelihood):
    """y ~ N(m, exp(s)^2), where the outputs are (m, s) along their last axis."""

    def distribution(self, outputs: Any) -> dist.Distribution:  # noqa: D102
        if outputs.ndim < 2 or outputs.shape[-1] % 2:
            raise ValueError(
                f"Expected outputs (n, 2k), k means and k log scales; got {outputs.shape}. Double the last layer."
            )
        mean, log_scale = jnp.split(outputs, 2, axis=-1)
        if mean.shape[-1] == 1:
            mean, log_scale = mean[..., 0], log_scale[..., 0]
        return _per_example(dist.Normal(mean, jnp.exp(log_scale), validate_args=False))


@dataclass(frozen=True, eq=False)
class StudentT(Likelihood):
    """y ~ outputs + scale * t(df): for outliers."""

    df: Scalar | Learned = 4.0
    scale: Scalar | Learned = 1.0

    def distribution(self, outputs: Any, *, df: Any, scale: Any) -> dist.Distribution:  # noqa: D102
        return _per_example(dist.StudentT(df, outputs, scale, validate_args=False))


@dataclass(frozen=True, eq=False)
class Bernoulli(Likelihood):
    """y in {0, 1} with logit P(y = 1) = outputs: binary cross-entropy, as a likelihood."""

    def distribution(self, outputs: Any) -> dist.Distribution:  # noqa: D102
        return _per_example(BernoulliByLogit(outputs, validate_args=False))


@dataclass(frozen=True, eq=False)
class Categorical(Likelihood):
    """y in {0, ..., C-1} with logits = outputs (last axis): cross-entropy, as a likelihood."""

    def distribution(self, outputs: Any) -> dist.Distribution:  # noqa: D102
        if outputs.ndim < 2:
            raise ValueError(f"Expected outputs (n, C) with C >= 2 logits; got {outputs.shape}. Use jm.Bernoulli().")
        return _per_example(CategoricalByLogits(outputs, validate_args=False))


@dataclass(frozen=True, eq=False)
class Poisson(Likelihood):
    """y in {0, 1, ...} with log mean = outputs."""

    def distribution(self, outputs: Any) -> dist.Distribution:  # noqa: D102
        return _per_example(dist.Poisson(jnp.exp(outputs), validate_args=False))


@dataclass(frozen=True, eq=False)
class NegativeBinomial(Likelihood):
    """y in {0, 1, ...} with log mean = outputs and variance mean + mean^2 / concentration."""

    concentration: Scalar | Learned = 1.0

    def distribution(self, outputs: Any, *, concentration: Any) -> dist.Distribution:  # noqa: D102
        return _per_example(dist.NegativeBinomial2(jnp.exp(outputs), concentration, validate_args=False))


@dataclass(frozen=True, eq=False)
class CustomLikelihood(Likelihood):
    """A user's function `outputs -> Distribution`."""

    function: Callable[[Any], dist.Distribution]

    def __post_init__(self) -> None:
        """Nothing to check before the function has been called."""

    def distribution(self, outputs: Any, *, function: Any) -> dist.Distribution:  # noqa: D102
        made = function(outputs)
        if not isinstance(made, dist.Distribution):
            raise TypeError(f"Expected the likelihood function to return a numpyro distribution; got {made!r}.")
        return _per_example(made)


def as_likelihood(likelihood: Any) -> Likelihood:
    """Accept a likelihood or a function `outputs -> Distribution`.

    Raises:
        TypeError: anything else.
    """
    if isinstance(likelihood, Likelihood):
        return likelihood
    if isinstance(likelihood, type) and issubclass(likelihood, Likelihood):
        raise TypeError(f"Expected a likelihood instance; got the class. Write jm.{likelihood.__name__}().")
    if callable(likelihood) and not isinstance(likelihood, dist.Distribution | type):
        return CustomLikelihood(cast(Any, likelihood))
    raise TypeError(f"Expected a likelihood such as jm.Gaussian(scale=1.0); got {likelihood!r}.")


def affine(distribution: dist.Distribution, shift: Any, scale: Any) -> dist.Distribution:
    """The distribution of shift + scale * y, log-Jacobian included; Gaussians and Student ts stay what they are."""
    if isinstance(distribution, dist.Independent):
        return affine(distribution.base_dist, shift, scale).to_event(distribution.reinterpreted_batch_ndims)
    loc, scale = (jnp.asarray(v, jnp.result_type(float)) for v in (shift, scale))
    event = distribution.batch_shape[1:]
    loc, scale = jnp.broadcast_to(loc, event)[None], jnp.broadcast_to(scale, event)[None]
    if isinstance(distribution, dist.Normal):
        return dist.Normal(loc + scale * distribution.loc, scale * distribution.scale, validate_args=False)
    if isinstance(distribution, dist.StudentT):
        return dist.StudentT(
            distribution.df, loc + scale * distribution.loc, scale * distribution.scale, validate_args=False
        )
    return Affine(distribution, loc, scale)


def marginal(distribution: dist.Distribution) -> dist.Distribution:
    """The distribution of each entry of y, the axes of one example no longer joined."""
    return marginal(distribution.base_dist) if isinstance(distribution, dist.Independent) else distribution


def class_probabilities(distribution: Any) -> Float[Array, "n classes"] | None:
    """P(y = class) per example for distributions over classes, else None."""
    known = (dist.CategoricalLogits, dist.CategoricalProbs, dist.BernoulliLogits, dist.BernoulliProbs)
    if not isinstance(distribution, known):
        return None
    probs = jnp.asarray(distribution.probs)
    binary = isinstance(distribution, dist.BernoulliLogits | dist.BernoulliProbs)
    return jnp.stack([1 - probs, probs], axis=-1) if binary else probs


def gaussian_parts(distribution: dist.Distribution) -> tuple[Array, Array] | None:
    """(loc, scale), broadcast, where y is Gaussian, else None."""
    inner = marginal(distribution)
    return tuple(jnp.broadcast_arrays(inner.loc, inner.scale)) if type(inner) is dist.Normal else None  # type: ignore[return-value]


def gaussian(loc: Float[Array, "n *event"], scale: Float[Array, "n *event"]) -> dist.Distribution:
    """N(loc, scale^2), one distribution per example."""
    return _per_example(dist.Normal(loc, scale))


def classes(probs: Float[Array, "n classes"], *, binary: bool) -> dist.Distribution:
    """The distribution over classes with these probabilities; over 0 and 1 where `binary`."""
    return dist.BernoulliProbs(probs[..., 1]) if binary else dist.CategoricalProbs(probs)
