"""from_numpyro(): the user's numpyro model as a `Model`, and its data."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import Distribution
from numpyro.infer.initialization import init_to_feasible, init_to_median, init_to_uniform

from jaxmap.interop.call import Call
from jaxmap.interop.sites import (
    Sites,
    check_names,
    check_static,
    chosen_rows,
    factors,
    flattened,
    latent,
    nested,
    observed,
    per_example,
    run_at,
    run_from,
    supports,
    total,
)
from jaxmap.model import Model
from jaxmap.trees import float_dtype
from jaxmap.types import Data, Params

STARTS = (init_to_median, init_to_feasible, *[init_to_uniform] * 10)
"""Where a start is looked for: the prior's median first, as numpyro finds it."""

RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""How far two evaluations of the same log-probabilities may differ."""


def from_numpyro(numpyro_model: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Model, Data]:
    """Make a model, and its data, from a numpyro model and its arguments.

        model, data = jm.from_numpyro(numpyro_model, x, y=y)
        posterior = jm.fit(key, model, data, jm.NUTS())

    The parameters are the latent sites by name (a scope is a level of the tree), on the supports of their
    distributions; `numpyro.param` is a parameter without prior. log_prior sums the log-probabilities of the latent
    sites, log_likelihood those of the observed sites per example; both come from one run of the model, never as a
    difference, with the scales of plates and `handlers.scale`, and with masks. Deterministic sites are left out.

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
        apart = _apart(traced, whole, list(given.values()))
        observe = None if apart is None else _observe(traced, apart, whole, list(given))
    _warn_of_subsamples(first)
    start, support = whole[0].params, nested(supports(first))
    if apart is not None:
        one_row = {name: leaf[:1] for name, leaf in apart.arrays.items()}
        model = Model(
            log_likelihood=lambda params, batch: traced.parts(params, apart.named(batch))[1],
            log_prior=lambda params: traced.parts(params, one_row)[0],
            init=start,
            support=support,
            observe=observe,
        )
        return model, apart.data
    model = Model(
        log_likelihood=lambda params, batch: traced.parts(params, {})[1][batch["row"]],
        log_prior=lambda params: traced.parts(params, {})[0],
        init=start,
        support=support,
    )
    return model, {"row": np.arange(len(whole[0].values))}


@dataclass(frozen=True, eq=False)
class Traced:
    """A call whose latent sites are known.

    Attributes:
        call: the model and its arguments.
        names: the latent sites.
        rows: those that subsampling plates chose.
        has_data: False where nothing but factors is observed.
    """

    call: Call
    names: tuple[str, ...]
    rows: dict[str, Any]
    has_data: bool

    def run(self, params: Params, replaced: Mapping[str, Any]) -> Sites:
        """Run the model at params, with some leaves of its arguments replaced."""
        arguments = self.call.arguments(replaced, float_dtype(params))
        return run_at(self.call.model, arguments, flattened(params, self.names) | self.rows)

    def parts(self, params: Params, replaced: Mapping[str, Any]) -> tuple[Float[Array, ""], Float[Array, " n"]]:
        """The log prior, and the log-likelihood of each example."""
        sites = self.run(params, replaced)
        check_names(self.names, latent(sites))
        prior, given = list(latent(sites).values()), list(observed(sites).values())
        other = list(factors(sites).values())
        return (total(prior + other), per_example(given)) if self.has_data else (total(prior), per_example(other))

    @cached_property
    def evaluate(self) -> Any:
        """`parts`, compiled."""
        return jax.jit(self.parts)


@dataclass(frozen=True, eq=False)
class Apart:
    """Arguments that can be taken apart into examples.

    Attributes:
        arrays: those that lead with the examples, by name.
        y: the names of those that are observed.
    """

    arrays: dict[str, Any]
    y: tuple[str, ...]

    @property
    def x(self) -> tuple[str, ...]:
        """The names of the others."""
        return tuple(name for name in self.arrays if name not in self.y)

    @property
    def data(self) -> Data:
        """As the user sees them."""
        if not self.y:
            return dict(self.arrays)
        return _packed(self.arrays, self.x), _packed(self.arrays, self.y)

    def named(self, batch: Data) -> dict[str, Any]:
        """The leaves of a batch by name."""
        if not self.y:
            return dict(batch)
        x, y = batch
        return _unpacked(x, self.x) | _unpacked(y, self.y)


def _packed(arrays: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return arrays[names[0]] if len(names) == 1 else {name: arrays[name] for name in names}


def _unpacked(packed: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {names[0]: packed} if len(names) == 1 else {name: packed[name] for name in names}


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


class Seen(NamedTuple):
    """What the whole data say at some parameters."""

    params: Params
    prior: Any
    values: Any


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


def _apart(traced: Traced, whole: list[Seen], given: list[Any]) -> Apart | None:
    """The arguments that lead with the examples, if some rows of them have these rows' log-likelihoods.

    Half of the rows, in reverse, must have theirs, and one row must leave the prior as it is. `given` are the values
    of the observed sites.
    """
    n = len(whole[0].values)
    arrays = traced.call.leading(n)
    if not arrays:
        return None
    rows = np.arange(n)[::-2]
    try:
        for params, prior, values in whole:
            _, some = traced.evaluate(params, {name: leaf[rows] for name, leaf in arrays.items()})
            alone, _ = traced.evaluate(params, {name: leaf[:1] for name, leaf in arrays.items()})
            if not (_equal(values[rows], some) and _equal(prior, alone)):
                return None
    except Exception:  # whatever the user's program raises on fewer rows, it cannot run on them
        return None
    return Apart(arrays, tuple(name for name, leaf in arrays.items() if any(_same(leaf, value) for value in given)))


def _observe(
    traced: Traced, apart: Apart, whole: list[Seen], names: list[str]
) -> Callable[[Params, Any], Distribution] | None:
    """The distribution of y given x, if the model runs without y and says the same of the y at hand."""
    if len(names) != 1 or len(apart.y) != 1 or not apart.x:
        return None

    def observe(params: Params, x: Any) -> Distribution:
        made = traced.run(params, _unpacked(x, apart.x) | {apart.y[0]: None})[names[0]]["fn"]
        return made.to_event(len(made.batch_shape) - 1)

    x, y = apart.data
    program = jax.jit(lambda params: observe(params, x).log_prob(jnp.asarray(y)))
    try:
        same = all(_equal(seen.values, program(seen.params)) for seen in whole)
    except Exception:  # as above: it does not run without y
        return None
    return observe if same else None


def _equal(expected: Any, got: Any) -> bool:
    return np.shape(expected) == np.shape(got) and bool(np.allclose(expected, got, rtol=RELATIVE, atol=ABSOLUTE))


def _same(leaf: Any, value: Any) -> bool:
    """Whether a site observed this argument, which the run may have rounded to its own dtype."""
    if leaf is value:
        return True
    given, seen = np.asarray(leaf), np.asarray(value)
    return given.shape == seen.shape and np.array_equal(given.astype(seen.dtype), seen)
