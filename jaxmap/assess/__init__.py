"""Assessment: what a posterior predicts, how good that is, and what the point estimate costs."""

from jaxmap.assess.emission import Emission
from jaxmap.assess.predictive import Predictive
from jaxmap.assess.linearised import linearised
from jaxmap.assess.predict import predict
from jaxmap.assess.score import score
from jaxmap.assess.diagnostics import Fidelity, fidelity, function_rhat
from jaxmap.assess.verdict import Audit, Concern, Finding, Verdict
from jaxmap.assess.stand_in import StandIn, stand_in
from jaxmap.assess.price import Price, price
from jaxmap.assess.findings import maximum
from jaxmap.assess.audit import audit
from jaxmap.assess.kept import keep
from jaxmap.assess.records import Record, RecordFolder
from jaxmap.assess.comparison import Comparison
from jaxmap.assess.compare import compare

__all__ = [
    "Audit",
    "Comparison",
    "Concern",
    "Emission",
    "Fidelity",
    "Finding",
    "Predictive",
    "Price",
    "Record",
    "RecordFolder",
    "StandIn",
    "Verdict",
    "audit",
    "compare",
    "fidelity",
    "function_rhat",
    "keep",
    "linearised",
    "maximum",
    "predict",
    "price",
    "score",
    "stand_in",
]
