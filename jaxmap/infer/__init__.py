"""Inference: fit() and one file per method."""

from jaxmap.infer.together import check_together
from jaxmap.infer.problem import Problem
from jaxmap.infer.seen import by_objective
from jaxmap.infer.curved import Curved
from jaxmap.infer.delta_method import carry
from jaxmap.infer.standard_errors import StandardErrors
from jaxmap.infer.summary import Summary, summarize
from jaxmap.infer.storage import Saved, read_saved, write_saved
from jaxmap.infer.lock import locked
from jaxmap.infer.posteriors import Particles, Point, is_posterior
from jaxmap.infer.grade import Grade
from jaxmap.infer.gaussian import GaussianPosterior
from jaxmap.infer.draws import Draws
from jaxmap.infer.mixture import MixturePosterior
from jaxmap.infer.journal import Journal
from jaxmap.infer.climb_journal import ClimbJournal
from jaxmap.infer.judged import Judged, judge_at
from jaxmap.infer.diverged import failure
from jaxmap.infer.held_out import by_held_out
from jaxmap.infer.another_way import climbed_another_way
from jaxmap.infer.given import Given
from jaxmap.infer.point import MAP, MLE
from jaxmap.infer.family import template
from jaxmap.infer.path_walk import Walk
from jaxmap.infer.path import Path, path
from jaxmap.infer.bootstrap import Bootstrap, Replicates
from jaxmap.infer.load import load
from jaxmap.infer.prior_curvature import prior_diagonal
from jaxmap.infer.ladder import Ladder, Structure
from jaxmap.infer.laplace import Laplace
from jaxmap.infer.variational_families import Family, Frame
from jaxmap.infer.variational_start import Start, start_at
from jaxmap.infer.variational_bound import Bound, bound_at
from jaxmap.infer.variational_climb import climb_bound
from jaxmap.infer.variational import VI
from jaxmap.infer.pathfinder_walk import Walker
from jaxmap.infer.pathfinder import Pathfinder
from jaxmap.infer.evidence import log_evidence
from jaxmap.infer.search import Search
from jaxmap.infer.tune import Tuned, tune
from jaxmap.infer.nuts_frame import Frame as SamplerFrame, learn_frame
from jaxmap.infer.beginning import Beginning
from jaxmap.infer.nuts_chains import Chains
from jaxmap.infer.nuts_start import Starter
from jaxmap.infer.chain_run import Run
from jaxmap.infer.chain_journal import ChainJournal
from jaxmap.infer.chain_fit import run_chains
from jaxmap.infer.nuts_run import NUTSRun
from jaxmap.infer.nuts_diagnosis import bfmi, diagnose
from jaxmap.infer.nuts import NUTS
from jaxmap.infer.own_modes import begin_at_own_modes
from jaxmap.infer.mclmc_chains import MicrocanonicalChains
from jaxmap.infer.mclmc_run import MicrocanonicalRun
from jaxmap.infer.mclmc import MCLMC
from jaxmap.infer.sghmc_chains import StochasticChains
from jaxmap.infer.sghmc_scales import measure
from jaxmap.infer.sghmc_diagnosis import configurational
from jaxmap.infer.sghmc_run import StochasticRun
from jaxmap.infer.sghmc import SGHMC
from jaxmap.infer.ensemble import Ensemble
from jaxmap.infer.fit import fit, fit_problem
from jaxmap.infer.budget import Spent, budgeted

__all__ = [
    "MAP",
    "MCLMC",
    "MLE",
    "NUTS",
    "SGHMC",
    "VI",
    "Bootstrap",
    "Draws",
    "Ensemble",
    "GaussianPosterior",
    "Given",
    "Grade",
    "Ladder",
    "Laplace",
    "MixturePosterior",
    "Particles",
    "Path",
    "Pathfinder",
    "Point",
    "Problem",
    "Replicates",
    "Saved",
    "Search",
    "Spent",
    "Structure",
    "Summary",
    "Tuned",
    "budgeted",
    "fit",
    "fit_problem",
    "is_posterior",
    "load",
    "locked",
    "log_evidence",
    "path",
    "read_saved",
    "summarize",
    "template",
    "tune",
    "write_saved",
]
