"""What the chains say about themselves: divergences, energy, R-hat and effective sample sizes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse.csgraph import connected_components

from jaxmap.data import on_host
from jaxmap.infer.problem import Problem
from jaxmap.statistics import ess_bulk, ess_tail, rhat
from jaxmap.trees import coordinate_paths
from jaxmap.types import Status

GOOD_RHAT = 1.01
GOOD_ESS_PER_CHAIN = 100
GOOD_BFMI = 0.3

TAIL = 0.05
"""The share of draws at either end of a coordinate that is looked at by itself."""

REFUSED_MORE = 3.0
"""How much more often transitions may be refused there than elsewhere."""

TAILED_FROM = 400
"""Draws from which the ends are looked at."""

NETWORK_POINTS = 100
"""Training inputs on which function-space R-hat is computed."""


class Diagnosis(NamedTuple):
    """Numbers by name, a status, and sentences."""

    numbers: dict[str, float]
    status: Status
    notes: tuple[str, ...]


class Moves(NamedTuple):
    """What is known of the transitions to each draw, (chains, draws).

    Attributes:
        steps: gradients.
        diverging: true where the energy was lost.
        accept: acceptance probability.
        energy: total.
    """

    steps: np.ndarray
    diverging: np.ndarray
    accept: np.ndarray
    energy: np.ndarray


def diagnose(problem: Problem, params: Any, kept: np.ndarray, drawn: Any, depth: int) -> Diagnosis:
    """Acceptance, divergences, energy, and R-hat: of parameters for classical models, of predictions for networks.

    Args:
        problem: model and data.
        params: the draws in the user's space, leading with (chain, draw).
        kept: the same unconstrained, (chains, draws, P).
        drawn: steps, diverging, accept, energy of them.
        depth: of the deepest tree.
    """
    found = {
        "divergences": float(drawn.diverging.sum()),
        "accept_prob": float(drawn.accept.mean()),
        "deepest_trees": float(np.mean(drawn.steps >= 2**depth - 1)),
        "gradients_per_draw": float(drawn.steps.mean()),
        "bfmi_min": float(np.min(bfmi(drawn.energy))),
    }
    network = problem.model.outputs is not None
    watched = function_values(problem, params) if network else kept
    if watched.shape[1] < 4:
        return Diagnosis(found, Status.STEPS_EXHAUSTED, ())
    ratios, bulk, tail = rhat(watched), ess_bulk(watched), ess_tail(watched)
    where = "function_" if network else ""
    found |= {
        f"{where}rhat_max": float(np.max(ratios)),
        f"{where}rhat_median": float(np.median(ratios)),
        f"{where}rhat_95": float(np.quantile(ratios, 0.95, method="higher")),  # also of infinite ones
        f"{where}rhat_below_1.1": float(np.mean(ratios < 1.1)),
        f"{where}ess_min": float(np.min(bulk)),
        f"{where}ess_tail_min": float(np.min(tail)),
    }
    found["refused_in_tail"], tail_note = refused_in_tail(problem, kept, drawn.accept, network)
    enough = GOOD_ESS_PER_CHAIN * kept.shape[0]
    good = np.max(ratios) < GOOD_RHAT and min(np.min(bulk), np.min(tail)) > enough and found["bfmi_min"] > GOOD_BFMI
    good = good and found["divergences"] == 0 and not tail_note
    short = _short(float(np.max(ratios)), float(min(np.min(bulk), np.min(tail))), enough)
    said = (*_doubts(found), *short, tail_note, apart(watched))
    return Diagnosis(found, Status.CONVERGED if good else Status.STEPS_EXHAUSTED, tuple(note for note in said if note))


def refused_in_tail(problem: Problem, kept: np.ndarray, accept: np.ndarray, network: bool) -> tuple[float, str]:
    """How much more often transitions are refused from an end of a coordinate than from elsewhere, and what it means.

    A funnel's neck wants smaller steps than the rest: the chains are turned away from it, without divergences, and all
    of them alike, so that R-hat is good and the tail is missing. For each coordinate the outer 5 % of the draws on each
    side are looked at; the largest ratio of mean (1 - acceptance) there to that of all counts.

    Args:
        problem: model and data.
        kept: unconstrained draws, (chains, draws, P).
        accept: acceptance probability of the transition to each, (chains, draws).
        network: weights of a network are not looked at: 1.
    """
    if network or accept.size < TAILED_FROM:
        return 1.0, ""
    refused = 1.0 - np.asarray(accept[:, 1:], np.float64).ravel()
    at = kept[:, :-1].reshape(len(refused), -1)
    low, high = np.quantile(at, [TAIL, 1 - TAIL], axis=0)
    means = np.stack([np.average(refused[:, None] * end, axis=0) / end.mean(axis=0) for end in (at <= low, at >= high)])
    ratios = means / max(refused.mean(), 1e-3)
    end, worst = np.unravel_index(np.argmax(ratios), ratios.shape)
    ratio = float(ratios[end, worst])
    if ratio <= REFUSED_MORE:
        return ratio, ""
    name = coordinate_paths(problem.model.start_unconstrained(problem.dtype))[worst]
    return ratio, (
        f"Transitions are refused {ratio:.1f} times as often where {name} is {('low', 'high')[end]}est: the chains may "
        "not reach farther there. Write the model in other coordinates, or raise target_accept_prob."
    )


def _doubts(found: dict[str, float]) -> list[str]:
    """What a reader must know of the transitions."""
    said = []
    if found["divergences"]:
        said.append(
            f"{found['divergences']:.0f} transitions diverged: the density bends too sharply somewhere, and draws may "
            "be missing there. Write the model in other coordinates, or raise target_accept_prob."
        )
    if found["bfmi_min"] < GOOD_BFMI:
        said.append(f"E-BFMI {found['bfmi_min']:.2f} (limit {GOOD_BFMI}): the chains hardly reach the tails.")
    return said


def _short(ratio: float, effective: float, enough: int) -> list[str]:
    """Which of the criteria of converged draws they miss."""
    said = []
    if not ratio < GOOD_RHAT:
        said.append(f"the largest R-hat is {ratio:.3f} (limit {GOOD_RHAT})")
    if not effective > enough:
        said.append(f"the smallest effective sample size is {effective:.0f} (limit {enough})")
    return [f"Not certain yet: {' and '.join(said)}. Ask for more draws."] if said else []


def apart(values: np.ndarray) -> str:
    """Say in a sentence which chains sit in different places; nothing where all overlap.

    Two chains are apart where, in some coordinate, their central 90 % intervals have nothing in common.

    Args:
        values: (chains, draws, coordinates).
    """
    low, high = (np.quantile(values, q, axis=1) for q in (0.05, 0.95))
    meet = np.all((low[:, None] <= high[None]) & (low[None] <= high[:, None]), axis=2)
    count, label = connected_components(meet, directed=False)
    if count == 1:
        return ""
    groups = [" ".join(map(str, np.flatnonzero(label == k))) for k in range(count)]
    return (
        f"The chains sit in {count} places that do not overlap ({'; '.join(groups)}): pooled, they are not weights "
        "of those places."
    )


def bfmi(energy: np.ndarray) -> np.ndarray:
    """The energy's Bayesian fraction of missing information of each chain, mean (E_t - E_(t-1))^2 / Var E.

    Betancourt (2016); below 0.3 the momenta do not reach the tails. Infinite for one draw or constant energy.

    Args:
        energy: (chains, draws).
    """
    energy = np.asarray(energy, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (
            np.mean(np.diff(energy, axis=1) ** 2, axis=1) / np.var(energy, axis=1) if energy.shape[1] > 1 else np.nan
        )
    return np.where(np.isnan(found), np.inf, found)


def function_values(problem: Problem, params: Any) -> np.ndarray:
    """Network outputs on up to 100 training inputs, (chain, draw, values)."""
    x = on_host(jax.tree.map(lambda leaf: leaf[:NETWORK_POINTS], problem.data[0]))
    outputs: Any = problem.model.outputs

    def values(params: Any) -> Any:
        return jax.lax.map(jax.vmap(lambda p: jnp.ravel(outputs(p, x)[0])), params)

    program = problem.model.programs.jitted("function values", values)
    return np.asarray(program(params), np.float64)
