"""Held-out data beside a climb: the best so far, and when to stop."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.curvature import examples_at_a_time, map_over_examples
from jaxmap.data import Ahead, Stream, check_data, fingerprint, kind_in_words, kind_of, num_examples
from jaxmap.model import Density
from jaxmap.optimize.slope import SWEEP_BYTES
from jaxmap.trees import members_of, precision_scope
from jaxmap.types import Data

EVERY = 100
"""Steps between two looks, where each step sees all examples."""

ADDED_TOGETHER = 1024
"""Examples whose log-likelihoods are added on the device; the sums of such blocks are added in float64."""


@dataclass(frozen=True, eq=False)
class Monitor:
    """Watch data that are not trained on: `jm.MAP(optax.adam(1e-3), batch_size=64, monitor=jm.Monitor((x, y)))`.

    At the start, after every `every` steps and at the end the held-out score is taken,

        score = -1/m sum over the m held-out examples of log_likelihood(params, example),

    in nats per example, without the prior. The fit returns the parameters of the lowest score, not the last ones; of
    several restarts it returns the lowest. `info.held_out` holds step and score of each look. Such a point is chosen by
    data, not by the density alone: it is no maximum unless its certificate says so, and its score is a little
    optimistic, since it was chosen by it.

    A climb stops early after `patience` looks in a row that did not lower the score by more than `min_delta` below the
    last look that did. Each member of an ensemble, and each restart, has its own best and stops for itself.

    A look costs a pass through the held-out examples, and no gradient; steps cost what they cost without it.

    Args:
        held_out: examples like the data: a pytree of arrays, or a `jm.Stream`.
        every: steps between two looks; None: an epoch, or 100 steps where each sees all examples.
        patience: looks; None: never stop early.
        min_delta: nats per example.
    """

    held_out: Data | Stream
    every: int | None = None
    patience: int | None = None
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        for name in ("every", "patience"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1):
                raise ValueError(f"Expected {name} to be a positive integer or None; got {value!r}.")
        number = isinstance(self.min_delta, int | float | np.number)
        if not (number and np.isfinite(self.min_delta) and self.min_delta >= 0):
            raise ValueError(f"Expected min_delta to be a number of nats, zero or above; got {self.min_delta!r}.")
        if not jax.tree.leaves(self.held_out):
            raise ValueError("Expected held-out examples in jm.Monitor; got none. Give jm.Monitor((x, y)).")

    def beside(self, sample: Data, dtype: Any) -> "Monitor":
        """The same monitor with its examples checked and on the device.

        Args:
            sample: examples that are trained on.
            dtype: of the fit.

        Raises:
            TypeError, ValueError: examples that no model can mean, or unlike those that are trained on.
        """
        held, stream = self.held_out, isinstance(self.held_out, Stream)
        held = held.in_dtype(dtype) if isinstance(held, Stream) else check_data(held, name="held_out", dtype=dtype)
        seen = held.sample if stream else held
        if kind_of(seen) != kind_of(sample):
            raise ValueError(
                f"Expected held-out examples like those that are trained on, {kind_in_words(sample)}; got "
                f"{kind_in_words(seen)}. Make them alike."
            )
        return replace(self, held_out=held)

    @cached_property
    def _content(self) -> str:
        held = self.held_out
        return held.fingerprint() if isinstance(held, Stream) else f"{num_examples(held)} examples, {fingerprint(held)}"

    def __repr__(self) -> str:
        options = [("every", None), ("patience", None), ("min_delta", 0.0)]
        said = [f"{name}={getattr(self, name)}" for name, default in options if getattr(self, name) != default]
        return f"Monitor({', '.join([f'<{self._content}>', *said])})"


class Watched(NamedTuple):
    """What held-out data have said of a climb so far.

    Attributes:
        best: coordinates of the lowest score of each member.
        steps: of each look, (looks,).
        scores: (members, looks), infinite where they were not finite, NaN where a member was at rest.
        mark: the score that must be beaten, (members,).
        waited: looks in a row that did not beat it, (members,); it grows on for members at rest.
        patience: looks after which a member rests, zero for never; the same for all.
    """

    best: Any
    steps: np.ndarray
    scores: np.ndarray
    mark: np.ndarray
    waited: np.ndarray
    patience: int = 0

    @property
    def lowest(self) -> np.ndarray:
        """The lowest score of each member so far, infinite where there is none."""
        return np.min(np.where(np.isnan(self.scores), np.inf, self.scores), axis=1, initial=np.inf)

    @property
    def stopped(self) -> np.ndarray:
        """True for members that held-out data have stopped."""
        return (self.waited >= self.patience) & (self.patience > 0)

    def history(self, member: int) -> np.ndarray:
        """Step and score of each look at a member, (looks, 2)."""
        rows = np.stack([self.steps.astype(np.float64), self.scores[member]], axis=1)
        return rows[~np.isnan(self.scores[member])]


@dataclass(frozen=True)
class Watch:
    """A monitor at work beside a climb.

    Attributes:
        density: of the climb.
        monitor: checked.
        members: climbs in one program.
        epoch: steps of an epoch, None where each is one.
    """

    density: Density
    monitor: Monitor
    members: int
    epoch: int | None

    @property
    def every(self) -> int:
        """Steps between two looks."""
        return int(self.monitor.every or self.epoch or EVERY)

    def begin(self, z: Any) -> Watched:
        """Nothing seen yet."""
        empty = np.zeros(0, np.int64), np.zeros((self.members, 0))
        return Watched(z, *empty, np.full(self.members, np.inf), np.zeros(self.members, np.int64), self._patience)

    @property
    def _patience(self) -> int:
        return int(self.monitor.patience or 0)

    def due(self, watched: Watched, step: int, last: bool) -> bool:
        """True where a look is to be taken; the last one wherever the climb ends."""
        return (last or step % self.every == 0) and not (watched.steps.size and watched.steps[-1] == step)

    def look(self, watched: Watched, z: Any, step: int, resting: np.ndarray) -> Watched:
        """Take the scores at z; a score that is not finite lowers nothing."""
        found = self.scores(z)
        found = np.where(resting, np.nan, np.where(np.isfinite(found), found, np.inf))
        beats = found < watched.mark - self.monitor.min_delta
        return Watched(
            best=members_of(found < watched.lowest, z, watched.best),
            steps=np.append(watched.steps, step),
            scores=np.concatenate([watched.scores, found[:, None]], axis=1),
            mark=np.where(beats, found, watched.mark),
            waited=np.where(beats, 0, watched.waited + 1),
            patience=watched.patience,
        )

    def scores(self, z: Any) -> np.ndarray:
        """The mean negative log-likelihood of the held-out examples, per member."""
        together = jax.vmap(self._sums, in_axes=(0, None, None)) if self.members > 1 else self._sums
        program = self.density.model.programs.jitted(("held out", self.density, self.members > 1), together)
        total = np.zeros(self.members)
        for data, weights in self._parts():
            total += np.asarray(program(z, data, weights), np.float64).reshape(self.members, -1).sum(axis=1)
        return -total / num_examples(self.monitor.held_out)

    def _sums(self, z: Any, data: Data, weights: Any) -> Any:
        """The log-likelihoods of blocks of examples."""

        def each(batch: Data) -> Any:
            return self.density.log_likelihoods(z, batch)

        values = map_over_examples(each, data, examples_at_a_time(each, data))
        values = values if weights is None else jnp.where(weights > 0, values, 0.0)
        return jnp.pad(values, (0, -len(values) % ADDED_TOGETHER)).reshape(-1, ADDED_TOGETHER).sum(axis=1)

    def _parts(self) -> Iterator[tuple[Data, Any]]:
        held = self.monitor.held_out
        if not isinstance(held, Stream):
            yield held, None
            return
        size = max(1, SWEEP_BYTES // max(1, held.row_bytes()))
        with contextlib.closing(Ahead(held.sweep(size), lambda: precision_scope(held.dtype))) as batches:
            yield from batches
