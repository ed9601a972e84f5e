"""Where chains begin: what an optimizer knows, as frames to try, from the most to the least daring."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxmap.curvature import is_affine
from jaxmap.infer.beginning import LONG_STEPS, ROBUST, Beginning, Candidate
from jaxmap.infer.gaussian import GaussianPosterior
from jaxmap.infer.ladder import FULL_UP_TO
from jaxmap.infer.laplace import Laplace
from jaxmap.infer.mixture import SAME_MODE, MixturePosterior
from jaxmap.infer.nuts_frame import Frame
from jaxmap.infer.point import MAP
from jaxmap.infer.posteriors import Point
from jaxmap.infer.problem import Problem, Stopwatch, multiply
from jaxmap.model import Density
from jaxmap.trees import in_double, shaper, stack, take
from jaxmap.types import FitError, Key, Seeds, Status

POSITIONS = 3
"""The tag folded into a key for where chains begin."""

AUTOMATIC_UP_TO = 200
"""Parameters up to which a sampler looks for the mode by itself."""

CLIMBS, CLIMB = 12, MAP(steps=100, space="unconstrained")
"""How many starts look for the mode, and how: one from which it is a long way is not worth it."""

SPREAD = 1.5
"""Chains begin this much wider than the Gaussian that they are drawn from."""

RELEVANT = 10.0
"""Nats by which the density at a second maximum may lie lower and still matter."""

SHORT, MIDDLE, LONG = 120, 250, 800
"""Warm-up where importance weights vouch for the Gaussian, where they do not, and where there is none."""

SOUND = (Status.CONVERGED, Status.STEPS_EXHAUSTED)
"""How a climb ends that may have found a maximum."""

ROUNDS = np.array([1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0])
"""Standard deviations at which a profile is looked at, on both sides."""


@dataclass(frozen=True)
class Starter:
    """Makes the beginnings of chains, for one problem and one seed.

    Attributes:
        problem: model and data.
        seed: one key and rank.
        chains: how many.
    """

    problem: Problem
    seed: Seeds
    chains: int
    key: Key = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", jax.random.fold_in(self.seed.keys[0], POSITIONS))

    def solve(self, source: Any, seeds: Seeds) -> list[Any]:
        """Fit what chains begin with; a fitted posterior is taken as it is.

        Raises:
            FitError: the user interrupted it; chains from halfway there would not be those of this key.
        """
        found = self.problem.solve(source, seeds)
        statuses = [fit.status if isinstance(fit, FitError) else fit.info.status for fit in found]
        if hasattr(source, "run") and Status.INTERRUPTED in statuses:
            raise FitError(
                "The search for where chains begin was interrupted, before the first draw.", status=Status.INTERRUPTED
            )
        return found

    def begin(self, start: Any) -> Beginning:
        """From a method, a fitted posterior, or by itself (None).

        Raises:
            FitError: interrupted by the user.
        """
        if start is None:
            return self._automatic()
        found = self.solve(start, self.seed)[0]
        if isinstance(found, FitError):
            mode = self.solve(getattr(start, "at", None) or start, self.seed)[0]
            note = f"Started without curvature: {found}"
            if isinstance(mode, FitError):
                return self.begin_plain().after(0.0, 0.0, note, f"Started without a mode: {mode}")
            return self._from(mode).after(0.0, 0.0, note)
        return self._from(found)

    def _from(self, found: Any) -> Beginning:
        spent = found.info.num_gradients, found.info.seconds
        if isinstance(found, GaussianPosterior):
            size = self.problem.num_params
            if size <= FULL_UP_TO and found.moving is None:
                return self._gaussian(found).after(*spent)
            why = "holds some parameters still" if found.moving is not None else f"has {size} parameters"
            note = f"Started without curvature: the Gaussian {why}, so that it cannot whiten the space."
            return Beginning((self._at(self._draws(found)),)).after(*spent, note)
        return Beginning((self._at(self._draws(found)),)).after(*spent)

    def begin_plain(self) -> Beginning:
        """Where chains begin of which nothing is known."""
        z = self.problem.starts(multiply(self.seed, self.chains))
        return Beginning((self._at(np.asarray(jax.vmap(lambda v: ravel_pytree(v)[0])(z), np.float64)),))

    def _at(self, z: np.ndarray) -> Candidate:
        size = self.problem.num_params
        return Candidate("without curvature", Frame(np.zeros(size), np.ones(size)), z, LONG)

    def _automatic(self) -> Beginning:
        """The modes that several starts climb to; the Gaussian of the best where there is just one."""
        problem = self.problem
        if problem.num_params > AUTOMATIC_UP_TO or self.is_network():
            return self.begin_plain()
        try:
            points = self.solve(CLIMB, multiply(self.seed, CLIMBS if problem.model.restartable else 1))
        except (TypeError, ValueError) as error:  # a density of which no mode is to be had, such as an L1 hierarchy
            return self.begin_plain().after(0.0, 0.0, f"Started without curvature: {error}")
        found = [point for point in points if isinstance(point, Point)]
        spent = sum(p.info.num_gradients for p in found), sum(p.info.seconds for p in found)
        good = sorted((p for p in found if p.info.status in SOUND), key=_height, reverse=True)
        if not good:
            return self.begin_plain().after(*spent, "Started without curvature: no maximum was found.")
        gaussian = self.solve(Laplace(good[0]), self.seed)[0]
        if not isinstance(gaussian, GaussianPosterior):
            return self.begin_plain().after(*spent, f"Started without curvature: {gaussian}")
        others = [p for p in good[1:] if self._matters(p, good[0], gaussian)]
        begun = self._at_modes([good[0], *others]) if others else self._gaussian(gaussian)
        return begun.after(spent[0] + gaussian.info.num_gradients - good[0].info.num_gradients, spent[1])

    def _matters(self, point: Point, best: Point, gaussian: GaussianPosterior) -> bool:
        """Another maximum than the best one, and not so much lower that it has no weight."""
        far = gaussian.distance(point.z) / np.sqrt(self.problem.num_params) > SAME_MODE
        near = _height(point) > _height(best) - RELEVANT
        return bool(far) and near and point.info.status is Status.CONVERGED

    def is_network(self) -> bool:
        """True where outputs are not linear in the parameters: such posteriors have many modes."""
        outputs, data = self.problem.model.outputs, self.problem.data
        return outputs is not None and not is_affine(lambda p: outputs(p, data[0])[0], self.problem.model.start)

    def _gaussian(self, found: GaussianPosterior) -> Beginning:
        size = self.problem.num_params
        mean = np.asarray(ravel_pytree(found.mean)[0], np.float64)
        root = np.asarray(found.precision.color(np.eye(size)), np.float64)
        noise = np.asarray(jax.random.normal(self.key, (self.chains, size)), np.float64)
        trusted = found.grade is not None and found.grade.trusted
        notes, cost, watch = [], 0.0, Stopwatch()
        if not trusted:
            root, bent, cost = self._profiled(mean, root)
            notes = [bent] if bent else []
        z = self._inside(mean, SPREAD * noise @ root.T)
        sd = np.sqrt(np.sum(root**2, axis=1))
        warmup = SHORT if trusted else MIDDLE
        target = LONG_STEPS if trusted else ROBUST
        whitened = Candidate("whitened by the Gaussian", Frame(mean, root), z, warmup, target)
        stretched = Candidate("stretched by the Gaussian's standard deviations", Frame(mean, np.diag(sd)), z, MIDDLE)
        plain = self.begin_plain()
        return Beginning((whitened, stretched, *plain.candidates)).after(cost, watch.seconds, *notes)

    def _profiled(self, mean: np.ndarray, root: np.ndarray) -> tuple[np.ndarray, str, float]:
        """The root along the axes of the correlation matrix, each as long as half a nat of the density's fall.

        A Gaussian falls by half a nat at one standard deviation. Where the density does so nearer or farther than at
        half or twice of that, on the geometric mean of both sides, this distance replaces it.
        """
        covariance = root @ root.T
        sd = np.sqrt(np.diag(covariance))
        values, vectors = np.linalg.eigh(covariance / sd[:, None] / sd[None])
        axes = sd[:, None] * vectors * np.sqrt(np.maximum(values, 1e-300))
        falls = self._falls(mean, axes)
        reached = [[_reaches(side) for side in (falls[k, 0], falls[k, 1])] for k in range(len(axes))]
        factors = np.exp(np.mean(np.log(np.array(reached)), axis=1))
        bent = (factors < 0.5) | (factors > 2.0)
        cost = falls.size / 3
        if not bent.any():
            return axes, "", cost
        note = f"Along {bent.sum()} of {len(bent)} axes the density falls otherwise than its curvature says: measured."
        return axes * np.where(bent, factors, 1.0), note, cost

    def _falls(self, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
        """How much the density falls from the mean along each axis, (P, 2, rounds)."""
        steps = np.stack([ROUNDS, -ROUNDS])
        z = mean + steps[None, :, :, None] * axes.T[:, None, None, :]
        values = self._values(np.concatenate([mean[None], z.reshape(-1, len(mean))]))
        falls = values[0] - values[1:].reshape(len(mean), 2, len(ROUNDS))
        return np.where(np.isnan(falls), np.inf, falls)

    def _values(self, z: np.ndarray) -> np.ndarray:
        """The log density at the rows of z, in float64."""
        problem, density = self.problem, Density(self.problem.model)
        shaped = shaper(problem.model.start_unconstrained(problem.dtype))

        def values(z: Any, data: Any) -> Any:
            return jax.lax.map(lambda v: density(shaped(v), data), z, batch_size=min(len(z), 32))

        program = problem.model.programs.jitted(("density of draws", density), values)
        return np.asarray(in_double(program, z, problem.data), np.float64)

    def _inside(self, mean: np.ndarray, moves: np.ndarray) -> np.ndarray:
        """Mean + moves, each halved until the density there is finite."""
        for _ in range(20):
            values = self._values(mean + moves)
            outside = ~np.isfinite(values)
            if not outside.any():
                break
            moves = np.where(outside[:, None], 0.5 * moves, moves)
        return mean + moves

    def _at_modes(self, points: Sequence[Point]) -> Beginning:
        """One mode after the other for the chains, in plain coordinates: nobody knows how they are connected."""
        z = np.stack([np.asarray(ravel_pytree(points[c % len(points)].z)[0], np.float64) for c in range(self.chains)])
        note = f"{len(points)} maxima of similar height; the chains begin at them in turn."
        return Beginning((self._at(z),), notes=(note,))

    def _draws(self, found: Any) -> np.ndarray:
        """One beginning per chain: the mode, or one member of a mixture each, or random draws."""
        if isinstance(found, MixturePosterior):
            keys = jax.random.split(self.key, self.chains)
            members = [found.members[c % len(found.members)] for c in range(self.chains)]
            params = stack([take(m.sample(k, 1), 0) for m, k in zip(members, keys, strict=True)])
        else:
            params = found.sample(self.key, self.chains)
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, self.problem.dtype), params)
        unconstrain = self.problem.model.space.unconstrain
        return np.asarray(jax.vmap(lambda p: ravel_pytree(unconstrain(p))[0])(params), np.float64)


def _height(point: Point) -> float:
    """The density at a point, in nats."""
    return -np.inf if point.info.log_joint is None else point.info.log_joint


def _reaches(falls: np.ndarray) -> float:
    """Where a fall first passes half a nat, between the rounds by its square root; the last round if never."""
    past = np.flatnonzero(falls > 0.5)
    if not past.size:
        return float(ROUNDS[-1])
    k = past[0]
    if not np.isfinite(falls[k]):
        return float(ROUNDS[max(k - 1, 0)])
    low, high = (
        (0.0, 0.0) if k == 0 else (ROUNDS[k - 1], np.sqrt(max(falls[k - 1], 0.0))),
        (ROUNDS[k], np.sqrt(falls[k])),
    )
    (a, fa), (b, fb) = low, high
    return float(a + (b - a) * (np.sqrt(0.5) - fa) / (fb - fa))
