"""Regularisers and the priors that they are."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro.distributions import Laplace, Normal

from jaxmap.model.kinks import ElasticNet
from jaxmap.model.losses import loss_scale
from jaxmap.model.prior import Prior
from jaxmap.model.rules import flat


def weight_decay(
    strength: Any,
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
        strength: the factor that was used in the loss, >= 0; zero is the flat prior. It may be traced, as by `path`,
            and must then be positive.
        per: "sum" or "mean", how the loss added its examples.
        num_examples: n, needed for "mean".
        loss: "nll", "mse" or "half_mse", which loss the term was added to.
        noise_scale: sigma, needed for the two squared losses.

    Returns:
        prior: one rule for all leaves; usable as a rule inside `Prior.by_path`.

    Raises:
        ValueError: a negative strength, or a number that is missing or not used.
    """
    _check(strength, "weight decay strength")
    scale = loss_scale(per, num_examples, loss, noise_scale)
    return Prior(flat) if _is_zero(strength) else Prior(Normal(0.0, (scale * strength) ** -0.5))


def l1(
    strength: Any,
    *,
    per: str = "sum",
    num_examples: int | None = None,
    loss: str = "nll",
    noise_scale: float | None = None,
) -> Prior:
    """Make the Laplace prior of the loss term strength * sum|b| (the lasso, Tibshirani 1996).

    The prior is the normalised Laplace(0, 1 / (c strength)), c the scale of the loss as for `weight_decay`. Its MAP
    estimate has exact zeros; its posterior mean has none.

    Args:
        strength: the factor, >= 0; zero is the flat prior. It may be traced, and must then be positive.
        per: as for `weight_decay`.
        num_examples: likewise.
        loss: likewise.
        noise_scale: likewise.

    Returns:
        prior: one rule for all leaves; usable as a rule inside `Prior.by_path`.

    Raises:
        ValueError: a negative strength, or a number that is missing or not used.
    """
    _check(strength, "L1 strength")
    scale = loss_scale(per, num_examples, loss, noise_scale)
    return Prior(flat) if _is_zero(strength) else Prior(Laplace(0.0, 1.0 / (scale * strength)))


def elastic_net(
    l1: Any,
    l2: Any,
    *,
    per: str = "sum",
    num_examples: int | None = None,
    loss: str = "nll",
    noise_scale: float | None = None,
) -> Prior:
    """Make the prior of the loss term l1 * sum|b| + l2 / 2 * sum(b^2) (Zou and Hastie, 2005).

    The prior is normalised, exp(-c (l1 |b| + l2 b^2 / 2)) / Z, c the scale of the loss as for `weight_decay`.

    Args:
        l1: >= 0; where it is zero the prior is that of `weight_decay`.
        l2: >= 0; where it is zero the prior is that of `l1`.
        per: as for `weight_decay`.
        num_examples: likewise.
        loss: likewise.
        noise_scale: likewise.

    Returns:
        prior: one rule for all leaves; usable as a rule inside `Prior.by_path`.

    Raises:
        ValueError: a negative strength, or a number that is missing or not used.
    """
    _check(l1, "L1 strength")
    _check(l2, "L2 strength")
    scale = loss_scale(per, num_examples, loss, noise_scale)
    if _is_zero(l1) and _is_zero(l2):
        return Prior(flat)
    if _is_zero(l1):
        return Prior(Normal(0.0, (scale * l2) ** -0.5))
    return Prior(Laplace(0.0, 1.0 / (scale * l1)) if _is_zero(l2) else ElasticNet(scale * l1, scale * l2))


def _is_zero(strength: Any) -> bool:
    return not isinstance(strength, Tracer) and bool(strength == 0)


def _check(strength: Any, name: str) -> None:
    if isinstance(strength, Tracer):
        return
    if isinstance(strength, str) or jnp.ndim(strength) != 0 or not 0 <= strength < np.inf:
        raise ValueError(f"Expected a finite {name} >= 0; got {strength!r}.")
