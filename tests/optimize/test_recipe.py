"""Solvers as text: equal text for equal steps, another text for other ones, the same in every process."""

import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import optax

from jaxmap.optimize import recipe_of
from jaxmap.optimize.first_order import FirstOrder
from jaxmap.optimize.recipe import program_key

PEAK = 0.1


def half(step):
    return 0.5 * bent(step)


def bent(step):
    return jnp.where(step < 10, PEAK, PEAK / 2)


def listed():
    """Transformations that all differ."""
    return [
        optax.adam(1e-2),
        optax.adam(2e-2),
        optax.adamw(1e-2),
        optax.adam(1e-2, b1=0.8),
        optax.MultiSteps(optax.adam(1e-2), 3),
        optax.MultiSteps(optax.adam(1e-2), 4),
        optax.MultiSteps(optax.adam(2e-2), 3),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)),
        optax.chain(optax.clip_by_global_norm(2.0), optax.adam(1e-2)),
        optax.adam(optax.cosine_decay_schedule(1e-2, 100)),
        optax.adam(optax.cosine_decay_schedule(1e-2, 200)),
        optax.adam(optax.join_schedules([optax.linear_schedule(0.0, 1e-2, 10), half], [10])),
        optax.adam(bent),
        optax.adam(lambda step: 0.1 * step),
        optax.adam(lambda step: 0.1 + step),
        optax.adam(optax.exponential_decay(0.1, 50, 0.7)),  # closes over a name that is never bound
        optax.adam(optax.exponential_decay(0.1, 50, 0.8)),
    ]


def recipes():
    return [recipe_of(FirstOrder(transformation, 10)) for transformation in listed()]


def test_other_solvers_have_other_recipes():
    assert len(set(recipes())) == len(listed())
    assert recipes() == recipes()
    assert recipe_of(FirstOrder(optax.adam(1e-2), 10)) == recipe_of(FirstOrder(optax.adam(1e-2), 20))


def test_global_variables_are_read_through_the_functions_that_name_them(monkeypatch):
    before = dict(zip(listed(), recipes(), strict=True))
    monkeypatch.setitem(globals(), "PEAK", 0.2)
    changed = [a != b for a, b in zip(before.values(), recipes(), strict=True)]
    assert [k for k, other in enumerate(changed) if other] == [11, 12]


def test_the_recipe_is_the_same_in_another_process():
    program = "from tests.optimize.test_recipe import recipes; print(*recipes(), sep='\\n')"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == recipes()


def test_programs_are_kept_by_the_recipe_where_all_functions_are_of_libraries():
    """A function of the user's own may read what no recipe sees: its programs are its own."""
    pairs = zip(listed(), listed(), strict=True)
    same = [program_key(FirstOrder(a, 10)) == program_key(FirstOrder(b, 20)) for a, b in pairs]
    assert [k for k, equal in enumerate(same) if not equal] == [11, 12, 13, 14]
    keys = [program_key(FirstOrder(transformation, 10)) for transformation in listed()]
    assert len(set(keys)) == len(keys)
    unread = optax.inject_hyperparams(lambda rate: optax.adam(rate))(rate=1e-2)
    assert program_key(FirstOrder(unread, 10)) == FirstOrder(unread, 1)
    for held in (range(3), slice(2), len):  # objects that hold what no recipe reads
        holding = optax.masked(optax.adam(1e-2), {"a": held})
        assert program_key(FirstOrder(holding, 10)) == FirstOrder(holding, 1)
    masked = optax.masked(optax.adam(1e-2), lambda tree: tree)
    assert program_key(FirstOrder(masked, 10)) == FirstOrder(masked, 1)
    assert isinstance(program_key(FirstOrder(optax.masked(optax.adam(1e-2), {"a": True}), 10)), str)
