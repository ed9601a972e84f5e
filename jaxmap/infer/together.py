"""Do a model and data belong together? What is asked before any fit, so that nothing fails from inside jax."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import errors

from jaxmap.curvature import examples_at_a_time, map_over_examples
from jaxmap.data import num_examples
from jaxmap.model import Model, widened
from jaxmap.trees import cast_floats, signature
from jaxmap.types import Data


def check_together(model: Model, data: Data, dtype: Any) -> None:
    """Refuse a model that cannot be fitted to data like these, in words.

    Args:
        model: the user's.
        data: examples in memory; of a stream the first ones.
        dtype: the floating dtype of parameters and data.

    Raises:
        TypeError, ValueError: what does not fit.
    """
    pair = _Pair(model, data, dtype)
    pair.check_observe()
    pair.check_shapes()
    try:
        pair.check_start()
    except (TypeError, ValueError, jax.errors.JaxRuntimeError) as error:
        if not any(word in str(error) for word in ("same dtypes", "verifier errors", "ProgramInputMismatch")):
            raise
        raise ValueError(
            f"Expected a model that can compute in {dtype}; got one with a numpy constant in a closure that jax keeps "
            "in the precision of its first use. Make the constant a jax array (jnp.asarray), or make it anew with the "
            "model."
        ) from error


def likelihoods(model: Model, params: Any, data: Data) -> Any:
    """The log-likelihood of each example, in bounded memory."""
    return model.programs.jitted("likelihoods", partial(_likelihoods, model))(params, data)


def _likelihoods(model: Model, params: Any, data: Data) -> Any:
    each = partial(model.log_likelihood, params)
    return map_over_examples(each, data, examples_at_a_time(each, data))


@dataclass(frozen=True)
class _Pair:
    """A model, and examples for it."""

    model: Model
    data: Data
    dtype: Any

    def check_shapes(self) -> None:
        """Refuse a likelihood or a prior of another shape, once per shape of the data."""
        known = ("checked", signature(self.data), self.dtype)
        if known in self.model.programs:
            return
        made = self._likelihood_shape()
        if not hasattr(made, "shape") or not jnp.issubdtype(made.dtype, jnp.floating):
            raise TypeError(
                f"Expected log_likelihood to return real numbers of shape ({num_examples(self.data)},); got {made!r}."
            )
        if made.dtype.itemsize < 4:
            raise TypeError(
                f"Expected log_likelihood in {self.dtype}, in which examples are summed; got {made.dtype}. Convert "
                f"what it is computed from: outputs.astype(jnp.{self.dtype})."
            )
        shape, n = made.shape, num_examples(self.data)
        if shape != (n,):
            remedy = "Return one value per example; do not sum." if shape == () else "Sum over everything but examples."
            raise ValueError(f"Expected log_likelihood to return shape ({n},), one per example; got {shape}. {remedy}")
        try:
            prior = jax.eval_shape(self.model.log_prior, self.model.start)
        except (TypeError, AttributeError, KeyError, IndexError) as error:
            if "Expected" in str(error):
                raise
            raise TypeError(f"Expected log_prior to be a function of the params; calling it failed: {error}") from error
        if getattr(prior, "shape", None) != ():
            got = f"shape {prior.shape}" if hasattr(prior, "shape") else repr(prior)
            raise ValueError(f"Expected log_prior to return a scalar; got {got}. Sum it.")
        self.model.programs[known] = True

    def _likelihood_shape(self) -> Any:
        params = cast_floats(self.model.start, self.dtype)
        try:
            return jax.eval_shape(self.model.log_likelihood, params, self.data)
        except (ValueError, TypeError, AttributeError, KeyError, IndexError, errors.FlaxError) as error:
            if "Expected" in str(error):
                raise
            raise ValueError(f"Expected a log_likelihood that accepts this data; calling it failed: {error}") from error

    def check_start(self) -> None:
        """Refuse targets outside the support of y and starts of density zero.

        The start goes through its coordinates: in float64 one that was found in float32 may lie beside its support.
        """
        params = self.model.space.constrain(self.model.start_unconstrained(self.dtype))
        if self.model.observe is not None and _is_pair(self.data):
            self.check_target(params)
        both = lambda params, data: (_likelihoods(self.model, params, data), self.model.log_prior(params))  # noqa: E731
        values, prior = map(np.asarray, self.model.programs.jitted("at the start", both)(params, self.data))
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise ValueError(
                f"Expected a finite log-likelihood at the start; got {values[bad[0]]} for rows {bad[:5].tolist()}. "
                "Check these rows, or start elsewhere."
            )
        if not np.isfinite(prior):
            raise ValueError(f"Expected a finite log_prior at the start; got {prior}. Start inside the support.")

    def check_observe(self) -> None:
        """Refuse an `observe` of the user's that does not return one distribution per example."""
        observe, pair = self.model.observe, _is_pair(self.data)
        if observe is None or self.model.emission is not None or not pair:
            return
        made = observe(cast_floats(self.model.start, self.dtype), self.data[0])
        n = num_examples(self.data)
        shape = getattr(made, "batch_shape", None)
        if shape != (n,):
            got = made if shape is None else f"batch shape {shape}"
            raise ValueError(
                f"Expected observe(params, x) to return a distribution of batch shape ({n},), one per "
                f"example; got {got}. Move other axes into the event with .to_event(...)."
            )

    def check_target(self, params: Any) -> None:
        def inside(params: Any, x: Any, y: Any) -> Any:
            return self.model.observe(params, x).support(widened(y))  # type: ignore[misc]

        x, y = self.data
        program = self.model.programs.jitted("inside", inside)
        good = np.asarray(program(params, x, y))
        if not good.all():
            rows = np.flatnonzero(~good.reshape(len(good), -1).all(axis=1))
            values = np.asarray(y)[rows[:3]].tolist()
            raise ValueError(
                f"Expected y inside the support of its distribution; got {values} in rows {rows[:3].tolist()}. "
                "Count classes from 0, and choose a likelihood for this kind of target."
            )


def _is_pair(data: Data) -> bool:
    """True for (x, y)."""
    return isinstance(data, tuple) and len(data) == 2
