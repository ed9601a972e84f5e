"""predict(): one predictive for all posteriors."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import errors
from jax.sharding import Mesh

from jaxmap.assess.emission import Emission
from jaxmap.assess.linearised import HOW, Parts, emitting, linearised
from jaxmap.assess.predictive import Predictive
from jaxmap.assess.shares import check_alike, of_draws
from jaxmap.curvature import map_over_examples, numbers_per_example
from jaxmap.data import as_mesh, check_data, num_examples
from jaxmap.infer import Draws, GaussianPosterior, MixturePosterior, Point
from jaxmap.infer.point import check_counts
from jaxmap.infer.posteriors import is_posterior
from jaxmap.infer.problem import fold_in, named_key
from jaxmap.model import Model
from jaxmap.trees import cast_floats, float_dtype, has_tracers, named_leaves, precision_scope, settled, signature
from jaxmap.types import Key

DRAWS_AT_A_TIME, NUMBERS_AT_A_TIME = 32, 2**28
"""What a program may hold of a network's draws: so many, and so many numbers that their layers make."""


def predict(
    key: Key,
    model: Model,
    posterior: Any,
    x: Any,
    *,
    draws: int | None = None,
    how: str | None = None,
    mesh: Mesh | None = None,
) -> Predictive:
    """Predict y at new inputs.

    The predictive is a mixture over the posterior: the one point; all MCMC draws, thinned to 1000; for a Laplace
    approximation from a linearised network, the linearised network (in closed form for a Gaussian likelihood with a
    fixed scale, else by 256 draws of its outputs); 256 draws of other Gaussians; an ensemble mixes its members'
    predictives.

    Args:
        key: for draws.
        model: the model that was fitted.
        posterior: what `jm.fit` returned.
        x: new inputs, leading axis n, raw units.
        draws: how many members; None: as above. Points ignore it.
        how: for Gaussians over the parameters of a network: "linearised", as above, whatever the curvature; "outputs",
            draws of the linearised outputs also where there is a closed form; "probit" or "bridge", class
            probabilities in closed form; "weights", draws of the parameters through the network itself. None: what fits
            the curvature.
        mesh: `jm.mesh(member=..., data=...)`, over whose devices the network's outputs are computed: draws and members
            are shared out over `member`, inputs over `data`, whether or not they divide; the result is that of one
            device, to rounding. Of several processes each must call it with the same key and inputs, and gets the
            whole predictive. Models without a network compute nothing here. None: one device, or the mesh that
            `jax.set_mesh` set.

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
    if how not in (None, *HOW):
        raise ValueError(f"Expected how to be one of {', '.join(map(repr, HOW))}; got {how!r}.")
    dtype = dtype_of(posterior)
    with precision_scope(dtype):
        x = check_data(x, name="x", dtype=dtype)
        check_posterior(model, posterior)
        _check_inputs(model, x, dtype)
        devices = as_mesh(mesh)
        check_alike(devices, key, x)
        parts = _members(key, model, posterior, x, _Asked(draws, how, devices))
        members = settled(parts.members)
    chains = posterior.shape[0] if isinstance(posterior, Draws) else 1
    return Predictive(parts.emission, members, parts.log_weights, fold_in(key, 1), chains, parts.spread)


def check_posterior(model: Model, posterior: Any) -> None:
    """Refuse a posterior over other parameters than the model's."""
    if isinstance(posterior, MixturePosterior):
        for member in posterior.members:
            check_posterior(model, member)
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
    known = ("takes", dtype, signature(x))
    if known in model.programs:
        return
    try:
        jax.eval_shape(lambda p, x: model.observe(p, x).mean, cast_floats(model.start, dtype), x)  # type: ignore[misc]
        model.programs[known] = True
    except (NotImplementedError, AttributeError):
        return
    except (ValueError, TypeError, errors.FlaxError) as error:
        if "Expected" in str(error):
            raise
        shapes = ", ".join(str(np.shape(leaf)) for leaf in jax.tree.leaves(x))
        raise ValueError(f"Expected x of the shape that the model was fitted on; got {shapes}: {error}") from error


def dtype_of(posterior: Any) -> Any:
    """The dtype of its parameters."""
    if isinstance(posterior, MixturePosterior):
        return dtype_of(posterior.members[0])
    if isinstance(posterior, GaussianPosterior):
        return posterior.dtype
    return float_dtype(posterior.draws if isinstance(posterior, Draws) else posterior.mode)


