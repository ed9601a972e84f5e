"""Predictive: a weighted mixture of observation distributions."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from jaxmap.assess.emission import Emission
from jaxmap.data import check_data
from jaxmap.model import class_probabilities, gaussian_parts, marginal, widened
from jaxmap.trees import float_dtype, has_tracers, precision_scope
from jaxmap.types import Key

BISECTIONS = 60
FALLBACK_DRAWS = 4096


@dataclass(frozen=True, eq=False)
class Predictive:
    """p(y | x) = sum over members of weight * p(y | x, member), for n new inputs.

    Numbers are numpy arrays in the units of y. `epistemic` is what more data would remove: the variance of the
    members' means; `aleatoric` is the mean of their variances; `variance` is the sum of both. For classes the three
    are those of the indicator of each class, (n, classes).

    Attributes:
        emission: member -> distribution of y, batch shape (n,).
        members: a tree whose arrays lead with the S members.
        log_weights: (S,), summing to one in exp.
        key: for the few quantities that need random numbers.
        chains: how many Markov chains the members come from, chain after chain; 1 otherwise.
        spread: the part of each member's variance that is epistemic, (S, n, ...), where a member stands for a whole
            Gaussian over the parameters; None where it is one parameter tree.
    """

    emission: Emission = field(repr=False)
    members: Any = field(repr=False)
    log_weights: np.ndarray = field(repr=False)
    key: Key = field(repr=False)
    chains: int = 1
    spread: np.ndarray | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """S, the number of members."""
        return len(self.log_weights)

    @property
    def dtype(self) -> Any:
        """The dtype of the members."""
        return float_dtype(self.members)

    @cached_property
    def kind(self) -> str:
        """What y is: "classes", "counts" or "real"."""
        distribution = self._first()
        with precision_scope(self.dtype):
            if class_probabilities(distribution) is not None:
                return "classes"
        return "counts" if distribution.support.is_discrete else "real"

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        with precision_scope(self.dtype):
            return tuple(np.asarray(part, np.float64) for part in self.emission.moments(self._on_device))  # type: ignore[return-value]

    @property
    def member_means(self) -> np.ndarray:
        """E[y | member], (S, n, ...); class probabilities (S, n, classes) for classes."""
        return self._moments[0]

    @cached_property
    def probs(self) -> np.ndarray:
        """P(y = class), (n, classes); each row sums to one in float64, also where the members are in float32.

        Raises:
            ValueError: y is not a class.
        """
        if self.kind != "classes":
            raise ValueError("Expected classes for `probs`; this predictive is over numbers. Use `mean`.")
        average = self._average(self.member_means)
        return average / average.sum(axis=-1, keepdims=True)

    @property
    def mean(self) -> np.ndarray:
        """E[y], (n, ...); P(y = 1) for binary classes.

        Raises:
            ValueError: y is one of several classes, which have no mean.
        """
        if self.kind != "classes":
            return self._average(self.member_means)
        if self.probs.shape[-1] > 2:
            raise ValueError("Expected numbers for `mean`; this predictive is over classes. Use `probs`.")
        return self.probs[..., 1]

    @cached_property
    def epistemic(self) -> np.ndarray:
        """The variance of the members' means, and what is epistemic within a member."""
        with np.errstate(invalid="ignore"):  # a mean that does not exist stays nan
            centered = self.member_means - self._average(self.member_means)[None]
            return self._average(centered**2 if self.spread is None else centered**2 + self.spread)

    @cached_property
    def aleatoric(self) -> np.ndarray:
        """The mean of the members' variances."""
        return self._average(self._moments[1] if self.spread is None else self._moments[1] - self.spread)

    @property
    def variance(self) -> np.ndarray:
        """Epistemic plus aleatoric."""
        return self.epistemic + self.aleatoric

    def log_prob(self, y: Any) -> np.ndarray:
        """Log p(y_i | x_i) per example, nats, (n,).

        Raises:
            ValueError: y of another shape, not finite, or outside the support.
        """
        y = self._checked(y)
        with precision_scope(self.dtype):
            each = np.asarray(self.emission.log_prob(self._on_device, y), np.float64)
        return np.asarray(logsumexp(each + self.log_weights[:, None], axis=0), np.float64)

    def cdf(self, y: Any) -> np.ndarray:
        """P(Y_i <= y_i) per entry."""
        expected = self.mean.shape if self.kind != "classes" else self.probs.shape[:-1]
        if np.shape(y) != expected:
            raise ValueError(f"Expected y with shape {expected}; got {np.shape(y)}.")
        with precision_scope(self.dtype):
            y = jnp.asarray(y, self.dtype)
            if self.kind == "classes":
                return np.asarray(np.take_along_axis(self.probs.cumsum(-1), np.asarray(y, int)[..., None], -1)[..., 0])
            return self._cdf(y[None])[0]

    def quantile(self, q: float | np.ndarray) -> np.ndarray:
        """The smallest y with cdf(y) >= q, per entry.

        Args:
            q: a probability in (0, 1), or k of them.

        Returns:
            quantiles: (n, ...), or (k, n, ...).

        Raises:
            ValueError: q outside (0, 1).
        """
        levels = np.atleast_1d(np.asarray(q, float))
        if not np.all((levels > 0) & (levels < 1)):
            raise ValueError(f"Expected quantile levels between 0 and 1; got {q}.")
        found = self._quantiles(levels)
        return found[0] if np.ndim(q) == 0 else found

    def sample(self, key: Key, n: int) -> np.ndarray:
        """Draw n values of y for every input, (n, number of inputs, ...)."""
        choose, within = jax.random.split(key)
        picks = jax.random.categorical(choose, jnp.asarray(self.log_weights), shape=(n,))
        keys = jax.random.split(within, n)
        with precision_scope(self.dtype):
            chosen = jax.tree.map(lambda leaf: leaf[picks], self._on_device)
            return np.asarray(self.emission.sample(keys, chosen))

    def halves(self) -> tuple["Predictive", "Predictive"]:
        """The first and the second half of the members, weights renewed: two looks at one posterior."""
        middle = self.size // 2
        parts = (slice(None, middle), slice(middle, None))
        return tuple(  # type: ignore[return-value]
            Predictive(
                self.emission,
                jax.tree.map(lambda leaf, p=part: leaf[p], self.members),
                self.log_weights[part] - np.logaddexp.reduce(self.log_weights[part]),
                jax.random.fold_in(self.key, i),
                spread=None if self.spread is None else self.spread[part],
            )
            for i, part in enumerate(parts)
        )

    def gaussian_members(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(locs, scales) of the members, each (S, n, ...), where y is Gaussian given a member."""
        if gaussian_parts(self._first()) is None:
            return None
        with precision_scope(self.dtype):
            return tuple(np.asarray(part, np.float64) for part in self.emission.gaussian(self._on_device))  # type: ignore[return-value]

    @property
    def _on_device(self) -> Any:
        return jax.tree.map(jnp.asarray, self.members)

    def _first(self) -> Any:
        with precision_scope(self.dtype):
            return self.emission(jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), self.members))

    def _average(self, values: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.tensordot(np.exp(self.log_weights), values, 1)

    def _checked(self, y: Any) -> Any:
        if has_tracers(y):
            raise TypeError("Expected predictions to be scored on the host; got traced targets (inside jit or vmap).")
        with precision_scope(self.dtype):
            y = check_data(y, name="y", dtype=self.dtype)
            expected = self._first().shape()
            if jnp.shape(y) != expected:
                remedy = "Squeeze y." if jnp.shape(y) == (*expected, 1) else "Give one y per input."
                raise ValueError(f"Expected y with shape {expected}; got {jnp.shape(y)}. {remedy}")
            if not bool(jnp.all(self._first().support(widened(y)))):
                raise ValueError("Expected y inside the support of its distribution; got values outside.")
            return y

    @cached_property
    def _has_cdf(self) -> bool:
        with precision_scope(self.dtype):
            distribution = marginal(self._first())
            try:
                distribution.cdf(jnp.zeros(distribution.shape(), self.dtype))
            except NotImplementedError:
                return False
            return True

    def _cdf(self, y: Any) -> np.ndarray:
        """The mixture's cdf at y of shape (k, n, ...)."""
        if not self._has_cdf:
            return np.mean(self._fallback_draws[None] <= np.asarray(y)[:, None], axis=1)
        with precision_scope(self.dtype):
            weights = jnp.exp(jnp.asarray(self.log_weights, self.dtype))
            found = self.emission.cdf(self._on_device, weights, jnp.asarray(y, self.dtype))
            return np.clip(np.asarray(found, np.float64), 0.0, 1.0)  # weights add up to one but for rounding

    @cached_property
    def _fallback_draws(self) -> np.ndarray:
        return self.sample(self.key, FALLBACK_DRAWS)

    def _quantiles(self, levels: np.ndarray) -> np.ndarray:
        """All levels at once, (k, n, ...), by bisection of the cdf."""
        if self.kind == "classes":
            return np.stack([np.argmax(self.probs.cumsum(-1) >= level, axis=-1) for level in levels])
        if not self._has_cdf:
            return np.quantile(self._fallback_draws, levels, axis=0, method="inverted_cdf")
        targets = levels.reshape(-1, *(1,) * self.mean.ndim)
        low, high = self._bracket(targets)
        for _ in range(BISECTIONS):
            middle = np.floor((low + high) / 2) if self.kind == "counts" else (low + high) / 2
            if np.all((middle == low) | (middle == high)):
                break
            below = self._cdf(middle) < targets
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return high

    def _bracket(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points below and above the quantiles, found by doubling away from the mean."""
        center, spread = np.broadcast_arrays(self.mean, self.variance)
        center = np.where(np.isfinite(center), center, 0.0)
        width = np.sqrt(np.where(np.isfinite(spread) & (spread > 0), spread, 1.0))
        shape = np.broadcast_shapes(targets.shape, center[None].shape)
        whole = self.kind == "counts"
        low = np.full(shape, -1.0) if whole else np.broadcast_to((center - width)[None], shape)
        high = np.broadcast_to((np.ceil(center + width) if whole else center + width)[None], shape)
        for _ in range(BISECTIONS):
            too_high = np.zeros(shape, bool) if whole else self._cdf(low) >= targets
            too_low = self._cdf(high) < targets
            if not (too_high.any() or too_low.any()):
                break
            width = 2 * width
            step = (np.ceil(width) if whole else width)[None]
            low, high = np.where(too_high, low - step, low), np.where(too_low, high + step, high)
        return low, high
