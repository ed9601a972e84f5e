"""What an audit looks at, one finding each."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmap.assess.loo import LIMIT
from jaxmap.assess.price import Price
from jaxmap.assess.stand_in import StandIn
from jaxmap.assess.verdict import NATS, SHARE, Concern, Finding
from jaxmap.infer import MAP, GaussianPosterior, Point, Problem
from jaxmap.infer.point import continued
from jaxmap.infer.standard_errors import standard_errors
from jaxmap.infer.together import likelihoods
from jaxmap.model import Density, Prior
from jaxmap.optimize.certificate import DENSE_UP_TO
from jaxmap.trees import in_double
from jaxmap.types import FitError, Info, Key, Status

PRIOR_DRAWS = 400
SURPRISING = 0.01
"""The probability of a log prior as low as that of the point, below which prior and data are said to be in conflict."""

FAR = 0.5
"""Posterior standard deviations between two modes, or from a maximum, that are worth a word."""


def maximum(info: Info) -> Finding:
    """Is it a maximum?"""
    certificate, status = info.certificate, info.status
    if status is Status.NOT_A_MAXIMUM:
        where = ", ".join(certificate.flat[:8]) if certificate and certificate.flat else "some direction"
        return Finding("maximum", f"The density still grows or is flat along {where}.", Concern.SERIOUS)
    if status is Status.AT_BOUNDARY:
        return Finding("maximum", "A maximum on the edge of the support.", Concern.SERIOUS)
    if certificate is None:
        return Finding("maximum", f"No certificate: {status.value}.", Concern.SOME)
    distance = certificate.decrement
    if status is Status.CONVERGED:
        said = "Certified: gradient, curvature and Newton decrement in float64."
        return Finding("maximum", said, value=distance, limit=FAR)
    if distance is None:
        said = f"Not certified ({status.value}); scaled gradient {certificate.gradient:.2g}."
        return Finding("maximum", said, Concern.SOME, certificate.gradient)
    said = f"Not certified; by its gradient it is {distance:.2g} posterior standard deviations from a maximum."
    return Finding("maximum", said, Concern.SERIOUS if distance > FAR else Concern.SOME, distance, FAR)


def only_one(others: int, asked: int, why_not: str) -> Finding:
    """Is it the only one, in what it says of the examples?"""
    if not asked:
        return Finding("only one", f"Not looked for: {why_not}.", Concern.SOME)
    if not others:
        return Finding("only one", f"{asked} climbs from elsewhere led to no other maximum.")
    said = f"{asked} climbs from elsewhere found {others} other maxim{'um' if others == 1 else 'a'} that predict"
    return Finding("only one", said + ("s" if others == 1 else "") + " otherwise.", Concern.SOME, 1.0 + others, 1.0)


def near_gaussian(k_hat: float, limit: float) -> Finding:
    """Is the posterior near Gaussian?"""
    if np.isnan(k_hat):
        return Finding("near Gaussian", "Not graded: too many parameters for importance weights.", Concern.SOME)
    if k_hat < limit:
        said = f"Pareto k-hat {k_hat:.2f} (limit {limit:.2f}): importance weights can correct the Gaussian."
        return Finding("near Gaussian", said if np.isfinite(k_hat) else "The posterior is Gaussian.", value=k_hat)
    said = f"Pareto k-hat {k_hat:.2f} (limit {limit:.2f}): the posterior is not near this Gaussian."
    return Finding("near Gaussian", said, Concern.SERIOUS, k_hat, limit)


def prior_share(problem: Problem, point: Point) -> Finding | None:
    """How much of the information is the prior's?"""
    density = Density(problem.model, jacobian=point.jacobian)
    if problem.num_params > DENSE_UP_TO or not problem.model.has_prior:
        return None
    kind = "observed" if problem.model.outputs is None else "ggn"
    found = standard_errors(density, point.z, problem, point.info, kind)
    shares = None if found is None else found.prior_share
    if shares is None or not np.isfinite(shares).any():
        return None
    known = shares[np.isfinite(shares)]
    effective = float(len(known) - known.sum())
    said = f"The data decide {effective:.3g} of {len(known)} parameters, the prior the rest."
    return Finding("prior's part", said, value=effective)


