"""What was fitted is saved and loaded, bit for bit, or refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import jaxmap as jm
from jaxmap.infer.storage import pack_tree, unpack_tree

pytestmark = pytest.mark.usefixtures("unchecked", "rank_promotion")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 2))
DATA = (X, X @ np.array([1.0, -1.0]) + 0.1 * RNG.normal(size=20))
METHODS = {
    "point": jm.MAP(),
    "gaussian": jm.Laplace(),
    "draws": jm.NUTS(warmup=20, draws=20, chains=2),
    "mixture": jm.Ensemble(jm.Laplace(), members=2),
}


def make():
    init = lambda key: {"w": 0.1 * jax.random.normal(key, (2,)), "layers": [jnp.zeros(()), {"b": jnp.zeros(1)}]}
    network = (init, lambda p, x: x @ p["w"] + p["layers"][0] + p["layers"][1]["b"][0])
    return jm.supervised(network, jm.Gaussian(scale=jm.Learned(dist.HalfNormal(1.0))), jm.Prior(dist.Normal(0.0, 1.0)))


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture(scope="module", params=[(name, p) for name in METHODS for p in (None, "float64")], ids=str)
def fitted(request, model):
    name, precision = request.param
    with jax.numpy_rank_promotion("allow"):
        return jm.fit(jax.random.key(0), model, DATA, METHODS[name], precision=precision)


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))
        assert np.asarray(left).dtype == np.asarray(right).dtype


def test_what_was_saved_comes_back(fitted, model, tmp_path):
    fitted.save(tmp_path / "fit")
    back = jm.load(tmp_path / "fit")
    assert type(back) is type(fitted)
    equal(back.sample(jax.random.key(1), 7), fitted.sample(jax.random.key(1), 7))
    equal(back.mode, fitted.mode)
    alone = replace(fitted, problem=None) if isinstance(fitted, jm.Point) else fitted  # model and data are not saved
    assert str(back.summary()) == str(alone.summary())
    assert (back.info.status, back.info.notes) == (fitted.info.status, fitted.info.notes)
    assert back.info.diagnostics == fitted.info.diagnostics
    np.testing.assert_array_equal(back.info.history, fitted.info.history)
    predicted = [jm.predict(jax.random.key(2), model, p, X).log_prob(DATA[1]) for p in (fitted, back)]
    np.testing.assert_array_equal(*predicted)


def test_saving_again_replaces_and_leaves_nothing_behind(fitted, tmp_path):
    fitted.save(tmp_path)
    fitted.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert not list(tmp_path.glob("*.tmp"))


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    with jax.numpy_rank_promotion("allow"):
        jm.fit(jax.random.key(0), model, DATA, jm.MAP()).save(folder)
    return folder


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink], ids=["truncated", "changed", "missing"])
@pytest.mark.parametrize("which", ["posterior.json", "arrays-*.safetensors"])
def test_damaged_folders_are_refused(saved, tmp_path, damage, which):
    shutil.copytree(saved, tmp_path / "copy")
    damage(next((tmp_path / "copy").glob(which)))
    with pytest.raises(ValueError, match="Expected"):
        jm.load(tmp_path / "copy")


def test_a_header_that_was_edited_is_refused(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    path = tmp_path / "copy" / "posterior.json"
    sealed = json.loads(path.read_text())
    sealed["body"] = sealed["body"].replace("MAP", "MLE")
    path.write_text(json.dumps(sealed))
    with pytest.raises(ValueError, match="checksum differs"):
        jm.load(tmp_path / "copy")


def test_a_crash_in_mid_save_leaves_the_old_result(saved, model, tmp_path, monkeypatch):
    shutil.copytree(saved, tmp_path / "copy")
    old = jm.load(tmp_path / "copy")
    new = jm.fit(jax.random.key(0), model, (X, DATA[1] + 1.0), jm.MAP())
    import jaxmap.infer.storage as storage

    real = storage.os.replace

    def crash(source, target):
        if str(target).endswith(".json"):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(storage.os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        new.save(tmp_path / "copy")
    equal(jm.load(tmp_path / "copy").mode, old.mode)


class Pair(NamedTuple):
    a: jax.Array
    b: jax.Array


def test_other_trees_need_the_model_as_template(tmp_path):
    model = jm.Model(
        log_likelihood=lambda p, y: dist.Normal(p.a + p.b, 1.0).log_prob(y),
        log_prior=jm.Prior(dist.Normal(0.0, 1.0)),
        init=Pair(jnp.zeros(()), jnp.zeros(())),
    )
    jm.fit(jax.random.key(0), model, DATA[1], jm.Laplace()).save(tmp_path)
    with pytest.raises(ValueError, match="Expected model="):
        jm.load(tmp_path)
    assert isinstance(jm.load(tmp_path, model).mode, Pair)


def test_trees_round_trip_with_tuples_integer_keys_and_bfloat16():
    tree = {
        "a": (jnp.ones(2, jnp.bfloat16), [jnp.zeros(())]),
        "layers": {0: jnp.ones(1), 10: jnp.ones(3), 2: jnp.ones(2)},
    }
    arrays: dict[str, np.ndarray] = {}
    packed = json.loads(json.dumps(pack_tree(tree, "t", arrays)))
    equal(unpack_tree(packed, "t", arrays), tree)


@pytest.mark.parametrize("constraint", ["positive", "simplex", "greater", "interval", "ordered"])
def test_supports_come_back(constraint, tmp_path):
    supports = {
        "positive": dist.constraints.positive,
        "simplex": dist.constraints.simplex,
        "greater": dist.constraints.greater_than(2.0),
        "interval": dist.constraints.interval(-1.0, 3.0),
        "ordered": dist.constraints.ordered_vector,
    }
    start = {"simplex": jnp.full(3, 1 / 3), "ordered": jnp.array([0.5, 1.0, 2.5])}.get(
        constraint, jnp.array([2.5, 2.6])
    )
    model = jm.from_log_density(
        lambda p: -jnp.sum((p["v"] - 2.4) ** 2) * 10.0, init={"v": start}, support={"v": supports[constraint]}
    )
    fitted = jm.fit(jax.random.key(0), model, None, jm.Laplace())
    fitted.save(tmp_path)
    equal(jm.load(tmp_path).sample(jax.random.key(1), 5), fitted.sample(jax.random.key(1), 5))
