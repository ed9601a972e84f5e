"""The full posterior: the No-U-Turn sampler of numpyro, started with what an optimizer knows."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.data import on_host
from jaxmap.infer.beginning import Beginning
from jaxmap.infer.bootstrap import Bootstrap, Replicates
from jaxmap.infer.chain_fit import Sampled, run_chains
from jaxmap.infer.draws import Draws
from jaxmap.infer.nuts_chains import Chains, Sampler
from jaxmap.infer.nuts_diagnosis import diagnose
from jaxmap.infer.nuts_frame import DENSE_LEARNED_UP_TO, Frame
from jaxmap.infer.nuts_run import Drawn, NUTSRun, Plan, gather
from jaxmap.infer.nuts_start import Starter
from jaxmap.infer.point import check_counts, describe
from jaxmap.infer.posteriors import is_posterior
from jaxmap.infer.problem import Problem, check_method, library_versions, seeds_of
from jaxmap.infer.seen import as_rows, in_chains
from jaxmap.model import Density
from jaxmap.trees import settled, shaper, stack
from jaxmap.types import FitError, Info, Key, Method, Posterior, Seeds, Status

TRANSITIONS = 2
"""The tag folded into a key for the chains' moves."""


@dataclass(frozen=True)
class NUTS:
    """The No-U-Turn sampler (Hoffman and Gelman, 2014), by numpyro, all chains vectorised.

    The chains move in unconstrained coordinates of log_joint, Jacobian included, in a frame x -> mean + root x. A
    Gaussian start whitens the space by its covariance; importance weights (k-hat) tell how far it can be trusted, and
    a short trial whether the chains can move in it: if not, only its standard deviations are used, and then nothing.
    The warm-up learns the frame from draws and gradients of all chains, and the step size. `info.notes` says what
    was done.

    Args:
        start: a method or a fitted posterior that tells where to begin (and its covariance how to stretch); None: for
            up to 200 parameters (networks excepted) the mode that 12 starts climb to, with its Laplace approximation;
            else at `init`, chains after the first at a uniform(-2, 2) step from it (networks: at fresh inits).
        chains: independent chains.
        warmup: adaptation steps per chain, thrown away; None: 120 with a start that importance weights vouch for, 250
            with another Gaussian, 800 without.
        draws: kept draws per chain.
        target_accept_prob: larger is slower and more robust; None: 0.7 with a start that importance weights vouch for,
            else 0.8.
        max_tree_depth: at most 2**depth - 1 gradients per transition.
        thin: transitions per kept draw.
    """

    start: Method | Posterior | None = None
    chains: int = 4
    warmup: int | None = None
    draws: int = 1000
    target_accept_prob: float | None = None
    max_tree_depth: int = 10
    thin: int = 1

    def __post_init__(self) -> None:
        check_counts(chains=self.chains, warmup=self.warmup, draws=self.draws, max_tree_depth=self.max_tree_depth)
        check_counts(thin=self.thin)
        if self.start is not None and not is_posterior(self.start):
            check_method(self.start, "`start`")
        if isinstance(self.start, Bootstrap | Replicates):
            raise TypeError(
                "Expected a posterior or a method as `start`; got a bootstrap, which is neither. Use jm.MAP()."
            )
        target = 0.5 if self.target_accept_prob is None else self.target_accept_prob
        if isinstance(target, str) or not 0 < target < 1:
            raise ValueError(f"Expected target_accept_prob between 0 and 1; got {self.target_accept_prob!r}.")

    def starting_at(self, start: Method) -> "NUTS":
        """The same sampler with a start."""
        return replace(self, start=start)

    def run(self, problem: Problem, seeds: Seeds) -> Sampled:
        """Run all chains of all seeds in one program, or take up the run that the problem's folder holds."""
        plan = Plan(self.warmup, self.draws * self.thin, self.target_accept_prob)
        sampler = Sampler(self.max_tree_depth, problem.num_params <= DENSE_LEARNED_UP_TO)
        run = NUTSRun(sampler, problem, plan, keys_of_chains(seeds, self.chains))
        more = describe(replace(self, draws=1000))  # more draws may be asked of a run later
        identity = {"method": more, "numpyro": library_versions()["numpyro"]}
        return run_chains(run, problem, seeds, self._begin, identity)

    def _begin(self, problem: Problem, seed: Seeds) -> Beginning:
        return Starter(problem, seed, self.chains).begin(self.start)

    def seen(self, problem: Problem, found: Any, z: Any) -> np.ndarray:
        """The potential that chains begin with, as in `infer/seen.py`."""
        rows, dense = as_rows(z), problem.num_params <= DENSE_LEARNED_UP_TO
        chains = Chains(Sampler(self.max_tree_depth, dense), problem)
        size, dtype = problem.num_params, problem.dtype
        plain = Frame(
            np.zeros((1, size), dtype), np.eye(size, dtype=dtype)[None] if dense else np.ones((1, size), dtype)
        )
        keys, step = jax.random.split(jax.random.key(0), (1, self.chains)), np.ones(1)
        frames = jax.tree.map(jnp.asarray, plain)
        begun = [
            chains.begin(jnp.asarray(positions, dtype), frames, keys, step, 0.8 * step)
            for positions in in_chains(rows, self.chains)
        ]
        return np.concatenate([-on_host(states.hmc.potential_energy)[0] for states in begun])[: len(rows)]

    def finish(self, problem: Problem, runs: Sampled, index: int) -> Draws:
        """Collect the chains of one seed and diagnose them.

        Raises:
            FitError: interrupted before the first draw.
        """
        course, begun = runs.course, runs.prepared[index]
        drawn = gather(course.drawn, self.thin, self.draws) if course.drawn else None
        if drawn is None or drawn.z.shape[2] == 0:
            raise FitError("NUTS was interrupted during its warm-up, before the first draw.", status=Status.INTERRUPTED)
        drawn = Drawn(*(leaf[index] for leaf in drawn))
        params = in_users_space(problem, drawn.z)
        found = diagnose(problem, params, drawn.z, drawn, self.max_tree_depth)
        warmup = sum(course.known.windows.tolist())
        info = Info(
            status=Status.INTERRUPTED if runs.interrupted else found.status,
            method=describe(self),
            solver=f"numpyro NUTS, vectorised chains, {warmup} warm-up steps",
            target=f"draws from the {Density(problem.model).target}",
            num_gradients=float(drawn.steps.sum()) + float(course.known.spent[index]) + begun.gradients,
            seconds=runs.seconds + begun.seconds,
            notes=(*begun.said(int(course.known.chosen[index])), *found.notes),
            diagnostics=found.numbers | {"warmup": float(warmup)},
            versions=library_versions(),
        )
        stats = {"diverging": drawn.diverging > 0, "n_steps": drawn.steps}
        stats |= {"acceptance_rate": drawn.accept, "energy": drawn.energy}
        return Draws(settled(params), info, -drawn.potential, stats)


def keys_of_chains(seeds: Seeds, chains: int) -> Key:
    """The keys of all transitions, (seeds, chains)."""
    keys = stack([seeds_of(key, chains).keys for key in seeds.keys])
    return jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(0, None)), in_axes=(0, None))(keys, TRANSITIONS)


def in_users_space(problem: Problem, z: np.ndarray) -> Any:
    """Unconstrained vectors (chains, draws, P) as parameter trees."""
    shaped = shaper(problem.model.start_unconstrained(problem.dtype))

    def constrain(z: Any) -> Any:
        return jax.vmap(jax.vmap(lambda v: problem.model.space.constrain(shaped(v))))(z)

    program = problem.model.programs.jitted("draws in the user's space", constrain)
    return program(jnp.asarray(z, problem.dtype))
