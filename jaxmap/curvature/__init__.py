"""Curvature: second derivatives of a log density, and what a Gaussian can be made of."""

from jaxmap.curvature.examples import sum_over_examples
from jaxmap.curvature.hessian import hessian
from jaxmap.curvature.ggn import ggn
from jaxmap.curvature.factor import Factor, SingularCurvatureError, factorize, scaled_spectrum

__all__ = [
    "Factor",
    "SingularCurvatureError",
    "factorize",
    "ggn",
    "hessian",
    "scaled_spectrum",
    "sum_over_examples",
]
