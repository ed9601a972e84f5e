"""from_numpyro(): the user's numpyro model as a `Model`, and its data."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution
from numpyro.infer.initialization import init_to_feasible, init_to_median, init_to_uniform

from jaxmap.interop.apart import Apart, apart_of, equal, unpacked
from jaxmap.interop.call import Call
from jaxmap.interop.sites import (
    Sites,
    check_static,
    chosen_rows,
    deterministic,
    factors,
    latent,
    nested,
    observed,
    run_from,
    supports,
)
from jaxmap.interop.traced import Seen, Traced
from jaxmap.model import Model
from jaxmap.types import Data, Params

STARTS = (init_to_median, init_to_feasible, *[init_to_uniform] * 10)
"""Where a start is looked for: the prior's median first, as numpyro finds it."""


def from_numpyro(numpyro_model: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Model, Data]:
    """Make a model, and its data, from a numpyro model and its arguments.

        model, data = jm.from_numpyro(numpyro_model, x, y=y)
        posterior = jm.fit(key, model, data, jm.NUTS())

    The parameters are the latent sites by name (a scope is a level of the tree), on the supports of their
    distributions; `numpyro.param` is a parameter without prior. log_prior sums the log-probabilities of the latent
    sites, log_likelihood those of the observed sites per example; both come from one run of the model, never as a
    difference, with the scales of plates and `handlers.scale`, and with masks.
    Deterministic sites are `model.derived`, so that `to_arviz(model=, data=)` shows them beside the parameters.

    Examples are the entries of the leading axis that the observed sites share, other axes summed. Sites without a
    common leading axis are laid end to end; a site without a batch shape is one example. A `numpyro.factor` belongs to
    the prior; where nothing is observed the factors are the likelihood. Random choices of the model that are not
    sites, and the rows that a subsampling plate takes, are drawn once and held; the latter with a warning.

    `data` is one of these:

    - `(x, y)` where the model can be run on any rows of its arguments, each example by itself, which is tried: x are
      the arguments that lead with n, y those that are observed, a dict by name where there are several. Test data
      have the same form. Where one site is observed and the model runs without it (`y=None`), the model has `observe`
      and thus predictions. Where no argument is itself observed (log(y) is), `data` is a dict of all of them.
    - `{"row": 0 ... n-1}` where it cannot (latent sites per example, series, a plate whose size is an argument): the
      model holds its arguments, and each row stands for its example. A minibatch then costs as much as all rows.

    Args:
        numpyro_model: a function with numpyro statements. Its latent sites, and their supports and shapes, must be
            the same in every run.
        args: what `MCMC.run(key, ...)` gets after the key.
        kwargs: likewise.

    Returns:
        model: to give to `jm.fit`; starts near the prior's median, always at the same place.
        data: to give along.

    Raises:
        TypeError: no function, or arguments that it does not take.
        ValueError: a discrete latent site, a support that depends on other sites, no latent or no observed site.
    """
    call = Call.of(numpyro_model, args, kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpyro's remarks on plates; what matters is checked in words
        first = _first_run(call)
        traced = Traced(call, tuple(latent(first)), chosen_rows(first), bool(observed(first)))
        # not the start alone: where it has zeros, x would not matter
        whole = [_start(traced), _at(traced, init_to_uniform, len(STARTS))]
        given = {name: site["value"] for name, site in observed(first).items()}
        apart = apart_of(traced, whole, list(given.values()))
        observe = None if apart is None else _observe(traced, apart, whole, list(given))
    _warn_of_subsamples(first)
    start, support, follows = whole[0].params, nested(supports(first)), bool(deterministic(first))
    if apart is not None:
        one_row = {name: leaf[:1] for name, leaf in apart.arrays.items()}
        model = Model(
            log_likelihood=lambda params, batch: traced.parts(params, apart.named(batch))[1],
            log_prior=lambda params: traced.parts(params, one_row)[0],
            init=start,
            support=support,
            observe=observe,
            derived=(lambda params, batch: traced.derived(params, apart.named(batch))) if follows else None,
        )
        return model, apart.data
    model = Model(
        log_likelihood=lambda params, batch: traced.parts(params, {})[1][batch["row"]],
        log_prior=lambda params: traced.parts(params, {})[0],
        init=start,
        support=support,
        derived=(lambda params, batch: traced.derived(params, {})) if follows else None,
    )
    return model, {"row": np.arange(len(whole[0].values))}


def _first_run(call: Call) -> Sites:
    """Run the model at two places and look at what it says.

    Raises:
        ValueError: what cannot be a model of ours, in words.
    """
    arguments = call.arguments({}, _default())
    first = run_from(call.model, arguments, init_to_uniform, 0)
    if not latent(first):
        raise ValueError("Expected latent sites in the numpyro model; got none. Draw its parameters by numpyro.sample.")
    if not observed(first) and not factors(first):
        raise ValueError(
            "Expected observed sites in the numpyro model; got none. Give the data, as in "
            "jm.from_numpyro(model, x, y=y), and use them: numpyro.sample(..., obs=y)."
        )
    check_static(first, run_from(call.model, arguments, init_to_uniform, 1))
    return first


def _start(traced: Traced) -> Seen:
    """The first of the starts at which the density is finite; the prior's median where it is nowhere."""
    for seed, begin in enumerate(STARTS):
        seen = _at(traced, begin, seed)
        if np.isfinite(seen.prior) and np.all(np.isfinite(seen.values)):
            return seen
    return _at(traced, STARTS[0], 0)


def _warn_of_subsamples(sites: Sites) -> None:
    for name, rows in chosen_rows(sites).items():
        size = sites[name]["args"][0]
        warnings.warn(
            f"The plate {name!r} takes {len(rows)} of {size} rows: those that were drawn now are held, and stand for "
            "all. Leave subsample_size out for the posterior of all rows; jm.MAP(..., batch_size=) takes minibatches.",
            stacklevel=3,
        )


def _at(traced: Traced, begin: Callable[[Any], Any], seed: int) -> Seen:
    """Look at the place that a strategy of numpyro finds."""

    def place() -> Params:
        sites = run_from(traced.call.model, traced.call.arguments({}, _default()), begin, seed)
        return nested({name: jax.tree.map(jnp.asarray, site["value"]) for name, site in latent(sites).items()})

    params = jax.jit(place)()
    return Seen(params, *traced.evaluate(params, {}))


def _default() -> Any:
    """The dtype in which numpyro draws."""
    return jnp.zeros(()).dtype


def _observe(
    traced: Traced, apart: Apart, whole: list[Seen], names: list[str]
) -> Callable[[Params, Any], Distribution] | None:
    """The distribution of y given x, if the model runs without y and says the same of the y at hand."""
    if len(names) != 1 or len(apart.y) != 1 or not apart.x:
        return None

    def observe(params: Params, x: Any) -> Distribution:
        made = traced.run(params, unpacked(x, apart.x) | {apart.y[0]: None})[names[0]]["fn"]
        return made.to_event(len(made.batch_shape) - 1)

    x, y = apart.data
    program = jax.jit(lambda params: observe(params, x).log_prob(jnp.asarray(y)))
    try:
        same = all(equal(seen.values, program(seen.params)) for seen in whole)
    except Exception:  # as above: it does not run without y
        return None
    return observe if same else None
