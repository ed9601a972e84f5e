"""Stochastic-gradient Hamiltonian Monte Carlo: draws for networks and data that no full gradient can be paid for."""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.data import num_examples
from jaxmap.infer.bootstrap import Bootstrap, Replicates
from jaxmap.infer.chain_fit import one_of
from jaxmap.infer.draws import Draws
from jaxmap.infer.mclmc import DEEPEST, check_positive
from jaxmap.infer.nuts import in_users_space, keys_of_chains
from jaxmap.infer.nuts_diagnosis import Diagnosis, Moves, diagnose
from jaxmap.infer.nuts_frame import to_device
from jaxmap.infer.nuts_start import AUTOMATIC_UP_TO, Beginning, Starter
from jaxmap.infer.own_modes import begin_at_own_modes
from jaxmap.infer.point import check_counts, describe
from jaxmap.infer.posteriors import is_posterior
from jaxmap.infer.problem import Problem, Stopwatch, check_method, library_versions
from jaxmap.infer.seen import as_rows
from jaxmap.infer.sghmc_chains import Estimator, Minibatches, MovingState, Passed, StochasticChains, Tuning
from jaxmap.infer.sghmc_diagnosis import TOLERATED, Kept, configurational, doubts
from jaxmap.infer.sghmc_scales import Scales, measure
from jaxmap.optimize import Progress
from jaxmap.trees import settled, stack
from jaxmap.types import FitError, Info, Method, Posterior, Seeds, Status

SCALES = 4
"""The tag folded into a key for the batches that scales are measured on."""

PARTS, AT_A_TIME = 5, 5
"""Parts of the second half of the warm-up, and steps of it between two looks."""

LONGEST = 1000
"""The most steps between draws where the number is chosen."""


