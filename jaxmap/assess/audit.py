"""audit(): can this point stand in for full Bayes?"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.assess import findings as look
from jaxmap.assess.predict import predict
from jaxmap.assess.price import Price, divergence, price
from jaxmap.assess.stand_in import DRAWS, StandIn, stand_in
from jaxmap.assess.verdict import NATS, SHARE, Audit, Concern, Finding, Verdict
from jaxmap.infer import MAP, GaussianPosterior, Laplace, Point, Problem
from jaxmap.infer.grade import GRADED_UP_TO
from jaxmap.infer.judged import SAME
from jaxmap.infer.laplace import Modes
from jaxmap.infer.point import continued
from jaxmap.infer.problem import Stopwatch, fold_in, named_key, seeds_of
from jaxmap.infer.together import likelihoods
from jaxmap.model import Model
from jaxmap.trees import cast_floats, take
from jaxmap.types import Data, FitError, Key, Posterior, Status

EXAMPLES = 256
"""How many training examples are left out in turn."""

RESTARTS = 4
"""Climbs from elsewhere, unless told otherwise, where a climb is cheap: up to `GRADED_UP_TO` parameters."""

CONTENDERS = 10.0
"""Nats of evidence below the best mode at which another one does not count."""


def audit(
    key: Key,
    model: Model,
    data: Data,
    posterior: Posterior,
    *,
    restarts: int | None = None,
    precision: str | None = None,
    progress: bool | None = None,
    mesh: Any = None,
) -> Audit:
    """Ask whether a point estimate can stand in for the full posterior, without sampling the posterior.

    A stand-in for the posterior is made of Gaussians at the modes that are found, corrected by importance weights
    where Pareto k-hat trusts them (linearised networks else). With each of up to 256 examples left out in turn, the
    point's prediction of it is compared with the stand-in's. The point suffices if it is expected to lose at most
    0.01 nats per example and its 90 % intervals to cover within 0.03; else a Gaussian suffices if k-hat trusts the
    weights and its predictions are within 0.01 nats of the corrected ones; else full Bayes is needed.

    Args:
        key: for restarts and draws.
        model: the model that was fitted; it predicts (`observe`).
        data: the (x, y) that it was fitted to.
        posterior: a point (`jm.MLE`, `jm.MAP`, `jm.Given`), or a Gaussian, whose mode is looked at.
        restarts: climbs from elsewhere that look for other modes; None: 4 for up to 2000 parameters, else 0.
        precision: as in `jm.fit`.
        progress: as in `jm.fit`.
        mesh: as in `jm.fit`.

    Returns:
        audit: print it.

    Raises:
        TypeError, ValueError: another kind of posterior, a model that cannot predict, bad data.
    """
    key, watch = named_key(key, "audit"), Stopwatch()
    if not isinstance(posterior, Point | GaussianPosterior):
        raise TypeError(
            f"Expected a point or a Gaussian from jm.fit to audit; got {type(posterior).__name__}. Give the fit of "
            "jm.MAP(), jm.MLE(), jm.Given(params) or jm.Laplace()."
        )
    if model.train is not None:
        raise ValueError(
            "Expected a model whose loss is a log-probability of its parameters alone; got one that trains in training "
            "mode (active dropout, batch statistics). Freeze it: jm.supervised(module in evaluation mode, ...), and "
            "audit jm.Given(params)."
        )
    problem = Problem.of(model, data, precision=precision, progress=progress, mesh=mesh)
    if model.observe is None or not isinstance(data, tuple) or len(data) != 2:
        raise ValueError(
            "Expected a model with `observe` and data (x, y), to compare predictions; got none. Give "
            "Model(observe=...), or look at jm.Laplace(...)'s grade."
        )
    with problem.scope():
        return _Examination(key, problem, posterior, restarts).audit(watch)


@dataclass
class _Modes:
    """The Gaussians that were found: at the user's mode first; why there is none; how many climbs, other modes."""

    gaussians: list[GaussianPosterior]
    refused: str
    climbs: int
    others: int
    spent: float


