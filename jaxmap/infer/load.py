"""load(): posteriors back from disk."""

from pathlib import Path
from typing import Any

from jaxmap.infer.bootstrap import Replicates
from jaxmap.infer.draws import Draws
from jaxmap.infer.gaussian import GaussianPosterior
from jaxmap.infer.mixture import MixturePosterior
from jaxmap.infer.posteriors import Point
from jaxmap.infer.storage import Saved, read_saved

KINDS = {kind.__name__: kind for kind in (Point, Replicates, GaussianPosterior, Draws, MixturePosterior)}


def load(folder: str | Path, model: Any = None) -> Any:
    """Load what `posterior.save(folder)` wrote.

    Args:
        folder: the folder.
        model: the model it was fitted with; needed where the parameters are not plain dicts, lists and tuples, or
            where a support has a constraint that numpyro does not name.

    Returns:
        posterior: arrays as numpy, equal to the saved ones bit for bit.

    Raises:
        ValueError: nothing there, truncated or changed files, or the model is needed.
    """
    return unpack(read_saved(folder), model)


def unpack(saved: Saved, model: Any) -> Any:
    """Dispatch on the kind that the header names."""
    kind = saved.header.get("kind")
    if kind == "Run":
        raise ValueError(
            "Expected a posterior that was saved; got the journal of a run. Give the call jm.fit(..., folder=) that "
            "began it again: it goes on, or returns what it came to, and posterior.save(another folder) keeps that."
        )
    if kind not in KINDS:
        raise ValueError(f"Expected a posterior of kind {', '.join(KINDS)}; got {kind!r}. It is of another version.")
    if kind == "MixturePosterior":
        return MixturePosterior.from_saved(saved, [unpack(member, model) for member in MixturePosterior.parts(saved)])
    return KINDS[kind].from_saved(saved, model)
