"""The model: what the user writes once, and the one log density that every method sees."""

from jaxmap.model.space import Space, is_real
from jaxmap.model.losses import loss_scale
from jaxmap.model.kinks import ElasticNet, Kink, kink_of, soft_threshold
from jaxmap.model.rules import Flat, flat
from jaxmap.model.prior import Prior
from jaxmap.model.regularizers import elastic_net, l1, weight_decay
from jaxmap.model.distributions import BernoulliByLogit, CategoricalByLogits, widened
from jaxmap.model.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    Learned,
    Likelihood,
    NegativeBinomial,
    Poisson,
    StudentT,
    class_probabilities,
    classes,
    gaussian,
    gaussian_parts,
    marginal,
)
from jaxmap.model.information import information
from jaxmap.model.networks import Network, as_network
from jaxmap.model.programs import Programs
from jaxmap.model.training import in_training_mode
from jaxmap.model.model import Model, from_log_density
from jaxmap.model.supervised import supervised
from jaxmap.model.tabular import Design, tabular
from jaxmap.model.recipe import Recipe
from jaxmap.model.density import Density, weighted_sum

__all__ = [
    "Bernoulli",
    "BernoulliByLogit",
    "Categorical",
    "CategoricalByLogits",
    "Density",
    "Design",
    "ElasticNet",
    "Flat",
    "Gaussian",
    "HeteroscedasticGaussian",
    "Kink",
    "Learned",
    "Likelihood",
    "Model",
    "NegativeBinomial",
    "Network",
    "Poisson",
    "Prior",
    "Programs",
    "Recipe",
    "Space",
    "StudentT",
    "as_network",
    "class_probabilities",
    "classes",
    "elastic_net",
    "flat",
    "from_log_density",
    "gaussian",
    "gaussian_parts",
    "information",
    "is_real",
    "kink_of",
    "l1",
    "loss_scale",
    "marginal",
    "soft_threshold",
    "supervised",
    "tabular",
    "weight_decay",
    "weighted_sum",
    "widened",
]