class _Examination:
    """One audit."""

    def __init__(self, key: Key, problem: Problem, posterior: Any, restarts: int | None):
        self.key, self.problem, self.posterior = key, problem, posterior
        size = problem.num_params
        self.restarts = (RESTARTS if size <= GRADED_UP_TO else 0) if restarts is None else restarts
        self.why_not = "too many parameters (restarts= asks for it)" if restarts is None else "restarts=0"
        if not problem.model.restartable:
            self.restarts, self.why_not = 0, "the network is an instance with one set of values"

    def audit(self, watch: Any) -> Audit:
        problem, posterior = self.problem, self.posterior
        own = self._own_mode()
        first = look.maximum(posterior.info)
        found = [first]
        if posterior.info.status in (Status.NOT_A_MAXIMUM, Status.DIVERGED):
            return self._no_maximum(found, watch)
        modes = self._modes(own)
        found.append(look.only_one(modes.others, modes.climbs, self.why_not))
        if not modes.gaussians:
            found.append(Finding("near Gaussian", modes.refused, Concern.SERIOUS))
            numbers = {"severity": np.inf}
            return self._ended(Verdict.NEEDS_FULL_BAYES, (modes.refused,), found, numbers, watch, modes.spent)
        gaussian = modes.gaussians[0]
        limit = gaussian.grade.threshold if gaussian.grade else min(1 - 1 / np.log10(DRAWS), 0.7)
        stand, cost, apart, rows = self._compare(modes, limit)
        k_hat = stand.k_hat if np.isfinite(stand.k_hat) or gaussian.grade is None else gaussian.grade.k_hat
        point = posterior if isinstance(posterior, Point) else own
        others = [
            look.near_gaussian(k_hat, limit),
            look.loss(cost),
            look.coverage(cost),
            look.of_laplace(stand, apart),
            look.prior_share(problem, point),
            look.prior_conflict(fold_in(self.key, 5), problem, posterior.mode),
            look.parametrisation(problem, gaussian),
            look.typical_set(stand.depth, problem.num_params),
            look.precision(problem, cast_floats(posterior.mode, problem.dtype)),
        ]
        found += [one for one in others if one is not None]
        numbers = self._numbers(cost, k_hat, apart, modes) | {"examples": float(rows)}
        verdict, reasons = _judge(first, cost, stand, apart, modes, numbers["severity"])
        return self._ended(verdict, reasons, found, numbers, watch, modes.spent + stand.gradients)

    def _own_mode(self) -> Point:
        """The user's point where it is the mode in unconstrained coordinates, else climbed on to that.

        A large network is left where its training ended: a climb on all data could cost more than that.
        """
        posterior, problem = self.posterior, self.problem
        if isinstance(posterior, GaussianPosterior):
            z = jax.tree.map(jnp.asarray, cast_floats(posterior.mean, problem.dtype))
            return Point(posterior.mode, posterior.info, z, jacobian=not problem.model.space.is_real)
        z = jax.tree.map(jnp.asarray, cast_floats(posterior.z, problem.dtype))
        same = posterior.prior and (posterior.jacobian or problem.model.space.is_real)
        if same and (posterior.info.status is Status.CONVERGED or problem.num_params > GRADED_UP_TO):
            return posterior
        try:
            return continued(MAP(space="unconstrained"), problem, z)
        except FitError:
            return posterior

    def _modes(self, own: Point) -> _Modes:
        """Gaussians at the user's mode and at others that predict otherwise."""
        problem, posterior = self.problem, self.posterior
        method, refused = self._laplace(), ""
        gaussians: list[GaussianPosterior] = []
        if isinstance(posterior, GaussianPosterior):
            gaussians.append(posterior)
        else:
            try:
                gaussians.append(method.finish(problem, Modes([own], self.key[None]), 0))
            except FitError as error:
                refused = str(error)
        spent = sum(g.info.num_gradients for g in gaussians)
        spent -= posterior.info.num_gradients if own is posterior or posterior in gaussians else 0.0
        climbs = self._climbs()
        spent += sum(point.info.num_gradients for point in climbs)
        seen, others = [self._says(own)], 0
        for point in climbs:
            says = self._says(point)
            if point.info.status is Status.NOT_A_MAXIMUM or any(_alike(says, one) for one in seen):
                continue
            seen.append(says)
            try:
                gaussian = method.finish(problem, Modes([point], self.key[None]), 0)
            except FitError:
                continue
            spent += gaussian.info.num_gradients - point.info.num_gradients
            best = max((g.log_evidence for g in gaussians), default=-np.inf)
            if problem.model.outputs is None and gaussian.log_evidence < best - CONTENDERS:
                continue
            others += 1
            gaussians.append(gaussian)
        if refused:
            gaussians = []
        return _Modes(gaussians, refused, len(climbs), others, spent)

    def _laplace(self) -> Laplace:
        """Full where the matrix fits, else by layers or the diagonal."""
        if self.problem.num_params <= GRADED_UP_TO:
            return Laplace()
        return Laplace(curvature="diagonal" if self.problem.model.outputs is None else "kronecker")

    def _climbs(self) -> list[Point]:
        """The ends of climbs from elsewhere."""
        if not self.restarts:
            return []
        seeds = seeds_of(fold_in(self.key, 1), self.restarts, rank=1)
        ends = self.problem.solve(MAP(space="unconstrained"), seeds)
        return [end for end in ends if isinstance(end, Point)]

    def _says(self, point: Point) -> np.ndarray:
        params = cast_floats(point.mode, self.problem.dtype)
        return np.asarray(likelihoods(self.problem.model, params, self.problem.data), np.float64)

    def _compare(self, modes: _Modes, limit: float) -> tuple[StandIn, Price, float, int]:
        """Leave out examples, predict them by point and stand-in; and the Gaussian against the stand-in."""
        problem, posterior = self.problem, self.posterior
        chosen = np.arange(problem.num_examples)
        if len(chosen) > EXAMPLES:
            chosen = np.sort(np.asarray(jax.random.permutation(fold_in(self.key, 2), len(chosen)))[:EXAMPLES])
        x, y = take(problem.data, chosen)
        z = posterior.mean if isinstance(posterior, GaussianPosterior) else posterior.z
        params = jax.tree.map(jnp.asarray, cast_floats(posterior.mode, problem.dtype))
        stand = stand_in(fold_in(self.key, 3), problem, modes.gaussians, z, params, x, limit)
        cost = price(fold_in(self.key, 4), problem.model, stand, y)
        apart = float("nan")
        if stand.corrected:
            gaussian = predict(fold_in(self.key, 6), problem.model, modes.gaussians[0], x)
            apart = divergence(fold_in(self.key, 4), stand, gaussian)
        return stand, cost, apart, len(chosen)

    def _numbers(self, cost: Price, k_hat: float, apart: float, modes: _Modes) -> dict[str, float]:
        numbers = {name: float(value) for name, value in cost._asdict().items()}
        severity = max(abs(cost.loss) / NATS, 0.0 if np.isnan(cost.coverage_gap) else abs(cost.coverage_gap) / SHARE)
        return numbers | {
            "severity": float(severity),
            "k_hat": float(k_hat),
            "gaussian_kl": float(apart),
            "modes": 1.0 + modes.others,
        }

    def _no_maximum(self, found: list[Finding], watch: Any) -> Audit:
        found.append(Finding("only one", "Not looked for: the point itself is none.", Concern.SOME))
        reasons = (found[0].sentence,)
        return self._ended(Verdict.NOT_A_MAXIMUM, reasons, found, {"severity": np.inf}, watch, 0.0)

    def _ended(
        self,
        verdict: Verdict,
        reasons: tuple[str, ...],
        found: list[Finding],
        numbers: dict[str, float],
        watch: Any,
        spent: float,
    ) -> Audit:
        return Audit(verdict, reasons, NEXT[verdict], tuple(found), numbers, watch.seconds, spent)


