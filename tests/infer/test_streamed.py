"""Point estimates from streams: the steps of a fit in memory, the totals of all examples, refusals in words."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import jaxmap as jm
from jaxmap import Status
from jaxmap.data import take_examples
from jaxmap.optimize import feed
from tests.cases import LINEAR, check_mode, flat
from tests.optimize.test_maximize import CASE, KEY, counted_model, regression

ADAM = optax.adam(1e-2)
FLOAT64 = {"precision": "float64"}


def in_batches(data, length=7):
    """The rows of data by a function, in the order of memory."""
    n = len(jax.tree.leaves(data)[0])
    return jm.Stream.of_batches(
        lambda epoch: (take_examples(data, slice(i, i + length)) for i in range(0, n, length)), n
    )


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request, monkeypatch):
    if request.param == "many blocks":
        monkeypatch.setattr(feed, "BLOCK_STEPS", 3)


METHODS = {
    "MAP": jm.MAP(ADAM, steps=40, batch_size=7),
    "MLE, no ragged batch": jm.MLE(ADAM, steps=40, batch_size=8),
    "a schedule and clipping": jm.MAP(
        optax.chain(optax.clip_by_global_norm(0.5), optax.adam(optax.cosine_decay_schedule(0.1, 40))),
        steps=40,
        batch_size=5,
    ),
    "accumulated gradients": jm.MAP(optax.MultiSteps(ADAM, 4), steps=40, batch_size=6),
    "the solver that is chosen": jm.MAP(steps=40, batch_size=7),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_stream_takes_the_steps_of_memory(name, precision, blocks):
    double = precision == "float64"
    model, data = (CASE.by_hand(), CASE.data) if double else (counted_model()[0], regression(0, 24))
    memory = jm.fit(KEY, model, data, METHODS[name], precision=precision)
    stream = jm.fit(KEY, model, jm.Stream.of_arrays(data), METHODS[name], precision=precision)
    np.testing.assert_array_equal(stream.info.history, memory.info.history)
    np.testing.assert_array_equal(flat(stream.mode), flat(memory.mode))
    for total in ("log_likelihood", "log_prior", "log_joint"):
        np.testing.assert_allclose(getattr(stream.info, total), getattr(memory.info, total), rtol=1e-12)
    assert stream.info.num_gradients <= memory.info.num_gradients


@pytest.mark.parametrize("case", LINEAR, ids=lambda case: case.name)
def test_totals_are_those_of_all_examples(case, monkeypatch):
    """Parameters that were given, no step taken: value and gradient are sums over parts of the stream."""
    monkeypatch.setattr("jaxmap.optimize.slope.SWEEP_BYTES", 100)
    given = jm.Given(case.begin())
    memory = jm.fit(KEY, case.by_hand(), case.data, given, **FLOAT64).info
    stream = jm.fit(KEY, case.by_hand(), in_batches(case.data), given, **FLOAT64).info
    for total in ("log_likelihood", "log_prior", "log_joint"):
        np.testing.assert_allclose(getattr(stream, total), getattr(memory, total), rtol=1e-12)
    np.testing.assert_allclose(stream.certificate.gradient, memory.certificate.gradient, rtol=1e-9)
    assert stream.status is memory.status
    assert stream.notes == memory.notes


def test_the_certificate_of_a_stream_is_that_of_memory(monkeypatch):
    """At the mode and beside it: curvature and corners are sums over parts of the stream, prior and kinks once."""
    monkeypatch.setattr("jaxmap.optimize.slope.SWEEP_BYTES", 100)
    x, y = regression(0, 30)
    slope = (lambda key: jnp.zeros(3), lambda b, x: x @ b)
    model = jm.supervised(slope, jm.Gaussian(scale=jm.Learned(dist.HalfNormal(1.0))), jm.l1(30.0))
    mode = jm.fit(KEY, model, (x, y), jm.MAP(), **FLOAT64).mode
    beside = jax.tree.map(lambda v: 1.1 * v, mode)
    for params, status in ((mode, Status.CONVERGED), (beside, Status.STEPS_EXHAUSTED)):
        memory, stream = (
            jm.fit(KEY, model, data, jm.Given(params), **FLOAT64).info for data in ((x, y), in_batches((x, y)))
        )
        assert stream.status is memory.status is status
        assert stream.certificate.held == memory.certificate.held
        for name in ("gradient", "decrement", "smallest_curvature"):
            one, other = (getattr(info.certificate, name) for info in (stream, memory))
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


def test_augmented_streams_say_so_and_claim_no_maximum():
    """Noise of each epoch's own on x: the mean loss has a ridge, which the fit finds; epoch 0 is what is totalled."""
    x, y = regression(0, 40)

    def noisy(epoch):
        yield x + 0.5 * np.random.default_rng(epoch).normal(size=x.shape).astype(np.float32), y

    stream = jm.Stream.of_batches(noisy, 40, augmented=True)
    model = jm.Model(log_likelihood=lambda w, b: -0.5 * (b[1] - b[0] @ w) ** 2, init=np.zeros(3, np.float32))
    method = jm.MLE(optax.sgd(optax.exponential_decay(0.2, 50, 0.7)), steps=500, batch_size=40)
    point = jm.fit(KEY, model, stream, method)
    expected = np.linalg.solve(x.T @ x + 40 * 0.25 * np.eye(3), x.T @ y)
    np.testing.assert_allclose(point.mode, expected, atol=0.1)
    seen = next(noisy(0))
    np.testing.assert_allclose(
        point.info.log_likelihood, np.sum(-0.5 * (y - seen[0] @ np.asarray(point.mode)) ** 2), rtol=1e-4
    )
    assert point.info.status is Status.STEPS_EXHAUSTED
    assert "the mean over its forms" in point.info.notes[0]
    few = jm.fit(KEY, model, stream, jm.Ensemble(jm.MLE(optax.sgd(0.1), steps=2, batch_size=40), members=2))
    assert "the mean over its forms" in few.info.notes[0]
    assert stream.fingerprint() != jm.Stream.of_batches(noisy, 40).fingerprint()


