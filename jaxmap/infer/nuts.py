"""The full posterior: the No-U-Turn sampler of numpyro, chains in one program."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.infer.hmc import hmc

from jaxmap.infer.bootstrap import Bootstrap, Replicates
from jaxmap.infer.draws import Draws
from jaxmap.infer.gaussian import GaussianPosterior
from jaxmap.infer.ladder import FULL_UP_TO
from jaxmap.infer.mixture import MixturePosterior
from jaxmap.infer.point import check_counts, describe
from jaxmap.infer.posteriors import Point, is_posterior
from jaxmap.infer.problem import Problem, Stopwatch, check_method, library_versions, multiply
from jaxmap.model import Density
from jaxmap.optimize import Progress
from jaxmap.optimize.maximize import SECONDS_PER_CHUNK
from jaxmap.statistics import ess_bulk, rhat
from jaxmap.trees import settled, stack
from jaxmap.types import FitError, Info, Key, Method, Posterior, Seeds, Status

CHUNK = 64
"""Transitions that one compiled call makes at most."""

GOOD_RHAT = 1.01
GOOD_ESS_PER_CHAIN = 100

NETWORK_POINTS = 100
"""Training inputs on which function-space R-hat is computed."""


@dataclass(frozen=True)
class NUTS:
    """The No-U-Turn sampler (Hoffman and Gelman, 2014), by numpyro, all chains vectorised.

    The chains move in unconstrained coordinates of log_joint, Jacobian included, with an adapted step size and a
    diagonal metric. Given a `start` with a covariance, they move in coordinates whitened by it, the metric on top.

    Args:
        start: a method or a fitted posterior that tells where to begin (and its covariance how to stretch); None:
            at `init`, chains after the first at a uniform(-2, 2) step from it (networks: at fresh inits).
        chains: independent chains.
        warmup: adaptation steps per chain, thrown away; None: 1000, or 300 with a start that has a covariance.
        draws: kept draws per chain.
        target_accept_prob: larger is slower and more robust.
        max_tree_depth: at most 2**depth - 1 gradients per draw.
    """

    start: Method | Posterior | None = None
    chains: int = 4
    warmup: int | None = None
    draws: int = 1000
    target_accept_prob: float = 0.8
    max_tree_depth: int = 10

    def __post_init__(self) -> None:
        check_counts(chains=self.chains, warmup=self.warmup, draws=self.draws, max_tree_depth=self.max_tree_depth)
        if self.start is not None and not is_posterior(self.start):
            check_method(self.start, "`start`")
        if isinstance(self.start, Bootstrap | Replicates):
            raise TypeError(
                "Expected a posterior or a method as `start`; got a bootstrap, which is neither. Use jm.MAP()."
            )
        if isinstance(self.target_accept_prob, str) or not 0 < self.target_accept_prob < 1:
            raise ValueError(f"Expected target_accept_prob between 0 and 1; got {self.target_accept_prob!r}.")

    def starting_at(self, start: Method) -> "NUTS":
        """The same sampler with a start."""
        return replace(self, start=start)

    def run(self, problem: Problem, seeds: Seeds) -> "Chains":
        """Run all chains of all seeds in one program."""
        begun = [self._begin(problem, seeds, i) for i in range(seeds.count)]
        watch = Stopwatch()
        starts = multiply(seeds, self.chains)
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(starts.keys, TRANSITIONS)
        warmup = self.warmup or (300 if all(b.whitened for b in begun) else 1000)
        z = jnp.concatenate([b.positions for b in begun])
        frames = stack([b.frame for b in begun for _ in range(self.chains)])
        path = sample_chains(self, problem, z, frames, keys, warmup)
        return Chains(path, begun, warmup, watch.seconds / seeds.count)

    def finish(self, problem: Problem, runs: "Chains", index: int) -> Draws:
        """Collect the chains of one seed and diagnose them."""
        rows = slice(index * self.chains, (index + 1) * self.chains)
        path = runs.path
        begun = runs.begun[index]
        kept = path.z[rows, runs.warmup :]
        if kept.shape[1] == 0:
            raise FitError("NUTS was interrupted during its warm-up, before the first draw.")
        unravel = ravel_pytree(problem.model.start_unconstrained(problem.dtype))[1]
        constrain = jax.jit(jax.vmap(jax.vmap(lambda v: problem.model.space.constrain(unravel(v)))))
        params = constrain(jnp.asarray(kept))
        diagnostics, status = diagnose(problem, params, kept, path, rows, runs.warmup, self.max_tree_depth)
        info = Info(
            status=Status.INTERRUPTED if path.interrupted else status,
            method=describe(self),
            solver="numpyro NUTS, vectorised chains",
            target=f"draws from the {Density(problem.model).target}",
            num_gradients=float(path.steps[rows].sum()) + begun.gradients,
            seconds=runs.seconds + begun.seconds,
            notes=begun.notes,
            diagnostics=diagnostics,
            versions=library_versions(),
        )
        return Draws(settled(params), info, -path.potential[rows, runs.warmup :])

    def _begin(self, problem: Problem, seeds: Seeds, index: int) -> "Begun":
        seed = Seeds(seeds.keys[index : index + 1], seeds.ranks[index : index + 1])
        size = problem.num_params
        frame = Frame(jnp.zeros(size, problem.dtype), jnp.eye(1, dtype=problem.dtype)[0])
        if self.start is None:
            z = problem.starts(multiply(seed, self.chains))
            return Begun(jax.vmap(lambda v: ravel_pytree(v)[0])(z), frame)
        found = problem.solve(self.start, seed)[0]
        notes: tuple[str, ...] = ()
        if isinstance(found, FitError):
            mode = problem.solve(getattr(self.start, "at", None) or self.start, seed)[0]
            notes = (f"Started without curvature: {found}",)
            if isinstance(mode, FitError):
                return replace_start(self, problem, seed, (*notes, f"Started without a mode: {mode}"))
            found = mode
        key = jax.random.fold_in(seed.keys[0], POSITIONS)
        cost = {"gradients": found.info.num_gradients, "seconds": found.info.seconds, "notes": notes}
        if isinstance(found, GaussianPosterior) and (size > FULL_UP_TO or found.moving is not None):
            why = "holds some parameters still" if found.moving is not None else f"has {size} parameters"
            notes = (*notes, f"Started without curvature: the Gaussian {why}, so that it cannot whiten the space.")
            cost["notes"] = notes
        elif isinstance(found, GaussianPosterior):
            mean = ravel_pytree(found.mean)[0].astype(problem.dtype)
            root = jnp.asarray(found.precision.color(np.eye(size)), problem.dtype)
            positions = jax.random.normal(key, (self.chains, size), problem.dtype)
            return Begun(positions, Frame(mean, root), whitened=True, **cost)
        return Begun(_positions(found, problem, key, self.chains), frame, **cost)


TRANSITIONS, POSITIONS = 2, 3
"""Tags folded into keys for the chains' moves and for where they begin."""


