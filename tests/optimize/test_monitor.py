"""Held-out data beside a climb: the best so far by a slow loop, early stopping by its rule, nothing else changed."""

import functools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmap as jm
from jaxmap import Status
from jaxmap.optimize.progress import Progress
from tests.cases import flat
from tests.optimize.test_maximize import ADAM, KEY, counted_model, regression

RATE, STEPS = 0.03, 400
FLOAT64 = {"precision": "float64"}


@functools.cache
def model():
    """Twelve weights for fifteen noisy rows: overfitted after some steps."""

    def log_likelihood(w, batch):
        x, y = batch
        return -0.5 * (y - x @ w) ** 2

    return jm.Model(log_likelihood=log_likelihood, init=np.full(12, 0.25))


def rows(seed, n):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 12))
    return x, x[:, 0] - x[:, 1] + 2.0 * rng.normal(size=n)


TRAIN, HELD = rows(0, 15), rows(1, 25)


def looks(every):
    """Coordinates and held-out score of each look, by hand."""
    (x, y), (x_held, y_held), w, seen = TRAIN, HELD, np.full(12, 0.25), []
    for step in range(STEPS + 1):
        if step % every == 0 or step == STEPS:
            seen.append((step, w, 0.5 * np.mean((y_held - x_held @ w) ** 2)))
        w = w + RATE * x.T @ (y - x @ w) / len(y)
    return seen


def stopped_at(scores, patience, min_delta):
    """How many looks are taken, by the rule."""
    mark, waited = np.inf, 0
    for k, score in enumerate(scores):
        waited = 0 if score < mark - min_delta else waited + 1
        mark = score if waited == 0 else mark
        if patience is not None and waited >= patience:
            return k + 1
    return len(scores)


OPTIONS = [(7, None, 0.0), (10, 1, 0.0), (1, 4, 0.02), (500, 2, 0.0)]


@pytest.mark.parametrize(("every", "patience", "min_delta"), OPTIONS)
def test_the_best_so_far_is_returned_and_the_rule_stops(every, patience, min_delta):
    monitor = jm.Monitor(HELD, every=every, patience=patience, min_delta=min_delta)
    point = jm.fit(KEY, model(), TRAIN, jm.MLE(optax.sgd(RATE), steps=STEPS, monitor=monitor), **FLOAT64)
    seen = looks(every)
    seen = seen[: stopped_at([score for *_, score in seen], patience, min_delta)]
    np.testing.assert_array_equal(point.info.held_out[:, 0], [step for step, *_ in seen])
    np.testing.assert_allclose(point.info.held_out[:, 1], [score for *_, score in seen], rtol=1e-10)
    step, w, score = min(seen, key=lambda look: look[2])
    np.testing.assert_allclose(point.mode, w, rtol=1e-9)
    assert point.info.diagnostics["best_step"] == step
    np.testing.assert_allclose(point.info.diagnostics["held_out_nll"], score, rtol=1e-10)
    assert len(point.info.history) == seen[-1][0]
    assert f"after step {step}, " in point.info.notes[0]
    assert any("Stopped early" in note for note in point.info.notes) == (seen[-1][0] < STEPS)


def test_cases_stop_and_turn():
    """The options above reach each branch: a best in the middle, an early stop, a `min_delta` that matters."""
    scores = [score for *_, score in looks(1)]
    assert 0 < np.argmin(scores) < STEPS
    assert stopped_at(scores, 4, 0.0) < STEPS
    assert stopped_at(scores, 4, 0.02) < stopped_at(scores, 4, 0.0)


def test_an_early_stop_is_no_maximum_and_says_so():
    method = jm.MLE(optax.sgd(RATE), steps=20_000, monitor=jm.Monitor(HELD, every=10, patience=2))
    stopped = jm.fit(KEY, model(), TRAIN, method, **FLOAT64).info
    assert stopped.status is Status.STEPS_EXHAUSTED
    assert "held-out data ended them" in stopped.status.value
    assert "not claimed to be the maximum" in stopped.notes[0]
    assert stopped.certificate.decrement > 0.1
    train = jm.Monitor(TRAIN, every=1000)  # what is trained on falls to the end: the maximum, and certified
    whole = jm.fit(KEY, model(), TRAIN, jm.MLE(optax.sgd(0.2), steps=20_000, monitor=train), **FLOAT64).info
    assert whole.status is Status.CONVERGED
    assert "not claimed" not in whole.notes[0]


