"""predict(): one predictive for all posteriors."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import errors
from jax.flatten_util import ravel_pytree

from jaxmap.assess.emission import Emission
from jaxmap.assess.predictive import Predictive
from jaxmap.data import check_data
from jaxmap.infer import Draws, GaussianPosterior, MixturePosterior
from jaxmap.infer.curved import unconstrained_outputs
from jaxmap.infer.point import check_counts
from jaxmap.infer.posteriors import equal_weights, is_posterior
from jaxmap.infer.problem import named_key
from jaxmap.model import Model, gaussian, gaussian_parts
from jaxmap.trees import cast_floats, float_dtype, has_tracers, named_leaves, precision_scope, settled
from jaxmap.types import Key

DRAWS_AT_A_TIME = 32
EXAMPLES_AT_A_TIME = 256


class _Parts(NamedTuple):
    """Members of a predictive, and what makes a distribution of each."""

    emission: Emission
    members: Any
    log_weights: np.ndarray


def predict(key: Key, model: Model, posterior: Any, x: Any, *, draws: int | None = None) -> Predictive:
    """Predict y at new inputs.

    The predictive is a mixture over the posterior: the one point; all MCMC draws, thinned to 1000; for a Laplace
    approximation from a linearised network, the linearised network (in closed form for a Gaussian likelihood with a
    fixed scale, else by 256 draws); 256 draws of other Gaussians; an ensemble mixes its members' predictives.

    Args:
        key: for draws.
        model: the model that was fitted.
        posterior: what `jm.fit` returned.
        x: new inputs, leading axis n, raw units.
        draws: how many members; None: as above. Points ignore it.

    Returns:
        predictive: a mixture of distributions over y, in the units of y.

    Raises:
        ValueError: a model without `observe`; x not finite or empty.
        TypeError: something that is not a posterior.
    """
    key = named_key(key, "predict")
    if not isinstance(model, Model):
        raise TypeError(f"Expected a jm.Model as second argument, jm.Model; got {type(model).__name__}.")
    if has_tracers(x):
        raise TypeError("Expected jm.predict to run on the host; got traced inputs (inside jit or vmap).")
    if x is None or isinstance(x, tuple):
        raise TypeError("Expected x alone, the new inputs; got None or a tuple. Leave y out.")
    if model.observe is None:
        raise ValueError(
            "Expected a model with `observe`, to say how y depends on x; got none. Give Model(observe=...)."
        )
    if not is_posterior(posterior):
        raise TypeError(f"Expected a posterior from jm.fit; got {type(posterior).__name__}.")
    check_counts(draws=draws)
    dtype = _dtype_of(posterior)
    with precision_scope(dtype):
        x = check_data(x, name="x", dtype=dtype)
        _check_posterior(model, posterior)
        _check_inputs(model, x, dtype)
        parts = _members(key, model, posterior, x, draws)
        parts = parts._replace(members=settled(parts.members))
    chains = posterior.shape[0] if isinstance(posterior, Draws) else 1
    return Predictive(*parts, jax.random.fold_in(key, 1), chains)


def _check_posterior(model: Model, posterior: Any) -> None:
    """Refuse a posterior over other parameters than the model's."""
    if isinstance(posterior, MixturePosterior):
        for member in posterior.members:
            _check_posterior(model, member)
        return
    lead = 2 if isinstance(posterior, Draws) else 0
    params = posterior.draws if isinstance(posterior, Draws) else posterior.mode
    found, own = ([(p, jnp.shape(v)) for p, v in named_leaves(tree)] for tree in (params, model.start))
    if [(p, shape[lead:]) for p, shape in found] != own:
        raise ValueError(
            "Expected a posterior of this model; got one over other parameters. Give the model it was fitted with."
        )


def _check_inputs(model: Model, x: Any, dtype: Any) -> None:
    """Refuse inputs that the model cannot take."""
    try:
        jax.eval_shape(lambda p, x: model.observe(p, x).mean, cast_floats(model.start, dtype), x)  # type: ignore[misc]
    except (NotImplementedError, AttributeError):
        return
    except (ValueError, TypeError, errors.FlaxError) as error:
        if "Expected" in str(error):
            raise
        shapes = ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(x))
        raise ValueError(f"Expected x of the shape that the model was fitted on; got {shapes}: {error}") from error


def _dtype_of(posterior: Any) -> Any:
    if isinstance(posterior, MixturePosterior):
        return _dtype_of(posterior.members[0])
    if isinstance(posterior, GaussianPosterior):
        return posterior.dtype
    return float_dtype(posterior.draws if isinstance(posterior, Draws) else posterior.mode)


