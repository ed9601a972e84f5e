"""How fast is a training step of `jm.fit`, beside a loop by hand and beside PyTorch?

    python -m experiments.benchmarks.training_speed [--torch-python PATH] [--job mlp|transformer|resnet] [--rounds N]
    python -m experiments.benchmarks.training_speed --convolutions --torch-python PATH      # ways to convolve

The same network, batches of the same size looked up in a permutation of the examples, Adam, N(0, 1) on every weight (in
PyTorch as its weight decay): (a) `jm.fit(..., jm.MAP(optax.adam(1e-3), batch_size=...))`, (b) a jitted `lax.scan` over
plain flax and optax, (c) PyTorch in eager mode, PATH an interpreter that has it. Batches are 32 digits (64-100-100-10),
12 windows of 64 characters (4 layers, 4 heads, 128 wide) and 64 images of 28 x 28 (`--size 8`: of digits). Both sides
begin at the same weights, and their losses there are compared.

The cost of a step is the difference of a long and a short run, so that compilation and what a fit costs once drop out,
in CPU time of the whole process. The contenders alternate, every second round in reverse order; a ratio is the median
of those of the rounds. PyTorch has one thread, which costs it the least; XLA takes what it wants, or what the
environment says, such as XLA_FLAGS=--xla_cpu_multi_thread_eigen=false.

Where jax runs on a GPU, PyTorch does too (TF32 allowed on both sides, `--variants` with a fused Adam), and the clock is
that on the wall. XLA of jax 0.11.2 ends there on a failed check while it fuses this ResNet, also in the loop by hand;
XLA_FLAGS=--xla_gpu_enable_triton_gemm=false avoids it.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from experiments.benchmarks.timing import Turn, measure, without_blas_settings

if __name__ == "__main__":
    without_blas_settings("experiments.benchmarks.training_speed")

import jax

import jaxmap as jm
from experiments.benchmarks.training_rivals import ADAM, KEY, Handwritten, Job, Torch, make_job
from experiments.networks import CONVOLUTIONS

Runner = Callable[[int], float]
"""Steps -> seconds."""


def ours(job: Job) -> Runner:
    """`jm.fit`."""
    model = job.model

    def train(steps: int) -> None:
        method = jm.MAP(ADAM, steps=steps, batch_size=job.batch_size)
        jax.block_until_ready(jm.fit(KEY, model, (job.x, job.y), method, progress=False).mode)

    return lambda steps: seconds(measure(lambda: train(steps)))


def seconds(turn: Turn) -> float:
    """By the processor; by the wall where the processor only feeds another device."""
    return turn.cpu if jax.default_backend() == "cpu" else turn.wall


def by_hand(job: Job) -> Runner:
    """The loop without jaxmap."""
    loop = Handwritten(job)
    return lambda steps: seconds(measure(lambda: loop(steps)))


def compare(job: Job, runners: dict[str, Runner], rounds: int) -> dict[str, list[float]]:
    """Seconds of a step, by contender, one for each round."""
    for run in runners.values():
        for steps in (job.short, job.long):  # compile
            run(steps)
    taken: dict[str, list[float]] = {name: [] for name in runners}
    for i in range(rounds):
        for name in list(runners)[:: 1 if i % 2 == 0 else -1]:
            spent = runners[name](job.long) - runners[name](job.short)
            taken[name].append(spent / (job.long - job.short))
    return taken


def ratio(taken: dict[str, list[float]], a: str, b: str) -> str:
    """The median ratio of the rounds, and the middle half of them."""
    found = sorted(x / y for x, y in zip(taken[a], taken[b], strict=True))
    low, high = found[len(found) // 4], found[-1 - len(found) // 4]
    return f"{a} over {b}: {statistics.median(found):.3f} (half of the rounds within {low:.3f} to {high:.3f})"


def report(title: str, job: Job, given: argparse.Namespace, folder: Path) -> None:
    """Print one network's costs and ratios."""
    runners = {"jm.fit": ours(job), "by hand": by_hand(job)}
    torch = rivals(job, given, folder)
    runners |= {name: (lambda steps, side=side: seconds(side.turn(steps))) for name, side in torch.items()}
    taken = compare(job, runners, given.rounds)
    costs = ", ".join(f"{name} {1e3 * statistics.median(values):.3f}" for name, values in taken.items())
    clock = "CPU ms" if jax.default_backend() == "cpu" else "ms"
    print(f"{title}: {clock} per step: {costs}", flush=True)
    for name in list(runners)[1:]:
        print(f"    {ratio(taken, 'jm.fit', name)}", flush=True)
    for side in torch.values():
        side.close()


def rivals(job: Job, given: argparse.Namespace, folder: Path) -> dict[str, Torch]:
    """PyTorch as it comes, and with what may help it."""
    if given.torch_python is None:
        return {}
    found = {"PyTorch": Torch(given.torch_python, job, folder)}
    if given.variants:
        found["PyTorch, fused Adam"] = Torch(given.torch_python, job, folder, fused=True)
        if job.settings["network"] == "resnet":
            found["PyTorch, channels last"] = Torch(given.torch_python, job, folder, channels_last=True)
    return found


def convolutions(given: argparse.Namespace, folder: Path) -> None:
    """Print the cost of the loop by hand for every way to convolve."""
    jobs = {how: make_job("resnet", batch_size=given.batch_size, how=how, size=given.size) for how in CONVOLUTIONS}
    torch = rivals(jobs["patches"], given, folder)
    runners = {how: by_hand(job) for how, job in jobs.items() if how not in given.skip}
    runners |= {name: (lambda steps, side=side: seconds(side.turn(steps))) for name, side in torch.items()}
    taken = compare(jobs["patches"], runners, given.rounds)
    for name in runners:
        told = f", {ratio(taken, name, 'PyTorch')}" if torch else ""
        print(f"convolution by {name}: {1e3 * statistics.median(taken[name]):.2f} CPU ms per step{told}", flush=True)
    for side in torch.values():
        side.close()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--torch-python", help="an interpreter that has PyTorch")
    parser.add_argument("--job", choices=("mlp", "transformer", "resnet", "all"), default="all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch-size", type=int, help="examples per step")
    parser.add_argument("--steps", type=int, nargs=2, help="of the short and of the long run, whole epochs of the data")
    parser.add_argument("--size", type=int, default=28, help="height and width of an image")
    parser.add_argument("--variants", action="store_true", help="PyTorch also with a fused Adam and channels last")
    parser.add_argument("--convolutions", action="store_true", help="compare ways to convolve")
    parser.add_argument("--skip", nargs="*", default=(), help="ways to leave out")
    given = parser.parse_args(arguments)
    print(f"{jax.devices()[0].device_kind}, XLA_FLAGS={os.environ.get('XLA_FLAGS', '')}")
    with tempfile.TemporaryDirectory() as folder:
        if given.convolutions:
            convolutions(given, Path(folder))
            return
        for name in ("mlp", "transformer", "resnet") if given.job == "all" else (given.job,):
            job = make_job(name, batch_size=given.batch_size, size=given.size)
            if given.steps:
                job = replace(job, short=given.steps[0], long=given.steps[1])
            report(f"{name}, batches of {job.batch_size}", job, given, Path(folder))


if __name__ == "__main__":
    main()
