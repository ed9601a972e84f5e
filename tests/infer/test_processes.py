"""Two processes that fit together: equal results, a dead one ends the other, and both go on from the last entry."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import jax
import pytest

import jaxmap as jm
from experiments.benchmarks import scale

PROGRAM = textwrap.dedent(
    """
    import os, sys
    import jax
    import jaxmap as jm
    rank, port, folder, steps, seed = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    os.environ |= {"SLURM_JOB_ID": port, "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2"}
    os.environ |= {"SLURM_PROCID": str(rank), "SLURM_LOCALID": "0"}
    jax.config.update("jax_num_cpu_devices", 1)
    jm.connect(f"127.0.0.1:{port}")
    import jax.numpy as jnp
    import numpy as np
    import numpyro.distributions as dist
    import optax

    rng = np.random.default_rng(seed * rank)
    data = rng.normal(size=(61, 3)), rng.normal(size=61)
    pair = lambda key: {"w": jnp.zeros(3)}, lambda params, x: jnp.tanh(x @ params["w"])
    model = jm.supervised(pair, jm.Gaussian(0.1), jm.Prior(dist.Normal(0.0, 1.0)))
    method = jm.MAP(optax.adam(1e-3), steps=steps, batch_size=8)
    point = jm.fit(jax.random.key(0), model, data, method, mesh=jm.mesh(data=2), folder=folder)
    print(point.mode["w"].tobytes().hex(), flush=True)
    """
)


OTHERS = textwrap.dedent(
    """
    import sys
    import jax
    import jaxmap as jm
    rank, port = int(sys.argv[1]), sys.argv[2]
    jax.config.update("jax_num_cpu_devices", 1)
    jm.connect(f"127.0.0.1:{port}", processes=2, rank=rank)
    import jax.numpy as jnp
    import numpy as np
    import numpyro.distributions as dist
    import optax

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(61, 3)), rng.normal(size=61)
    init = lambda key: {"w": jax.random.normal(key, (3,))}
    model = jm.supervised((init, lambda p, x: jnp.tanh(x @ p["w"])), jm.Gaussian(0.1), jm.Prior(dist.Normal(0.0, 1.0)))
    members, examples = jm.mesh(member=2), jm.mesh(data=2)
    adam = {"solver": optax.adam(1e-2), "steps": 20, "batch_size": 8}
    monitor = jm.Monitor((x[:7], y[:7]))

    def numbers(posterior):
        members = getattr(posterior, "members", [posterior])
        return [member.draws if hasattr(member, "draws") else member.mode for member in members]

    for data, method, mesh in (
        ((x, y), jm.Ensemble(jm.MAP(**adam, monitor=monitor), members=2), members),
        (jm.Stream.of_arrays((x, y)), jm.MAP(**adam), examples),
        ((x, y), jm.Laplace(), examples),
        ((x, y), jm.Ensemble(jm.NUTS(chains=1, warmup=12, draws=8), members=2), members),
    ):
        alone = jm.fit(jax.random.key(0), model, data, method, precision="float64")
        both = jm.fit(jax.random.key(0), model, data, method, precision="float64", mesh=mesh)
        for a, b in zip(jax.tree.leaves(numbers(alone)), jax.tree.leaves(numbers(both)), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-7, atol=1e-9)
        if not hasattr(both, "particles") or isinstance(data, jm.Stream):
            continue
        key = jax.random.key(0)  # every process has the whole predictive
        whole, shared = jm.predict(key, model, both, x), jm.predict(key, model, both, x, mesh=mesh)
        np.testing.assert_allclose(shared.mean, whole.mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(shared.log_prob(y), whole.log_prob(y), rtol=1e-9, atol=1e-9)
    for refused in (
        lambda: jm.predict(key, model, both, x + rank, mesh=examples),
        lambda: jm.compare(key, model, ((x, y), (x, y)), {"MAP": jm.MAP()}, mesh=examples),
    ):
        try:
            refused()
            raise SystemExit("accepted")
        except ValueError as error:
            assert "every process has the whole" in str(error) or "each gets the whole" in str(error), error
    try:
        method = jm.MAP(optax.adam(1e300), steps=20, batch_size=8)
        jm.fit(jax.random.key(0), model, (x, y), method, precision="float64", mesh=examples)
    except jm.FitError as error:
        print("diverged, and said so:", "diverged at step 2" in str(error), flush=True)
    """
)


def start(folder, steps, ranks=(0, 1), program=PROGRAM, seed=0):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = "--xla_cpu_collective_call_terminate_timeout_seconds=60 --xla_backend_optimization_level=0"
    settings = os.environ | {"PJRT_NPROC": "1", "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, *map(str, (rank, port, folder, steps, seed))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=settings,
        )
        for rank in ranks
    ]


def ended(processes):
    told = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    return [out.split()[-1] for out, _ in told]


@pytest.mark.slow
def test_devices_and_processes_find_the_same():
    for apart in scale.differences().values():
        assert apart["mode"] < 1e-8
        assert apart["gradient"] < 1e-5


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_both_go_on(tmp_path):
    first, second = start(tmp_path / "killed", 10**6)
    try:
        waited = time.monotonic()
        while not (tmp_path / "killed" / "posterior.json").exists():
            assert time.monotonic() - waited < 120
            assert first.poll() is None, first.communicate()
            time.sleep(0.1)
        second.send_signal(signal.SIGKILL)
        _, told = first.communicate(timeout=30)
        assert first.returncode == 1
        assert "Expected all 2 processes to go on; process 0 lost another one" in told
    finally:
        for process in (first, second):
            process.kill()
            process.__exit__(None, None, None)  # closes its pipes
    kept = json.loads(json.loads((tmp_path / "killed" / "posterior.json").read_text())["body"])
    steps = kept["course"]["step"] + 200
    taken_up, undisturbed = (ended(start(tmp_path / name, steps)) for name in ("killed", "undisturbed"))
    assert len({*taken_up, *undisturbed}) == 1


@pytest.mark.slow
def test_members_streams_and_chains_of_two_processes_are_those_of_one(tmp_path):
    assert ended(start(tmp_path, 0, program=OTHERS)) == ["True", "True"]


@pytest.mark.slow
def test_processes_with_data_of_their_own_are_refused(tmp_path):
    told = [process.communicate(timeout=100)[1] for process in start(tmp_path, 10, seed=1)]
    assert "Expected the same key and the same whole data in all 2 processes; those of process 1" in told[1]
    assert "lost another one" in told[0]


STUCK = """
import time
from jaxmap.data import processes
print("kept")
processes._watchdog.start(1.0)
with processes.together():
    for _ in range(4):
        time.sleep(0.5)
        processes.goes_on()
    print("went on", flush=True)
    time.sleep(60)
"""


def test_a_process_that_is_stuck_is_ended_and_keeps_what_it_printed():
    began = time.monotonic()
    found = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=50, check=False)
    assert found.returncode == 1
    assert time.monotonic() - began < 45
    assert "has not gone on for 1 s" in found.stderr
    assert "in <module>" in found.stderr
    assert found.stdout.split("\n")[:2] == ["kept", "went on"]


def test_connecting_says_what_it_expects():
    jax.devices()
    with pytest.raises(RuntimeError, match=r"Expected jm\.connect to be called once, before anything else uses jax"):
        jm.connect("127.0.0.1:1", processes=2, rank=0)
    with pytest.raises(ValueError, match="Expected coordinator='host:port' with a number as port"):
        jm.connect("first-machine", processes=2, rank=0)
    with pytest.raises(ValueError, match="Expected patience to be a positive number"):
        jm.connect(patience=0.0)
