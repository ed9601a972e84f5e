"""When is a MAP estimate enough, and does the audit know without sampling?

Beforehand, "MAP suffices" is defined by NUTS: on a large test set the MAP's lppd is within 0.01 nats of that of NUTS,
and the share of test targets inside its 90 % intervals within 0.03. `jm.audit` has to say so from the training data
alone, without NUTS. Its severity (the larger of expected loss / 0.01 and |expected coverage gap| / 0.03) is compared
with that truth: over linear, generalised linear, hierarchical, mixture and network models, 10 to 10,000 examples, and
priors from weak to wrong; simulated targets with 4000 test examples, and rows of real data. Kinds of cases alternate
between a half on which the audit was tuned and a half that was left alone until the end.

On 82 cases, two replicates of 41 kinds, the audit separates those where MAP suffices from the others: AUC 0.994 on the
tuned half, 0.983 on the other (95 % by bootstrap over kinds 0.930 to 1.000), where its verdict is right in 90 %. It is
wrong most often just at the limits, and where the likelihood is wrong (counts with more spread than Poisson).

    python -m experiments.when_is_map_enough --folder RUN     # each case is kept there; started again, it goes on
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxmap as jm
from experiments.audit_cases import Case, all_cases
from experiments.record import Record, color, command, panels
from jaxmap.infer.storage import write_atomically

NATS, SHARE = 0.01, 0.03


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    data: str = "../shared/data/uci"
    half: str = "both"  # tuned | held_out | both
    only: str = ""  # cases whose name has this in it
    replicates: int = 2
    draws: int = 500
    warmup: int = 300
    folder: str | None = None
    seed: int = 0


TINY = {"only": "linear n=10 ", "replicates": 2, "draws": 50, "warmup": 50, "data": ""}
"""What the tests run."""


def run(config: Config) -> Record:
    """Fit, sample and audit every case."""
    rows = []
    for number, case in enumerate(all_cases(config.data)):
        half = "tuned" if number % 2 == 0 else "held_out"
        if config.half in (half, "both") and config.only in case.name:
            rows += [kept(config, case, half, replicate) for replicate in range(config.replicates)]
    notes = [verdict_on(rows, half) for half in ("tuned", "held_out") if any(row["half"] == half for row in rows)]
    notes.append(
        "severity: of the audit; truth: the larger of |lppd difference| / 0.01 and |coverage difference| / 0.03."
    )
    return Record("When is a MAP estimate enough?", config, rows, lambda: draw(rows), tuple(notes))


def kept(config: Config, case: Case, half: str, replicate: int) -> dict[str, Any]:
    """One row, taken up from the folder where it is there."""
    name = f"{case.name} {replicate}".replace(" ", "_").replace("=", "")
    path = None if config.folder is None else Path(config.folder) / f"{name}.json"
    if path is not None and path.exists():
        return json.loads(path.read_text())
    row = {"case": case.name, "family": case.family, "n": case.n, "half": half, **examine(config, case, replicate)}
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(row).encode())
    print(", ".join(f"{k} {v:.3g}" if isinstance(v, float) else str(v) for k, v in row.items()), flush=True)
    return row


def examine(config: Config, case: Case, replicate: int) -> dict[str, Any]:
    """MAP, audit and NUTS of one data set."""
    key = jax.random.key(config.seed)
    train, test = case.draw(replicate)
    model = model_of(case, train)
    point = jm.fit(key, model, train, jm.MAP())
    audit = jm.audit(key, model, train, point)
    draws = jm.fit(key, model, train, jm.NUTS(warmup=config.warmup, draws=config.draws, max_tree_depth=8))
    scores = [jm.score(jm.predict(key, model, fit, test[0]), test[1]) for fit in (point, draws)]
    loss = scores[1]["lppd"] - scores[0]["lppd"]
    gap = scores[0].get("coverage90", np.nan) - scores[1].get("coverage90", np.nan)
    return {
        "loss": loss,
        "coverage gap": gap,
        "truth": float(np.nanmax([abs(loss) / NATS, abs(gap) / SHARE])),
        "audit loss": audit.numbers.get("loss", np.nan),
        "audit gap": audit.numbers.get("coverage_gap", np.nan),
        "severity": audit.numbers["severity"],
        "k_hat": audit.numbers.get("k_hat", np.nan),
        "verdict": audit.verdict.name,
        "rhat": draws.info.diagnostics.get("rhat_max", draws.info.diagnostics.get("function_rhat_max", np.nan)),
        "audit s": audit.seconds,
        "NUTS s": draws.info.seconds,
    }


MODELS: dict[str, jm.Model] = {}
"""Models by case: replicates share what was compiled."""


def model_of(case: Case, train: Any) -> jm.Model:
    """The model of a case."""
    if case.name not in MODELS:
        MODELS.clear()
        MODELS[case.name] = case.build(train)
    return MODELS[case.name]


def auc(severity: np.ndarray, needs: np.ndarray) -> float:
    """The probability that a case that needs more than a MAP is graded as more severe than one that does not."""
    more, less = severity[needs][:, None], severity[~needs][None]
    return float(np.mean((more > less) + 0.5 * (more == less))) if more.size and less.size else float("nan")


def verdict_on(rows: list[dict[str, Any]], half: str, resamples: int = 2000) -> str:
    """How well the audit separates the cases of one half, with a bootstrap interval over kinds of cases."""
    rows = [row for row in rows if row["half"] == half]
    severity = np.array([row["severity"] for row in rows], float)
    needs = np.array([row["truth"] > 1 for row in rows])
    right = np.mean([(row["verdict"] == "MAP_SUFFICES") == (row["truth"] <= 1) for row in rows])
    kinds = sorted({row["case"] for row in rows})
    members = [np.flatnonzero([row["case"] == kind for row in rows]) for kind in kinds]
    rng, found = np.random.default_rng(0), []
    for _ in range(resamples):
        picked = np.concatenate([members[k] for k in rng.integers(0, len(kinds), len(kinds))])
        found.append(auc(severity[picked], needs[picked]))
    known = np.array(found)[~np.isnan(found)]
    low, high = np.quantile(known, [0.025, 0.975]) if known.size else (np.nan, np.nan)
    return (
        f"{half}: {len(rows)} cases, MAP suffices in {int((~needs).sum())}; AUC {auc(severity, needs):.3f} "
        f"(95 % by bootstrap {low:.3f} to {high:.3f}); its verdict is right in {right:.0%}."
    )


def draw(rows: list[dict[str, Any]]) -> Any:
    """The audit's severity over the truth."""
    figure, (axis,) = panels("MAP suffices left of and below 1", height=4.4)
    for i, family in enumerate(dict.fromkeys(row["family"] for row in rows)):
        for half, marker in (("tuned", "o"), ("held_out", "^")):
            chosen = [row for row in rows if row["family"] == family and row["half"] == half]
            truth = np.clip([row["truth"] for row in chosen], 0.02, 100)
            severity = np.clip([row["severity"] for row in chosen], 0.02, 100)
            label = family if half == "tuned" else None
            axis.plot(truth, severity, marker, color=color(i), ms=5, alpha=0.8, label=label)
    axis.axhline(1, color="#999999", lw=0.8)
    axis.axvline(1, color="#999999", lw=0.8)
    axis.set(xscale="log", yscale="log", xlabel="truth, by NUTS and a test set", ylabel="severity, by the audit")
    axis.legend(fontsize=8, frameon=False)
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
