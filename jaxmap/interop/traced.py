"""A numpyro model whose latent sites are known: its log-probabilities at any parameters, and what follows from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from jaxmap.interop.call import Call
from jaxmap.interop.sites import (
    Sites,
    check_names,
    deterministic,
    factors,
    flattened,
    latent,
    nested,
    observed,
    per_example,
    run_at,
    total,
)
from jaxmap.trees import float_dtype
from jaxmap.types import Params


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

    def derived(self, params: Params, replaced: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the deterministic sites."""
        return nested({name: site["value"] for name, site in deterministic(self.run(params, replaced)).items()})

    @cached_property
    def evaluate(self) -> Any:
        """`parts`, compiled."""
        return jax.jit(self.parts)


class Seen(NamedTuple):
    """What the whole data say at some parameters."""

    params: Params
    prior: Any
    values: Any
