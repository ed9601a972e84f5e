"""What every test shares: strict shapes, a key, double precision in a scope, the reference data.

`jaxmap` is not imported here: pytest reads this file before the annotations are hooked for checking.
"""

import gc
import os
import time
from pathlib import Path

# Tests compile hundreds of small programs and run each a few times: optimising the machine code would only cost.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
# On few cores XLA's thread pool can wait for itself in a vmapped program, for ever: one thread each cannot.
os.environ["XLA_FLAGS"] += " --xla_cpu_multi_thread_eigen=false"

# Many tests compile the same programs, in both workers and in processes of their own: one compilation serves all.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# Libraries keep stamps and font lists for the next process; two workers that write the same one trip each other up.
os.environ["XDG_CACHE_HOME"] = str(
    Path(__file__).parents[1] / ".pytest_cache" / f"home-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
)

# Programs are lowered by the thousand; where each of their lines was written is read by nobody.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import jax
import jaxtyping
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# A program runs in the thread that calls it, so that no two can wait for each other in XLA's pool.
jax.config.update("jax_cpu_enable_async_dispatch", False)
jaxtyping.config.update("jaxtyping_remove_typechecker_stack", True)

REFERENCE_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


MOST_MAPS = 30_000
"""Compiled programs are parts of memory that the system counts; beyond 65,530 of them a process crashes."""

SECONDS_BETWEEN_LOOKS = 5.0
_looked = time.monotonic()


def make_room() -> None:
    """Let go of compiled programs where this process comes near the number of parts that it may have."""
    global _looked
    maps = Path("/proc/self/maps")
    if time.monotonic() < _looked + SECONDS_BETWEEN_LOOKS or not maps.exists():
        return
    if maps.read_bytes().count(b"\n") > MOST_MAPS:
        gc.collect()
        jax.clear_caches()
    _looked = time.monotonic()


@pytest.fixture(autouse=True)
def room_for_programs():
    """Make room before each test; a test that compiles thousands of programs calls it on its way."""
    make_room()
    return make_room


@pytest.fixture
def key():
    """Give the one random key of a test; fold names or numbers into it for more."""
    return jax.random.key(20240229)


@pytest.fixture
def x64():
    """Run the test in double precision; the global flag is not touched."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def all_digits():
    """Multiply in whole float32 outside jaxmap too: a GPU takes TF32 by itself."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture
def rank_promotion():
    """Let ranks be promoted, for foreign code that relies on it (numpyro's `sample(key, (n,))`)."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def unchecked(monkeypatch):
    """Run the test as a user's program runs: annotations are not checked.

    For tests of bad input, where our own error shall speak and not that of the type checker.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Give the folder of reference data, or skip where it is absent.

    It lies in `../shared/data` beside the repository unless JAXMAP_REFERENCE_DATA names another.
    """
    folder = Path(os.environ.get("JAXMAP_REFERENCE_DATA", REFERENCE_DATA))
    if not folder.is_dir():
        pytest.skip(f"no reference data in {folder}; set JAXMAP_REFERENCE_DATA to their folder")
    return folder