def prior_conflict(key: Key, problem: Problem, params: Any) -> Finding | None:
    """Would the prior have expected a point like this one?"""
    prior = problem.model.log_prior
    if not isinstance(prior, Prior):
        return None
    densities = jax.vmap(lambda k: prior(prior.sample(k, problem.model.start)))
    try:
        drawn = problem.model.programs.jitted("priors of draws", densities)(jax.random.split(key, PRIOR_DRAWS))
    except ValueError:  # flat somewhere: it expects nothing
        return None
    here = float(prior(params))
    share = float(np.mean(np.asarray(drawn) <= here))
    if share > SURPRISING:
        said = f"{share:.0%} of parameters drawn from the prior are as improbable under it as these."
        return Finding("prior and data", said, value=share, limit=SURPRISING)
    said = "The prior would hardly ever have drawn such parameters: prior and data contradict each other."
    return Finding("prior and data", said, Concern.SOME, share, SURPRISING)


def parametrisation(problem: Problem, gaussian: GaussianPosterior) -> Finding | None:
    """Does the mode depend on the coordinates it is sought in?"""
    if problem.model.space.is_real:
        return None
    try:
        other = continued(MAP(), problem, jax.tree.map(jnp.asarray, gaussian.mean))
    except FitError:
        other = None
    if other is None or other.info.status not in (Status.CONVERGED, Status.STEPS_EXHAUSTED):
        said = "In the user's own coordinates there is no mode inside the support; in unconstrained ones there is."
        return Finding("coordinates", said, Concern.SERIOUS)
    distance = gaussian.distance(other.z)
    said = f"The modes in constrained and in unconstrained coordinates are {distance:.2g} posterior sds apart."
    return Finding("coordinates", said, Concern.SOME if distance > FAR else Concern.NONE, distance, FAR)


def typical_set(depth: float, size: int) -> Finding | None:
    """How far is the mode from where the posterior's mass is?"""
    if not np.isfinite(depth):
        return None
    said = f"Typical draws have a log density {depth:.3g} nats below the mode ({size / 2:.3g} if it were Gaussian)."
    odd = depth > size or depth < size / 6
    return Finding("typical set", said, Concern.SOME if odd else Concern.NONE, depth)


def precision(problem: Problem, params: Any) -> Finding:
    """Does float32 see the same density as float64?"""
    if problem.dtype == np.float64:
        return Finding("float32", "The fit was made in float64.")
    model = problem.model
    single = float(np.sum(np.asarray(likelihoods(model, params, problem.data), np.float64)))
    double = float(np.sum(np.asarray(in_double(lambda p, d: likelihoods(model, p, d), params, problem.data))))
    apart = abs(single - double)
    said = f"The log-likelihood in float32 and in float64 differs by {apart:.2g} nats."
    return Finding("float32", said, Concern.SOME if apart > 0.1 else Concern.NONE, apart, 0.1)


def loss(price: Price) -> Finding:
    """What does the point lose in predictions?"""
    verbs = [("gain", "gained") if value < 0 else ("lose", "lost") for value in (price.loss, price.observed)]
    said = (
        f"At new examples it is expected to {verbs[0][0]} {abs(price.loss):.3g} nats (se {price.loss_se:.2g}) against "
        f"the posterior; leaving each out, it {verbs[1][1]} {abs(price.observed):.3g} (se {price.observed_se:.2g})"
    )
    doubt = f", not to be trusted for {price.unreliable:.0%} of them (Pareto k > {LIMIT})" if price.unreliable else ""
    said += f"{doubt}."
    concern = Concern.NONE if price.loss <= NATS else Concern.SOME if price.loss <= 5 * NATS else Concern.SERIOUS
    return Finding("loss", said, concern, price.loss, NATS)


def coverage(price: Price) -> Finding | None:
    """Are its intervals too narrow?"""
    gap = price.coverage_gap
    if np.isnan(gap):
        return None
    word = "fewer" if gap < 0 else "more"
    said = f"Its 90 % intervals are expected to hold {100 * abs(gap):.1f} points {word} than those of the posterior."
    concern = Concern.NONE if abs(gap) <= SHARE else Concern.SOME if abs(gap) <= 3 * SHARE else Concern.SERIOUS
    return Finding("coverage", said, concern, gap, -SHARE)


def of_laplace(stand: StandIn, apart: float) -> Finding:
    """Does the Gaussian predict as the corrected posterior does?"""
    if not stand.corrected:
        return Finding("Gaussian", "How the Gaussian predicts cannot be checked by importance weights.", Concern.SOME)
    said = f"Predictions of the Gaussian are {apart:.3g} nats (KL) from those that importance weights correct."
    return Finding("Gaussian", said, Concern.SERIOUS if apart > NATS else Concern.NONE, apart, NATS)
