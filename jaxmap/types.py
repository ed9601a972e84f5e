"""The floor of the house: names that every room shares. Imports nothing of ours."""

import enum
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

Key = jax.Array
"""A key of `jax.random`, typed or raw."""

Params = Any
"""A pytree of arrays: what the user's model is a function of."""

Data = Any
"""A pytree whose arrays share the leading axis n, or None."""


class Status(enum.Enum):
    """How a fit ended, in a sentence. `code` is the integer that compiled programs carry."""

    CONVERGED = "certified: the certificate (of a maximum) or the diagnostics (of draws) hold"
    STEPS_EXHAUSTED = "the steps were used up, or held-out data ended them, before convergence was certain"
    AT_BOUNDARY = "the maximum lies on the edge of the support"
    NOT_A_MAXIMUM = "the search ended where the density still grows or is flat in some direction"
    DIVERGED = "a value or a gradient stopped being finite"
    INTERRUPTED = "the user stopped the fit; this is what it had"

    @property
    def code(self) -> int:
        """The status as an integer, its rank in the enum."""
        return list(Status).index(self)

    @classmethod
    def from_code(cls, code: int) -> "Status":
        """The status whose rank is `code`."""
        return list(cls)[int(code)]


@dataclass(frozen=True)
class Certificate:
    """The evidence that a point is a maximum, evaluated in float64.

    Attributes:
        gradient: max_i |g_i| max(1, |z_i|) / max(1, |f|), of the total log density f and its gradient g in
            unconstrained coordinates z; at a kink, of what the subgradient leaves.
        decrement: the Newton decrement sqrt(g' H^-1 g), H the negative Hessian: the distance to the
            maximum in units of the posterior standard deviation. None where it was not computed.
        smallest_curvature: the smallest eigenvalue of H scaled to a unit diagonal; None as above.
        flat: paths of the parameters along which H is flat or negative.
        held: paths of the numbers that lie exactly at the kink of an L1 prior, where the subgradient holds them.
        products: Hessian-vector products that it cost, beyond 1500 free parameters; three gradients each.

    Where the density is known to be strongly concave (a generalised linear model with Gaussian priors), `decrement`
    may be an upper and `smallest_curvature` a lower bound. Beyond 1500 free parameters `smallest_curvature` is relative
    to the largest, unscaled.
    """

    gradient: float
    decrement: float | None = None
    smallest_curvature: float | None = None
    flat: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    products: int = 0


@dataclass(frozen=True)
class Info:
    """What a person reads about a fit; totals in nats, seconds of wall time, compile time included.

    Attributes:
        status: how the fit ended.
        method: the method, as it prints.
        solver: which solver ran, and why if it was chosen automatically.
        target: which density was maximised or sampled, in words.
        certificate: the evidence for `CONVERGED`, None for methods without a mode.
        log_likelihood: sum over the examples at the mode (None where there is no mode).
        log_prior: at the mode.
        log_joint: at the mode.
        num_gradients: gradient evaluations of the whole density, everything counted; a minibatch counts
            its share, a Hessian-vector product counts 3.
        seconds: everything counted, shared sub-fits included.
        history: the minimised mean loss, one number per step (empty for samplers).
        held_out: step and mean negative log-likelihood of each look of a `jm.Monitor`, (looks, 2).
        members: statuses of restarts or ensemble members, in order.
        notes: what else a reader must know (fallbacks, clipping, exclusions), one sentence each.
        diagnostics: numbers by name (acceptance, divergences, R-hat...).
        versions: the libraries that computed it.
    """

    status: Status
    method: str = ""
    solver: str = ""
    target: str = ""
    certificate: Certificate | None = None
    log_likelihood: float | None = None
    log_prior: float | None = None
    log_joint: float | None = None
    num_gradients: float = 0.0
    seconds: float = 0.0
    history: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)
    held_out: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)), repr=False)
    members: tuple[Status, ...] = ()
    notes: tuple[str, ...] = ()
    diagnostics: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict, repr=False)


class Seeds(NamedTuple):
    """Where independent runs begin: one key and one rank each; rank 0 starts exactly at `init`."""

    keys: Key
    ranks: np.ndarray

    @property
    def count(self) -> int:
        """How many runs these are."""
        return len(self.ranks)


@runtime_checkable
class Method(Protocol):
    """How to go from model and data to posteriors.

    `run` is vectorised over seeds, never raises for numerical reasons and carries an integer status per
    run; `finish` works on the host: it certifies, raises, and makes the posterior of one run.
    """

    def run(self, problem: Any, seeds: Seeds) -> Any:
        """Compute one result per seed, stacked."""
        ...

    def finish(self, problem: Any, runs: Any, index: int) -> "Posterior":
        """Certify result `index` and make its posterior."""
        ...


@runtime_checkable
class Posterior(Protocol):
    """What a fit returns: something to sample from, in the user's constrained space."""

    @property
    def info(self) -> Info:
        """How it was found."""
        ...

    @property
    def mode(self) -> Params | None:
        """The parameters of highest density, or None."""
        ...

    def sample(self, key: Key, n: int) -> Params:
        """Draw n parameter trees, stacked on a leading axis."""
        ...

    def summary(self) -> Any:
        """A table by parameter path."""
        ...


class FitError(RuntimeError):
    """A fit that has no result to return: what failed first, and the last finite state.

    Attributes:
        last: the last finite parameters, in the user's space.
        step: the step whose evaluation failed.
        best: the parameters that a `jm.Monitor` found best before, in the user's space; None without one.
        status: INTERRUPTED where the user stopped it, else DIVERGED.
    """

    def __init__(
        self,
        message: str,
        *,
        last: Params = None,
        step: int | None = None,
        best: Params = None,
        status: Status = Status.DIVERGED,
    ):
        super().__init__(message)
        self.last = last
        self.step = step
        self.best = best
        self.status = status
