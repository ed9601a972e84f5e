"""Ensembles: independent fits of one method, as a mixture."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from jaxmap.infer.bootstrap import Bootstrap
from jaxmap.infer.draws import Draws
from jaxmap.infer.gaussian import GaussianPosterior
from jaxmap.infer.judged import AUGMENTED, IN_TRAINING
from jaxmap.infer.mclmc import MCLMC
from jaxmap.infer.mixture import MixturePosterior, distinct
from jaxmap.infer.nuts import NUTS
from jaxmap.infer.own_modes import TO_THE_MODE
from jaxmap.infer.point import MAP, check_counts, describe
from jaxmap.infer.problem import Problem, check_method, library_versions, multiply
from jaxmap.infer.sghmc import SGHMC
from jaxmap.types import FitError, Info, Method, Seeds, Status


@dataclass(frozen=True)
class Ensemble:
    """Independent fits from independent starts, as a mixture.

    `Ensemble(MAP())` is a deep ensemble, computed in one program; `Ensemble(Laplace())` a mixture of Gaussians;
    `Ensemble(NUTS())` runs `of.chains` chains from each member's mode, and `Ensemble(MCLMC(chains=1))` is a Bayesian
    deep ensemble. Members fitted to data in memory see batches of their own; a `jm.Stream` is read once for all of
    them, so that they take the same batches in the same order and differ by their starts alone.

    Args:
        of: the method of a member.
        members: how many. A member that diverges is left out and counted.
        weights: "equal", or "evidence": in proportion to exp(log_evidence) of Gaussian members, those at the same mode
            merged first (the weights of an integral over the modes that were found).
    """

    of: Method = MAP()
    members: int = 8
    weights: str = "equal"

    trains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_counts(members=self.members)
        if self.weights not in ("equal", "evidence"):
            raise ValueError(f"Expected weights='equal' or 'evidence'; got {self.weights!r}.")
        check_method(self.of, "`of`")
        if isinstance(self.of, Bootstrap):
            raise TypeError("Expected independent fits of the same data as members; got jm.Bootstrap(). Fit it itself.")

    def run(self, problem: Problem, seeds: Seeds) -> list[Any]:
        """Fit all members of all seeds; member 0 gets the seed's key, member k fold_in(key, k)."""
        return list(problem.solve(self._member(), multiply(seeds, self.members)))

    def seen(self, problem: Problem, found: Any, z: Any) -> np.ndarray:
        """What its members see, as in `infer/seen.py`."""
        return self._member().seen(problem, found.members[0], z)  # type: ignore[attr-defined]

    def _member(self) -> Method:
        """A member that samples starts at its own mode, so that the ensemble visits different ones."""
        if isinstance(self.of, NUTS) and self.of.start is None:
            return self.of.starting_at(MAP(space="unconstrained"))
        if isinstance(self.of, MCLMC | SGHMC) and self.of.start is None:
            return self.of.starting_at(TO_THE_MODE)
        return self.of

    def finish(self, problem: Problem, runs: list[Any], index: int) -> MixturePosterior:
        """Gather one seed's members.

        Raises:
            FitError: every member diverged.
        """
        results = runs[index * self.members : (index + 1) * self.members]
        alive = [member for member in results if not isinstance(member, FitError)]
        if not alive:
            raise results[0]
        lost = len(results) - len(alive)
        statuses = tuple(Status.DIVERGED if isinstance(m, FitError) else m.info.status for m in results)
        notes = [f"{lost} of {self.members} members diverged and were left out."] if lost else []
        notes += [said for said in (IN_TRAINING, AUGMENTED) if all(said in member.info.notes for member in alive)]
        if any(isinstance(member, Draws) for member in alive):
            notes.append("Draws of chains in different modes are pooled; their number is not the weight of a mode.")
        log_weights = np.full(len(alive), -np.log(len(alive)))
        if self.weights == "evidence":
            alive, log_weights, merged = _by_evidence(alive)
            notes += [merged] if merged else []
        common = Counter(statuses).most_common(1)[0][0]
        info = Info(
            status=common if len(set(statuses)) == 1 else max(statuses, key=lambda s: s is not Status.CONVERGED),
            method=describe(self),
            solver=alive[0].info.solver,
            target=f"mixture of {len(alive)}: {alive[0].info.target}",
            num_gradients=sum(member.info.num_gradients for member in alive),
            seconds=sum(member.info.seconds for member in alive),
            members=statuses,
            notes=tuple(notes),
            versions=library_versions(),
        )
        return MixturePosterior(tuple(alive), log_weights, info)


def _by_evidence(members: list[Any]) -> tuple[list[Any], np.ndarray, str]:
    """The members at distinct modes, their log weights, and what was merged, in words.

    Raises:
        TypeError: members without an evidence.
    """
    if not all(isinstance(member, GaussianPosterior) and member.prior for member in members):
        raise TypeError("Expected Gaussian members for weights='evidence'. Use jm.Ensemble(jm.Laplace()).")
    found = distinct(members)
    evidence = np.array([member.log_evidence for member in found])
    lost = len(members) - len(found)
    said = f"{lost} of {len(members)} members lie at the mode of another one and were merged." if lost else ""
    return found, evidence - np.logaddexp.reduce(evidence), said
