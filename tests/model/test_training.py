"""Networks in training mode: the steps of a loop written by hand, labelled for what they are, refused elsewhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from flax import linen, nnx

import jaxmap as jm
from jaxmap import Status
from tests.cases import flat

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 2)).astype(np.float32)
Y = np.sin(X[:, 0]).astype(np.float32)
RATE = 0.05


class Net(nnx.Module):
    def __init__(self, rngs, dropout=0.0, norm=True):
        self.a = nnx.Linear(2, 5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, momentum=0.9, rngs=rngs) if norm else None
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.b = nnx.Linear(5, 1, rngs=rngs)

    def __call__(self, x):
        x = self.a(x)
        return self.b(self.dropout(nnx.tanh(x if self.norm is None else self.norm(x))))


@functools.cache
def model(dropout=0.0, norm=True):
    factory = functools.partial(Net, dropout=dropout, norm=norm)
    return jm.supervised(factory, jm.Gaussian(1.0), jm.Prior(dist.Normal(0.0, 1.0)), state="training")


def test_batch_statistics_move_as_in_a_loop_written_by_hand():
    fitted = model()
    point = jm.fit(KEY, fitted, (X, Y), jm.MAP(optax.sgd(RATE), steps=25))
    start = fitted.starts(jm.infer.problem.named_key(KEY, "fit"))
    module = Net(nnx.Rngs(0))
    nnx.update(module, start["network"])
    module.train()

    def loss(module):
        square = 0.5 * jnp.mean((module(X)[:, 0] - Y) ** 2)
        prior = sum(0.5 * jnp.sum(leaf**2) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
        return square + prior / len(Y)

    for _ in range(25):
        gradient = nnx.grad(loss)(module)
        moved = jax.tree.map(lambda v, g: v - RATE * g, nnx.state(module, nnx.Param), gradient)
        nnx.update(module, moved)
    for name, kind in (("network", nnx.Param), ("state", nnx.BatchStat)):
        expected = nnx.to_pure_dict(nnx.state(module, kind))
        np.testing.assert_allclose(flat(point.mode[name]), flat(expected), rtol=2e-4, atol=1e-6)
    assert not np.allclose(flat(point.mode["state"]), flat(start["state"]), atol=0.1)
    module.eval()
    predicted = jm.predict(KEY, fitted, point, X).mean
    np.testing.assert_allclose(predicted, module(X)[:, 0], rtol=1e-3, atol=1e-5)


def test_dropout_draws_by_key_and_step_and_goes_on_bit_for_bit(tmp_path):
    dropped = model(0.5, False)
    assert sorted(dropped.start) == ["a", "b"]
    values = [np.asarray(dropped.train(dropped.start, jax.random.key(k), (X, Y))[0]) for k in (0, 0, 1)]
    np.testing.assert_array_equal(values[0], values[1])
    assert np.any(values[0] != values[2])
    methods = [jm.MAP(optax.adam(RATE), steps=steps, batch_size=7) for steps in (30, 60)]
    jm.fit(KEY, dropped, (X, Y), methods[0], folder=tmp_path)
    again = jm.fit(KEY, dropped, (X, Y), methods[1], folder=tmp_path)
    whole = jm.fit(KEY, dropped, (X, Y), methods[1])
    np.testing.assert_array_equal(again.info.history, whole.info.history)
    np.testing.assert_array_equal(flat(again.mode), flat(whole.mode))
    still = jm.fit(KEY, dropped, (X, Y), jm.MAP(optax.sgd(0.0), steps=200)).info.history
    assert len(np.unique(still)) > 150  # nothing moves but the masks
    with pytest.raises(ValueError, match=r"model was .* in training mode"):
        jm.fit(KEY, model(0.4, False), (X, Y), methods[1], folder=tmp_path)


def test_the_result_says_what_it_is():
    method = jm.MLE(optax.adam(RATE), steps=30, batch_size=7, monitor=jm.Monitor((X, Y), every=10))
    ensemble = jm.fit(KEY, model(0.3), (X, Y), jm.Ensemble(method, members=2))
    assert "no log-probability of the parameters alone" in ensemble.info.notes[0]
    for member in ensemble.members:
        assert member.info.status is Status.STEPS_EXHAUSTED
        assert member.info.certificate.decrement is None
        assert any("no maximum is claimed" in note for note in member.info.notes)
        log_likelihood = float(jnp.sum(model(0.3).log_likelihood(member.mode, (X, Y))))  # evaluation mode
        np.testing.assert_allclose(member.info.log_likelihood, log_likelihood, rtol=1e-5)
        np.testing.assert_allclose(member.info.diagnostics["held_out_nll"], -log_likelihood / 24, rtol=1e-5)
    assert np.any(flat(ensemble.members[0].mode) != flat(ensemble.members[1].mode))
    assert np.all(np.isfinite(jm.predict(KEY, model(0.3), ensemble, X).mean))


@pytest.mark.usefixtures("unchecked")
def test_what_needs_a_log_probability_refuses_it():
    for method in (jm.Laplace(), jm.NUTS(), jm.VI(), jm.Bootstrap(), jm.Ensemble(jm.Laplace())):
        with pytest.raises(ValueError, match=r"for a network in training mode, which is no log-probability"):
            jm.fit(KEY, model(), (X, Y), method)
    for solver in (None, jm.Newton(), jm.LBFGS()):
        with pytest.raises(ValueError, match="Expected an optax transformation for a network in training mode"):
            jm.fit(KEY, model(), (X, Y), jm.MAP(solver))
    with pytest.raises(ValueError, match="in a family of models"):
        jm.path(KEY, lambda s: model(), (X, Y), [1.0, 2.0])
    for network in ((lambda key: {}, lambda p, x: x), linen.Dense(1)):
        with pytest.raises(TypeError, match="Expected an nnx factory or module with state="):
            jm.supervised(network, jm.Gaussian(1.0), state="training")
    kinked = jm.supervised(Net, jm.Gaussian(1.0), jm.l1(5.0), state="training")
    assert jm.fit(KEY, kinked, (X, Y), jm.MAP(optax.sgd(RATE), steps=3)).mode["state"]["norm"]["mean"].any()
    with pytest.raises(ValueError, match="Expected state='training' or None; got 'eval'"):
        jm.supervised(Net, jm.Gaussian(1.0), state="eval")
    with pytest.raises(ValueError, match="Expected compute_dtype or state='training'; got both"):
        jm.supervised(Net, jm.Gaussian(1.0), state="training", compute_dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match=r'or give jm\.supervised\(\.\.\., state="training"\)'):
        jm.supervised(Net, jm.Gaussian(1.0))


@pytest.mark.parametrize("batch_size", [24, 5])
def test_a_stream_takes_the_steps_of_memory_also_with_batch_statistics(batch_size):
    """The padded row of a short batch is one of its own: statistics count it."""
    method = jm.MAP(optax.sgd(RATE), steps=12, batch_size=batch_size)
    data = X.astype(np.float64), Y.astype(np.float64)
    memory, stream = (jm.fit(KEY, model(), d, method, precision="float64") for d in (data, jm.Stream.of_arrays(data)))
    np.testing.assert_allclose(flat(stream.mode), flat(memory.mode), rtol=1e-12)


def test_a_padded_row_is_one_of_its_batch():
    rows, weights = (np.asarray(part) for part in jm.data.BatchPlan(24, 5).epoch(KEY, jnp.asarray(1)))
    padded = weights[:, -1] == 0
    assert 0 < padded.sum() < len(rows)
    np.testing.assert_array_equal(rows[padded, -1], rows[padded, 0])


def test_an_audit_of_training_mode_is_refused_in_words():
    point = jm.fit(KEY, model(), (X, Y), jm.MAP(optax.sgd(RATE), steps=2))
    with pytest.raises(ValueError, match="Freeze it"):
        jm.audit(KEY, model(), (X, Y), point)
