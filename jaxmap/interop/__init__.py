"""Interoperation: numpyro models in, ArviZ out."""

from jaxmap.interop.call import Call
from jaxmap.interop.sites import Sites
from jaxmap.interop.traced import Traced
from jaxmap.interop.apart import Apart
from jaxmap.interop.numpyro_models import from_numpyro
from jaxmap.interop.arviz import inference_data

__all__ = ["Apart", "Call", "Sites", "Traced", "from_numpyro", "inference_data"]
