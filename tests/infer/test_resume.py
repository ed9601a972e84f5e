"""Climbs in a folder: stopped anywhere, killed anywhere, they end with the numbers of the undisturbed climb."""

import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmap as jm
from jaxmap import Status
from jaxmap.infer import journal, locked
from jaxmap.infer.storage import HEADER, read_saved
from jaxmap.optimize.progress import Progress
from tests.cases import flat
from tests.optimize.test_maximize import ADAM, KEY, regression, trapped

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def linear():
    def log_likelihood(w, batch):
        x, y = batch
        return -0.5 * (y - x @ w) ** 2 - 0.5 * np.log(2 * np.pi)

    return jm.Model(
        log_likelihood=log_likelihood,
        log_prior=lambda w: -0.5 * jnp.sum(w**2),
        init=lambda key: jax.random.normal(key, (3,)),
    )


def rows():
    return regression(0, 40)


def stream():
    return jm.Stream.of_arrays(rows())


CLIMBS = {
    "minibatches": (rows, jm.MAP(ADAM, steps=3000, batch_size=7)),
    "MLE": (rows, jm.MLE(optax.sgd(1e-2, momentum=0.9), steps=3000, batch_size=8)),
    "full batches": (rows, jm.MAP(optax.adam(optax.cosine_decay_schedule(0.1, 3000)), steps=3000)),
    "accumulated gradients": (rows, jm.MAP(optax.MultiSteps(ADAM, 3), steps=3000, batch_size=7)),
    "a stream": (stream, jm.MAP(ADAM, steps=3000, batch_size=7)),
    "restarts": (rows, jm.MAP(ADAM, steps=3000, batch_size=7, restarts=3)),
    "held-out data": (
        rows,
        jm.MAP(ADAM, steps=3000, batch_size=7, monitor=jm.Monitor(regression(1, 30), every=20, patience=30)),
    ),
    "members that held-out data stop": (
        stream,
        jm.Ensemble(
            jm.MAP(ADAM, steps=3000, batch_size=7, monitor=jm.Monitor(regression(1, 30), every=20, patience=30)),
            members=3,
        ),
    ),
    "an ensemble": (rows, jm.Ensemble(jm.MAP(ADAM, steps=3000, batch_size=7), members=3)),
}


@pytest.fixture
def each_chunk(monkeypatch):
    """Enter every chunk."""
    monkeypatch.setattr(journal, "SECONDS", 0.0)
    monkeypatch.setattr(journal, "SHARE", np.inf)


def stopped(method, data, folder, steps):
    """Interrupt a fit once it has taken so many steps."""
    with pytest.MonkeyPatch.context() as patch:

        def update(self, done, note=""):
            if done >= steps:
                raise KeyboardInterrupt

        patch.setattr(Progress, "update", update)
        return jm.fit(KEY, linear(), data, method, folder=folder)


@contextlib.contextmanager
def all_histories():
    """The losses of all starts of a fit, (members, steps), of which a point keeps its own."""
    seen, finish = [], jm.MAP.finish

    def look(self, problem, runs, index):
        seen.append(runs.ascent.history)
        return finish(self, problem, runs, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jm.MAP, "finish", look)
        yield seen


def points(found):
    return getattr(found, "members", (found,))


def check_equal(one, other):
    for a, b in zip(points(one), points(other), strict=True):
        np.testing.assert_array_equal(flat(a.mode), flat(b.mode))
        np.testing.assert_array_equal(a.info.history, b.info.history)
        np.testing.assert_array_equal(a.info.held_out, b.info.held_out)
        assert (a.info.status, a.info.num_gradients) == (b.info.status, b.info.num_gradients)
        assert a.info.log_joint == b.info.log_joint