def _members(key: Key, model: Model, posterior: Any, x: Any, draws: int | None) -> _Parts:
    if isinstance(posterior, MixturePosterior) and not isinstance(posterior.members[0], Draws):
        return _mixed(key, model, posterior, x, draws)
    if isinstance(posterior, GaussianPosterior) and posterior.linearised:
        return _linearised(key, model, posterior, x, 256 if draws is None else draws)
    params, log_weights = posterior.particles(key, draws)
    if model.outputs is None:
        return _Parts(_observing(model, x), params, log_weights)
    program = model.programs.setdefault("predict", jax.jit(_over_draws(model.outputs)))
    return _Parts(_emitting(model), program(params, x), log_weights)


def _over_draws(outputs: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def many(params: Any, x: Any) -> Any:
        return jax.lax.map(lambda p: outputs(p, x), params, batch_size=DRAWS_AT_A_TIME)

    return many


def _mixed(key: Key, model: Model, posterior: MixturePosterior, x: Any, draws: int | None) -> _Parts:
    """Every member's own predictive, weighted."""
    share = max(1, (256 if draws is None else draws) // len(posterior.members))
    keys = jax.random.split(key, len(posterior.members))
    parts = [_members(k, model, member, x, share) for k, member in zip(keys, posterior.members, strict=True)]
    members = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(part.members for part in parts))
    weights = [part.log_weights + w for part, w in zip(parts, posterior.log_weights, strict=True)]
    return _Parts(parts[0].emission, members, np.concatenate(weights))


def _linearised(key: Key, model: Model, posterior: GaussianPosterior, x: Any, draws: int) -> _Parts:
    """The network replaced by its tangent at the mean, f(x) + J (z - mean), with z Gaussian."""
    outputs = unconstrained_outputs(model)
    closed = _closed_form(model, posterior, outputs, x)
    if closed is not None:
        return closed
    z = posterior.sample_unconstrained(key, draws)
    mean = posterior.mean

    def tangent(mean: Any, z: Any, x: Any) -> Any:
        def one(z: Any) -> Any:
            move = jax.tree.map(jnp.subtract, z, mean)
            made, change = jax.jvp(lambda v: outputs(v, x)[0], (mean,), (move,))
            return made + change, outputs(z, x)[1]

        return jax.lax.map(one, z, batch_size=DRAWS_AT_A_TIME)

    program = model.programs.setdefault("tangent", jax.jit(tangent))
    return _Parts(_emitting(model), program(mean, z, x), equal_weights(draws))


def _closed_form(model: Model, posterior: GaussianPosterior, outputs: Any, x: Any) -> _Parts | None:
    """One Gaussian per input, N(f, s^2 + J C J'), where y is Gaussian with a scale that does not depend on z."""

    def parts(z: Any, x: Any) -> Any:
        return gaussian_parts(model.emission(*outputs(z, x)))  # type: ignore[misc]

    shapes = jax.eval_shape(parts, posterior.mean, x)
    if shapes is None:
        return None
    move = jax.tree.map(jnp.ones_like, posterior.mean)
    first = jax.tree.map(lambda leaf: leaf[:1], x)
    if np.any(np.asarray(jax.jvp(lambda z: parts(z, first)[1], (posterior.mean,), (move,))[1])):
        return None
    mean, unravel = ravel_pytree(posterior.mean)

    def one(mean: Any, root: Any, example: Any) -> Any:
        single = jax.tree.map(lambda leaf: leaf[None], example)
        loc, scale = parts(unravel(mean), single)
        jacobian = jax.jacrev(lambda v: parts(unravel(v), single)[0])(mean)
        spread = jnp.sum((jacobian.reshape(-1, mean.size) @ root) ** 2, axis=-1).reshape(loc.shape)
        return loc[0], jnp.sqrt(scale**2 + spread)[0]

    def over_examples(mean: Any, root: Any, x: Any) -> Any:
        return jax.lax.map(partial(one, mean, root), x, batch_size=EXAMPLES_AT_A_TIME)

    program = model.programs.setdefault("linearised", jax.jit(over_examples))
    root = jnp.asarray(posterior.factor.whiten_inverse(np.eye(mean.size)), mean.dtype)
    loc, scale = program(mean, root, x)
    return _Parts(CLOSED_FORM, (loc[None], scale[None]), equal_weights(1))


CLOSED_FORM = Emission(lambda member: gaussian(*member))
"""member (loc, scale) -> Gaussian."""


def _emitting(model: Model) -> Emission:
    """Member (outputs, learned values) -> distribution; one per model."""
    return model.programs.setdefault("emission", Emission(lambda member: model.emission(*member)))  # type: ignore[misc]


def _observing(model: Model, x: Any) -> Emission:
    return Emission(lambda params: model.observe(params, x))  # type: ignore[misc]