def test_what_a_certificate_of_a_stream_would_cost_is_weighed():
    method = jm.MAP(ADAM, steps=40, batch_size=7)
    info = jm.fit(KEY, counted_model()[0], jm.Stream.of_arrays(regression(0)), method).info
    assert info.status is Status.STEPS_EXHAUSTED
    assert info.certificate.decrement is None
    assert "its curvature was not" in info.notes[0]


@pytest.mark.parametrize("make", [jm.Stream.of_arrays, in_batches], ids=["arrays", "batches"])
def test_a_stream_reaches_the_mode(make):
    rate = optax.exponential_decay(0.1, 100, 0.8)
    point = jm.fit(KEY, CASE.by_hand(), make(CASE.data), jm.MAP(optax.adam(rate), steps=4000, batch_size=12), **FLOAT64)
    check_mode(CASE, point.mode, tolerance=1e-2)
    assert point.info.certificate.gradient < 1e-2


def test_accumulated_gradients_are_those_of_a_larger_batch():
    """Four batches of 6 out of 24 rows are one batch of 24: gradient descent on all examples."""
    model = CASE.by_hand()
    summed = jm.fit(
        KEY, model, CASE.data, jm.MAP(optax.MultiSteps(optax.sgd(0.02), 4), steps=80, batch_size=6), **FLOAT64
    )
    whole = jm.fit(KEY, model, CASE.data, jm.MAP(optax.sgd(0.02), steps=20), **FLOAT64)
    np.testing.assert_allclose(flat(summed.mode), flat(whole.mode), rtol=1e-6)  # optax counts in float32


def test_the_kink_of_an_l1_prior_holds_on_a_stream():
    x, y = regression(0, 200)
    network = (lambda key: jnp.zeros(3), lambda b, x: x @ b)
    model = jm.supervised(network, jm.Gaussian(0.5), jm.l1(1500.0))
    method = jm.MAP(optax.sgd(optax.cosine_decay_schedule(0.05, 600)), steps=600, batch_size=40)
    found = [jm.fit(KEY, model, data, method).mode for data in ((x, y), jm.Stream.of_arrays((x, y)))]
    np.testing.assert_array_equal(*found)
    assert np.sum(found[0] == 0.0) >= 1


def test_members_read_the_stream_together():
    """Restarts and members take the same batches, in the order of the first; the first is the fit alone."""
    model, data = counted_model()[0], regression(0)
    method = jm.MAP(ADAM, steps=30, batch_size=6)
    ensemble = jm.fit(KEY, model, jm.Stream.of_arrays(data), jm.Ensemble(method, members=3))
    alone = jm.fit(KEY, model, jm.Stream.of_arrays(data), method)
    np.testing.assert_allclose(ensemble.members[0].mode["w"], alone.mode["w"], rtol=1e-5)
    assert len({member.info.log_joint for member in ensemble.members}) == 3
    best = jm.fit(KEY, model, jm.Stream.of_arrays(data), jm.MAP(ADAM, steps=30, batch_size=6, restarts=3))
    assert best.info.log_joint == max(member.info.log_joint for member in ensemble.members)
    assert np.all(np.isfinite(jm.predict(KEY, model, ensemble, data[0]).mean)) if model.observe else True


