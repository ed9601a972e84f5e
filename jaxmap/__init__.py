"""jaxmap: write the model once, as a log-probability; fit it by MLE, MAP, Laplace, ensembles and full Bayes.

posterior  = jm.fit(key, model, (x, y), jm.MAP())
predictive = jm.predict(key, model, posterior, x_new)
scores     = jm.score(predictive, y_new)
report     = jm.audit(key, model, (x, y), posterior)
table      = jm.compare(key, model, (train, test), {"MAP": jm.MAP(), "NUTS": jm.NUTS()}, reference="NUTS")
"""

from importlib.metadata import version as _version

# Data
from jaxmap.data import Dataset, Scaling, Stream, connect, datasets, load_dataset, mesh, split, standardize

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
    elastic_net,
    flat,
    from_log_density,
    l1,
    supervised,
    weight_decay,
)

# Solvers
from jaxmap.optimize import LBFGS, Monitor, Newton, NewtonCG, ProximalGradient, ProximalNewton

# Methods and posteriors
from jaxmap.infer import (
    MAP,
    MCLMC,
    MLE,
    NUTS,
    SGHMC,
    VI,
    Bootstrap,
    Draws,
    Ensemble,
    GaussianPosterior,
    Given,
    Grade,
    Laplace,
    MixturePosterior,
    Path,
    Pathfinder,
    Point,
    Replicates,
    Tuned,
    fit,
    load,
    path,
    tune,
)

# Assessment
from jaxmap.assess import Audit, Comparison, Predictive, Verdict, audit, compare, predict, score

# Other libraries
from jaxmap.interop import from_numpyro

# Results
from jaxmap.types import Certificate, FitError, Info, Status

__version__ = _version("jaxmap")

__all__ = [
    "LBFGS",
    "MAP",
    "MCLMC",
    "MLE",
    "NUTS",
    "SGHMC",
    "VI",
    "Audit",
    "Bernoulli",
    "Categorical",
    "Bootstrap",
    "Certificate",
    "Comparison",
    "Dataset",
    "Draws",
    "Ensemble",
    "FitError",
    "Gaussian",
    "GaussianPosterior",
    "Given",
    "Grade",
    "HeteroscedasticGaussian",
    "Info",
    "Laplace",
    "Learned",
    "Likelihood",
    "MixturePosterior",
    "Model",
    "Monitor",
    "NegativeBinomial",
    "Newton",
    "NewtonCG",
    "Path",
    "Pathfinder",
    "Point",
    "Poisson",
    "Predictive",
    "Prior",
    "ProximalGradient",
    "ProximalNewton",
    "Replicates",
    "Scaling",
    "Status",
    "Stream",
    "StudentT",
    "Tuned",
    "Verdict",
    "audit",
    "compare",
    "connect",
    "datasets",
    "elastic_net",
    "fit",
    "flat",
    "from_log_density",
    "from_numpyro",
    "l1",
    "load",
    "load_dataset",
    "mesh",
    "path",
    "predict",
    "score",
    "split",
    "standardize",
    "supervised",
    "tune",
    "weight_decay",
]
