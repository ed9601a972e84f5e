"""The user's own point."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from jaxmap.infer.judged import judge_at
from jaxmap.infer.posteriors import Point
from jaxmap.infer.problem import Problem, Stopwatch
from jaxmap.infer.seen import one_by_one
from jaxmap.model import Density
from jaxmap.optimize import slope_at
from jaxmap.trees import cast_floats, named_leaves, settled
from jaxmap.types import Seeds, Status


@dataclass(frozen=True, eq=False)
class Given:
    """The user's own trained parameters, certified but not moved.

    Args:
        params: a tree like the model's.
    """

    params: Any

    trains: ClassVar[bool] = True

    def density(self, problem: Problem) -> Density:
        """What the parameters are judged by."""
        return Density(problem.model, jacobian=False)

    def seen(self, problem: Problem, found: Any, z: Any) -> np.ndarray:
        """What its certificate evaluates, as in `infer/seen.py`."""
        return one_by_one(lambda v: slope_at(self.density(problem), v, problem.data).value, z)

    def run(self, problem: Problem, seeds: Seeds) -> Any:
        """Check the parameters.

        Raises:
            TypeError, ValueError: another structure, not finite, outside the support.
        """
        params = cast_floats(self.params, problem.dtype)
        problem.model.space.check(params, name="params")
        for (path, leaf), (_, own) in zip(named_leaves(params), named_leaves(problem.model.start), strict=True):
            if jnp.shape(leaf) != jnp.shape(own):
                raise ValueError(f"Expected {path!r} of shape {jnp.shape(own)}; got {jnp.shape(leaf)}.")
        return params

    def finish(self, problem: Problem, runs: Any, index: int) -> Point:
        """Certify them."""
        watch = Stopwatch()
        density = self.density(problem)
        z = problem.model.space.unconstrain(runs)
        found = judge_at(density, problem, z, Status.STEPS_EXHAUSTED.code)
        info = replace(found.info, method="Given", solver="none: the parameters were given", seconds=watch.seconds)
        return Point(settled(runs), info, settled(z), moved=False, problem=None if problem.streamed else problem)
