"""Problem: a model, its data and the fits already made of them."""

import contextlib
import functools
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxmap.data import Stream, as_mesh, check_data, fingerprint, num_examples, on_host, spread, within
from jaxmap.infer.together import check_together, likelihoods
from jaxmap.model import Model
from jaxmap.trees import cast_floats, check_key, float_dtype, named_leaves, precision_scope, stack, take
from jaxmap.types import Data, FitError, Key, Method, Posterior, Seeds


@dataclass(frozen=True, eq=False)
class Problem:
    """What methods work on: a checked model and data on the device.

    Equal methods with equal seeds are computed once (`solve`), wherever they stand in other methods.

    Attributes:
        model: the user's model.
        data: all examples in the computing dtype, or a stream of them.
        dtype: the floating dtype of parameters and data.
        progress: show progress bars; None: where there is a terminal.
        folder: where a long run keeps what it has, to be taken up again; None: nowhere.
        mesh: over whose devices members and examples are shared out; None: one device.
        solved: what `solve` has computed.
    """

    model: Model
    data: Data
    dtype: Any
    progress: bool | None = None
    folder: Path | None = None
    mesh: Mesh | None = None
    solved: dict[Any, list[Posterior | FitError]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        model: Model,
        data: Data | Stream,
        *,
        precision: str | None = None,
        progress: bool | None = None,
        streams: bool = False,
        mesh: Any = None,
    ) -> "Problem":
        """Check model and data together; of a stream, where `streams` allows one, the first examples.

        Raises:
            TypeError, ValueError: in words about model, data or mesh, never from inside jax.
        """
        if not isinstance(model, Model):
            raise TypeError(f"Expected a jm.Model; got {type(model).__name__}. Build one with jm.supervised(...).")
        dtype = computing_dtype(model, precision)
        with precision_scope(dtype):
            allowed = streams and isinstance(data, Stream)
            checked = data.in_dtype(dtype) if allowed else check_data(data, dtype=dtype)
            problem = cls(model, checked, dtype, progress)
            check_together(model, problem.sample, dtype)
            mesh = as_mesh(mesh)
            if mesh is None:
                return problem
            placed = checked if allowed else spread(checked, mesh)
            return cls(model, placed, dtype, progress, mesh=mesh)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """What its programs run in: the precision and the mesh."""
        with precision_scope(self.dtype), within(self.mesh):
            yield

    @property
    def num_examples(self) -> int:
        """N."""
        return num_examples(self.data)

    @property
    def streamed(self) -> bool:
        """True where the examples are never all in memory."""
        return isinstance(self.data, Stream)

    @property
    def sample(self) -> Data:
        """Examples that stand for all where only their kind matters: all, or the first of a stream."""
        return self.data.sample if isinstance(self.data, Stream) else self.data

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

        program = model.programs.jitted(("starts", self.dtype), jax.vmap(begin))
        return program(seeds.keys, jnp.asarray(seeds.ranks))

    def solve(self, source: Method | Posterior, seeds: Seeds) -> list[Posterior | FitError]:
        """One posterior per seed, or the error that its fit ended with; an already fitted one is used as it is."""
        if not hasattr(source, "run"):
            return [cast(Posterior, source)] * seeds.count
        key_bytes = np.asarray(_key_data(seeds.keys)).tobytes()
        known = (source, key_bytes, tuple(seeds.ranks))
        if known not in self.solved:
            self.solved[known] = self._solve(cast(Method, source), seeds)
        return self.solved[known]

    def _solve(self, method: Method, seeds: Seeds) -> list[Posterior | FitError]:
        if self.model.train is not None and not getattr(method, "trains", False):
            raise ValueError(
                "Expected jm.MLE(), jm.MAP(), jm.Given() or a jm.Ensemble of them for a network in training mode, "
                f"which is no log-probability of the parameters alone; got {type(method).__name__}. Freeze it: "
                "jm.supervised(module in evaluation mode, ...) and jm.Given(params)."
            )
        runs = method.run(self, seeds)
        results: list[Posterior | FitError] = []
        for index in range(seeds.count):
            try:
                results.append(method.finish(self, runs, index))
            except FitError as error:
                results.append(error)
        return results

    def log_densities(self) -> list[float]:
        """Log-likelihood and log prior at the model's own start and at a point beside it: what the functions compute.

        Apart: beside the likelihood of many examples a prior would not be seen.
        """
        rng, space = np.random.default_rng(0), self.model.space
        z = self.model.start_unconstrained(self.dtype)
        start = space.constrain(z)
        moved = jax.tree.map(lambda v: v + jnp.asarray(rng.uniform(-0.1, 0.1, v.shape), v.dtype), z)
        found = []
        for params in (start, space.constrain(moved)):
            found.append(float(np.sum(np.asarray(likelihoods(self.model, params, self.sample), np.float64))))
            found.append(float(self.model.log_prior(params)))
        return found + self._in_training(start)

    def _in_training(self, params: Any) -> list[float]:
        """The same in training mode, where there is one, with a fixed key."""
        if self.model.train is None:
            return []
        return [float(jnp.sum(self.model.train(params, jax.random.key(0), self.sample)[0]))]

    def identity(self) -> dict[str, str]:
        """What results depend on, beside a method and a key, as text.

        A model is known by the shapes of its parameters and by its log-likelihood and log prior at two fixed points, to
        five digits.
        """
        shapes = ", ".join(f"{path}{tuple(leaf.shape)}" for path, leaf in named_leaves(self.model.start))
        with self.scope():
            start, of_start, beside, of_beside, *trained = self.log_densities()
        return {
            "model": f"{shapes}; log-likelihood and log prior at the start {start:.5g} and {of_start:.5g}, "
            f"beside it {beside:.5g} and {of_beside:.5g}"
            + "".join(f", in training mode {value:.5g}" for value in trained),
            "train": self.data.fingerprint() if isinstance(self.data, Stream) else fingerprint(on_host(self.data)),
            "precision": str(self.dtype),
            "jaxmap": library_versions()["jaxmap"],
        }


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


fold_in = jax.jit(jax.random.fold_in)
"""(key, number) -> key, in one program: it is asked for at every call of a verb."""

_keys_of_one = jax.jit(lambda key: key[None])
_key_data = jax.jit(jax.random.key_data)


def seeds_of(key: Key, count: int = 1, rank: int = 0) -> Seeds:
    """The seeds of independent members: member 0 gets the key, member k fold_in(key, k)."""
    folded = [key if k == 0 else jax.random.fold_in(key, k) for k in range(count)]
    return Seeds(stack(folded) if count > 1 else _keys_of_one(key), rank * count + np.arange(count))


def multiply(seeds: Seeds, count: int) -> Seeds:
    """`count` members for each seed, those of one seed together."""
    parts = [seeds_of(take(seeds.keys, i), count, int(seeds.ranks[i])) for i in range(seeds.count)]
    return Seeds(jnp.concatenate([p.keys for p in parts]), np.concatenate([p.ranks for p in parts]))


def named_key(key: Key, verb: str) -> Key:
    """Fold the name of a verb into the key, so that one key may serve them all.

    Raises:
        TypeError: something that is not a key of jax.random, or a traced one.
    """
    return fold_in(check_key(key, verb), np.uint32(zlib.crc32(verb.encode())))


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
