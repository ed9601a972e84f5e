"""Problem: a model, its data and the fits already made of them."""

import functools
import time
import zlib
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import errors

from jaxmap.curvature import examples_at_a_time, map_over_examples
from jaxmap.data import check_data, fingerprint, num_examples
from jaxmap.model import Model
from jaxmap.trees import cast_floats, check_key, float_dtype, named_leaves, precision_scope, signature, stack, take
from jaxmap.types import Data, FitError, Key, Method, Posterior, Seeds


@dataclass(frozen=True, eq=False)
class Problem:
    """What methods work on: a checked model and data on the device.

    Equal methods with equal seeds are computed once (`solve`), wherever they stand in other methods.

    Attributes:
        model: the user's model.
        data: all examples, in the computing dtype.
        dtype: the floating dtype of parameters and data.
        progress: show progress bars; None: where there is a terminal.
        folder: where a long run keeps what it has, to be taken up again; None: nowhere.
        solved: what `solve` has computed.
    """

    model: Model
    data: Data
    dtype: Any
    progress: bool | None = None
    folder: Path | None = None
    solved: dict[Any, list[Posterior | FitError]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: Model, data: Data, *, precision: str | None = None, progress: bool | None = None) -> "Problem":
        """Check model and data together.

        Raises:
            TypeError, ValueError: in words about model or data, never from inside jax.
        """
        if not isinstance(model, Model):
            raise TypeError(f"Expected a jm.Model; got {type(model).__name__}. Build one with jm.supervised(...).")
        dtype = computing_dtype(model, precision)
        with precision_scope(dtype):
            problem = cls(model, check_data(data, dtype=dtype), dtype, progress)
            problem._check_observe()
            problem._check_shapes()
            try:
                problem._check_start()
            except (TypeError, ValueError, jax.errors.JaxRuntimeError) as error:
                if not any(word in str(error) for word in ("same dtypes", "verifier errors", "ProgramInputMismatch")):
                    raise
                raise ValueError(
                    f"Expected a model that can compute in {dtype}; got one with a numpy constant in a closure that "
                    "jax keeps in the precision of its first use. Make the constant a jax array (jnp.asarray), or "
                    "make it anew with the model."
                ) from error
        return problem

    @property
    def num_examples(self) -> int:
        """N."""
        return num_examples(self.data)

    @functools.cached_property
    def num_params(self) -> int:
        """P, the number of unconstrained dimensions."""
        shapes = jax.eval_shape(self.model.space.unconstrain, self.model.start)
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))

    def starts(self, seeds: Seeds) -> Any:
        """Unconstrained coordinates at which runs begin, stacked.

        Rank 0 begins exactly at `init`. Others begin at `init(key)` where init is a function, else at a step from
        it, uniform on (-2, 2) in unconstrained coordinates.

        Raises:
            ValueError: several starts are asked of a model that has one.
        """
        model = self.model
        if not model.restartable and np.any(seeds.ranks > 0):
            raise ValueError(
                "Expected a network that can be initialised afresh, for restarts, ensembles and chains; got a module "
                "instance with one set of values. Give jm.supervised a factory: lambda rngs: MyNetwork(rngs=rngs)."
            )

        def begin(key: Key, rank: Any) -> Any:
            z = model.space.unconstrain(cast_floats(model.starts(key), self.dtype))
            if callable(model.init):
                return z
            leaves, treedef = jax.tree.flatten(z)
            keys = jax.random.split(key, len(leaves))
            steps = [jax.random.uniform(k, v.shape, v.dtype, -2.0, 2.0) for k, v in zip(keys, leaves, strict=True)]
            return treedef.unflatten([jnp.where(rank > 0, v + s, v) for v, s in zip(leaves, steps, strict=True)])

        program = model.programs.setdefault(("starts", self.dtype), jax.jit(jax.vmap(begin)))
        return program(seeds.keys, jnp.asarray(seeds.ranks))

    def solve(self, source: Method | Posterior, seeds: Seeds) -> list[Posterior | FitError]:
        """One posterior per seed, or the error that its fit ended with; an already fitted one is used as it is."""
        if not hasattr(source, "run"):
            return [cast(Posterior, source)] * seeds.count
        key_bytes = np.asarray(jax.random.key_data(seeds.keys)).tobytes()
        known = (source, key_bytes, tuple(seeds.ranks))
        if known not in self.solved:
            self.solved[known] = self._solve(cast(Method, source), seeds)
        return self.solved[known]

    def _solve(self, method: Method, seeds: Seeds) -> list[Posterior | FitError]:
        runs = method.run(self, seeds)
        results: list[Posterior | FitError] = []
        for index in range(seeds.count):
            try:
                results.append(method.finish(self, runs, index))
            except FitError as error:
                results.append(error)
        return results

    def _check_shapes(self) -> None:
        known = ("checked", signature(self.data), self.dtype)
        if known in self.model.programs:
            return
        made = self._likelihood_shape()
        if not hasattr(made, "shape") or not jnp.issubdtype(made.dtype, jnp.floating):
            raise TypeError(
                f"Expected log_likelihood to return real numbers of shape ({self.num_examples},); got {made!r}."
            )
        shape, n = made.shape, self.num_examples
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

    def _check_start(self) -> None:
        """Refuse targets outside the support of y and starts of density zero."""
        params = cast_floats(self.model.start, self.dtype)
        if self.model.observe is not None and isinstance(self.data, tuple) and len(self.data) == 2:
            self._check_target(params)
        values = np.asarray(self._likelihoods(params))
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise ValueError(
                f"Expected a finite log-likelihood at the start; got {values[bad[0]]} for rows {bad[:5].tolist()}. "
                "Check these rows, or start elsewhere."
            )
        prior = float(self.model.log_prior(params))
        if not np.isfinite(prior):
            raise ValueError(f"Expected a finite log_prior at the start; got {prior}. Start inside the support.")

    def _check_observe(self) -> None:
        """Refuse an `observe` of the user's that does not return one distribution per example."""
        observe, pair = self.model.observe, isinstance(self.data, tuple) and len(self.data) == 2
        if observe is None or self.model.emission is not None or not pair:
            return
        made = observe(cast_floats(self.model.start, self.dtype), self.data[0])
        shape = getattr(made, "batch_shape", None)
        if shape != (self.num_examples,):
            got = made if shape is None else f"batch shape {shape}"
            raise ValueError(
                f"Expected observe(params, x) to return a distribution of batch shape ({self.num_examples},), one per "
                f"example; got {got}. Move other axes into the event with .to_event(...)."
            )

    def log_joint_at_start(self) -> float:
        """The density at the model's own start, in nats: a fingerprint of what the functions compute."""
        params = cast_floats(self.model.start, self.dtype)
        return float(np.sum(np.asarray(self._likelihoods(params), np.float64)) + float(self.model.log_prior(params)))

    def identity(self) -> dict[str, str]:
        """What results depend on, beside a method and a key, as text.

        A model is known by the shapes of its parameters and by its density at a fixed point.
        """
        shapes = ", ".join(f"{path}{tuple(leaf.shape)}" for path, leaf in named_leaves(self.model.start))
        with precision_scope(self.dtype):
            value = self.log_joint_at_start()
        return {
            "model": f"{shapes}; log joint at the start {value:.5g}",
            "train": fingerprint(self.data),
            "precision": str(self.dtype),
            "jaxmap": library_versions()["jaxmap"],
        }

    def _likelihoods(self, params: Any) -> Any:
        def values(params: Any, data: Data) -> Any:
            each = functools.partial(self.model.log_likelihood, params)
            return map_over_examples(each, data, examples_at_a_time(each, data))

        return self.model.programs.setdefault("likelihoods", jax.jit(values))(params, self.data)

    def _check_target(self, params: Any) -> None:
        def inside(params: Any, x: Any, y: Any) -> Any:
            return self.model.observe(params, x).support(y)  # type: ignore[misc]

        x, y = self.data
        program = self.model.programs.setdefault("inside", jax.jit(inside))
        good = np.asarray(program(params, x, y))
        if not good.all():
            rows = np.flatnonzero(~good.reshape(len(good), -1).all(axis=1))
            values = np.asarray(y)[rows[:3]].tolist()
            raise ValueError(
                f"Expected y inside the support of its distribution; got {values} in rows {rows[:3].tolist()}. "
                "Count classes from 0, and choose a likelihood for this kind of target."
            )


