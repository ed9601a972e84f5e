"""Densities that are known to be concave: what generalised linear models with simple priors are."""

from jaxmap.curvature.negative_hessian import is_linear
from jaxmap.model import Density, Prior
from jaxmap.types import Data


def is_concave(density: Density, data: Data, *, strongly: bool = False) -> bool:
    """True where the log density is concave in the coordinates, whatever the data: its every peak is the only one.

    The outputs are affine in the coordinates, the likelihood is concave in its outputs, the prior a Gaussian, a
    Laplace, an elastic net or flat. True is always right; False may be ignorance.

    Args:
        density: the log density.
        data: whose shapes are looked at.
        strongly: ask moreover that the prior bends every coordinate: its precision bounds all curvature from below.
    """
    model, prior = density.model, density.model.log_prior
    if not (model.concave and model.space.is_real and is_linear(model, data)):
        return False
    if not density.prior or not model.has_prior:
        return not strongly
    return isinstance(prior, Prior) and prior.is_log_concave(model.start, strongly=strongly)
