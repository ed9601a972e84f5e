"""What a record keeps of a fit beside its predictions: cost, leave-one-out, evidence, density, as plain values."""

from datetime import UTC, datetime
from typing import Any

import jax
import numpy as np

from jaxmap.assess.loo import has_loo, loo
from jaxmap.assess.same_target import Probes
from jaxmap.curvature import numbers_per_example
from jaxmap.data import num_examples, on_host
from jaxmap.infer import GaussianPosterior, MixturePosterior, Problem
from jaxmap.infer.mixture import distinct
from jaxmap.types import Key, Method

LOO_DRAWS = 1000

LOO_WORK = 2e10
"""Draws times examples times the numbers that a likelihood makes of one, up to which leave-one-out is worth it."""

LOO_NUMBERS = 2**28
"""Draws times parameters that are held for it."""


def plain_info(info: Any) -> dict[str, Any]:
    """An `Info` as plain values."""
    plain = {
        "status": info.status.name,
        "method": info.method,
        "solver": info.solver,
        "target": info.target,
        "seconds": float(info.seconds),
        "num_gradients": float(info.num_gradients),
        "members": [status.name for status in info.members],
        "notes": list(info.notes),
        "diagnostics": info.diagnostics,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    plain |= {n: float(v) for n in ("log_likelihood", "log_prior", "log_joint") if (v := getattr(info, n)) is not None}
    return plain | ({"k_hat": float(info.diagnostics["k_hat"])} if "k_hat" in info.diagnostics else {})


def evidence_of(found: Any) -> dict[str, Any]:
    """The log evidence and how it was had; empty where there is none of the whole model.

    Of a Gaussian the importance-corrected one where its grade is trusted, else Laplace's formula or a lower bound; of a
    mixture of Gaussians the sum over its distinct modes.
    """
    members = found.members if isinstance(found, MixturePosterior) else (found,)
    if not all(isinstance(m, GaussianPosterior) and m.prior and m.moving is None for m in members):
        return {}
    kept = distinct(members) if len(members) > 1 else members
    values, hows = zip(*(_of_gaussian(member) for member in kept), strict=True)
    total = float(np.logaddexp.reduce(values))
    how = " / ".join(dict.fromkeys(hows)) + (f", summed over {len(kept)} modes" if len(kept) > 1 else "")
    return {"log_evidence": total, "log_evidence_by": how} if np.isfinite(total) else {}


def _of_gaussian(found: GaussianPosterior) -> tuple[float, str]:
    if found.grade is not None and found.grade.trusted and np.isfinite(found.grade.log_evidence):
        return found.grade.log_evidence, "importance weights"
    bound = "elbo" in found.info.diagnostics
    return float(found.log_evidence), "lower bound" if bound else "Laplace's formula"


def loo_of(key: Key, problem: Problem, found: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Leave-one-out as entries of a record's info and arrays; empty for points, a note where it would cost too much."""
    if not has_loo(found) or problem.data is None or problem.model.train is not None:
        return {}, {}
    model, data = problem.model, problem.data
    with problem.scope():
        each = numbers_per_example(lambda batch: model.log_likelihood(model.start, batch), data)
    work = LOO_DRAWS * num_examples(data) * each
    if work > LOO_WORK or LOO_DRAWS * problem.num_params > LOO_NUMBERS:
        note = f"No leave-one-out: {LOO_DRAWS} draws for each of {num_examples(data):,} examples would take too long."
        return {"notes": [note]}, {}
    left = loo(key, model, data if problem.mesh is None else jax.tree.map(on_host, data), found, draws=LOO_DRAWS)
    plain = {"elpd_loo": left.elpd, "se_elpd_loo": left.se, "p_loo": left.p_loo, "bad_pareto_k": float(left.unreliable)}
    return plain, {"elpd_loo": left.pointwise, "pareto_k": left.pareto_k}


def density_seen(probes: Probes, method: Method, found: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What the method's programs evaluate at the probes, as entries of a record's info and arrays."""
    arrays = probes.measured(method, found)
    return ({"probed_examples": probes.examples} if arrays else {}), arrays
