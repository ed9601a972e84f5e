"""Microcanonical Langevin Monte Carlo by blackjax: the full posterior of networks that NUTS cannot pay for."""

from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.infer.beginning import Beginning
from jaxmap.infer.bootstrap import Bootstrap, Replicates
from jaxmap.infer.chain_fit import Sampled, run_chains
from jaxmap.infer.chain_run import joined
from jaxmap.infer.draws import Draws
from jaxmap.infer.mclmc_chains import MicrocanonicalChains, Mover
from jaxmap.infer.mclmc_run import Aim, Kept, MicrocanonicalRun
from jaxmap.infer.nuts import in_users_space, keys_of_chains
from jaxmap.infer.nuts_diagnosis import Diagnosis, Moves, diagnose
from jaxmap.infer.nuts_frame import Frame
from jaxmap.infer.nuts_start import Starter
from jaxmap.infer.own_modes import begin_at_own_modes
from jaxmap.infer.point import check_counts, describe
from jaxmap.infer.posteriors import is_posterior
from jaxmap.infer.problem import Problem, check_method, library_versions
from jaxmap.infer.seen import as_rows, in_chains
from jaxmap.model import Density
from jaxmap.trees import settled
from jaxmap.types import FitError, Info, Method, Posterior, Seeds, Status

ENERGY_ERROR = 5e-4
"""Squared energy error of a step per dimension that keeps the bias of variances at a few per cent."""

ACCEPT = 0.9
"""Acceptance probability of adjusted trajectories."""

FAR = 1000.0
"""Standard deviations of the energy error beyond which an unadjusted step is taken back."""

TOLERATED = 3.0
"""How many times as large as asked for the measured energy error may be."""

DEEPEST = 30
"""There are no trees here; more steps than any trajectory has."""


