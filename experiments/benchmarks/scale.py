"""Do many devices and several processes give the same fits, and how much faster are two processes than one?

The same fits are made by (a) one process with one device, (b) one process with eight virtual devices, (c) two processes
that `jm.connect` joins: the MAP of a logistic regression in float64, and the gradient of a network's loss in float32 at
equal parameters. Then a network of 85,000 parameters is trained by Adam, 32,768 examples a step, by one process that is
held to one core and by two that have two together, in turns. The time of a step is the difference of a long and a short
fit of the same process, so that compiling drops out. On a busy machine seconds say little: the seconds of processor
time are printed too, and with them what two free cores would give.

    python -m experiments.benchmarks.scale            # about five minutes on two cores
"""

import argparse
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

HANG = "--xla_cpu_collective_call_terminate_timeout_seconds=60 --xla_cpu_multi_thread_eigen=false"
EXAMPLES, SHORT = 32768, 2


def fits(mesh: Any) -> dict[str, Any]:
    """The MAP of a convex model in float64, and a network's gradient in float32."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import numpyro.distributions as dist

    import jaxmap as jm
    from jaxmap.data import everywhere
    from jaxmap.infer import Problem
    from jaxmap.model import Density

    rng = np.random.default_rng(0)
    x = rng.normal(size=(1003, 20))
    y = (x @ rng.normal(size=20) + rng.logistic(size=1003) > 0).astype(int)
    pair = lambda key: {"w": jnp.zeros(20)}, lambda params, x: x @ params["w"]
    logistic = jm.supervised(pair, jm.Bernoulli(), jm.Prior(dist.Normal(0.0, 1.0)))
    point = jm.fit(jax.random.key(0), logistic, (x, y), jm.MAP(), precision="float64", mesh=mesh)
    model, (images, labels) = network()
    problem = Problem.of(model, (images[:1003], labels[:1003]), mesh=mesh)
    with problem.scope():
        z = model.start_unconstrained(problem.dtype)
        loss = jax.grad(lambda z, data: Density(model).mean_loss(z, data))
        gradient = jax.jit(everywhere(loss))(z, problem.data)
        flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
    return {"mode": np.asarray(point.mode["w"]).tolist(), "gradient": flat[::171].tolist()}


def network() -> tuple[Any, Any]:
    """An MLP 64-256-256-10 and images of noise."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import numpyro.distributions as dist

    import jaxmap as jm

    widths = (64, 256, 256, 10)

    def init(key: Any) -> Any:
        pairs = enumerate(itertools.pairwise(widths))
        return [jax.random.normal(jax.random.fold_in(key, k), shape) / np.sqrt(shape[0]) for k, shape in pairs]

    def apply(params: Any, x: Any) -> Any:
        for kernel in params[:-1]:
            x = jnp.tanh(x @ kernel)
        return x @ params[-1]

    rng = np.random.default_rng(0)
    data = rng.normal(size=(EXAMPLES, 64)).astype(np.float32), rng.integers(0, 10, EXAMPLES)
    return jm.supervised((init, apply), jm.Categorical(), jm.Prior(dist.Normal(0.0, 1.0))), data


def step(mesh: Any, steps: int) -> dict[str, float]:
    """Seconds of wall and processor time of a step of Adam in this process."""
    import jax
    import optax

    import jaxmap as jm

    model, data = network()
    adam = optax.adam(1e-3)

    def spent(count: int) -> tuple[float, float]:
        began = time.perf_counter(), time.process_time()
        jm.fit(jax.random.key(0), model, data, jm.MLE(adam, steps=count), mesh=mesh)
        return time.perf_counter() - began[0], time.process_time() - began[1]

    spent(SHORT)  # compiles
    short, long = spent(SHORT), spent(SHORT + steps)
    return {name: (b - a) / steps for name, a, b in zip(("wall", "cpu"), short, long, strict=True)}


def work(task: str, rank: int, processes: int, port: int, devices: int, steps: int) -> None:
    """What one process does; the result goes to standard output as JSON."""
    if task == "step":  # of two, the threads that wait for each other would share a core if each were held to its own
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:processes])
    import jax

    import jaxmap as jm

    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        jm.connect(f"127.0.0.1:{port}", processes=processes, rank=rank)
    mesh = jm.mesh(data=devices * processes) if devices * processes > 1 else None
    print(json.dumps(fits(mesh) if task == "fits" else step(mesh, steps)), flush=True)


def run(task: str, processes: int = 1, devices: int = 1, steps: int = 0) -> list[Any]:
    """Start the processes of one job and wait for what they print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = os.environ | {"XLA_FLAGS": HANG, "PJRT_NPROC": "32" if devices > 1 else "1", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "experiments.benchmarks.scale", "--work", task]
    numbers = (processes, port, devices, steps)
    started = [
        subprocess.Popen([*command, *map(str, (rank, *numbers))], stdout=subprocess.PIPE, env=settings, text=True)
        for rank in range(processes)
    ]
    said = [process.communicate(timeout=600)[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"{task} with {processes} processes and {devices} devices each failed: see above.")
    return [json.loads(text.splitlines()[-1]) for text in said]


def differences() -> dict[str, dict[str, float]]:
    """The largest differences from one device, relative to the largest number."""
    alone = run("fits")[0]
    found = {"8 devices": run("fits", devices=8)[0]}
    for rank, result in enumerate(run("fits", processes=2)):
        found[f"2 processes, rank {rank}"] = result
    return {name: {part: _apart(other[part], alone[part]) for part in alone} for name, other in found.items()}


def _apart(a: Sequence[float], b: Sequence[float]) -> float:
    return max(abs(u - v) for u, v in zip(a, b, strict=True)) / max(map(abs, b))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--work", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work[0], *map(int, options.work[1:]))
        return
    for name, apart in differences().items():
        print(f"{name}: MAP in float64 differs by {apart['mode']:.1e}, gradients in float32 by {apart['gradient']:.1e}")
    rounds = [(run("step", 1, 1, options.steps), run("step", 2, 1, options.steps)) for _ in range(options.rounds)]
    one, two = ([part for both in rounds for part in both[k]] for k in (0, 1))
    for kind in ("wall", "cpu"):
        a, b = (1e3 * statistics.median(part[kind] for part in parts) for parts in (one, two))
        word = "of wall time" if kind == "wall" else "of processor time in each process"
        print(f"a step: {a:.2f} ms {word} by one process, {b:.2f} ms by two: {a / b:.2f}x, efficiency {a / b / 2:.0%}")


if __name__ == "__main__":
    main()
