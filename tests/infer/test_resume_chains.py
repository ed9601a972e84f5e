"""Chains in a folder: stopped anywhere, killed anywhere, they end with the draws of the undisturbed run.

The same of NUTS alone stands in `test_nuts.py` and `test_nuts_truth.py`.
"""

import functools
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

import jaxmap as jm
from jaxmap import Status
from jaxmap.infer import journal, mclmc_chains, sghmc_chains, storage
from jaxmap.infer.storage import HEADER, read_saved
from jaxmap.model.tabular import Perceptron
from jaxmap.optimize import Progress

pytest.importorskip("blackjax")

ROOT = Path(__file__).resolve().parents[2]
KEY = jax.random.key(3)
ROWS = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
TARGETS = (np.sin(2 * ROWS[:, 0]) + 0.1 * ROWS[:, 1]).astype(np.float32)
DATA = ROWS, TARGETS

MCLMC = jm.MCLMC(chains=2, warmup=210, draws=30, thin=3)
SGHMC = jm.SGHMC(chains=2, warmup=63, draws=30, thin=3, batch_size=20)
SAMPLERS = {
    "MCLMC": MCLMC,
    "adjusted MCLMC": jm.MCLMC(chains=2, warmup=60, draws=60, adjusted=True),
    "SGHMC": SGHMC,
    "SGHMC in cycles": jm.SGHMC(chains=2, warmup=63, draws=30, thin=3, cycles=3),
    "an ensemble of MCLMC": jm.Ensemble(jm.MCLMC(chains=1, warmup=60, draws=30, thin=2), members=2),
    "an ensemble of SGHMC": jm.Ensemble(jm.SGHMC(chains=1, warmup=60, draws=20, thin=2), members=2),
}
LEAST = {"MCLMC": MCLMC, "SGHMC": SGHMC}
MANY = {name: replace(method, warmup=400, draws=2000) for name, method in LEAST.items()}
"""Twenty lives must not reach the end, however fast the machine."""


@functools.cache
def network(scale=1.0):
    return jm.supervised(
        lambda rngs: Perceptron((2, 5, 2), rngs), jm.HeteroscedasticGaussian(), jm.Prior(dist.Normal(0.0, scale))
    )


@functools.cache
def whole(method):
    return sample(method)


def sample(method, folder=None):
    return jm.fit(KEY, network(), DATA, method, folder=folder)


@pytest.fixture
def each_chunk(monkeypatch):
    """Enter every chunk, and make them short."""
    monkeypatch.setattr(journal, "SECONDS", 0.0)
    monkeypatch.setattr(journal, "SHARE", np.inf)
    for module in (mclmc_chains, sghmc_chains):
        monkeypatch.setattr(module, "SECONDS_PER_CHUNK", 1e-3)


def parts(found):
    return getattr(found, "members", (found,))


def check_equal(one, other):
    for a, b in zip(parts(one), parts(other), strict=True):
        for x, y in zip(jax.tree.leaves(a.draws), jax.tree.leaves(b.draws), strict=True):
            np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(a.log_joint, b.log_joint)
        assert a.info.num_gradients == b.info.num_gradients
        assert (a.info.status, a.info.notes, a.info.solver) == (b.info.status, b.info.notes, b.info.solver)
        np.testing.assert_equal(a.info.diagnostics, b.info.diagnostics)  # some are NaN


def stopped(method, folder, stop):
    """Interrupt a run after so many transitions; what it had, or None before the first draw."""
    with pytest.MonkeyPatch.context() as patch:

        def update(self, done, note=""):
            if self.label != "MAP" and done >= stop:
                raise KeyboardInterrupt

        patch.setattr(Progress, "update", update)
        try:
            return sample(method, folder)
        except jm.FitError as error:
            if error.status is not Status.INTERRUPTED:
                raise
            return None


