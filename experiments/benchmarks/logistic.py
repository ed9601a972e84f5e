"""How fast are fits, regularisation paths and bootstraps of a logistic regression, beside scikit-learn and glum?

    python -m experiments.benchmarks.logistic [--job single|path|l1_path|bootstrap] [--pairs N]

Each rival runs each of its solvers at the loosest tolerance at which every objective is within 1e-9 per example of the
best known, with warm starts and without, on one thread or two, whichever is faster. The fastest rivals and `jm.fit` or
`jm.path` then take turns. A ratio is the rival's median over ours; seconds of all processors (cpu) stand beside
those of the wall, and the first call of ours, which compiles, is given apart (`compiled` is the ratio to that call).
Tuning every rival takes half an hour; `--match "lbfgs|glum"` tries those alone, `--rivals-only` leaves us out.
"""

import argparse
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from experiments.benchmarks.timing import Turn, measure, take_turns, without_blas_settings

if __name__ == "__main__":
    without_blas_settings("experiments.benchmarks.logistic")

import numpy as np

from experiments.benchmarks.logistic_jobs import Job, make_job, ridge_bests
from experiments.benchmarks.logistic_rivals import Rival, rivals_for, tuned

JOBS = ("single", "path", "l1_path", "bootstrap")
OURS = "jaxmap"


def ours_for(job: Job) -> Callable[[], np.ndarray]:
    """Return what does the job through the public interface: coefficients, one row per problem."""
    import jax  # here, so that the rivals can be timed without us
    import jax.numpy as jnp

    import jaxmap as jm

    key, data, d = jax.random.key(0), (job.x, job.y), job.x.shape[1]
    network = (lambda key: jnp.zeros(d), lambda b, x: x @ b)

    def make(strength: Any) -> Any:
        return jm.supervised(network, jm.Bernoulli(), jm.l1(strength) if job.l1 else jm.weight_decay(strength))

    known = functools.cache(make)

    def build(strength: Any) -> Any:  # the same model for the same number: programs are compiled once per model
        return known(strength) if isinstance(strength, float) else make(strength)

    if job.name in ("path", "l1_path"):
        return lambda: np.asarray(jm.path(key, build, data, job.strengths, jm.MAP(), precision="float64").modes)
    model = build(float(job.strengths[0]))
    if job.name == "single":
        return lambda: np.asarray(jm.fit(key, model, data, jm.MAP(), precision="float64").mode)[None]
    method = jm.Bootstrap(jm.MAP(), replicates=len(job))
    return lambda: np.asarray(jm.fit(key, model, data, method, precision="float64").particles(key, None).params)


def as_drawn(job: Job) -> Job:
    """The bootstrap with the resamples that `jm.Bootstrap` draws from the key, to check its refits one by one."""
    import jax

    from jaxmap.infer.bootstrap import RESAMPLE, resampled
    from jaxmap.infer.problem import named_key

    with jax.enable_x64(True):
        key = jax.random.fold_in(named_key(jax.random.key(0), "fit"), RESAMPLE)
        weights = np.asarray(resampled(key, len(job.y), len(job)), float)
    return replace(job, weights=weights, best=np.array(ridge_bests(job.x, job.y, job.strengths, weights)))


def chosen(job: Job, keep: int, match: str) -> list[Rival]:
    """Tune the rivals whose names contain one of the words, say how each did, and return the fastest few."""
    found: list[Rival] = []
    for rival in (r for r in rivals_for(job) if any(word in r.name for word in match.split("|"))):
        best = min((r.seconds for r in found), default=np.inf)
        rival = tuned(rival, job, best)
        found.append(rival)
        spent = f"{1e3 * rival.seconds:9.1f} ms" if np.isfinite(rival.seconds) else "hopeless"
        print(f"    {rival.name:42} tol {rival.tolerance:.0e}  {rival.threads} threads  {spent:>12}", flush=True)
    return sorted(found, key=lambda r: r.seconds)[:keep]


def compare(name: str, given: argparse.Namespace) -> None:
    """Print the table of one job."""
    job = make_job(name, given.scale)
    n, d = job.x.shape
    print(f"{name}: {len(job)} x logistic regression of {n} x {d}, {'L1' if job.l1 else 'ridge'}", flush=True)
    rivals = chosen(job, given.keep, given.match)
    runs: dict[str, Callable[[], Any]] = {rival.name: rival.run for rival in rivals}
    found = {rival.name: rival.run() for rival in rivals}
    first = None
    if not given.rivals_only:
        ours = ours_for(job)
        first = measure(lambda: found.update({OURS: ours()}))
        runs[OURS] = ours
    table(job, take_turns(runs, given.pairs), found, first)


def table(job: Job, medians: dict[str, Turn], found: dict[str, np.ndarray], first: Turn | None) -> None:
    """One line per contender; ratios are theirs over ours."""
    print(f"  {'':42} {'wall ms':>9} {'cpu ms':>9} {'excess':>9} {'total':>9} {'ratio':>7} {'cpu':>7} {'compiled':>9}")
    ours = medians.get(OURS)
    for name, turn in sorted(medians.items(), key=lambda item: item[1].wall):
        solved = as_drawn(job) if name == OURS and job.weights is not None else job
        worst = solved.worst_excess(found[name])
        line = f"  {name:42} {1e3 * turn.wall:9.1f} {1e3 * turn.cpu:9.1f} {worst:9.1e} {worst * len(job.y):9.1e}"
        if ours is not None and first is not None and name != OURS:
            line += f" {turn.wall / ours.wall:7.2f} {turn.cpu / ours.cpu:7.2f} {turn.wall / first.wall:9.2f}"
        print(line, flush=True)
    if ours is not None and first is not None:
        print(f"  first call of ours: {first.wall:.2f} s, of which compilation {first.wall - ours.wall:.2f} s")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", choices=(*JOBS, "all"), default="all")
    parser.add_argument("--pairs", type=int, default=11, help="rounds of turns")
    parser.add_argument("--keep", type=int, default=2, help="how many of the fastest rivals take turns")
    parser.add_argument("--match", default="", help="only rivals whose names contain this, or this|that")
    parser.add_argument("--rivals-only", action="store_true")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of examples and problems")
    given = parser.parse_args(arguments)
    for name in JOBS if given.job == "all" else (given.job,):
        compare(name, given)


if __name__ == "__main__":
    main()
