"""How much faster is one ensemble of 64 networks than 64 trainings in PyTorch, one after the other?

    python -m experiments.benchmarks.many_networks --torch-python PATH [--batch-sizes 32 128] [--rounds N]

64 networks 64-100-100-10 on 1280 images of scikit-learn's digits, Adam, N(0, 1) on every weight, each network with its
own start and its own order of batches: (a) `jm.fit(..., jm.Ensemble(jm.MAP(...), members=64))`, certificates and all,
compiled before; (b) PyTorch in eager mode, one thread, PATH an interpreter that has it, `--measured` networks of the 64
trained one after the other and scaled to 64. They alternate; CPU time of the whole process and time by the wall. Then
one member of 64 is given a NaN as its start: it is left out and counted, and 63 finish.
"""

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from experiments.benchmarks.timing import Turn, measure, without_blas_settings

if __name__ == "__main__":
    without_blas_settings("experiments.benchmarks.many_networks")

import jax
import jax.numpy as jnp
import numpy as np

import jaxmap as jm
from experiments.benchmarks.training_rivals import ADAM, KEY, Job, Torch, make_job
from jaxmap.infer.problem import named_key, seeds_of

MEMBERS = 64


def digits(batch_size: int) -> Job:
    """The MLP on real digits."""
    job, data = make_job("mlp", batch_size=batch_size), jm.load_dataset("digits")
    order = np.random.default_rng(0).permutation(len(data.y))[: len(job.y)]
    return replace(job, x=(data.x[order] / 16).astype(np.float32), y=data.y[order])


def make_method(job: Job, steps: int, members: int = MEMBERS) -> Any:
    """The ensemble."""
    return jm.Ensemble(jm.MAP(ADAM, steps=steps, batch_size=job.batch_size), members=members)


def compare(job: Job, given: argparse.Namespace, folder: Path) -> str:
    """Ours and theirs in turns."""
    model, torch = job.model, Torch(given.torch_python, job, folder)

    def train() -> None:
        jm.fit(KEY, model, (job.x, job.y), make_method(job, given.steps), progress=False)

    train()  # compile
    torch.turn(200, fresh=True)
    taken: dict[str, list[Turn]] = {"ours": [], "theirs": []}
    for i in range(given.rounds):
        for side in ("ours", "theirs")[:: 1 if i % 2 == 0 else -1]:
            if side == "ours":
                taken[side].append(measure(train))
            else:
                parts = [torch.turn(given.steps, fresh=True) for _ in range(given.measured)]
                scale = MEMBERS / given.measured
                taken[side].append(Turn(*(scale * sum(getattr(t, c) for t in parts) for c in ("wall", "cpu"))))
    torch.close()
    told = []
    for clock in ("cpu", "wall"):
        ours, theirs = ([getattr(t, clock) for t in taken[side]] for side in ("ours", "theirs"))
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        told.append(
            f"{clock}: ours {median(ours):.1f} s, theirs {median(theirs):.1f} s, {median(ratios):.2f} x as fast"
        )
    return "; ".join(told)


def quarantine(job: Job, steps: int, members: int = MEMBERS, sick: int = 5) -> str:
    """What becomes of the others when member `sick` begins with a NaN."""
    model, known = job.model, jax.random.key_data(seeds_of(named_key(KEY, "fit"), members).keys[sick])

    def init(key: Any) -> Any:
        factor = jnp.where(jnp.all(jax.random.key_data(key) == known), jnp.nan, 1.0)
        return jax.tree.map(lambda leaf: leaf * factor, model.init(key))

    poisoned = replace(model, init=init)
    found = jm.fit(KEY, poisoned, (job.x, job.y), make_method(job, steps, members), progress=False)
    lost = [k for k, status in enumerate(found.info.members) if status is jm.Status.DIVERGED]
    scores = jm.score(jm.predict(KEY, poisoned, found, job.x), job.y)
    return (
        f"A NaN as the start of member {sick} of {members}: {len(found.members)} finish, left out: {lost}; "
        f"accuracy of the rest on their training images {scores['accuracy']:.3f}. {found.info.notes[0]}"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--torch-python", required=True, help="an interpreter that has PyTorch")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=(32, 128))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measured", type=int, default=4, help="networks that PyTorch trains in a turn, of the 64")
    given = parser.parse_args(arguments)
    print(f"XLA_FLAGS={os.environ.get('XLA_FLAGS', '')}")
    with tempfile.TemporaryDirectory() as folder:
        for size in given.batch_sizes:
            told = compare(digits(size), given, Path(folder))
            print(f"{MEMBERS} networks, batches of {size}, {given.steps} steps: {told}", flush=True)
    print(quarantine(digits(32), given.steps), flush=True)


if __name__ == "__main__":
    main()
