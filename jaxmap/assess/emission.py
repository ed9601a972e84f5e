"""Emission: from the members of a predictive to distributions of y, compiled once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmap.model import Programs, class_probabilities, gaussian_parts, marginal
from jaxmap.types import Key

MEMBERS_AT_A_TIME = 64


class Emission:
    """The function member -> distribution of y (batch shape (n,)), and the programs compiled from it.

    All predictives of one model share one emission, so that the second costs no compilation.
    """

    def __init__(self, function: Callable[[Any], Any]):
        self._function = function
        self._programs = Programs()

    def __call__(self, member: Any) -> Any:
        """The distribution of one member."""
        return self._function(member)

    def moments(self, members: Any) -> Any:
        """(means, variances) of y per member, stacked; of the class indicators for classes."""
        return self._mapped("moments", _moments)(members, None)

    def log_prob(self, members: Any, y: Any) -> Any:
        """Log p(y | member), (S, n)."""
        return self._mapped("log_prob", lambda distribution, y: distribution.log_prob(y))(members, y)

    def gaussian(self, members: Any) -> Any:
        """(locs, scales) per member, where y is Gaussian."""
        return self._mapped("gaussian", lambda distribution, _: gaussian_parts(distribution))(members, None)

    def cdf(self, members: Any, weights: Any, y: Any) -> Any:
        """The weighted cdf at y of shape (k, n, ...)."""

        def total(members: Any, weights: Any, y: Any) -> Any:
            def add(total: Any, part: Any) -> Any:
                member, weight = part
                return total + weight * jax.vmap(marginal(self(member)).cdf)(y), None

            return jax.lax.scan(add, jnp.zeros_like(y), (members, weights))[0]

        return self._program("cdf", total)(members, weights, y)

    def mixed(self, members: Any, log_weights: Any, y: Any) -> Any:
        """Evaluate log sum_s exp(log_weights[s, i]) p(y[k, i] | member s), for y of shape (k, n, ...): (k, n)."""

        def total(members: Any, log_weights: Any, y: Any) -> Any:
            def add(total: Any, part: Any) -> Any:
                member, weights = part
                each = jax.vmap(self(member).log_prob)(y) + weights[None]
                return jnp.logaddexp(total, each), None

            begin = jnp.full((len(y), log_weights.shape[1]), -jnp.inf, log_weights.dtype)
            return jax.lax.scan(add, begin, (members, log_weights))[0]

        return self._program("mixed", total)(members, log_weights, y)

    def sample(self, keys: Key, members: Any) -> Any:
        """One draw of y from each of the given members."""

        def draw(pair: Any) -> Any:
            key, member = pair
            return self(member).sample(key)

        def many(keys: Key, members: Any) -> Any:
            return jax.lax.map(draw, (keys, members), batch_size=MEMBERS_AT_A_TIME)

        return self._program("sample", many)(keys, members)

    def _mapped(self, name: str, function: Callable[[Any, Any], Any]) -> Any:
        """function(distribution, y) for every member, in bounded memory."""

        def over(members: Any, y: Any) -> Any:
            return jax.lax.map(lambda member: function(self(member), y), members, batch_size=MEMBERS_AT_A_TIME)

        return self._program(name, over)

    def _program(self, name: str, function: Any) -> Any:
        return self._programs.jitted(name, function)


def _moments(distribution: Any, _: None) -> Any:
    probabilities = class_probabilities(distribution)
    if probabilities is not None:
        return probabilities, probabilities * (1 - probabilities)
    return distribution.mean, distribution.variance
