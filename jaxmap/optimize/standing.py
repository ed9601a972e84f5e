"""Where a climb stands: what it may use, what it needs to go on, and what came of it."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from jaxmap.optimize.monitor import Watched
from jaxmap.optimize.solver import SolverState
from jaxmap.types import Status


@dataclass(frozen=True)
class Budget:
    """What a climb may use.

    Attributes:
        steps: the largest number of steps.
        batch_size: examples per step; None for all.
        progress: as in `Progress`.
    """

    steps: int
    batch_size: int | None = None
    progress: bool | None = None


class Ascent(NamedTuple):
    """What came of one climb per member, stacked.

    Attributes:
        z: last finite coordinates; where held-out data were watched and the member is sound, the best by them.
        codes: `Status` codes; STEPS_EXHAUSTED stands for "not judged yet".
        steps: steps taken, the failing one excluded.
        gradients: gradient evaluations, a minibatch counted as its share of the data.
        history: (members, steps) minimised loss, NaN after the end.
        watched: what held-out data said, where they were watched.
    """

    z: Any
    codes: np.ndarray
    steps: np.ndarray
    gradients: np.ndarray
    history: np.ndarray
    watched: Watched | None = None


class Standing(NamedTuple):
    """Where a climb stands between two calls: all that it needs to go on, bit for bit.

    Attributes:
        state: of the solver; of members that diverged the last finite one.
        step: steps called for so far, and with them the position in the data.
        taken: steps of each member.
        codes: `Status` codes of each member.
        losses: (members, count) of each call; more than `step` columns where a call was cut short.
        watched: what held-out data have said so far, where they are watched.
    """

    state: SolverState
    step: int
    taken: np.ndarray
    codes: np.ndarray
    losses: list[np.ndarray]
    watched: Watched | None = None

    @property
    def history(self) -> np.ndarray:
        """The loss of each step, (members, step), NaN after the end of a member."""
        empty = np.zeros((len(self.codes), 0))
        return np.concatenate(self.losses, axis=1)[:, : self.step] if self.losses else empty

    @property
    def lost(self) -> np.ndarray:
        """True for members that diverged."""
        return self.codes == Status.DIVERGED.code

    @property
    def resting(self) -> np.ndarray:
        """True for members that shall not move: they diverged, or held-out data stopped them."""
        return self.lost if self.watched is None else self.lost | self.watched.stopped


@runtime_checkable
class Keeper(Protocol):
    """What keeps the standing of a climb, to take it up again."""

    def read(self, begun: Standing) -> Standing:
        """The standing that was kept last, in the structure of one that has just begun, or that one."""
        ...

    def write(self, standing: Standing, last: bool = False) -> None:
        """Keep a standing, if it is time to or if it is the last one."""
        ...