NEXT = {
    Verdict.MAP_SUFFICES: "jm.predict(key, model, posterior, x_new): go on with the point.",
    Verdict.LAPLACE_SUFFICES: "jm.fit(key, model, data, jm.Laplace(posterior)), and predict with that.",
    Verdict.NEEDS_FULL_BAYES: "jm.fit(key, model, data, jm.NUTS(start=posterior)); jm.MCLMC() or an ensemble for "
    "large networks.",
    Verdict.NOT_A_MAXIMUM: "give the named parameters a prior that holds them, or more steps: "
    "jm.fit(key, model, data, jm.MAP(restarts=8)).",
}


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two ends say the same of the examples."""
    return bool(np.sqrt(np.mean((a - b) ** 2)) < SAME)


def _judge(
    first: Finding, cost: Price, stand: StandIn, apart: float, modes: _Modes, severity: float
) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict and why, what weighs most first."""
    gap, serious = look.coverage(cost), first.concern is Concern.SERIOUS
    reasons = [*([first] if serious else []), look.loss(cost), *([] if gap is None else [gap])]
    if severity <= 1:
        return Verdict.MAP_SUFFICES, _by_weight(reasons)
    if modes.others:
        return Verdict.NEEDS_FULL_BAYES, _by_weight([*reasons, look.only_one(modes.others, modes.climbs, "")])
    reasons = _by_weight([*reasons, look.of_laplace(stand, apart)])
    if stand.corrected and apart <= NATS:
        left_early = serious and first.value is not None  # the Gaussian stands elsewhere
        return Verdict.NOT_A_MAXIMUM if left_early else Verdict.LAPLACE_SUFFICES, reasons
    return Verdict.NEEDS_FULL_BAYES, reasons


def _by_weight(reasons: list[Finding]) -> tuple[str, ...]:
    """Sentences; those of the gravest findings first."""
    ranks = list(Concern)
    return tuple(reason.sentence for reason in sorted(reasons, key=lambda reason: -ranks.index(reason.concern)))
