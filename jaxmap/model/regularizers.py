"""Regularisers and the priors that they are."""

import numpy as np
from numpyro.distributions import Normal

from jaxmap.model.losses import loss_scale
from jaxmap.model.prior import Prior, flat


def weight_decay(
    strength: float,
    *,
    per: str = "sum",
    num_examples: int | None = None,
    loss: str = "nll",
    noise_scale: float | None = None,
) -> Prior:
    """Make the Gaussian prior of the loss term strength / 2 * sum(b^2), whose gradient is strength * b.

    Dividing the log posterior by the scale c of the loss gives the term: precision = c * strength with

        c = 1                      for a summed negative log-likelihood,
        c = 1 / (2 sigma^2)        for a sum of squared errors ("mse"),
        c = 1 / sigma^2            for half of it ("half_mse"),

    times num_examples where the loss is a mean. The prior is the normalised N(0, 1 / precision).

    Args:
        strength: the factor that was used in the loss, >= 0; zero is the flat prior.
        per: "sum" or "mean", how the loss added its examples.
        num_examples: n, needed for "mean".
        loss: "nll", "mse" or "half_mse", which loss the term was added to.
        noise_scale: sigma, needed for the two squared losses.

    Returns:
        prior: one rule for all leaves; usable as a rule inside `Prior.by_path`.

    Raises:
        ValueError: a negative strength, or a number that is missing or not used.
    """
    if isinstance(strength, str) or not 0 <= strength < np.inf:
        raise ValueError(f"Expected a finite weight decay strength >= 0; got {strength!r}.")
    scale = loss_scale(per, num_examples, loss, noise_scale)
    return Prior(Normal(0.0, (scale * strength) ** -0.5)) if strength > 0 else Prior(flat)