@dataclass(frozen=True)
class SGHMC:
    """Stochastic-gradient Hamiltonian Monte Carlo (Chen, Fox and Guestrin, 2014), by gradients of minibatches.

    Positions x and momenta m of all chains follow underdamped Langevin dynamics of the log joint density f,

        dx = m dt,    dm = grad f(x) dt - gamma m dt + sqrt(2 gamma T) dW,

    in coordinates stretched by the Fisher information that the gradients show, with one estimated gradient a step. The
    noise of the estimate, measured at the chains' places and heard from their momenta, stands in for a part of dW.
    Nothing is refused: the draws have a bias that falls with the step. `info.diagnostics` holds two checks of it, one
    in equilibrium: the temperatures of the momenta, and of the positions, -Cov(x, grad f) / T averaged over
    coordinates.

    With `cycles` (Zhang et al., 2020) the draws come in groups, and before each but the first the chains move on with
    steps that begin twice as long and shrink to h by half a cosine, from which nothing is kept.

    Args:
        start: a method or a fitted posterior that tells where to begin; of `jm.Ensemble(..., members=chains)` each
            chain takes a member. None: networks and models of more than 200 parameters begin each chain at a mode of
            its own, by 2000 steps of Adam on minibatches; other models as `jm.NUTS()` does.
        chains: independent chains.
        warmup: steps per chain, thrown away; None: 20 draws' worth, at least 500.
        draws: kept draws per chain.
        thin: steps per kept draw; None: as many as a direction of unit curvature needs to forget its place by a
            factor e, at most 1000.
        batch_size: examples per step, drawn with replacement; None: all.
        step_size: h, in coordinates of unit Fisher information; None: the longest that is stable and quiet enough.
        momentum: c, what is left of m after a step, exp(-gamma h).
        temperature: T; 1 is the posterior, draws of another are of the density exp(f / T).
        cycles: groups of draws.
    """

    start: Method | Posterior | None = None
    chains: int = 4
    warmup: int | None = None
    draws: int = 200
    thin: int | None = None
    batch_size: int | None = None
    step_size: float | None = None
    momentum: float = 0.9
    temperature: float = 1.0
    cycles: int = 1

    def __post_init__(self) -> None:
        check_counts(chains=self.chains, warmup=self.warmup, draws=self.draws, thin=self.thin, cycles=self.cycles)
        check_counts(batch_size=self.batch_size)
        if self.start is not None and not is_posterior(self.start):
            check_method(self.start, "`start`")
        if isinstance(self.start, Bootstrap | Replicates):
            raise TypeError("Expected a posterior or a method as `start`; got a bootstrap. Use jm.MAP().")
        check_positive("step_size", self.step_size)
        check_positive("temperature", self.temperature)
        check_positive("momentum", self.momentum)
        if self.momentum >= 1:
            raise ValueError(f"Expected momentum between 0 and 1; got {self.momentum!r}.")
        if self.cycles > self.draws:
            raise ValueError(f"Expected at most {self.draws} cycles, one per draw; got {self.cycles}.")

    def starting_at(self, start: Method) -> "SGHMC":
        """The same sampler with a start."""
        return replace(self, start=start)

    def seen(self, problem: Problem, found: Any, z: Any) -> np.ndarray:
        """What its gradients estimate, from all examples, as in `infer/seen.py`."""
        return _log_densities(problem, as_rows(z).astype(problem.dtype)[None])[0]

    def run(self, problem: Problem, seeds: Seeds) -> "Wandered":
        """Run all chains of all seeds in one program.

        Raises:
            ValueError: a model without examples, or batches larger than the data.
        """
        if problem.data is None:
            raise ValueError("Expected data with examples, to draw minibatches of; got None. Use jm.NUTS().")
        n = num_examples(problem.data)
        if self.batch_size is not None and self.batch_size > n:
            raise ValueError(f"Expected batch_size of at most the {n} examples; got {self.batch_size}.")
        begun = [self._begin(problem, one_of(seeds, k)) for k in range(seeds.count)]
        watch = Stopwatch()
        z = np.stack([beginning.candidates[0].z for beginning in begun])
        wandering = _Wandering(self, problem, seeds, z)
        ended = wandering.go()
        return Wandered(wandering, begun, not ended, watch.seconds / seeds.count)

    def _begin(self, problem: Problem, seed: Seeds) -> Beginning:
        starter = Starter(problem, seed, self.chains)
        large = problem.num_params > AUTOMATIC_UP_TO or starter.is_network()
        if self.start is not None or not (problem.model.restartable and large):
            return starter.begin(self.start)
        return begin_at_own_modes(starter, self.batch_size)

    def finish(self, problem: Problem, runs: "Wandered", index: int) -> Draws:
        """Collect the chains of one seed and diagnose them.

        Raises:
            FitError: interrupted before the first draw, or every step failed.
        """
        wandering, begun = runs.wandering, runs.begun[index]
        if not wandering.kept:
            raise FitError(
                "SGHMC was interrupted during its warm-up, before the first draw.", status=Status.INTERRUPTED
            )
        kept = Kept(*(np.concatenate(parts, axis=2)[index] for parts in zip(*wandering.kept, strict=True)))
        params, tuning = in_users_space(problem, kept.z), wandering.scales[index].tuning
        found = self._diagnosis(problem, params, kept, wandering.thin)
        size = self.batch_size or problem.num_examples
        info = Info(
            status=Status.INTERRUPTED if runs.interrupted else found.status,
            method=describe(self),
            solver=f"SGHMC, {wandering.warmup} warm-up steps, batches of {size}",
            target=_target(self.temperature),
            num_gradients=float(wandering.spent[index]) + begun.gradients,
            seconds=runs.seconds + begun.seconds,
            notes=(*begun.notes, *found.notes),
            diagnostics=found.numbers
            | {"warmup": float(wandering.warmup), "thin": float(wandering.thin), "step_size": tuning.step},
            versions=library_versions(),
        )
        return Draws(settled(params), info, _log_densities(problem, kept.z))

    def _diagnosis(self, problem: Problem, params: Any, kept: "Kept", thin: int) -> Diagnosis:
        """R-hat and sizes as of NUTS, and the temperatures of momenta and positions."""
        share = (self.batch_size or problem.num_examples) / problem.num_examples
        shape, never = kept.failed.shape, np.zeros_like(kept.failed)
        moves = Moves(np.full(shape, thin * share), never, np.ones(shape), never)
        found = diagnose(problem, params, kept.z, moves, DEEPEST)
        numbers = {k: v for k, v in found.numbers.items() if k not in ("bfmi_min", "deepest_trees", "accept_prob")}
        kinetic = float(kept.kinetic.mean(dtype=np.float64))
        numbers |= {"divergences": float(kept.failed.sum()), "kinetic_temperature": kinetic}
        numbers["configurational_temperature"] = configurational(kept) / self.temperature
        sound = abs(kinetic - 1) <= TOLERATED and not kept.failed.any()
        status = found.status if sound else Status.STEPS_EXHAUSTED
        return Diagnosis(numbers, status, (*doubts(kinetic, float(kept.failed.sum())), *found.notes))


class Wandered(NamedTuple):
    """What `run` leaves for `finish`."""

    wandering: "_Wandering"
    begun: list[Beginning]
    interrupted: bool
    seconds: float


