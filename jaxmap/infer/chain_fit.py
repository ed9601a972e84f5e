"""Chains from their beginning, or from where a folder says that they stood, to their end."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple, cast

import jax
import numpy as np

from jaxmap.infer.beginning import Beginning, Preparation
from jaxmap.infer.chain_journal import ChainJournal
from jaxmap.infer.chain_run import Course, Journey, Run
from jaxmap.infer.problem import Problem, Stopwatch, library_versions
from jaxmap.types import Seeds

ENTRIES = "legs"
"""The form of a journal's entries; those of another one are refused in words."""


class Sampled(NamedTuple):
    """What a run of chains leaves for `finish`.

    Attributes:
        course: where it ended.
        prepared: how the chains of each seed began.
        interrupted: by the user.
        seconds: of each seed.
    """

    course: Course
    prepared: list[Preparation]
    interrupted: bool
    seconds: float


def run_chains(
    run: Run,
    problem: Problem,
    seeds: Seeds,
    begin: Callable[[Problem, Seeds], Beginning],
    identity: dict[str, str],
) -> Sampled:
    """Run the chains of all seeds, or take up the run that the problem's folder holds.

    Args:
        run: how they go.
        problem: model and data.
        seeds: of which each has chains.
        begin: finds where the chains of one seed begin. It is asked once: what it finds is entered as soon as the first
            leg that is not on trial begins.
        identity: what the run depends on, beside the problem and the keys.
    """
    journal = None if problem.folder is None else _journal(run, problem, seeds, identity)
    save = _unwritten if journal is None else journal.write
    if journal is not None and journal.open():
        prepared = [Preparation.of_plain(plain) for plain in journal.extra["begun"]]
        course = journal.course(run.states_like(), run.kinds)
    else:
        alone = replace(problem, folder=None)  # the fits that chains begin with keep no journal there
        begun = [begin(alone, one_of(seeds, k)) for k in range(seeds.count)]
        prepared = [beginning.preparation for beginning in begun]
        if journal is not None:
            journal.extra = {"begun": [asdict(p) for p in prepared]}
        course = run.start(begun)
        save(course, True)
    watch, journey = Stopwatch(), Journey(run, course, save, problem.progress)
    ended = journey.go()
    save(journey.course, True)
    return Sampled(journey.course, prepared, not ended, watch.seconds / seeds.count)


def one_of(seeds: Seeds, index: int) -> Seeds:
    """One of several seeds."""
    return Seeds(seeds.keys[index : index + 1], seeds.ranks[index : index + 1])


def _journal(run: Run, problem: Problem, seeds: Seeds, identity: dict[str, str]) -> ChainJournal:
    same = {"key": np.asarray(jax.random.key_data(seeds.keys)).tobytes().hex()}
    same |= {"jax": library_versions()["jax"], "entries": ENTRIES} | identity
    return ChainJournal(cast(Path, problem.folder), problem.identity() | same, on_trial=run.on_trial)


def _unwritten(course: Course, now: bool = False) -> None:
    """Keep no journal."""
