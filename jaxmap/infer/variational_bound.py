"""The evidence lower bound: its gradient along a climb, and its value for a Gaussian."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmap.curvature import Precision
from jaxmap.data import BatchPlan, num_examples, take_examples
from jaxmap.infer.grade import DRAWS_AT_A_TIME
from jaxmap.infer.problem import Problem
from jaxmap.infer.variational_families import Family, Frame, Numbers
from jaxmap.model import Density
from jaxmap.trees import in_double, shaper
from jaxmap.types import Data, Key

EXAMPLES_AT_A_TIME = 65_536
"""Examples times draws whose gradients are held at a time."""


@dataclass(frozen=True)
class Bound:
    """The evidence lower bound of a density under a family, and how it is estimated.

    ELBO = E_q[f(z) - log q(z)] <= log integral of exp f

    Its gradient goes through the draws alone (Roeder, Wu and Duvenaud, 2017), so that it has no noise where q is exact;
    draws come in pairs +e, -e. Where the curvature A at the start is known, the mean field adds e'(A - diag A)e / 2, of
    mean zero under it, which takes out the noise of a correlated Gaussian (Miller et al., 2017), for as long as it did
    so at the last steps.

    Attributes:
        density: f.
        family: of q.
        draws: per step, even.
        plan: minibatches; None for all examples.
    """

    density: Density
    family: Family
    draws: int
    plan: BatchPlan | None

    @property
    def share(self) -> float:
        """The part of the data that a gradient sees."""
        return 1.0 if self.plan is None else self.plan.size / self.plan.num_examples

    def noise(self, key: Key, size: int, dtype: Any) -> Float[Array, "m w"]:
        """Standard normals in pairs of opposite sign."""
        half = jax.random.normal(key, (self.draws // 2, self.family.width(size)), dtype)
        return jnp.concatenate([half, -half])

    def slope(
        self, numbers: Numbers, frame: Frame, noise: Float[Array, "m w"], data: Data, dealt: Any, helped: Any
    ) -> tuple[Float[Array, ""], Numbers, Float[Array, "2"]]:
        """An unbiased estimate of the bound, of its gradient as `Frame.inward` has it, and variances as in `Walk`.

        Args:
            numbers: where.
            frame: of the start.
            noise: standard normals.
            data: all examples.
            dealt: the rows of a batch; None for all.
            helped: True where the control variate lowers the variance.
        """
        around, pull = jax.vjp(lambda n: self.family.moves(n, noise), numbers)
        values, slopes = self.density_at(frame.place(numbers["mean"][None] + around), data, dealt)
        log_q, away = jax.vjp(lambda m: self.family.log_prob(numbers, m), around)
        upward = frame.pull(slopes) - away(jnp.ones_like(log_q))[0]
        bound = values - log_q + frame.log_volume
        spread = jnp.zeros(2, bound.dtype)
        if frame.coupling is not None:
            bent = around @ frame.coupling
            steadied = bound + 0.5 * jnp.sum(around * bent, axis=1)
            spread = jnp.stack([jnp.var(bound), jnp.var(steadied)])
            bound, upward = jnp.where(helped, steadied, bound), jnp.where(helped, upward + bent, upward)
        slope = pull(upward / len(noise))[0] | {"mean": jnp.mean(upward, axis=0)}
        return jnp.mean(bound), frame.inward(numbers, slope), spread

    def density_at(self, z: Any, data: Data, dealt: Any) -> Any:
        """The density and its gradient at the rows of z, a few at a time; `dealt` as for `slope`."""
        shaped = shaper(self.density.model.start_unconstrained(z.dtype))
        plan = self.plan
        if plan is None:
            examples = num_examples(data)
            total = lambda v: self.density(shaped(v), data)  # noqa: E731
        else:
            examples, batch = plan.size, take_examples(data, dealt.rows)
            count, used = plan.num_examples, dealt.weights if plan.ragged else None
            total = lambda v: -count * self.density.mean_loss(shaped(v), batch, used, count)  # noqa: E731
        together = int(np.clip(EXAMPLES_AT_A_TIME // examples, 1, len(z)))
        return jax.lax.map(jax.value_and_grad(total), z, batch_size=together)


class Estimate(NamedTuple):
    """A Monte Carlo mean and its standard error."""

    value: float
    error: float


def bound_at(key: Key, density: Density, problem: Problem, mean: Any, precision: Precision, draws: int) -> Estimate:
    """The evidence lower bound of N(mean, H^-1), in float64, from pairs of opposite draws.

    Args:
        key: for the draws.
        density: what is approximated.
        problem: its model and data.
        mean: coordinates.
        precision: H.
        draws: how many, even.
    """
    flat = np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(mean)])
    half = np.asarray(jax.random.normal(key, (draws // 2, precision.size)), np.float64)
    noise = np.concatenate([half, -half])
    shaped = shaper(mean)

    def values(z: Any, data: Data) -> Any:
        return jax.lax.map(lambda v: density(shaped(v), data), z, batch_size=min(len(z), DRAWS_AT_A_TIME))

    program = problem.model.programs.jitted(("density of pairs", density), values)
    found = np.asarray(in_double(program, flat[None] + precision.color(noise.T).T, problem.data), np.float64)
    log_q = 0.5 * precision.log_det - 0.5 * precision.size * np.log(2 * np.pi) - 0.5 * np.sum(noise**2, axis=1)
    pairs = (found - log_q).reshape(2, -1).mean(axis=0)
    return Estimate(float(pairs.mean()), float(pairs.std(ddof=1) / np.sqrt(len(pairs))))