def test_the_steps_are_those_of_a_fit_without_it():
    data = regression(0)
    plain, traces = counted_model()
    method = jm.MAP(ADAM, steps=60, batch_size=6)
    alone = jm.fit(KEY, plain, data, method)
    monitor = jm.Monitor(regression(3), every=7)
    watched = jm.fit(KEY, plain, data, jm.MAP(ADAM, steps=60, batch_size=6, monitor=monitor))
    np.testing.assert_array_equal(watched.info.history, alone.info.history)
    assert watched.info.num_gradients <= alone.info.num_gradients
    before = traces()
    other = jm.Monitor(regression(4), every=11, patience=3)
    jm.fit(KEY, plain, data, jm.MAP(ADAM, steps=60, batch_size=6, monitor=other))
    assert traces() == before


def test_members_have_their_own_best_and_stop_for_themselves():
    data, held = regression(0), regression(2, 30)
    plain = counted_model()[0]
    monitor = jm.Monitor(held, every=4, patience=3)
    method = jm.MAP(optax.adam(0.1), steps=400, batch_size=6, monitor=monitor)
    ensemble = jm.fit(KEY, plain, data, jm.Ensemble(method, members=4))
    best = jm.fit(KEY, plain, data, jm.MAP(optax.adam(0.1), steps=400, batch_size=6, monitor=monitor, restarts=4))
    ends = [len(member.info.history) for member in ensemble.members]
    lowest = [member.info.diagnostics["held_out_nll"] for member in ensemble.members]
    assert len(set(ends)) > 1
    assert max(ends) < 400
    for member, end in zip(ensemble.members, ends, strict=True):
        scores = member.info.held_out[:, 1]
        assert len(scores) == stopped_at(scores, 3, 0.0) == end // 4 + 1
        x, y = held
        residual = (y - x @ np.asarray(member.mode["w"])) / 0.5
        nll = np.mean(0.5 * residual**2 + np.log(0.5 * np.sqrt(2 * np.pi)))
        np.testing.assert_allclose([scores.min(), member.info.diagnostics["held_out_nll"]], nll, rtol=1e-5)
    np.testing.assert_allclose(flat(ensemble.members[0].mode), flat(jm.fit(KEY, plain, data, method).mode), rtol=1e-4)
    np.testing.assert_allclose(best.info.diagnostics["held_out_nll"], min(lowest), rtol=1e-5)
    assert best.info.notes[0] == "The best of 4 restarts by its held-out score."


def test_streams_are_watched_and_watch_as_data_in_memory(monkeypatch):
    monkeypatch.setattr("jaxmap.optimize.monitor.SWEEP_BYTES", 100)
    data, held = regression(0), regression(2, 30)
    plain = counted_model()[0]
    methods = [
        jm.MAP(ADAM, steps=50, batch_size=6, monitor=jm.Monitor(watch, patience=50))
        for watch in (held, jm.Stream.of_arrays(held))
    ]
    memory = jm.fit(KEY, plain, data, methods[0]).info
    stream = jm.fit(KEY, plain, jm.Stream.of_arrays(data), methods[1]).info
    np.testing.assert_array_equal(stream.history, memory.history)
    np.testing.assert_array_equal(memory.held_out[:, 0], [*range(0, 50, 4), 50])  # an epoch has four batches
    np.testing.assert_allclose(stream.held_out, memory.held_out, rtol=1e-6)


def test_ctrl_c_ends_with_the_best_so_far(monkeypatch):
    def update(self, done, note=""):
        if done >= 300:
            raise KeyboardInterrupt

    method = jm.MLE(optax.sgd(RATE), steps=STEPS, monitor=jm.Monitor(HELD, every=10))
    whole = jm.fit(KEY, model(), TRAIN, method, **FLOAT64)
    monkeypatch.setattr(Progress, "update", update)
    stopped = jm.fit(KEY, model(), TRAIN, method, **FLOAT64)
    assert stopped.info.status is Status.INTERRUPTED
    assert 0 < stopped.info.diagnostics["best_step"] < 300 <= len(stopped.info.history) < STEPS
    np.testing.assert_array_equal(stopped.mode, whole.mode)


