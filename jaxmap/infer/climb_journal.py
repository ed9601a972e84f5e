"""The journal of a climb: solver, position in the data, history, the best so far."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from jaxmap.infer.journal import Journal, packed, unpacked
from jaxmap.infer.problem import Stopwatch
from jaxmap.optimize import Standing


@dataclass
class ClimbJournal(Journal):
    """The journal of a climb by `maximize`, as its `Keeper`; only finite states are entered.

    The step says where in the data the climb is: the order of an epoch is a function of the key, which is a part of the
    identity, and of the number of the epoch.

    Attributes:
        steps: how many the climb shall have.
        clock: seconds of this process.
        before: seconds of the processes before.
    """

    steps: int = 0
    clock: Stopwatch = field(default_factory=Stopwatch)
    before: float = 0.0

    kind: ClassVar[str] = "Climb"

    def read(self, begun: Standing) -> Standing:
        """The standing of the last entry, or the one that has just begun.

        Raises:
            ValueError: of another climb, truncated, or of more steps than are asked for.
        """
        if not self.open():
            return begun
        plain, arrays = self.saved.header["course"], self.saved.arrays
        if plain["step"] > self.steps:
            raise ValueError(
                f"Expected a climb of at most {self.steps} steps in {self.folder}; got one of {plain['step']}. "
                "Ask for as many, or name another folder."
            )
        self.before = plain["seconds"]
        best = None if begun.watched is None else begun.watched.best
        state, best = unpacked(arrays, (begun.state, best))
        seen = {name: arrays[f"held_out/{name}"] for name in HELD_OUT} if begun.watched is not None else {}
        watched = None if begun.watched is None else begun.watched._replace(best=best, **seen)
        taken, codes = np.array(plain["taken"]), np.array(plain["codes"])
        return Standing(state, plain["step"], taken, codes, [arrays["history"]], watched)

    def write(self, standing: Standing, last: bool = False) -> None:
        """Enter where the climb stands, if the last entry is old enough or this is the last one."""
        if not last and not self.due():
            return
        plain = {"step": standing.step, "taken": standing.taken.tolist(), "codes": standing.codes.tolist()}
        plain["seconds"] = self.before + self.clock.seconds
        watched = standing.watched
        arrays = packed((standing.state, None if watched is None else watched.best)) | {"history": standing.history}
        if watched is not None:
            arrays |= {f"held_out/{name}": getattr(watched, name) for name in HELD_OUT}
        self.enter(plain, arrays)


HELD_OUT = ("steps", "scores", "mark", "waited")
"""What is kept of the looks at held-out data, beside the best coordinates."""
