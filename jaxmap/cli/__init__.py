"""The command line: jaxmap compare | fit | predict | audit | report | datasets."""

from jaxmap.cli.options import METHODS, SHOWN
from jaxmap.cli.output import say
from jaxmap.cli.config import config_options
from jaxmap.cli.job import Job, prepare
from jaxmap.cli.methods import make_methods
from jaxmap.cli.folder import ModelFolder, load_model, save_model
from jaxmap.cli.datasets import datasets
from jaxmap.cli.compare import compare
from jaxmap.cli.fit import fit
from jaxmap.cli.predict import predict
from jaxmap.cli.audit import audit
from jaxmap.cli.report import report
from jaxmap.cli.app import app, main

__all__ = [
    "METHODS",
    "SHOWN",
    "Job",
    "ModelFolder",
    "app",
    "load_model",
    "main",
    "make_methods",
    "prepare",
    "save_model",
]
