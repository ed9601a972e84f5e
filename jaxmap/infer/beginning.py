"""What is known of where chains begin: frames to try, from the most to the least daring, and what they cost."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxmap.infer.nuts_frame import Frame

ROBUST, LONG_STEPS = 0.8, 0.7
"""The acceptance to aim at. Where the density is nearly Gaussian longer steps need fewer gradients for a half turn."""


@dataclass(frozen=True)
class Candidate:
    """A frame that chains may begin in.

    Attributes:
        name: in words.
        frame: the coordinates.
        z: where each chain begins, unconstrained, (chains, P).
        warmup: transitions that it needs.
        target: the acceptance probability that pays best.
    """

    name: str
    frame: Frame
    z: np.ndarray
    warmup: int
    target: float = ROBUST


@dataclass(frozen=True)
class Preparation:
    """What is told of a beginning: the candidates' names, what finding them cost, notes, and how high it lies.

    Attributes:
        height: as of `Beginning`.
    """

    names: tuple[str, ...]
    gradients: float
    seconds: float
    notes: tuple[str, ...]
    height: float | None = None

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> "Preparation":
        """From what JSON makes of it."""
        names, notes = tuple(plain["names"]), tuple(plain["notes"])
        return cls(names, plain["gradients"], plain["seconds"], notes, plain.get("height"))

    def said(self, chosen: int) -> tuple[str, ...]:
        """The notes, and which candidate was taken where there was a choice."""
        if len(self.names) == 1:
            return self.notes
        failed = f"; {' and '.join(self.names[:chosen])} they could hardly move" if chosen else ""
        return (*self.notes, f"The chains began {self.names[chosen]}{failed}.")


@dataclass(frozen=True)
class Beginning:
    """All candidates of one seed, best first, and what finding them cost.

    Attributes:
        height: the log joint density at the highest of the places that the chains begin at; None where nobody asked.
    """

    candidates: tuple[Candidate, ...]
    gradients: float = 0.0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    height: float | None = None

    @property
    def preparation(self) -> Preparation:
        """What is told of it."""
        names = tuple(c.name for c in self.candidates)
        return Preparation(names, self.gradients, self.seconds, self.notes, self.height)

    def after(self, gradients: float, seconds: float, *notes: str) -> "Beginning":
        """The same, with what was spent and is to be said before."""
        return replace(
            self,
            gradients=self.gradients + gradients,
            seconds=self.seconds + seconds,
            notes=(*notes, *self.notes),
        )