@dataclass(frozen=True)
class MCLMC:
    """Microcanonical Langevin Monte Carlo (Robnik, De Luca, Silverstein and Seljak, 2023), by blackjax.

    A chain moves at unit speed in a direction u that the gradient of the log density f turns, and that noise forgets
    over a length L:

        dx = u dt,    du = (I - u u') grad f(x) / (P - 1) dt + noise.

    At constant total energy, x visits places in proportion to exp f. A step costs two gradients and is made whether its
    energy error is small or not: the draws have a bias, which falls with `energy_error`. With `adjusted` a Metropolis
    test of trajectories of mean length L removes it (Robnik, Cohn-Gordon and Seljak, 2025), at the price of smaller
    steps in many dimensions. The warm-up learns coordinates from the draws and gradients of all chains, each around
    its own mean, and a step size for each chain.

    Args:
        start: a method or a fitted posterior that tells where to begin; of `jm.Ensemble(..., members=chains)` each
            chain takes a member. None: networks begin each chain at a mode of its own, by 2000 steps of Adam; other
            models as `jm.NUTS()` does.
        chains: independent chains.
        warmup: transitions per chain, thrown away; None: 2000, adjusted 500.
        draws: kept draws per chain.
        thin: transitions per kept draw; None: 10, adjusted 1.
        adjusted: with a Metropolis test.
        energy_error: mean squared energy error of an unadjusted step per dimension that the step size is tuned for;
            None: 0.0005.
        length: L in units of sqrt(P), in the learned coordinates.
        target_accept_prob: of adjusted trajectories; None: 0.9.
    """

    start: Method | Posterior | None = None
    chains: int = 4
    warmup: int | None = None
    draws: int = 1000
    thin: int | None = None
    adjusted: bool = False
    energy_error: float | None = None
    length: float = 1.0
    target_accept_prob: float | None = None

    def __post_init__(self) -> None:
        check_counts(chains=self.chains, warmup=self.warmup, draws=self.draws, thin=self.thin)
        if self.start is not None and not is_posterior(self.start):
            check_method(self.start, "`start`")
        if isinstance(self.start, Bootstrap | Replicates):
            raise TypeError("Expected a posterior or a method as `start`; got a bootstrap. Use jm.MAP().")
        if not isinstance(self.adjusted, bool):
            raise TypeError(f"Expected adjusted to be True or False; got {self.adjusted!r}.")
        check_positive("length", self.length)
        check_positive("energy_error", self.energy_error)
        check_positive("target_accept_prob", self.target_accept_prob)
        if self.target_accept_prob is not None and self.target_accept_prob >= 1:
            raise ValueError(f"Expected target_accept_prob between 0 and 1; got {self.target_accept_prob!r}.")
        if self.adjusted and self.energy_error is not None:
            raise ValueError("Expected energy_error of unadjusted steps; got adjusted=True. Use target_accept_prob.")
        if not self.adjusted and self.target_accept_prob is not None:
            raise ValueError(
                "Expected target_accept_prob with adjusted=True; without it nothing is refused. Use energy_error."
            )

    def starting_at(self, start: Method) -> "MCLMC":
        """The same sampler with a start."""
        return replace(self, start=start)

    def seen(self, problem: Problem, found: Any, z: Any) -> np.ndarray:
        """The log density that chains begin with, as in `infer/seen.py`."""
        rows, size, dtype = as_rows(z), problem.num_params, problem.dtype
        chains = MicrocanonicalChains(Mover(self.adjusted, FAR * float(np.sqrt(self._error))), problem)
        frames = jax.tree.map(jnp.asarray, Frame(np.zeros((1, size), dtype), np.ones((1, size), dtype)))
        keys = jax.random.split(jax.random.key(0), (1, self.chains))
        begun = [chains.begin(positions, frames, keys) for positions in in_chains(rows, self.chains)]
        return np.concatenate([np.asarray(states.inner.logdensity)[0] for states in begun])[: len(rows)]

    def run(self, problem: Problem, seeds: Seeds) -> Sampled:
        """Run all chains of all seeds in one program, or take up the run that the problem's folder holds.

        Raises:
            ImportError: blackjax is not installed.
            ValueError: a single parameter, in which there are no directions; or the folder holds another run.
        """
        if find_spec("blackjax") is None:
            raise ImportError("jm.MCLMC needs blackjax. Install it with: pip install 'jaxmap[blackjax]'.")
        if problem.num_params < 2:
            raise ValueError("Expected at least 2 parameters, for directions to turn; got 1. Use jm.NUTS().")
        chains = MicrocanonicalChains(Mover(self.adjusted, FAR * float(np.sqrt(self._error))), problem)
        run = MicrocanonicalRun(chains, self._aim(), keys_of_chains(seeds, self.chains))
        more = describe(replace(self, draws=1000))  # more draws may be asked of a run later
        identity = {"method": more, "blackjax": version("blackjax")}
        return run_chains(run, problem, seeds, self._begin, identity)

    @property
    def _error(self) -> float:
        return self.energy_error or ENERGY_ERROR

    def _aim(self) -> Aim:
        warmup, thin = (500, 1) if self.adjusted else (2000, 10)
        return Aim(
            warmup=self.warmup or warmup,
            draws=self.draws,
            thin=self.thin or thin,
            length=self.length,
            energy_error=None if self.adjusted else self._error,
            accept=self.target_accept_prob or ACCEPT,
        )

    def _begin(self, problem: Problem, seed: Seeds) -> Beginning:
        """Where the chains of one seed begin: as those of NUTS, but of a network each at a mode of its own."""
        starter = Starter(problem, seed, self.chains)
        if self.start is not None or not (problem.model.restartable and starter.is_network()):
            return starter.begin(self.start)
        return begin_at_own_modes(starter)

    def finish(self, problem: Problem, runs: Sampled, index: int) -> Draws:
        """Collect the chains of one seed and diagnose them.

        Raises:
            FitError: interrupted before the first draw.
        """
        course, begun = runs.course, runs.prepared[index]
        if not course.drawn:
            raise FitError(
                "MCLMC was interrupted during its warm-up, before the first draw.", status=Status.INTERRUPTED
            )
        kept = Kept(*(leaf[index] for leaf in joined(course.drawn, self.draws)))
        params = in_users_space(problem, kept.z)
        found = self._diagnosis(problem, params, kept)
        aim = self._aim()
        info = Info(
            status=Status.INTERRUPTED if runs.interrupted else found.status,
            method=describe(self),
            solver=f"blackjax {'adjusted ' if self.adjusted else ''}MCLMC, {aim.warmup} warm-up transitions",
            target=f"draws from the {Density(problem.model).target}",
            num_gradients=float(kept.steps.sum()) + float(course.known.spent[index]) + begun.gradients,
            seconds=runs.seconds + begun.seconds,
            notes=(*begun.notes, *found.notes),
            diagnostics=found.numbers | {"warmup": float(aim.warmup), "thin": float(aim.thin)},
            versions=library_versions(),
        )
        return Draws(settled(params), info, kept.log_density)

    def _diagnosis(self, problem: Problem, params: Any, kept: Kept) -> Diagnosis:
        """As of NUTS, without what only trees and momenta have, and with the energy error of unadjusted steps."""
        refused = kept.failed if self.adjusted else np.zeros_like(kept.failed)
        still = np.zeros(kept.failed.shape)  # microcanonical chains keep their energy: there is no E-BFMI
        found = diagnose(problem, params, kept.z, Moves(kept.steps, refused, kept.accept, still), DEEPEST)
        numbers = {k: v for k, v in found.numbers.items() if k not in ("bfmi_min", "deepest_trees")}
        if self.adjusted:
            return found._replace(numbers=numbers)
        error, failed = float(np.mean(kept.error, dtype=np.float64)), float(kept.failed.sum())
        del numbers["accept_prob"]
        numbers |= {"divergences": failed, "energy_error": error}
        sound = error <= TOLERATED * self._error
        status = found.status if sound and not failed else Status.STEPS_EXHAUSTED
        return Diagnosis(numbers, status, (*_bias(error, self._error, failed), *found.notes))


def _bias(error: float, asked: float, failed: float) -> tuple[str, ...]:
    """What a reader must know of unadjusted draws."""
    said = [
        f"Unadjusted draws have a bias that falls with the energy error per dimension, here {error:.2g} (asked for: "
        f"{asked:.2g}). Halve energy_error, or set adjusted=True, to see how large it is."
    ]
    if failed:
        said.append(f"{failed:.0f} steps were taken back: their energy error was beyond {FAR:.0f} standard deviations.")
    return tuple(said)


def check_positive(name: str, value: float | None) -> None:
    """Refuse numbers that are not positive and finite (None passes).

    Raises:
        ValueError: in words.
    """
    if value is None:
        return
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not 0 < value < np.inf:
        raise ValueError(f"Expected {name} to be a positive number; got {value!r}.")
