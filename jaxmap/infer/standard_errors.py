"""Standard errors of a point, from the curvature of the density whose mode it is."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.curvature import SingularCurvatureError, factorize, scaled_spectrum
from jaxmap.curvature.factor import FLAT, flat_paths
from jaxmap.infer.curved import Curved
from jaxmap.infer.problem import Problem
from jaxmap.model import Density
from jaxmap.optimize.certificate import DENSE_UP_TO
from jaxmap.types import Info, Status

KINDS = {"observed": "observed information", "ggn": "Gauss-Newton", "sandwich": "sandwich (HC0)"}
"""What `errors=` may be, and how it prints."""

TOUCHED = 1e-6
"""A parameter whose share (amplitude) of a flat direction exceeds this has no standard error."""


class StandardErrors(NamedTuple):
    """What the curvature says about a point, in unconstrained coordinates.

    Attributes:
        covariance: (p, p); rows and columns of parameters that have none are NaN.
        prior_share: (p,), None where there is no prior.
        remarks: sentences that a reader must know.
    """

    covariance: np.ndarray
    prior_share: np.ndarray | None
    remarks: tuple[str, ...]


class Inverse(NamedTuple):
    """H^-1 on the directions that have curvature, the parameters that lie in others, and why."""

    matrix: np.ndarray
    lost: np.ndarray
    remark: str = ""


def has_penalty(density: Density) -> bool:
    """True where the density is more than the likelihood."""
    return density.jacobian or (density.prior and density.model.has_prior)


def standard_errors(density: Density, z: Any, problem: Problem, info: Info, errors: str) -> StandardErrors | None:
    """The covariance of z, and the prior's share of the information.

    With H the negative Hessian of the density f at z and g_i the gradient of the i-th log-likelihood:

        observed    H^-1, the inverse of the observed information (Efron and Hinkley 1978)
        ggn         the same with the generalised Gauss-Newton matrix of the likelihood in H (Fisher scoring for a
                    generalised linear model), exact for everything else
        sandwich    H^-1 (sum g_i g_i') H^-1, right under a wrong likelihood too (Huber 1967, White 1982); HC0 of
                    White (1980) for least squares. The prior is a constant penalty: in H, but not in the scores.

    The prior's share of parameter i is (H^-1 H_prior)_ii, H_prior the part of H that does not depend on the data: 0
    where the data decide, 1 where the prior does, in between wherever both curvatures are positive and the prior is
    independent over parameters. P - sum_i is the effective number of parameters (MacKay 1992, equation 4.9). Parameters
    that an L1 penalty holds at its kink are conditioned on: no covariance, share 1; so the lasso's effective number
    counts the others (Zou, Hastie and Tibshirani 2007).

    Returns:
        found: None where there are too many parameters for a matrix.

    Raises:
        ValueError: "ggn" without network outputs, "sandwich" without examples.
    """
    check_kind(errors)
    if errors == "ggn" and problem.model.outputs is None:
        raise ValueError("Expected a model with network outputs for errors='ggn'. Use errors='observed'.")
    if errors == "sandwich" and problem.num_examples < 2:
        raise ValueError("Expected several examples for errors='sandwich'; got one. Use errors='observed'.")
    if problem.num_params > DENSE_UP_TO:
        return None
    curved = Curved(density, z, problem)
    matrix = (curved.gauss_newton() if errors == "ggn" else curved.exact())[0]
    kinked = at_kink(density, z)
    free = np.flatnonzero(~kinked)
    inner = np.ix_(free, free)
    inverse = invert(matrix[inner], [curved.names[i] for i in free], info)
    covariance = np.full(matrix.shape, np.nan)
    meat = curved.score_products()[inner] if errors == "sandwich" else None
    covariance[inner] = inverse.matrix if meat is None else inverse.matrix @ meat @ inverse.matrix
    lost = free[inverse.lost]
    covariance[lost], covariance[:, lost] = np.nan, np.nan
    share = None
    if has_penalty(density):
        share = np.ones(len(matrix))
        share[free] = np.sum(inverse.matrix * curved.of_prior()[inner].T, axis=1)
        share[lost] = np.nan
    remarks = [inverse.remark] if inverse.remark else []
    if kinked.any():
        held = _listed([curved.names[i] for i in np.flatnonzero(kinked)])
        remarks.append(
            f"No standard error for {held}: at the kink of the L1 penalty. The others are conditional on that."
        )
    return StandardErrors(covariance, share, tuple(remarks))


def invert(matrix: np.ndarray, names: list[str], info: Info) -> Inverse:
    """Invert a negative Hessian where it can be believed, and say where not.

    Along a flat direction nothing is known; a parameter that has no part in any flat direction keeps its variance,
    which then is the same for every generalised inverse. Away from a maximum no parameter has one.
    """
    none, nothing = np.zeros(len(matrix), bool), np.zeros(matrix.shape)
    if not len(matrix):
        return Inverse(matrix, none)
    try:
        values, vectors, scales = scaled_spectrum(matrix)
    except SingularCurvatureError as error:
        return Inverse(nothing, ~none, f"No standard errors. {error}")
    flat, negative = np.abs(values) <= FLAT, values < -FLAT
    if negative.any():
        along = ", ".join(flat_paths(vectors[:, negative], names))
        return Inverse(nothing, ~none, f"No standard errors: this is no maximum, the density curves up along {along}.")
    refused = (Status.AT_BOUNDARY,) if flat.any() else (Status.AT_BOUNDARY, Status.NOT_A_MAXIMUM)
    if info.status in refused:
        along = f" along {', '.join(info.certificate.flat)}" if info.certificate and info.certificate.flat else ""
        where = {Status.AT_BOUNDARY: "the estimate lies at the edge of its support, and the density flattens out"}
        reason = where.get(info.status, "the density still grows or is flat")
        return Inverse(nothing, ~none, f"No standard errors: {reason}{along}.")
    if not flat.any():
        root = factorize(matrix, lambda: names)[0].root
        return Inverse(root @ root.T, none)
    root = vectors[:, ~flat] / np.sqrt(values[~flat])[None] / scales[:, None]
    lost = np.max(np.abs(vectors[:, flat]), axis=1) > TOUCHED
    touched = _listed([name for name, gone in zip(names, lost, strict=True) if gone])
    along = ", ".join(flat_paths(vectors[:, flat], names))
    return Inverse(root @ root.T, lost, f"No standard error for {touched}: the density is flat along {along}.")


def at_kink(density: Density, z: Any) -> np.ndarray:
    """Which numbers of z lie exactly at the kink of an L1 prior, (p,)."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(z)]
    kinks = density.kinks(jax.tree.map(jnp.asarray, z)) or [None] * len(leaves)
    found = [
        np.zeros(leaf.shape, bool) if kink is None else leaf == np.asarray(kink.center, leaf.dtype)
        for leaf, kink in zip(leaves, kinks, strict=True)
    ]
    return np.concatenate([np.ravel(part) for part in found])


def check_kind(errors: str) -> None:
    """Refuse an unknown kind of standard errors.

    Raises:
        ValueError: with the known ones.
    """
    if errors not in KINDS:
        raise ValueError(f"Expected errors to be one of {', '.join(map(repr, KINDS))}; got {errors!r}.")


def _listed(names: list[str]) -> str:
    """At most eight names."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
