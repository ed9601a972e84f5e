"""What held-out data chose, in words."""

import numpy as np

from jaxmap.infer.judged import ENDS, Judged
from jaxmap.optimize import Watched


def by_held_out(
    watched: Watched, best: int, found: dict[int, Judged], rows: range
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Say which look was chosen and why the climb ended; the best of several restarts by its score.

    Args:
        watched: what was seen of all members.
        best: the member that is returned.
        found: the members that did not diverge.
        rows: the restarts of one fit.

    Returns:
        diagnostics, notes.
    """
    history, lowest = watched.history(best), float(watched.lowest[best])
    lost = len(rows) - len(found)
    notes = [f"{lost} of {len(rows)} restarts diverged and were left out."] if lost else []
    if len(found) > 1:
        notes.append(f"The best of {len(found)} restarts by its held-out score.")
    if not np.isfinite(lowest):
        notes.append("No held-out score was finite: this is the start. Look for missing numbers in the held-out data.")
        return {"held_out_looks": float(len(history))}, tuple(notes)
    which = int(np.flatnonzero(history[:, 1] == lowest)[0])
    step, last = int(history[which, 0]), int(history[-1, 0])
    sure = found[best].info.status in ENDS
    what = "" if sure else " It is not claimed to be the maximum of the density."
    notes.append(
        f"These are the parameters after step {step}, whose held-out mean negative log-likelihood, {lowest:.5g} nats "
        f"per example, was the lowest of {len(history)} looks.{what}"
    )
    if watched.stopped[best]:
        notes.append(f"Stopped early after step {last}: {watched.patience} looks in a row brought no improvement.")
    elif which == len(history) - 1:
        notes.append("The held-out score still fell at the last look: more steps may lower it further.")
    return {"best_step": float(step), "held_out_nll": lowest, "held_out_looks": float(len(history))}, tuple(notes)