@pytest.mark.parametrize("name", CLIMBS)
def test_a_climb_that_was_stopped_goes_on_bit_for_bit(name, tmp_path, each_chunk):
    make, method = CLIMBS[name]
    with all_histories() as histories:
        whole = jm.fit(KEY, linear(), make(), method)
    for steps in (1, 100, 1100):  # a chunk is at most four times as long as the one before
        left = stopped(method, make(), tmp_path, steps)
        assert left.info.status is Status.INTERRUPTED
        assert steps <= len(points(left)[0].info.history) < 3000
        taken = points(left)[0].info.history
        if name == "restarts":  # which of them leads may change on the way
            assert sum(np.array_equal(taken, row[: len(taken)]) for row in histories[0]) == 1
        else:
            np.testing.assert_array_equal(taken, points(whole)[0].info.history[: len(taken)])
    check_equal(jm.fit(KEY, linear(), make(), method, folder=tmp_path), whole)
    assert [path.name for path in tmp_path.glob(".*")] == []
    assert len(list(tmp_path.iterdir())) == 2


def test_a_finished_climb_is_read_and_may_go_on(tmp_path, monkeypatch):
    method, longer = jm.MAP(ADAM, steps=300, batch_size=7), jm.MAP(ADAM, steps=500, batch_size=7)
    whole = jm.fit(KEY, linear(), rows(), longer)
    first = jm.fit(KEY, linear(), rows(), method, folder=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", lambda *_: pytest.fail("a step was taken"))
        check_equal(jm.fit(KEY, linear(), rows(), method, folder=tmp_path), first)
    check_equal(jm.fit(KEY, linear(), rows(), longer, folder=tmp_path), whole)
    with pytest.raises(ValueError, match=r"Expected a climb of at most 300 steps in .*; got one of 500"):
        jm.fit(KEY, linear(), rows(), method, folder=tmp_path)


def test_deterministic_solvers_and_double_precision_are_kept_too(tmp_path, each_chunk):
    for k, solver in enumerate((jm.LBFGS(), jm.Newton())):
        method, folder = jm.MAP(solver), tmp_path / str(k)
        whole = jm.fit(KEY, linear(), rows(), method, precision="float64")
        for _ in range(2):
            check_equal(jm.fit(KEY, linear(), rows(), method, precision="float64", folder=folder), whole)


def test_the_climb_of_another_model_data_key_or_method_is_refused(tmp_path):
    method = jm.MAP(ADAM, steps=20, batch_size=7)
    jm.fit(KEY, linear(), rows(), method, folder=tmp_path)
    before = (tmp_path / HEADER).read_bytes()
    other = jm.Model(log_likelihood=lambda w, batch: -((batch[1] - batch[0] @ w) ** 2), init=np.ones(3, "f"))
    for key, model, data, how, word in (
        (KEY, other, rows(), method, "model was"),
        (KEY, linear(), regression(1, 40), method, "train was"),
        (KEY, linear(), stream(), method, "train was"),
        (jax.random.key(1), linear(), rows(), method, "key was"),
        (KEY, linear(), rows(), jm.MAP(ADAM, steps=20, batch_size=8), "method was"),
        (KEY, linear(), rows(), jm.MLE(ADAM, steps=20, batch_size=7), "method was"),
        (KEY, linear(), rows(), jm.MAP(optax.adam(2e-2), steps=20, batch_size=7), "solver was"),
        (KEY, linear(), rows(), jm.MAP(ADAM, steps=20, batch_size=7, restarts=2), "method was"),
    ):
        with pytest.raises(ValueError, match=rf"Expected the climb that began in .*{word}.*Name another folder"):
            jm.fit(key, model, data, how, folder=tmp_path)
    assert (tmp_path / HEADER).read_bytes() == before


def test_models_that_differ_away_from_the_start_are_told_apart(tmp_path):
    def model(scale):
        return jm.Model(
            log_likelihood=lambda w, batch: -0.5 * (batch[1] - batch[0] @ w) ** 2,
            log_prior=lambda w: -0.5 * jnp.sum(w**2) / scale**2,  # at zero it is zero, whatever the scale
            init=np.zeros(3, "f"),
        )

    method = jm.MAP(ADAM, steps=20, batch_size=7)
    jm.fit(KEY, model(1.0), rows(), method, folder=tmp_path)
    with pytest.raises(ValueError, match="model was"):
        jm.fit(KEY, model(0.5), rows(), method, folder=tmp_path)


def test_a_prior_is_told_apart_beside_the_likelihood_of_many_rows(tmp_path):
    x, y = regression(0, 20_000)
    method, data = jm.MAP(ADAM, steps=3, batch_size=500), (1000.0 * x, 1000.0 * y)  # a log-likelihood of 10^10

    def model(scale):
        pair = lambda key: jnp.zeros(x.shape[1]), lambda w, x: x @ w
        return jm.supervised(pair, jm.Gaussian(1.0), jm.weight_decay(1.0 / scale**2))

    jm.fit(KEY, model(1.0), data, method, folder=tmp_path)
    with pytest.raises(ValueError, match="model was"):
        jm.fit(KEY, model(3.0), data, method, folder=tmp_path)


def test_other_held_out_data_and_another_rule_are_told_apart(tmp_path):
    def method(held, **options):
        return jm.MAP(ADAM, steps=20, batch_size=7, monitor=jm.Monitor(held, **options))

    jm.fit(KEY, linear(), rows(), method(regression(1, 30)), folder=tmp_path)
    for other in (
        method(regression(2, 30)),
        method(regression(1, 30), patience=3),
        jm.MAP(ADAM, steps=20, batch_size=7),
    ):
        with pytest.raises(ValueError, match="method was"):
            jm.fit(KEY, linear(), rows(), other, folder=tmp_path)


HOLDER = """
import pathlib, sys, time
from jaxmap.infer import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_run_at_a_time_writes_to_a_folder(tmp_path):
    """A second run is refused and says who is there; what a process that was killed left is taken over."""
    method = jm.MAP(ADAM, steps=20, batch_size=7)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            ValueError, match=rf"no other run writes to; .* is held by process {holder.pid} on "
        ) as refused:
            jm.fit(KEY, linear(), rows(), method, folder=tmp_path)
        assert "\n" not in str(refused.value)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    finally:
        holder.kill()
        holder.communicate()
    assert (tmp_path / ".lock").exists()
    jm.fit(KEY, linear(), rows(), method, folder=tmp_path)
    assert not (tmp_path / ".lock").exists()


def test_threads_take_turns_in_a_folder(tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match=f"is held by process {os.getpid()} on"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_climb_and_a_run_of_chains_are_told_apart(tmp_path):
    jm.fit(KEY, linear(), rows(), jm.MAP(ADAM, steps=20), folder=tmp_path)
    with pytest.raises(ValueError, match=r"Expected a run in .*; got a saved Climb"):
        jm.fit(KEY, linear(), rows(), jm.NUTS(chains=2, warmup=10, draws=10), folder=tmp_path)


def test_a_damaged_entry_is_refused(tmp_path):
    jm.fit(KEY, linear(), rows(), jm.MAP(ADAM, steps=20), folder=tmp_path)
    arrays = next(tmp_path.glob("arrays-*.safetensors"))
    arrays.write_bytes(arrays.read_bytes()[:-1])
    with pytest.raises(ValueError, match="checksum differs"):
        jm.fit(KEY, linear(), rows(), jm.MAP(ADAM, steps=20), folder=tmp_path)


def step_of(folder):
    return json.loads(json.loads((folder / HEADER).read_text())["body"])["course"]["step"]


def test_a_state_that_is_not_finite_is_never_entered(tmp_path, each_chunk):
    """A number is missing in the 26th batch of a stream; the last entry is from before, and can be gone on from."""
    x, y = regression(0, 3000)
    bad = x.copy()
    bad[2500, 1] = np.nan

    def served(x):
        return jm.Stream.of_batches(lambda epoch: ((x[i : i + 500], y[i : i + 500]) for i in range(0, 3000, 500)), 3000)

    method = jm.MAP(ADAM, steps=300, batch_size=100)
    for _ in range(2):
        with pytest.raises(jm.FitError, match=r"diverged at step 26: .* where x of the data is not finite"):
            jm.fit(KEY, linear(), served(bad), method, folder=tmp_path)
        assert step_of(tmp_path) <= 25
        assert all(np.isfinite(v).all() for v in read_saved(tmp_path).arrays.values())
    mended = jm.fit(KEY, linear(), served(x), method, folder=tmp_path)  # the name of a stream is from its first batch
    check_equal(mended, jm.fit(KEY, linear(), served(x), method))


def test_a_member_that_failed_stays_so(tmp_path, each_chunk):
    model, data = trapped(True)
    method = jm.Ensemble(jm.MAP(optax.adam(0.01), steps=400), members=6)
    whole = jm.fit(KEY, model, data, method)
    jm.fit(KEY, model, data, jm.Ensemble(jm.MAP(optax.adam(0.01), steps=300), members=6), folder=tmp_path)
    again = jm.fit(KEY, model, data, method, folder=tmp_path)
    assert Status.DIVERGED in whole.info.members
    assert again.info.members == whole.info.members
    check_equal(again, whole)
    read = read_saved(tmp_path).arrays
    assert all(np.isfinite(v).all() for name, v in read.items() if name != "history")


def test_a_state_in_bfloat16_is_kept(tmp_path, each_chunk):
    method = jm.MAP(optax.adam(1e-2, mu_dtype=jnp.bfloat16), steps=600, batch_size=7)
    whole = jm.fit(KEY, linear(), rows(), method)
    stopped(method, rows(), tmp_path, 100)
    check_equal(jm.fit(KEY, linear(), rows(), method, folder=tmp_path), whole)


# Kills.

STEPS = 100_000

WORKER = """
import sys, time, jax, numpy as np
from jaxmap.infer import journal
from jaxmap.optimize.progress import Progress
import importlib
importlib.import_module("jaxmap.optimize.maximize").SECONDS_PER_CHUNK = 0.01
journal.SECONDS, journal.SHARE = 0.0, np.inf
import jaxmap as jm
from tests.infer.test_resume import KEY, kept, linear, stream
said = []
def update(self, done, note=""):
    if not said:
        print("going", done, flush=True)
    said.append(done)
    time.sleep(0.02)  # twenty lives must not reach the end, however fast the machine
Progress.update = update
jm.fit(KEY, linear(), stream(), kept(), folder=sys.argv[1])
print("done", flush=True)
"""


def kept():
    return jm.MAP(ADAM, steps=STEPS, batch_size=7)


def killed(folder, delay):
    """Start a fit in a process of its own, and kill it a while after its first chunk."""
    alone = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # a kill may come while it is written
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=alone
    )
    first = worker.stdout.readline()
    assert first.startswith("going"), first
    time.sleep(delay)
    worker.send_signal(signal.SIGKILL)
    rest = worker.communicate()[0]
    assert worker.returncode == -signal.SIGKILL
    assert "done" not in rest
    return int(first.split()[1])


def survives(folder, kills):
    rng, begun = random.Random(0), []
    for _ in range(kills):
        begun.append(killed(folder, rng.uniform(0.0, 0.25)))
        read_saved(folder)  # whole, whenever the kill came
    assert begun == sorted(begun)  # each goes on from the one before
    assert begun[-1] > begun[0]
    assert step_of(folder) < STEPS
    check_equal(jm.fit(KEY, linear(), stream(), kept(), folder=folder), jm.fit(KEY, linear(), stream(), kept()))


@pytest.mark.slow
def test_killed_twenty_times_it_ends_with_the_same_bits(tmp_path):
    survives(tmp_path, 20)
