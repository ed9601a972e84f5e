"""Optimisation: one loop for every solver, and the certificate of what it found."""

from jaxmap.optimize.progress import Progress
from jaxmap.optimize.decay import decay_of
from jaxmap.optimize.trust_region import trust_region_step
from jaxmap.optimize.solvers import LBFGS, FirstOrder, Newton, Solver, choose_solver
from jaxmap.optimize.failure import describe_failure
from jaxmap.optimize.certificate import certify, totals
from jaxmap.optimize.maximize import Ascent, Budget, maximize

__all__ = [
    "LBFGS",
    "Ascent",
    "Budget",
    "FirstOrder",
    "Newton",
    "Progress",
    "Solver",
    "certify",
    "choose_solver",
    "decay_of",
    "describe_failure",
    "maximize",
    "totals",
    "trust_region_step",
]
