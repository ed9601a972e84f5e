"""What the tests of this room share."""

import logging
import warnings

import pytest


@pytest.fixture(scope="session")
def arviz():
    """ArviZ, without the notice that its import prints and the warnings of its degenerate cases."""
    logging.getLogger("arviz").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("arviz")
