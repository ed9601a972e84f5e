"""Curvature: second derivatives of a log density, and what a Gaussian can be made of."""

from jaxmap.curvature.examples import (
    examples_at_a_time,
    map_over_examples,
    numbers_per_example,
    sum_over_examples,
)
from jaxmap.curvature.hessian import hessian
from jaxmap.curvature.ggn import ggn
from jaxmap.curvature.affine import is_affine
from jaxmap.curvature.negative_hessian import (
    gauss_newton,
    has_outputs,
    is_linear,
    negative_hessian,
    unconstrained_outputs,
)
from jaxmap.curvature.concave import is_concave
from jaxmap.curvature.view import View
from jaxmap.curvature.products import hutchinson, likelihood_product
from jaxmap.curvature.layer import Layer
from jaxmap.curvature.layers import find_layers, tap
from jaxmap.curvature.layered import LayeredNetwork, assembled, kronecker_factors, layered_diagonal, layered_ggn
from jaxmap.curvature.low_rank import leading_eigenpairs
from jaxmap.curvature.kronecker import Kronecker
from jaxmap.curvature.precision import (
    Conditional,
    Diagonal,
    Full,
    LowRank,
    Precision,
    leaves_that_move,
    moving_size,
    unpack_precision,
)
from jaxmap.curvature.factor import SingularCurvatureError, factorize, scaled_spectrum
from jaxmap.curvature.structured import diagonal_precision, kronecker_precision, low_rank_precision
from jaxmap.curvature.functional import output_covariance, spread_of

__all__ = [
    "Conditional",
    "Diagonal",
    "Full",
    "Kronecker",
    "Layer",
    "LayeredNetwork",
    "LowRank",
    "Precision",
    "SingularCurvatureError",
    "View",
    "assembled",
    "diagonal_precision",
    "examples_at_a_time",
    "factorize",
    "find_layers",
    "gauss_newton",
    "ggn",
    "has_outputs",
    "hessian",
    "hutchinson",
    "is_affine",
    "is_concave",
    "is_linear",
    "kronecker_factors",
    "kronecker_precision",
    "layered_diagonal",
    "layered_ggn",
    "leading_eigenpairs",
    "leaves_that_move",
    "likelihood_product",
    "low_rank_precision",
    "map_over_examples",
    "moving_size",
    "negative_hessian",
    "numbers_per_example",
    "output_covariance",
    "scaled_spectrum",
    "spread_of",
    "sum_over_examples",
    "tap",
    "unconstrained_outputs",
    "unpack_precision",
]