@dataclass
class _Wandering:
    """The course of the chains: half of the warm-up, scales measured again, the other half to hear the noise, draws."""

    method: SGHMC
    problem: Problem
    seeds: Seeds
    z: np.ndarray
    kept: list[Kept] = field(default_factory=list)

    def __post_init__(self) -> None:
        minibatches = Minibatches(self.method.batch_size, self.method.temperature)
        self.chains = StochasticChains(minibatches, self.problem)
        self.spent, self.warmth = np.zeros(self.seeds.count), []
        self.keys = keys_of_chains(self.seeds, self.method.chains)
        self._measure(0)
        self.thin = self.method.thin or min(max(s.forgetting for s in self.scales), LONGEST)
        self.warmup = self.method.warmup or max(500, 20 * self.thin)

    def go(self) -> bool:
        """Move on to the end; False where the user interrupted it."""
        draws, cycles = self.method.draws, self.method.cycles
        groups = [len(part) for part in np.array_split(np.arange(draws), cycles)]
        half, thin = self.warmup // 2, self.thin
        wide = [max(1, group // 2) for group in groups[1:]]
        with Progress("SGHMC", self.warmup + thin * (draws + sum(wide)), self.problem.progress) as self.bar:
            self.passed = 0
            try:
                if half:
                    self._run_up(half)
                self._measure(1)
                self._listen(self.warmup - half)
                for k, group in enumerate(groups):
                    if k:
                        self._move(wide[k - 1], thin, wide=True)
                    self._move(group, thin, keep=True)
            except KeyboardInterrupt:
                return False
        return True

    def _measure(self, number: int) -> None:
        """Scales at the chains' places; they go on from there, at rest."""
        method = self.method
        keys = [jax.random.fold_in(jax.random.fold_in(key, SCALES), number) for key in self.seeds.keys]
        options = method.batch_size, method.temperature, method.momentum, method.step_size
        self.scales: list[Scales] = [
            measure(key, self.problem, z, *options) for key, z in zip(keys, self.z, strict=True)
        ]
        self.spent = self.spent + [s.gradients for s in self.scales]
        positions = np.stack([s.frame.positions(z) for s, z in zip(self.scales, self.z, strict=True)])
        keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, number)))(self.keys)
        self.state = self.chains.begin(positions, keys)

    def _listen(self, steps: int) -> None:
        """Move in parts, after each of which the gradients' noise is corrected by how warm the momenta were."""
        method = self.method
        for k, part in enumerate(np.array_split(np.arange(steps), min(PARTS, steps))):
            warmth = self._run_up(len(part))
            self.scales = [
                s.heard(kinetic, method.temperature, 1 / (k + 1), fixed=method.step_size is not None)
                for s, kinetic in zip(self.scales, warmth, strict=True)
            ]

    def _run_up(self, steps: int) -> np.ndarray:
        """Move and keep nothing; the mean kinetic temperature of each seed, that of the first steps left out."""
        self.warmth = []
        whole, rest = divmod(steps, AT_A_TIME)
        for count, thin in ((whole, AT_A_TIME), (1, rest)):
            if count and thin:
                self._move(count, thin)
        seen = np.concatenate(self.warmth, axis=2)
        return seen[:, :, seen.shape[2] // 4 :].mean(axis=(1, 2), dtype=np.float64)

    def _move(self, count: int, thin: int, *, keep: bool = False, wide: bool = False) -> None:
        frames = [s.frame for s in self.scales]
        dtype, share = self.problem.dtype, (self.method.batch_size or self.problem.num_examples)

        def look(state: MovingState, seen: Passed) -> None:
            self.state = state
            z = np.stack([f.vectors(x) for f, x in zip(frames, seen.position, strict=True)])
            self.z, steps = z[:, :, -1], thin * z.shape[2]
            self.spent = self.spent + self.method.chains * steps * share / self.problem.num_examples
            self.passed += steps
            self.warmth.append(seen.kinetic)
            if keep:
                self.kept.append(Kept(z.astype(dtype), *seen))
            self.bar.update(self.passed, "drawing" if keep else "moving on" if wide else "warm-up")

        on_device = stack([to_device(f, dtype) for f in frames])
        tuning = stack([Tuning(*(jnp.asarray(leaf, dtype) for leaf in s.tuning)) for s in self.scales])
        self.chains.advance(self.state, on_device, tuning, count, thin, look, wide=wide)


def _log_densities(problem: Problem, z: np.ndarray) -> np.ndarray:
    """The log joint density of each draw, (chains, draws), all examples counted."""
    estimator = Estimator.of(problem)

    def values(z: Any, data: Any) -> Any:
        return jax.lax.map(lambda v: estimator(v, data), z)

    program = problem.model.programs.jitted(("density of each draw", estimator), values)
    return np.asarray(program(jnp.asarray(z).reshape(-1, z.shape[2]), problem.data)).reshape(z.shape[:2])


def _target(temperature: float) -> str:
    whole = "draws from the log joint density in unconstrained coordinates, Jacobian included"
    return whole if temperature == 1 else f"{whole}, at temperature {temperature:g}"
