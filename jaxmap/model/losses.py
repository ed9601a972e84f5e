"""The losses that people train with, and their scale as log-likelihoods."""

import numpy as np


def loss_scale(per: str, num_examples: int | None, loss: str, noise_scale: float | None) -> float:
    """The factor c that turns a loss into a negative log-likelihood, constants aside.

    c = 1 for "nll", 1 / (2 sigma^2) for "mse", 1 / sigma^2 for "half_mse"; times num_examples for a mean.

    Args:
        per: "sum" or "mean", how the loss adds its examples.
        num_examples: n, exactly where per is "mean".
        loss: "nll", "mse" or "half_mse".
        noise_scale: sigma, exactly where the loss is a squared error.

    Returns:
        c: positive.

    Raises:
        ValueError: an unknown word, or a number that is missing, not used or not positive.
    """
    if per not in ("sum", "mean"):
        raise ValueError(f"Expected per='sum' or per='mean'; got {per!r}.")
    if loss not in ("nll", "mse", "half_mse"):
        raise ValueError(f"Expected loss='nll', 'mse' or 'half_mse'; got {loss!r}.")
    if (per == "mean") != (num_examples is not None):
        raise ValueError(f"Expected num_examples exactly where per='mean'; got per={per!r}, {num_examples=}.")
    if (loss != "nll") != (noise_scale is not None):
        raise ValueError(f"Expected noise_scale exactly where loss is squared error; got {loss=}, {noise_scale=}.")
    if num_examples is not None and (not isinstance(num_examples, int | np.integer) or num_examples < 1):
        raise ValueError(f"Expected num_examples to be a positive integer; got {num_examples!r}.")
    if noise_scale is not None and (isinstance(noise_scale, str) or not 0 < noise_scale < np.inf):
        raise ValueError(f"Expected a finite noise_scale > 0; got {noise_scale!r}.")
    factor = 1.0 if num_examples is None else float(num_examples)
    if noise_scale is not None:
        factor *= {"mse": 0.5, "half_mse": 1.0}[loss] / noise_scale**2
    return factor
