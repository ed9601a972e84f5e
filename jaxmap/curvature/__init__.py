"""Curvature: second derivatives of a log density, and what a Gaussian can be made of."""

from jaxmap.curvature.examples import sum_over_examples
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
from jaxmap.curvature.factor import Factor, SingularCurvatureError, factorize, scaled_spectrum

__all__ = [
    "Factor",
    "SingularCurvatureError",
    "factorize",
    "gauss_newton",
    "ggn",
    "has_outputs",
    "hessian",
    "is_affine",
    "is_concave",
    "is_linear",
    "negative_hessian",
    "scaled_spectrum",
    "sum_over_examples",
    "unconstrained_outputs",
]
