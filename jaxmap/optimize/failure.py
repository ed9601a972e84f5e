"""What failed first: leaf, term, rows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.data import everywhere, leaf_name, on_host
from jaxmap.model import Density
from jaxmap.trees import named_leaves
from jaxmap.types import Data


def describe_failure(density: Density, z: Any, data: Data, rows: np.ndarray | None = None) -> str:
    """Name the first term, and then the first leaf, that is not finite at z; runs on the host.

    Args:
        density: what was maximised.
        z: the last finite coordinates.
        data: the batch of the failing step.
        rows: of the batch in the whole data, where they are known.

    Returns:
        sentence: such as "log_likelihood is nan for rows [3] of the batch (rows [52] of the data)".
    """
    # compiled, as in the fit: called on numbers, distributions would refuse their own parameters
    values = np.asarray(jax.jit(everywhere(density.log_likelihoods))(z, data))
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        said = f"log_likelihood is {values[bad[0]]} for rows {bad[:5].tolist()} of the batch"
        said += "" if rows is None else f" (rows {rows[bad[:5]].tolist()} of the data)"
        leaves = [leaf_name(path) for path, leaf in named_leaves(on_host(data)) if not np.all(np.isfinite(leaf[bad]))]
        return f"{said}, where {' and '.join(leaves)} of the data is not finite" if leaves else said
    prior = np.asarray(jax.jit(everywhere(density.log_prior))(z))
    if not np.isfinite(prior):
        return f"log_prior is {prior}"
    for term, function in (("log_likelihood", lambda v: jnp.sum(density.log_likelihoods(v, data))),
                           ("log_prior", density.log_prior)):  # fmt: skip
        for path, leaf in named_leaves(on_host(jax.grad(function)(z))):
            if not np.all(np.isfinite(np.asarray(leaf))):
                return (
                    f"the gradient of {term} is not finite in {path!r}"
                    if path
                    else f"the gradient of {term} is not finite"
                )
    return "density and gradient are finite, but the solver's step leads out of the finite numbers; lower its rate"