@pytest.mark.parametrize(
    "name", [name if name in LEAST else pytest.param(name, marks=pytest.mark.slow) for name in SAMPLERS]
)
def test_an_interrupted_run_goes_on_bit_for_bit(name, tmp_path, each_chunk):
    """In the warm-up, at its end, while it draws; the same as without a folder; and then it is only read."""
    method = SAMPLERS[name]
    warmup = getattr(method, "of", method).warmup
    for stop in (1, warmup // 3, warmup // 2, warmup, warmup + 1):
        left = stopped(method, tmp_path, stop)
        assert (left is None) == (stop <= warmup)
        for one, other in () if left is None else zip(parts(left), parts(whole(method)), strict=True):
            assert one.info.status is Status.INTERRUPTED
            count = one.shape[1]
            assert 0 < count < other.shape[1]
            for x, y in zip(jax.tree.leaves(one.draws), jax.tree.leaves(other.draws), strict=True):
                np.testing.assert_array_equal(x, y[:, :count])
    check_equal(sample(method, tmp_path), whole(method))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "update", lambda *_: pytest.fail("a step was taken"))
        check_equal(sample(method, tmp_path), whole(method))
    assert [path.name for path in tmp_path.glob(".*")] == []


@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_do_not_depend_on_chunks(name, monkeypatch):
    for module, seconds in itertools.product((mclmc_chains, sghmc_chains), (0.0, np.inf)):
        monkeypatch.setattr(module, "SECONDS_PER_CHUNK", seconds)
        if module.__name__.split(".")[-1].split("_")[0] in name.lower():
            check_equal(sample(SAMPLERS[name]), whole(SAMPLERS[name]))


@pytest.mark.parametrize("method", LEAST.values(), ids=LEAST)
def test_a_run_that_is_taken_up_does_not_begin_again(method, tmp_path, each_chunk, monkeypatch):
    """The modes that its chains begin at are kept from the first moment on."""
    stopped(method, tmp_path, 0)
    monkeypatch.setattr(jm.MAP, "run", lambda *_: pytest.fail("a climb"))
    check_equal(sample(method, tmp_path), whole(method))


@pytest.mark.parametrize("method", LEAST.values(), ids=LEAST)
def test_an_interrupted_climb_is_not_begun_from(method, tmp_path):
    with pytest.MonkeyPatch.context() as patch:

        def update(self, done, note=""):
            if self.label == "MAP":
                raise KeyboardInterrupt

        patch.setattr(Progress, "update", update)
        with pytest.raises(jm.FitError, match="where chains begin was interrupted") as caught:
            sample(method, tmp_path)
    assert caught.value.status is Status.INTERRUPTED
    check_equal(sample(method, tmp_path), whole(method))


@pytest.mark.parametrize("method", LEAST.values(), ids=LEAST)
def test_a_finished_run_may_go_on(method, tmp_path):
    longer = replace(method, draws=70)
    sample(method, tmp_path)
    check_equal(sample(longer, tmp_path), sample(longer))
    check_equal(sample(method, tmp_path), whole(method))  # of more draws, the first


def test_the_run_of_another_model_data_key_or_method_is_refused(tmp_path):
    cycles = SAMPLERS["SGHMC in cycles"]
    for k, (first, others) in enumerate(
        (
            (MCLMC, (replace(MCLMC, warmup=211), jm.NUTS(chains=2), SGHMC)),
            (SGHMC, (replace(SGHMC, batch_size=21), MCLMC)),
            (cycles, (replace(cycles, draws=60),)),  # more draws are other cycles
        )
    ):
        folder = tmp_path / str(k)
        sample(first, folder)
        before = (folder / HEADER).read_bytes()
        for key, model, data, method, word in (
            (jax.random.key(4), network(), DATA, first, "key was"),
            (KEY, network(0.5), DATA, first, "model was"),
            (KEY, network(), (ROWS, -TARGETS), first, "train was"),
            *((KEY, network(), DATA, other, "method was") for other in others),
        ):
            with pytest.raises(ValueError, match=rf"Expected the run that began in .*{word}.*Name another folder"):
                jm.fit(key, model, data, method, folder=folder)
        assert (folder / HEADER).read_bytes() == before


def test_missing_draws_are_refused(tmp_path):
    sample(SGHMC, tmp_path)
    next(tmp_path.glob("draws-*.safetensors")).unlink()
    with pytest.raises(ValueError, match="missing or cannot be read"):
        sample(SGHMC, tmp_path)


# Kills.


class _KilledError(BaseException):
    """What nobody catches."""


@pytest.mark.parametrize("method", LEAST.values(), ids=LEAST)
def test_a_run_that_died_while_it_wrote_goes_on(method, tmp_path, each_chunk, monkeypatch):
    """Before each of the files that an entry is made of is in its place, now and then."""
    replaced, writes, lives = os.replace, itertools.count(), 1

    def moved(old, new):
        if next(writes) % 11 == 10:
            raise _KilledError
        replaced(old, new)

    def found():
        with monkeypatch.context() as patch:
            patch.setattr(storage.os, "replace", moved)
            try:
                return sample(method, tmp_path)
            except _KilledError:
                return None

    while (last := found()) is None:
        lives += 1
    assert lives > 3
    check_equal(last, whole(method))


