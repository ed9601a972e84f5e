"""Assessment: what a posterior predicts, how good that is, and what the point estimate costs."""

from jaxmap.assess.emission import Emission
from jaxmap.assess.predictive import Predictive
from jaxmap.assess.shares import of_draws
from jaxmap.assess.linearised import linearised
from jaxmap.assess.predict import predict
from jaxmap.assess.score import score
from jaxmap.assess.loo import Loo, loo
from jaxmap.assess.diagnostics import Fidelity, fidelity, function_rhat
from jaxmap.assess.verdict import Audit, Concern, Finding, Verdict
from jaxmap.assess.stand_in import StandIn, stand_in
from jaxmap.assess.price import Price, price
from jaxmap.assess.findings import maximum
from jaxmap.assess.audit import audit
from jaxmap.assess.kept import keep
from jaxmap.assess.records import Record, RecordFolder
from jaxmap.assess.same_target import same_target
from jaxmap.assess.measured import evidence_of
from jaxmap.assess.contents import read_contents
from jaxmap.assess.paired import Difference
from jaxmap.assess.sentences import sentence
from jaxmap.assess.comparison import Comparison
from jaxmap.assess.asked import check_options, pairs_of
from jaxmap.assess.compare import compare

__all__ = [
    "Audit",
    "Comparison",
    "Concern",
    "Difference",
    "Emission",
    "Fidelity",
    "Finding",
    "Loo",
    "Predictive",
    "Price",
    "Record",
    "RecordFolder",
    "StandIn",
    "Verdict",
    "audit",
    "check_options",
    "compare",
    "evidence_of",
    "fidelity",
    "function_rhat",
    "keep",
    "linearised",
    "loo",
    "maximum",
    "of_draws",
    "pairs_of",
    "predict",
    "price",
    "read_contents",
    "same_target",
    "score",
    "sentence",
    "stand_in",
]