def computing_dtype(model: Model, precision: str | None) -> Any:
    """The dtype a fit computes in: that of `init`, or what `precision` says.

    Raises:
        ValueError: an unknown precision.
    """
    if precision is None:
        dtype = float_dtype(model.start)
        if dtype not in (np.dtype("float32"), np.dtype("float64")):
            raise ValueError(
                f"Expected parameters in float32 or float64; got {dtype}. Convert init, or give precision=."
            )
        return dtype
    if precision not in ("float32", "float64"):
        raise ValueError(f"Expected precision='float32' or 'float64'; got {precision!r}.")
    return np.dtype(precision)


def seeds_of(key: Key, count: int = 1, rank: int = 0) -> Seeds:
    """The seeds of independent members: member 0 gets the key, member k fold_in(key, k)."""
    folded = [key if k == 0 else jax.random.fold_in(key, k) for k in range(count)]
    return Seeds(stack(folded) if count > 1 else jax.tree.map(lambda k: k[None], key), rank * count + np.arange(count))


def multiply(seeds: Seeds, count: int) -> Seeds:
    """`count` members for each seed, those of one seed together."""
    parts = [seeds_of(take(seeds.keys, i), count, int(seeds.ranks[i])) for i in range(seeds.count)]
    return Seeds(jnp.concatenate([p.keys for p in parts]), np.concatenate([p.ranks for p in parts]))


def named_key(key: Key, verb: str) -> Key:
    """Fold the name of a verb into the key, so that one key may serve them all.

    Raises:
        TypeError: something that is not a key of jax.random, or a traced one.
    """
    return jax.random.fold_in(check_key(key, verb), zlib.crc32(verb.encode()))


@functools.cache
def library_versions() -> dict[str, str]:
    """The versions that numbers depend on."""
    return {name: version(name) for name in ("jaxmap", "jax", "jaxlib", "optax", "flax", "numpyro", "numpy")}


def check_method(method: Any, where: str) -> None:
    """Refuse what is not a method, and its class where an instance is meant.

    Raises:
        TypeError: with the remedy.
    """
    if isinstance(method, type):
        raise TypeError(
            f"Expected an instance as {where}; got the class {method.__name__}. Write jm.{method.__name__}()."
        )
    if not hasattr(method, "run"):
        raise TypeError(f"Expected a method such as jm.MAP() as {where}; got {method!r}.")


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Elapsed so far."""
        return time.perf_counter() - self._began
