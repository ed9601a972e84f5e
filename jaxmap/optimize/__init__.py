"""Optimisation: one loop for every solver, and the certificate of what it found."""

from jaxmap.optimize.progress import Progress
from jaxmap.optimize.decay import decay_of
from jaxmap.optimize.objective import Objective, objective_of
from jaxmap.optimize.solver import Solver, SolverState, scaled_gradient
from jaxmap.optimize.trust_region import trust_region_step
from jaxmap.optimize.first_order import FirstOrder
from jaxmap.optimize.lbfgs import LBFGS
from jaxmap.optimize.newton import Newton
from jaxmap.optimize.newton_cg import NewtonCG
from jaxmap.optimize.coordinate_descent import l1_quadratic
from jaxmap.optimize.proximal import ProximalGradient, ProximalNewton
from jaxmap.optimize.choice import Task, choose_solver
from jaxmap.optimize.recipe import recipe_of
from jaxmap.optimize.climb import climb
from jaxmap.optimize.failure import describe_failure
from jaxmap.optimize.krylov import lanczos
from jaxmap.optimize.slope import Slope, slope_at
from jaxmap.optimize.spectrum import Spectrum
from jaxmap.optimize.nearby import growing_outwards
from jaxmap.optimize.certificate_by_products import certify_by_products
from jaxmap.optimize.certificate import certify
from jaxmap.optimize.examine import Evidence, examine, statuses_of, verdict
from jaxmap.optimize.feed import Feed, Layout, batch_of, feed_of
from jaxmap.optimize.monitor import Monitor, Watch, Watched
from jaxmap.optimize.standing import Ascent, Budget, Keeper, Standing
from jaxmap.optimize.maximize import maximize

__all__ = [
    "LBFGS",
    "Ascent",
    "Budget",
    "Evidence",
    "Feed",
    "FirstOrder",
    "Keeper",
    "Layout",
    "Monitor",
    "Newton",
    "NewtonCG",
    "Objective",
    "Progress",
    "ProximalGradient",
    "ProximalNewton",
    "Slope",
    "Solver",
    "SolverState",
    "Spectrum",
    "Standing",
    "Task",
    "Watch",
    "Watched",
    "batch_of",
    "certify",
    "certify_by_products",
    "choose_solver",
    "climb",
    "decay_of",
    "describe_failure",
    "examine",
    "feed_of",
    "growing_outwards",
    "l1_quadratic",
    "lanczos",
    "maximize",
    "recipe_of",
    "objective_of",
    "scaled_gradient",
    "slope_at",
    "statuses_of",
    "trust_region_step",
    "verdict",
]