def test_nothing_is_traced_again_for_another_stream():
    model, traces = counted_model()  # both train for long enough to be certified
    method = jm.MAP(ADAM, steps=70, batch_size=8)
    jm.fit(KEY, model, jm.Stream.of_arrays(regression(0)), method)
    first = traces()
    jm.fit(jax.random.key(3), model, jm.Stream.of_arrays(regression(1)), jm.MAP(ADAM, steps=90, batch_size=8))
    assert traces() == first


def test_a_planted_nan_stops_the_run_and_is_named():
    x, y = regression(0, 3000)
    x[2500, 1] = np.nan
    with pytest.raises(
        jm.FitError, match=r"log_likelihood is nan for rows \[\d+\] of the batch, where x of the data"
    ) as raised:
        jm.fit(KEY, counted_model()[0], in_batches((x, y), 500), jm.MAP(ADAM, steps=300, batch_size=100))
    assert raised.value.step == 25
    assert np.all(np.isfinite(raised.value.last["w"]))


def test_a_planted_nan_is_named_by_its_row_where_that_is_known():
    x, y = regression(0, 3000)
    x[2500, 1] = np.nan
    model = counted_model()[0]
    for block, restarts in ((1, 1), (50, 2)):
        stream = jm.Stream.of_arrays((x, y), block=block)
        method = jm.MAP(ADAM, steps=90, batch_size=101, restarts=restarts)
        with pytest.raises(jm.FitError, match=r"\(rows \[2500\] of the data\), where x of the data is not finite"):
            jm.fit(KEY, model, stream, method)


def test_a_missing_number_that_was_not_trained_on_is_said():
    x, y = regression(0, 3000)
    x[2500, 1] = np.nan
    point = jm.fit(KEY, counted_model()[0], in_batches((x, y), 500), jm.MAP(ADAM, steps=10, batch_size=100))
    assert np.isnan(point.info.log_likelihood)
    assert any("not finite" in note for note in point.info.notes)


def test_an_error_of_the_reader_comes_out_as_it_is():
    def broken(epoch):
        yield regression(0, 8)
        if epoch:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        jm.fit(KEY, counted_model()[0], jm.Stream.of_batches(broken, 8), jm.MAP(ADAM, steps=3000, batch_size=4))


@pytest.mark.parametrize(
    "method",
    [jm.Laplace(), jm.NUTS(), jm.VI(), jm.Bootstrap(), jm.Ensemble(jm.Laplace(jm.MAP(ADAM, batch_size=4)))],
    ids=lambda method: type(method).__name__,
)
def test_methods_that_need_all_examples_refuse_a_stream(method):
    with pytest.raises(ValueError, match=r"for a jm\.Stream; got \w+, which needs all examples in memory"):
        jm.fit(KEY, counted_model()[0], jm.Stream.of_arrays(regression(0)), method)


def test_full_batches_and_second_order_solvers_refuse_a_stream():
    model, stream = counted_model()[0], jm.Stream.of_arrays(regression(0))
    for method in (jm.MAP(), jm.MLE(ADAM), jm.Ensemble(jm.MAP(jm.Newton()))):
        with pytest.raises(ValueError, match=r"Expected batch_size= in jm\.M\w+ for a jm\.Stream"):
            jm.fit(KEY, model, stream, method)
    with pytest.raises(ValueError, match="Expected a stochastic solver for batch_size=4; got trust-region Newton"):
        jm.fit(KEY, model, stream, jm.MAP(jm.Newton(), batch_size=4))
    with pytest.raises(ValueError, match="Expected batch_size between 1 and the 20 examples"):
        jm.fit(KEY, model, stream, jm.MAP(ADAM, batch_size=21))


def test_verbs_that_hold_all_examples_refuse_a_stream():
    model = jm.supervised(
        (lambda key: jnp.zeros(3), lambda b, x: x @ b), jm.Gaussian(0.5), jm.Prior(dist.Normal(0.0, 1.0))
    )
    stream, data = jm.Stream.of_arrays(regression(0)), regression(1)
    with pytest.raises(ValueError, match=r"each an \(x, y\) pair"):
        jm.compare(KEY, model, (stream, data), {"MAP": jm.MAP()})
    with pytest.raises(TypeError, match=r"in memory; got a jm\.Stream, which only jm\.fit reads"):
        jm.path(KEY, lambda s: model, stream, [1.0, 2.0])


def test_a_point_of_a_stream_tabulates_its_estimates():
    point = jm.fit(KEY, counted_model()[0], jm.Stream.of_arrays(regression(0)), jm.MAP(ADAM, steps=5, batch_size=4))
    assert "No standard errors" in str(point.summary())
