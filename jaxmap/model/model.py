"""Model: pure functions that say what is believed about parameters and data."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import Distribution, constraints

from jaxmap.model.prior import Prior
from jaxmap.model.programs import Programs
from jaxmap.model.space import Space
from jaxmap.trees import cast_floats, size
from jaxmap.types import Data, Key, Params


def _no_prior(params: Params) -> Float[Array, ""]:
    """The flat prior."""
    return jnp.asarray(0.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """A probabilistic model as pure functions.

    log_joint(params, data) = log_prior(params) + sum over examples of log_likelihood(params, data), in nats, all
    constants kept: the one density that every method sees.

    Args:
        log_likelihood: (params, batch) -> (n,), one log-probability per example, never summed. May be left out
            where `observe` is given: it is then observe(params, x).log_prob(y) on a batch (x, y).
        init: a params tree inside the support, or `init(key) -> params`. Its dtype is the computing dtype.
        log_prior: params -> (); a flat prior if left out. A `Prior` is such a function.
        support: pytree prefix of numpyro constraints; taken from the `Prior` if left out, real without one.
        observe: (params, x) -> Distribution of y given x, batch shape (n,). Predictions need it.
        apply: (params, x) -> network outputs, where there is a network.
        outputs: (params, x) -> (network outputs, learned likelihood parameters), where there is a network.
        emission: (outputs, learned likelihood parameters) -> Distribution of y, the other half of `observe`.
        restartable: False where `init` has only one start to give.
        concave: True where log p(y) is known to be concave in the outputs, whatever y.
        train: (params, key, batch) -> (log-likelihoods (n,) of a network in training mode, its batch statistics after
            the batch or None), which optax transformations then train instead of `log_likelihood`.
        derived: (params, data) -> quantities by name that follow from the parameters, as deterministic sites of
            numpyro do; `to_arviz` shows them beside the parameters.

    Raises:
        TypeError: a part of the wrong kind, integer parameters.
        ValueError: no likelihood, or a start outside the support.
    """

    log_likelihood: Callable[[Params, Data], Float[Array, " n"]] = None  # type: ignore[assignment]
    init: Any
    log_prior: Callable[[Params], Float[Array, ""]] = _no_prior
    support: Any = None
    observe: Callable[[Params, Any], Distribution] | None = None
    apply: Callable[[Params, Any], Any] | None = None
    outputs: Callable[[Params, Any], tuple[Any, dict[str, Any]]] | None = None
    emission: Callable[[Any, dict[str, Any]], Distribution] | None = None
    restartable: bool = True
    concave: bool = False
    train: Callable[[Params, Key, Data], tuple[Float[Array, " n"], Any]] | None = None
    derived: Callable[[Params, Data], dict[str, Any]] | None = None
    programs: Programs = field(default_factory=Programs, repr=False, init=False)

    def __post_init__(self) -> None:
        if self.log_likelihood is None:
            if self.observe is None:
                raise ValueError("Expected log_likelihood or observe; got neither. Say how likely the data are.")
            object.__setattr__(self, "log_likelihood", self._observed)
        for name in ("log_likelihood", "log_prior"):
            if not callable(getattr(self, name)) or isinstance(getattr(self, name), Distribution):
                raise TypeError(f"Expected {name} to be a function; got {getattr(self, name)!r}.")
        if self.observe is not None and (not callable(self.observe) or isinstance(self.observe, Distribution)):
            raise TypeError(f"Expected observe to be a function (params, x) -> Distribution; got {self.observe!r}.")
        if not size(self.start):
            raise ValueError("Expected at least one parameter in init; got none.")
        self.space.check(self.start, name="init" if not callable(self.init) else "init(key)")

    def log_joint(self, params: Params, data: Data) -> Float[Array, ""]:
        """log_prior + the sum of log_likelihood over the examples, in nats."""
        return self.log_prior(params) + jnp.sum(self.log_likelihood(params, data))

    @property
    def has_prior(self) -> bool:
        """False where the prior is flat everywhere."""
        if isinstance(self.log_prior, Prior):
            return not self.log_prior.is_flat
        return self.log_prior is not _no_prior

    @cached_property
    def start(self) -> Params:
        """The start, or one of the starts, as jax arrays in the user's space."""
        try:
            with jax.ensure_compile_time_eval():  # a model may be built inside a program, as `path` does
                return jax.tree.map(_as_array, self.init(jax.random.key(0)) if callable(self.init) else self.init)
        except (TypeError, ValueError, AttributeError) as error:
            if "Expected" in str(error):
                raise
            raise TypeError(
                f"Expected init to be params or a function key -> params; calling it failed: {error}"
            ) from error

    @cached_property
    def space(self) -> Space:
        """The map to unconstrained coordinates."""
        if self.support is not None:
            return Space.of(self.support, self.start)
        if isinstance(self.log_prior, Prior):
            return Space.of(self.log_prior.support(self.start), self.start)
        return Space.of(constraints.real, self.start)

    def start_unconstrained(self, dtype: Any) -> Any:
        """The start in unconstrained coordinates of a given dtype."""
        return self.space.unconstrain(cast_floats(self.start, dtype))

    def starts(self, key: Key) -> Params:
        """A random start from `init(key)`; the same tree whatever the key where `init` is a tree. Traceable."""
        return jax.tree.map(_copied, self.init(key)) if callable(self.init) else self.start

    def _observed(self, params: Params, batch: Data) -> Float[Array, " n"]:
        x, y = batch
        return self.observe(params, x).log_prob(y)  # type: ignore[misc]

    def __str__(self) -> str:
        if isinstance(self.log_prior, Prior):
            return self.log_prior.table(self.start)
        return repr(self)


def from_log_density(log_density: Callable[[Params], Any], *, init: Any, support: Any = None) -> Model:
    """Make a model from one log density, with nothing to split and no data (`data=None`).

    The density stands where the likelihood stands, under a flat prior, so that `MLE` and `MAP` both find its mode.

    Args:
        log_density: params -> (), unnormalised is fine.
        init: a params tree inside the support, or `init(key) -> params`.
        support: pytree prefix of numpyro constraints; real if left out.

    Returns:
        model: to fit with `data=None`.
    """
    if not callable(log_density):
        raise TypeError(f"Expected a function params -> log density; got {log_density!r}.")

    def log_likelihood(params: Params, batch: Data) -> Float[Array, " 1"]:
        value = jnp.asarray(log_density(params))
        if value.ndim:
            raise ValueError(f"Expected the log density to return a scalar; got shape {value.shape}. Sum it.")
        return value[None]

    return Model(log_likelihood=log_likelihood, init=init, support=support)


def _as_array(leaf: Any) -> jax.Array:
    array = np.array(leaf)  # a copy: jax remembers a numpy array in the precision that saw it first
    if array.dtype.kind not in "fV":
        raise TypeError(f"Expected floating parameters; got a value of dtype {array.dtype}. Write 1.0, not 1.")
    return jnp.asarray(array)


def _copied(leaf: Any) -> jax.Array:
    return jnp.asarray(np.array(leaf) if isinstance(leaf, np.ndarray) else leaf)
