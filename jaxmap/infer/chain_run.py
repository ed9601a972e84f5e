"""Runs of chains: legs of a warm-up, then of draws; after each chunk a run can be left and taken up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from jaxmap.infer.beginning import Beginning
from jaxmap.optimize import Progress

WARM_UP, MOVING_ON, DRAWING = "warm-up", "moving on", "drawing"
"""What chains do on a leg."""


@dataclass(frozen=True)
class Leg:
    """A stretch of the way.

    Attributes:
        count: positions that are looked at.
        thin: transitions before each.
        doing: what the chains do there.
    """

    count: int
    thin: int = 1
    doing: str = WARM_UP

    @property
    def transitions(self) -> int:
        """How long it is."""
        return self.count * self.thin


@dataclass(frozen=True)
class Course:
    """Where a run stands; replaced as a whole, so that an interrupt never leaves it half changed.

    Attributes:
        states: of the chains, what the next transition needs.
        known: what was learned so far: a named tuple of arrays.
        leg: the number of the leg.
        done: positions of it that the chains have seen.
        seen: what is learned from at the end of this leg or of a later one, in parts.
        drawn: draws, in parts.
    """

    states: Any
    known: Any
    leg: int = 0
    done: int = 0
    seen: tuple[Any, ...] = field(default=())
    drawn: tuple[Any, ...] = field(default=())

    def after(self, known: Any, seen: tuple[Any, ...] = ()) -> "Course":
        """At the beginning of the next leg."""
        return replace(self, known=known, leg=self.leg + 1, done=0, seen=seen)


class Kinds(NamedTuple):
    """The classes of what a course holds, named tuples of arrays; parts are (seeds, chains, positions, ...)."""

    known: Any
    seen: Any
    drawn: Any


@runtime_checkable
class Run(Protocol):
    """How the chains of a method go; all methods are pure.

    Attributes:
        label: of the progress bar.
        kinds: of what a course holds.
        on_trial: legs at the beginning that are not kept on disk, since they may be given up.
    """

    label: str
    kinds: Kinds
    on_trial: int

    def start(self, begun: Sequence[Beginning]) -> Course:
        """The course at its beginning, one of each seed."""
        ...

    def states_like(self) -> Any:
        """Shapes of the states, in their structure."""
        ...

    def legs(self, course: Course) -> Sequence[Leg]:
        """All of the way; the last leg draws and may later be asked to be longer."""
        ...

    def advance(self, course: Course, leg: Leg, look: Callable[[Any, Any], None]) -> None:
        """Go the rest of a leg; `look` is given the states and what was seen after each chunk, and may raise."""
        ...

    def noticed(self, course: Course, leg: Leg, seen: Any) -> Course:
        """The course with what was seen in a chunk."""
        ...

    def learned(self, course: Course, leg: Leg) -> Course:
        """The course at the next leg, with what this one has taught."""
        ...


class Journey:
    """A run on its way.

    Args:
        run: how it goes.
        course: where it stands, kept up to date.
        save: is given the course after each chunk.
        progress: as in `Progress`.
    """

    def __init__(self, run: Run, course: Course, save: Callable[[Course], None], progress: bool | None):
        self.run, self.course, self.save, self.progress = run, course, save, progress

    def go(self) -> bool:
        """Move on to the end; False where the user interrupted it."""
        total = sum(leg.transitions for leg in self.run.legs(self.course))
        with Progress(self.run.label, total, self.progress) as bar:
            try:
                while self._finish_leg(bar):
                    pass
            except KeyboardInterrupt:
                return False
        return True

    def _finish_leg(self, bar: Progress) -> bool:
        """Go to the end of the present leg and learn from it; False at the end of the last one."""
        legs = self.run.legs(self.course)
        leg, before = legs[self.course.leg], sum(leg.transitions for leg in legs[: self.course.leg])

        def look(states: Any, seen: Any) -> None:
            done = self.course.done + jax.tree.leaves(seen)[0].shape[2]
            self.course = replace(self.run.noticed(self.course, leg, seen), states=states, done=done)
            bar.update(before + done * leg.thin, leg.doing)
            self.save(self.course)

        if self.course.done < leg.count:
            self.run.advance(self.course, leg, look)
        if self.course.leg == len(legs) - 1:
            return False
        self.course = self.run.learned(self.course, leg)
        return True


def joined(parts: Sequence[Any], most: int | None = None) -> Any:
    """Parts as one, of which the first `most` positions."""
    return type(parts[0])(*(np.concatenate(leaves, axis=2)[:, :, :most] for leaves in zip(*parts, strict=True)))
