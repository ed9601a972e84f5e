"""Stochastic-gradient Hamiltonian Monte Carlo: draws for networks and data that no full gradient can be paid for."""

from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.data import num_examples
from jaxmap.infer.beginning import Beginning
from jaxmap.infer.bootstrap import Bootstrap, Replicates
from jaxmap.infer.chain_fit import Sampled, run_chains
from jaxmap.infer.chain_run import joined
from jaxmap.infer.draws import Draws
from jaxmap.infer.mclmc import DEEPEST, check_positive
from jaxmap.infer.nuts import in_users_space, keys_of_chains
from jaxmap.infer.nuts_diagnosis import Diagnosis, Moves, diagnose
from jaxmap.infer.nuts_start import AUTOMATIC_UP_TO, Starter
from jaxmap.infer.own_modes import begin_at_own_modes
from jaxmap.infer.point import check_counts, describe
from jaxmap.infer.posteriors import is_posterior
from jaxmap.infer.problem import Problem, check_method, library_versions
from jaxmap.infer.seen import as_rows
from jaxmap.infer.sghmc_chains import Estimator, Minibatches, StochasticChains
from jaxmap.infer.sghmc_diagnosis import TOLERATED, Kept, configurational, doubts, fallen
from jaxmap.infer.sghmc_run import Itinerary, StochasticRun
from jaxmap.trees import settled
from jaxmap.types import FitError, Info, Method, Posterior, Seeds, Status


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

    def run(self, problem: Problem, seeds: Seeds) -> Sampled:
        """Run all chains of all seeds in one program, or take up the run that the problem's folder holds.

        Raises:
            ValueError: a model without examples, batches larger than the data, or a folder that holds another run.
        """
        if problem.data is None:
            raise ValueError("Expected data with examples, to draw minibatches of; got None. Use jm.NUTS().")
        n = num_examples(problem.data)
        if self.batch_size is not None and self.batch_size > n:
            raise ValueError(f"Expected batch_size of at most the {n} examples; got {self.batch_size}.")
        chains = StochasticChains(Minibatches(self.batch_size, self.temperature), problem)
        run = StochasticRun(chains, self._itinerary(), seeds, keys_of_chains(seeds, self.chains))
        # More draws may be asked of a run later, but for cycles, whose lengths they set.
        more = self if self.cycles > 1 else replace(self, draws=200)
        return run_chains(run, problem, seeds, self._begin, {"method": describe(more)})

    def _itinerary(self) -> Itinerary:
        return Itinerary(**{field.name: getattr(self, field.name) for field in fields(Itinerary)})

    def _begin(self, problem: Problem, seed: Seeds) -> Beginning:
        starter = Starter(problem, seed, self.chains)
        large = problem.num_params > AUTOMATIC_UP_TO or starter.is_network()
        if self.start is not None or not (problem.model.restartable and large):
            begun = starter.begin(self.start)
        else:
            begun = begin_at_own_modes(starter, self.batch_size)
        return replace(begun, height=float(_log_densities(problem, begun.candidates[0].z[None]).max()))

    def finish(self, problem: Problem, runs: Sampled, index: int) -> Draws:
        """Collect the chains of one seed and diagnose them.

        Raises:
            FitError: interrupted before the first draw, or every step failed.
        """
        course, begun = runs.course, runs.prepared[index]
        if not course.drawn:
            raise FitError(
                "SGHMC was interrupted during its warm-up, before the first draw.", status=Status.INTERRUPTED
            )
        kept = Kept(*(leaf[index] for leaf in joined(course.drawn, self.draws)))
        params, known = in_users_space(problem, kept.z), course.known
        thin, warmup = int(known.thin), int(known.warmup)
        found = self._diagnosis(problem, params, kept, thin)
        log_joint = _log_densities(problem, kept.z)
        left = fallen(begun.height, log_joint, problem.num_params, self.temperature)
        size = self.batch_size or problem.num_examples
        steps = self.chains * (int(known.moved) + thin * kept.z.shape[1])
        info = Info(
            status=Status.INTERRUPTED if runs.interrupted else found.status,
            method=describe(self),
            solver=f"SGHMC, {warmup} warm-up steps, batches of {size}",
            target=_target(self.temperature),
            num_gradients=float(known.spent[index]) + steps * size / problem.num_examples + begun.gradients,
            seconds=runs.seconds + begun.seconds,
            notes=(*begun.notes, *left, *found.notes),
            diagnostics=found.numbers
            | {"warmup": float(warmup), "thin": float(thin), "step_size": float(known.step[index])},
            versions=library_versions(),
        )
        return Draws(settled(params), info, log_joint)

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
