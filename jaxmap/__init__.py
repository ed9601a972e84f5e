"""jaxmap: write the model once, as a log-probability; fit it by MLE, MAP, Laplace, ensembles and full Bayes.

posterior  = jm.fit(key, model, (x, y), jm.MAP())
predictive = jm.predict(key, model, posterior, x_new)
scores     = jm.score(predictive, y_new)
table      = jm.compare(key, model, (train, test), {"MAP": jm.MAP(), "NUTS": jm.NUTS()}, reference="NUTS")
"""

from importlib.metadata import version as _version

# Data
from jaxmap.data import Dataset, Scaling, datasets, load_dataset, split, standardize

# Model
from jaxmap.model import (
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    Learned,
    Likelihood,
    Model,
    NegativeBinomial,
    Poisson,
    Prior,
    StudentT,
    flat,
    from_log_density,
    supervised,
    weight_decay,
)

# Solvers
from jaxmap.optimize import LBFGS, Newton

# Methods and posteriors
from jaxmap.infer import (
    MAP,
    MLE,
    NUTS,
    Draws,
    Ensemble,
    GaussianPosterior,
    Given,
    Laplace,
    MixturePosterior,
    Point,
    fit,
    load,
)

# Assessment
from jaxmap.assess import Comparison, Predictive, compare, predict, score

# Results
from jaxmap.types import Certificate, FitError, Info, Status

__version__ = _version("jaxmap")

__all__ = [
    "LBFGS",
    "MAP",
    "MLE",
    "NUTS",
    "Bernoulli",
    "Categorical",
    "Certificate",
    "Comparison",
    "Dataset",
    "Draws",
    "Ensemble",
    "FitError",
    "Gaussian",
    "GaussianPosterior",
    "Given",
    "HeteroscedasticGaussian",
    "Info",
    "Laplace",
    "Learned",
    "Likelihood",
    "MixturePosterior",
    "Model",
    "NegativeBinomial",
    "Newton",
    "Point",
    "Poisson",
    "Predictive",
    "Prior",
    "Scaling",
    "Status",
    "StudentT",
    "compare",
    "datasets",
    "fit",
    "flat",
    "from_log_density",
    "load",
    "load_dataset",
    "predict",
    "score",
    "split",
    "standardize",
    "supervised",
    "weight_decay",
]
