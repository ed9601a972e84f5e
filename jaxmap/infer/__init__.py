"""Inference: fit() and one file per method."""

from jaxmap.infer.problem import Problem
from jaxmap.infer.summary import Summary, summarize
from jaxmap.infer.posteriors import Draws, GaussianPosterior, MixturePosterior, Point
from jaxmap.infer.point import MAP, MLE, Given
from jaxmap.infer.laplace import Laplace
from jaxmap.infer.nuts import NUTS
from jaxmap.infer.ensemble import Ensemble
from jaxmap.infer.storage import load, save
from jaxmap.infer.fit import fit, fit_problem

__all__ = [
    "MAP",
    "MLE",
    "NUTS",
    "Draws",
    "Ensemble",
    "GaussianPosterior",
    "Given",
    "Laplace",
    "MixturePosterior",
    "Point",
    "Problem",
    "Summary",
    "fit",
    "fit_problem",
    "load",
    "save",
    "summarize",
]