class _Asked(NamedTuple):
    """The options of a prediction."""

    draws: int | None
    how: str | None
    mesh: Mesh | None


def _members(key: Key, model: Model, posterior: Any, x: Any, asked: _Asked) -> Parts:
    draws, how, mesh = asked
    if isinstance(posterior, MixturePosterior) and not isinstance(posterior.members[0], Draws):
        return _mixed(key, model, posterior, x, asked)
    if isinstance(posterior, GaussianPosterior) and _is_tangent(model, posterior, how):
        return linearised(key, model, posterior, x, 256 if draws is None else draws, how or "linearised", mesh)
    if how not in (None, "weights") and not isinstance(posterior, GaussianPosterior):
        raise ValueError(
            f"Expected a Gaussian over the parameters for how={how!r}; got {type(posterior).__name__}. Leave it out, "
            "or fit jm.Laplace()."
        )
    params, log_weights = posterior.particles(key, draws)
    if model.outputs is None:
        return Parts(_observing(model, x), params, log_weights)
    return _through_network(model, params, log_weights, x, mesh)


def _through_network(model: Model, params: Any, log_weights: np.ndarray, x: Any, mesh: Mesh | None) -> Parts:
    """One member per draw: what the network makes of the inputs, and the learned likelihood parameters."""
    made = over_draws(lambda p, x: model.outputs(p, x)[0])  # type: ignore[misc]
    if mesh is None:
        outputs = model.programs.jitted("predict", made)(params, x)
    else:
        outputs = of_draws(model, "predict", made, mesh, params, x)
    return Parts(emitting(model), (outputs, _learned(model, params, x)), log_weights)


def _learned(model: Model, params: Any, x: Any) -> Any:
    """The learned likelihood parameters of every draw, which all inputs share."""

    def of_all(params: Any, first: Any) -> Any:
        return jax.vmap(lambda p: model.outputs(p, first)[1])(params)  # type: ignore[misc]

    return model.programs.jitted("learned", of_all)(params, jax.tree.map(lambda leaf: leaf[:1], x))


def _is_tangent(model: Model, posterior: GaussianPosterior, how: str | None) -> bool:
    """Whether to predict by the linearised network."""
    if how is None or how == "weights":
        return posterior.linearised and how is None
    if model.outputs is None:
        raise ValueError(f"Expected a model with network outputs for how={how!r}; got none. Use how='weights'.")
    return True


def over_draws(outputs: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """(draw, x) -> (n, ...) for every draw in bounded memory: several at a time, or the examples of one in chunks."""

    def many(params: Any, x: Any) -> Any:
        first = jax.tree.map(lambda leaf: leaf[0], params)
        held, n = NUMBERS_AT_A_TIME // numbers_per_example(partial(outputs, first), x), num_examples(x)
        chunk, together = max(1, min(n, held)), max(1, min(DRAWS_AT_A_TIME, held // n))
        return jax.lax.map(lambda p: map_over_examples(partial(outputs, p), x, chunk), params, batch_size=together)

    return many


def _mixed(key: Key, model: Model, posterior: MixturePosterior, x: Any, asked: _Asked) -> Parts:
    """Every member's own predictive, weighted."""
    if all(isinstance(member, Point) for member in posterior.members) and model.outputs is not None:
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(member.mode for member in posterior.members))
        return _through_network(model, stacked, posterior.log_weights, x, asked.mesh)
    share = max(1, (256 if asked.draws is None else asked.draws) // len(posterior.members))
    keys, asked = jax.random.split(key, len(posterior.members)), asked._replace(draws=share)
    parts = [_members(k, model, member, x, asked) for k, member in zip(keys, posterior.members, strict=True)]
    members = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(part.members for part in parts))
    weights = [part.log_weights + w for part, w in zip(parts, posterior.log_weights, strict=True)]
    spreads = [part.spread for part in parts if part.spread is not None]
    spread = np.concatenate(spreads) if spreads else None
    return Parts(parts[0].emission, members, np.concatenate(weights), spread)


def _observing(model: Model, x: Any) -> Emission:
    return Emission(lambda params: model.observe(params, x))  # type: ignore[misc]
