"""Audit: what was found about a point estimate, and the verdict."""

import enum
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NATS = 0.01
"""The loss of test log-likelihood, in nats per example, that a stand-in for the posterior may have."""

SHARE = 0.03
"""By how much the coverage of its 90 % intervals may differ from that of the posterior's."""


class Verdict(enum.Enum):
    """Whether a point estimate can stand in for the full posterior, in a sentence."""

    MAP_SUFFICES = "the point estimate predicts as well as the full posterior would"
    LAPLACE_SUFFICES = "the point estimate is overconfident, but the Gaussian around it predicts as the posterior would"
    NEEDS_FULL_BAYES = "neither the point estimate nor a Gaussian around it can be shown to stand in for the posterior"
    NOT_A_MAXIMUM = "the point is not a maximum of the density, so that nothing follows from it"


class Concern(enum.Enum):
    """How much a finding speaks against the point estimate."""

    NONE = "none"
    SOME = "some"
    SERIOUS = "serious"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: which.
        sentence: what was found, in plain words.
        concern: how much it speaks against the point estimate.
        value: the number behind it, None where it is not a number.
        limit: the value from which on it is of concern; None where there is none.
    """

    name: str
    sentence: str
    concern: Concern = Concern.NONE
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Audit:
    """What `jm.audit` returns: a verdict, its reasons, and what to do next. `print` it.

    Attributes:
        verdict: see `Verdict`.
        reasons: why, one sentence each.
        next: what to run now.
        findings: everything that was looked at.
        numbers: by name: `loss`, the expected loss of test log-likelihood of the point against the posterior (nats per
            example), `loss_se`, `coverage_gap` (of 90 % intervals, negative where those of the point are too narrow),
            `severity` (the larger of loss / 0.01 and |coverage_gap| / 0.03: the point suffices below 1), `k_hat`, ...
        seconds, num_gradients: what the audit cost.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    next: str
    findings: tuple[Finding, ...]
    numbers: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    num_gradients: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; a number that is not finite is None."""
        findings = [
            {
                "name": f.name,
                "sentence": f.sentence,
                "value": f.value if f.value is not None and np.isfinite(f.value) else None,
                "limit": f.limit,
                "concern": f.concern.value,
            }
            for f in self.findings
        ]
        return {
            "verdict": self.verdict.name,
            "sentence": self.verdict.value,
            "reasons": list(self.reasons),
            "next": self.next,
            "findings": findings,
            "numbers": {name: value if np.isfinite(value) else None for name, value in self.numbers.items()},
            "seconds": self.seconds,
            "num_gradients": self.num_gradients,
        }

    def __str__(self) -> str:
        marks = {Concern.NONE: " ok ", Concern.SOME: " ?  ", Concern.SERIOUS: " !! "}
        lines = [f"{self.verdict.name}: {self.verdict.value}.", ""]
        lines += [f"  {reason}" for reason in self.reasons]
        lines += ["", f"Next: {self.next}", ""]
        width = max((len(f.name) for f in self.findings), default=0)
        lines += [f"{marks[f.concern]}{f.name:<{width}}  {f.sentence}" for f in self.findings]
        return "\n".join(lines)