class Frame(NamedTuple):
    """The affine map position -> unconstrained vector: mean + root @ position; a root of ndim 1 means identity."""

    mean: Any
    root: Any

    def place(self, position: Any) -> Any:
        """The unconstrained vector of a position."""
        return self.mean + (position if self.root.ndim == 1 else self.root @ position)


@dataclass(frozen=True)
class Begun:
    """Where the chains of one seed begin, and what finding it cost."""

    positions: Any
    frame: Frame
    whitened: bool = False
    gradients: float = 0.0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


class Path(NamedTuple):
    """What chains saw, warm-up included: arrays (chains, transitions, ...)."""

    z: np.ndarray
    potential: np.ndarray
    steps: np.ndarray
    diverging: np.ndarray
    accept: np.ndarray
    energy: np.ndarray
    interrupted: bool


class Chains(NamedTuple):
    """What `run` leaves for `finish`."""

    path: Path
    begun: list[Begun]
    warmup: int
    seconds: float


def sample_chains(method: NUTS, problem: Problem, positions: Any, frames: Frame, keys: Key, warmup: int) -> Path:
    """Drive the chains in chunks, so that the host can watch and stop them between two."""
    key = ("nuts", replace(method, start=None, warmup=warmup, draws=1, chains=1), frames.root.ndim > 2)
    if key not in problem.model.programs:
        problem.model.programs[key] = _programs(method, problem, warmup)
    begin, advance = problem.model.programs[key]
    states = begin(positions, frames, keys, problem.data)
    total, done, count = warmup + method.draws, 0, 1
    parts: list[Any] = []
    interrupted = False
    with Progress("NUTS", total, problem.progress) as bar:
        try:
            while done < total:
                watch = Stopwatch()
                count = min(count, total - done)
                states, seen = advance(states, frames, problem.data, count)
                parts.append(jax.tree.map(lambda leaf, c=count: np.asarray(leaf[:, :c]), seen))
                done += count
                bar.update(done, "warm-up" if done < warmup else "drawing")
                count = int(np.clip(count * min(4.0, SECONDS_PER_CHUNK / max(watch.seconds, 1e-6)), 1, CHUNK))
        except KeyboardInterrupt:
            interrupted = True
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *parts) if parts else None
    if joined is None:
        raise FitError("NUTS was interrupted before its first transition.")
    return Path(*joined, interrupted=interrupted)


