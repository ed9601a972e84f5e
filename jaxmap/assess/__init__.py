"""Assessment: what a posterior predicts, how good that is, and what the point estimate costs."""

from jaxmap.assess.emission import Emission
from jaxmap.assess.predictive import Predictive
from jaxmap.assess.linearised import linearised
from jaxmap.assess.predict import predict
from jaxmap.assess.score import score
from jaxmap.assess.loo import Loo, loo
from jaxmap.assess.diagnostics import Fidelity, fidelity, function_rhat
from jaxmap.assess.records import Record, RecordFolder
from jaxmap.assess.comparison import Comparison
from jaxmap.assess.compare import compare

__all__ = [
    "Comparison",
    "Emission",
    "Fidelity",
    "Loo",
    "Predictive",
    "Record",
    "RecordFolder",
    "compare",
    "fidelity",
    "function_rhat",
    "linearised",
    "loo",
    "predict",
    "score",
]
