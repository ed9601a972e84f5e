"""Saved posteriors."""


def save():
    """X."""


def load():
    """X."""