def _programs(method: NUTS, problem: Problem, warmup: int) -> tuple[Any, Any]:
    """Compile the beginning and the transitions once: data and frames are arguments."""
    density = Density(problem.model)
    unravel = ravel_pytree(problem.model.start_unconstrained(problem.dtype))[1]

    def potential(frame: Frame, data: Any) -> Any:
        return lambda position: -density(unravel(frame.place(position)), data)

    init, sample = hmc(potential_fn_gen=potential, algo="NUTS")

    def begin(position: Any, frame: Frame, key: Key, data: Any) -> Any:
        return init(
            position,
            num_warmup=warmup,
            target_accept_prob=method.target_accept_prob,
            max_tree_depth=method.max_tree_depth,
            trajectory_length=None,  # type: ignore[arg-type]
            model_args=(frame, data),
            rng_key=key,
        )

    def advance(state: Any, frame: Frame, data: Any, count: Any) -> Any:
        def transit(i: Any, carry: Any) -> Any:
            state, seen = carry
            new = sample(state, (frame, data))
            now = (
                frame.place(new.z),
                new.potential_energy,
                new.num_steps,
                new.diverging,
                new.accept_prob,
                new.energy,
            )
            return new, jax.tree.map(lambda buffer, value: buffer.at[i].set(value), seen, now)

        blank = (frame.place(state.z), state.potential_energy, state.num_steps, state.diverging, state.accept_prob,
                 state.energy)  # fmt: skip
        seen = jax.tree.map(lambda leaf: jnp.zeros((CHUNK, *jnp.shape(leaf)), jnp.result_type(leaf)), blank)
        return jax.lax.fori_loop(0, count, transit, (state, seen))

    return (
        jax.jit(jax.vmap(begin, in_axes=(0, 0, 0, None))),
        jax.jit(jax.vmap(advance, in_axes=(0, 0, None, None))),
    )


def diagnose(
    problem: Problem, params: Any, kept: np.ndarray, path: Path, rows: slice, warmup: int, depth: int
) -> tuple[dict[str, float], Status]:
    """Acceptance, divergences, and R-hat: of parameters for classical models, of predictions for networks."""
    steps = path.steps[rows, warmup:]
    found = {
        "divergences": float(path.diverging[rows, warmup:].sum()),
        "accept_prob": float(path.accept[rows, warmup:].mean()),
        "deepest_trees": float(np.mean(steps >= 2**depth - 1)),
        "gradients_per_draw": float(steps.mean()),
    }
    watched = kept if problem.model.outputs is None else function_values(problem, params)
    if watched.shape[1] < 4:
        return found, Status.STEPS_EXHAUSTED
    ratios, sizes = rhat(watched), ess_bulk(watched)
    where = "" if problem.model.outputs is None else "function_"
    found |= {
        f"{where}rhat_max": float(np.max(ratios)),
        f"{where}rhat_median": float(np.median(ratios)),
        f"{where}ess_min": float(np.min(sizes)),
    }
    good = np.max(ratios) < GOOD_RHAT and np.min(sizes) > GOOD_ESS_PER_CHAIN * kept.shape[0]
    return found, Status.CONVERGED if good and found["divergences"] == 0 else Status.STEPS_EXHAUSTED


def function_values(problem: Problem, params: Any) -> np.ndarray:
    """Network outputs on up to 100 training inputs, (chain, draw, values)."""
    x = jax.tree.map(lambda leaf: leaf[:NETWORK_POINTS], problem.data[0])
    apply = jax.jit(jax.vmap(jax.vmap(lambda p: jnp.ravel(problem.model.outputs(p, x)[0]))))  # type: ignore[misc]
    return np.asarray(apply(params), np.float64)


def replace_start(method: NUTS, problem: Problem, seed: Seeds, notes: tuple[str, ...]) -> Begun:
    """Begin as if no start had been given."""
    return replace(replace(method, start=None)._begin(problem, seed, 0), notes=notes)


def _positions(found: Any, problem: Problem, key: Key, chains: int) -> Any:
    """One beginning per chain: the mode, or one member of a mixture each, or random draws."""
    if isinstance(found, Point):
        params = found.sample(key, chains)
    elif isinstance(found, MixturePosterior):
        keys = jax.random.split(key, chains)
        members = [found.members[c % len(found.members)] for c in range(chains)]
        params = stack([jax.tree.map(lambda v: v[0], m.sample(k, 1)) for m, k in zip(members, keys, strict=True)])
    else:
        params = found.sample(key, chains)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, problem.dtype), params)
    return jax.vmap(lambda p: ravel_pytree(problem.model.space.unconstrain(p))[0])(params)