WORKER = """
import os, signal, sys, time, jax, numpy as np
from jaxmap.infer import journal, mclmc_chains, sghmc_chains, storage
journal.SECONDS, journal.SHARE = 0.0, np.inf
mclmc_chains.SECONDS_PER_CHUNK = sghmc_chains.SECONDS_PER_CHUNK = 1e-3
from jaxmap.optimize.progress import Progress
from tests.infer.test_resume_chains import LEAST, MANY, sample

folder, name, moment, pause = *sys.argv[1:4], float(sys.argv[4])
said, replaced = [], os.replace

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def update(self, done, note=""):
    if self.label == "MAP":
        return
    if not said:
        print("going", done, flush=True)
    said.append(note)
    time.sleep(pause)
    if moment == "warm-up" and len(said) == 9 or moment == "drawing" and said.count("drawing") == 3:
        die()

def replace(old, new):
    if moment == "a write of draws" and "draws-000004" in str(new):
        die()
    replaced(old, new)
    if moment == "between draws and entry" and "draws-000006" in str(new):
        die()

Progress.update, storage.os.replace = update, replace
sample((LEAST if moment else MANY)[name], folder)
print("done", flush=True)
"""


def life(folder, name, moment="", pause=0.0, delay=None):
    """Run in a process of its own that is killed, by itself at a moment or by us after a delay; where it began."""
    environment = os.environ | ({} if delay is None else {"JAX_ENABLE_COMPILATION_CACHE": "false"})
    command = [sys.executable, "-c", WORKER, str(folder), name, moment, str(pause)]
    worker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)
    first = worker.stdout.readline()
    if delay is not None:
        threading.Timer(delay, worker.send_signal, (signal.SIGKILL,)).start()
    rest = worker.communicate()[0]
    assert worker.returncode == -signal.SIGKILL
    assert first.startswith("going")
    assert "done" not in rest
    read_saved(folder)  # whole, whenever the kill came
    return int(first.split()[1])


@pytest.mark.parametrize(
    ("name", "moments"),
    [
        ("MCLMC", ("warm-up", "a write of draws")),
        pytest.param("SGHMC", ("drawing", "between draws and entry"), marks=pytest.mark.slow),
    ],
)
def test_killed_it_ends_with_the_same_draws(name, moments, tmp_path):
    begun = [life(tmp_path, name, moment) for moment in moments]
    assert begun[-1] > begun[0]
    check_equal(sample(LEAST[name], tmp_path), whole(LEAST[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAST)
def test_killed_twenty_times_it_ends_with_the_same_draws(name, tmp_path):
    rng, begun = random.Random(0), []
    for _ in range(20):
        begun.append(life(tmp_path, name, pause=0.1, delay=rng.uniform(0.0, 0.3)))
    assert begun == sorted(begun)
    assert begun[-1] > begun[0]
    check_equal(sample(MANY[name], tmp_path), whole(MANY[name]))


@pytest.mark.slow
@pytest.mark.parametrize("method", [*LEAST.values(), jm.NUTS(chains=2, warmup=60, draws=60)], ids=type)
def test_an_interrupt_at_any_line_leaves_a_whole_run(method, tmp_path, each_chunk):
    """Ctrl-C comes between any two lines of what keeps the course and the journal."""
    rng, interrupts = random.Random(0), 0
    files = ("chain_run.py", "chain_journal.py", "journal.py", f"{type(method).__name__.lower()}_run.py")
    for _ in range(200):
        lines, stop = itertools.count(), rng.randint(1, 400)

        def local(frame, event, argument, lines=lines, stop=stop):
            if event == "line" and next(lines) == stop:
                sys.settrace(None)
                raise KeyboardInterrupt
            return local

        def trace(frame, event, argument, local=local):
            return local if frame.f_code.co_filename.endswith(files) else None

        sys.settrace(trace)
        try:
            found = sample(method, tmp_path)
            if found.info.status is not Status.INTERRUPTED:
                break
        except (KeyboardInterrupt, jm.FitError):
            pass
        finally:
            sys.settrace(None)
        interrupts += 1
    assert interrupts > 10
    check_equal(sample(method, tmp_path), whole(method))