def test_scores_that_are_not_finite_lower_nothing():
    """The likelihood of the last held-out row is missing wherever the first weight is above 0.5."""

    def log_likelihood(w, batch):
        x, y = batch
        return -0.5 * (y - w * x) ** 2 + jnp.where((x > 50) & (w > 0.5), jnp.nan, 0.0)

    slope = jm.Model(log_likelihood=log_likelihood, init=np.zeros((), "f"))
    x = np.ones(4, "f")
    monitor = jm.Monitor((np.array([1.0, 60.0], "f"), np.array([1.0, 60.0], "f")), every=1)
    info = jm.fit(KEY, slope, (x, x), jm.MLE(optax.sgd(0.1), steps=20, monitor=monitor)).info
    assert np.isinf(info.held_out[-1, 1])
    assert 0 < info.diagnostics["best_step"] < 20
    start = jm.Model(log_likelihood=log_likelihood, init=np.ones((), "f"))
    info = jm.fit(KEY, start, (x, x), jm.MLE(optax.sgd(0.1), steps=20, monitor=monitor)).info
    assert "No held-out score was finite" in info.notes[0]


def test_a_fit_that_diverges_hands_over_the_best_before():
    edge = jm.Model(log_likelihood=lambda w, y: w + 0.0 * jnp.log(y - w), init=np.zeros((), "f"))
    method = jm.MLE(optax.sgd(1.0), steps=50, monitor=jm.Monitor(np.full(2, 90.0, "f"), every=2))
    with pytest.raises(jm.FitError, match="diverged at step 6") as raised:
        jm.fit(KEY, edge, np.full(3, 5.0, "f"), method)
    assert (raised.value.last, raised.value.best) == (5.0, 4.0)
    assert "held-out data found best are in `error.best`" in str(raised.value)


def test_what_was_seen_is_saved(tmp_path):
    method = jm.MLE(optax.sgd(RATE), steps=STEPS, monitor=jm.Monitor(HELD, every=10))
    point = jm.fit(KEY, model(), TRAIN, method, **FLOAT64)
    point.save(tmp_path)
    np.testing.assert_array_equal(jm.load(tmp_path).info.held_out, point.info.held_out)


@pytest.mark.usefixtures("unchecked")
class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "word"),
        [({"every": 0}, "every"), ({"patience": 1.5}, "patience"), ({"min_delta": -1}, "min_delta")],
    )
    def test_options(self, options, word):
        with pytest.raises(ValueError, match=f"Expected {word} to be"):
            jm.Monitor(HELD, **options)

    def test_no_examples_and_no_monitor(self):
        with pytest.raises(ValueError, match="Expected held-out examples"):
            jm.Monitor(None)
        with pytest.raises(TypeError, match=r"Expected monitor=jm\.Monitor\(\(x, y\)\); got tuple"):
            jm.MAP(monitor=HELD)

    def test_examples_unlike_those_that_are_trained_on(self):
        for held in (HELD[0], (HELD[0][:, :5], HELD[1]), (HELD[0], HELD[1].astype(int))):
            with pytest.raises(ValueError, match="Expected held-out examples like those that are trained on"):
                jm.fit(KEY, model(), TRAIN, jm.MAP(ADAM, steps=3, monitor=jm.Monitor(held)))
        with pytest.raises(ValueError, match="Expected finite numbers in x"):
            jm.fit(KEY, model(), TRAIN, jm.MAP(ADAM, monitor=jm.Monitor((np.full((2, 12), np.nan), np.ones(2)))))

    def test_methods_that_would_not_look(self):
        method = jm.MAP(monitor=jm.Monitor(HELD))
        for refused in (
            lambda: jm.Bootstrap(method),
            lambda: jm.path(KEY, lambda s: model(), TRAIN, [1.0, 2.0], method),
            lambda: jm.tune(KEY, lambda s: model(), TRAIN, 1.0, method=method),
        ):
            with pytest.raises((TypeError, ValueError), match="monitor"):
                refused()
