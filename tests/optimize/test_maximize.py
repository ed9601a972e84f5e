"""The loop: compiled once, honest about failures, the same whatever stands beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import jaxmap as jm
from jaxmap import Status
from jaxmap.infer.problem import Problem, seeds_of
from jaxmap.optimize.progress import Progress
from jaxmap.trees import has_tracers
from jaxmap.types import Seeds
from tests.cases import LINEAR, check_mode, flat

KEY = jax.random.key(0)
CASE = next(case for case in LINEAR if case.name == "reordered")


# Traces.


class Counted:
    """A function that counts how often it is traced: Python runs it with tracers."""

    def __init__(self, function):
        self.function, self.traces = function, 0

    def __call__(self, *arguments):
        self.traces += has_tracers(*arguments)
        return self.function(*arguments)


def counted_model():
    """A small regression whose log-likelihood and prior count their traces."""
    likelihood = Counted(lambda p, batch: dist.Normal(batch[0] @ p["w"], 0.5).log_prob(batch[1]))
    prior = Counted(lambda p: -0.5 * jnp.sum(p["w"] ** 2))
    model = jm.Model(log_likelihood=likelihood, log_prior=prior, init=lambda key: {"w": jax.random.normal(key, (3,))})
    return model, lambda: likelihood.traces + prior.traces


def regression(seed, n=20):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    return x, (x @ np.array([1.0, -2.0, 0.5]) + 0.5 * rng.normal(size=n)).astype(np.float32)


ADAM = optax.adam(1e-2)

METHODS = {
    "full batch": (jm.MAP(ADAM, steps=40), jm.MAP(ADAM, steps=70)),
    "minibatch": (jm.MAP(ADAM, steps=40, batch_size=8), jm.MAP(ADAM, steps=70, batch_size=8)),
    "L-BFGS": (jm.MAP(jm.LBFGS()), jm.MAP(jm.LBFGS(), steps=50)),
    "Newton, and a Laplace approximation": (jm.Laplace(), jm.Laplace(jm.MAP(space="unconstrained", steps=50))),
    "Ensemble": (
        jm.Ensemble(jm.MAP(ADAM, steps=40), members=3),
        jm.Ensemble(jm.MAP(ADAM, steps=70), members=3),
    ),
    "NUTS": (jm.NUTS(chains=2, warmup=20, draws=20), jm.NUTS(chains=2, warmup=20, draws=30)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "NUTS" else name for name in METHODS]
)
def test_nothing_is_traced_again_for_new_data_a_new_key_or_more_steps(name):
    method, longer = METHODS[name]
    model, traces = counted_model()
    jm.fit(KEY, model, regression(0), method)
    first = traces()
    assert first > 0
    jm.fit(KEY, model, regression(1), method)
    assert traces() == first, "new data of the same shape"
    jm.fit(jax.random.key(7), model, regression(0), method)
    assert traces() == first, "a new key"
    jm.fit(KEY, model, regression(0), longer)
    assert traces() == first, "another number of steps"


def test_a_transformation_written_again_is_not_traced_again():
    """As in a script that says `optax.adam(1e-2)` at every fit; another rate is another program."""
    model, traces = counted_model()
    fit = lambda rate: jm.fit(KEY, model, regression(0), jm.MAP(optax.adam(rate), steps=20, batch_size=7))
    fit(1e-2)
    first = traces()
    fit(1e-2)
    assert traces() == first
    fit(2e-2)
    assert traces() > first


def test_other_shapes_and_other_models_are_traced():
    """The counter counts: data of another length must be traced."""
    model, traces = counted_model()
    jm.fit(KEY, model, regression(0), METHODS["full batch"][0])
    first = traces()
    jm.fit(KEY, model, regression(0, n=21), METHODS["full batch"][0])
    assert traces() > first


# The loop.


@pytest.fixture(scope="module")
def model():
    return CASE.by_hand()


@pytest.fixture
def fit(model):
    return lambda method, key=KEY: jm.fit(key, model, CASE.data, method, precision="float64")


@pytest.mark.parametrize("batch_size", [None, 7])
def test_the_history_has_one_loss_per_step(fit, batch_size):
    point = fit(jm.MAP(ADAM, steps=37, batch_size=batch_size))
    assert point.info.history.shape == (37,)
    assert np.all(np.isfinite(point.info.history))
    assert point.info.status is Status.STEPS_EXHAUSTED
    steps = 37 if batch_size is None else 37 * 6 / 24  # 24 examples are dealt into 4 batches of 6
    assert steps <= point.info.num_gradients <= steps + 3 + 3 * 4


def test_the_loss_is_minus_the_mean_log_joint(fit, model, x64):
    history = fit(jm.MAP(optax.sgd(0.0), steps=3)).info.history
    log_joint = model.log_joint(jax.tree.map(jnp.asarray, CASE.start), CASE.data)
    np.testing.assert_allclose(history, -log_joint / len(CASE.y), rtol=1e-12)


def test_minibatches_estimate_the_loss_without_bias(fit, model, x64):
    """Ragged batches (24 examples, 5 a batch), nothing moves: their mean loss is that of all examples."""
    history = fit(jm.MAP(optax.sgd(0.0), steps=3000, batch_size=5)).info.history
    expected = -float(model.log_joint(jax.tree.map(jnp.asarray, CASE.start), CASE.data)) / len(CASE.y)
    assert np.ptp(history) > 0.1
    assert abs(history.mean() - expected) < 4 * history.std() / np.sqrt(len(history))


def test_minibatches_reach_the_mode(fit):
    point = fit(jm.MAP(steps=4000, batch_size=7))
    assert "chosen for minibatches" in point.info.solver
    check_mode(CASE, point.mode, tolerance=0.05)


def test_full_batches_reach_the_mode_and_are_certified(fit):
    point = fit(jm.MAP(optax.adam(0.03), steps=3000))
    check_mode(CASE, point.mode, tolerance=1e-4)
    assert point.info.status is Status.CONVERGED


TRANSFORMATIONS = {
    "a schedule": optax.adam(optax.cosine_decay_schedule(0.1, 1500)),
    "clipping": optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.02, momentum=0.9)),
    "accumulated gradients": optax.MultiSteps(optax.adam(optax.cosine_decay_schedule(0.1, 500)), 3),
    "the line search of optax.lbfgs": optax.lbfgs(),
    "masked": optax.chain(
        optax.masked(optax.clip(1.0), {"a": (True, False), "z": True}),
        optax.adam(optax.cosine_decay_schedule(0.1, 1500)),
    ),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_any_optax_transformation_is_a_solver(fit, name):
    point = fit(jm.MAP(TRANSFORMATIONS[name], steps=1500))
    check_mode(CASE, point.mode, tolerance=1e-3)
    assert point.info.solver.startswith("optax ")


def test_schedules_count_steps_and_updates_where_gradients_are_accumulated():
    """A rate that is zero after two updates: the loss stands still after two steps, or after six with three each."""
    model = jm.Model(log_likelihood=lambda w, y: -((w - y) ** 2), init=np.zeros((), "f"))
    solver = optax.sgd(lambda count: jnp.where(count < 2, 0.1, 0.0))
    for method, last in ((solver, 2), (optax.MultiSteps(solver, 3), 6)):
        history = jm.fit(KEY, model, np.ones(6, "f"), jm.MLE(method, steps=12, batch_size=2)).info.history
        assert len(np.unique(history)) == 3
        assert np.all(history[last:] == history[-1])
        assert history[last - 1] > history[last]


# Randomness.


def test_equal_keys_give_equal_bits_and_other_keys_other_ones(fit):
    method = jm.MAP(ADAM, steps=40, batch_size=7)
    modes = [flat(fit(method, jax.random.key(seed)).mode) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(modes[0], modes[1])
    assert np.all(modes[0] != modes[2])


@pytest.mark.parametrize("batch_size", [None, 7])
def test_members_that_run_together_are_those_that_run_alone(model, batch_size, x64):
    problem = Problem.of(model, CASE.data, precision="float64")
    method = jm.MAP(ADAM, steps=40, batch_size=batch_size)
    seeds = seeds_of(KEY, 3)
    together = [problem.solve(method, seeds)[k] for k in range(3)]
    for k in range(3):
        alone = problem.solve(method, Seeds(seeds.keys[k : k + 1], seeds.ranks[k : k + 1]))[0]
        np.testing.assert_allclose(flat(together[k].mode), flat(alone.mode), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(together[k].info.history, alone.info.history, rtol=1e-10)
    assert not np.allclose(flat(together[0].mode), flat(together[1].mode))


# Failures.


def failing(log_likelihood, init, solver, data=None, *, steps=50, log_prior=None, **options):
    """Fit a model that must fail, and return its error."""
    data = np.zeros(4, np.float32) if data is None else data
    more = {} if log_prior is None else {"log_prior": log_prior}
    model = jm.Model(log_likelihood=log_likelihood, init=init, **more)
    with pytest.raises(jm.FitError) as raised:
        jm.fit(KEY, model, data, jm.MAP(solver, steps=steps, **options))
    error = raised.value
    assert f"diverged at step {error.step + 1}:" in str(error)
    assert np.all(np.isfinite(flat(error.last)))
    return error


def test_a_learning_rate_that_is_too_large_is_caught_at_its_step():
    def log_likelihood(p, y):
        return -0.5 * (p["w"] - y) ** 2

    error = failing(log_likelihood, {"w": 1.0}, optax.sgd(1e4), steps=500)
    w, step = np.float32(1.0), 0  # the same by hand: each step multiplies w by -9999 until w^2 overflows
    with np.errstate(over="ignore"):
        while np.isfinite(0.5 * w**2):
            w, step = w - np.float32(1e4) * w, step + 1
    assert error.step == step
    assert "log_likelihood is -inf for rows [0, 1, 2, 3] of the batch" in str(error)


def test_a_step_out_of_the_finite_numbers_blames_the_learning_rate():
    """The density is linear, so that only the step itself can overflow."""
    error = failing(lambda p, y: 1e20 * p["w"] + 0 * y, {"w": 0.0}, optax.sgd(1e30))
    assert error.step == 0
    assert "out of the finite numbers" in str(error)
    assert error.last["w"] == 0.0


def test_a_likelihood_that_becomes_nan_names_its_rows_and_the_step():
    """w moves by one a step; from w = 5 on, row 2 takes the logarithm of what is not positive."""
    edges = np.array([90.0, 90.0, 5.0, 90.0], np.float32)
    error = failing(lambda p, y: p["w"] + 0.0 * jnp.log(y - p["w"]), {"w": 0.0}, optax.sgd(1.0), edges)
    assert error.step == 5
    assert "step 6: log_likelihood is nan for rows [2] of the batch." in str(error)
    assert error.last["w"] == 5.0


def test_a_failure_deep_inside_a_long_run_is_found():
    error = failing(
        lambda p, y: p["w"] + 0.0 * jnp.log(y - p["w"]),
        {"w": 0.0},
        optax.sgd(1.0),
        np.full(4, 2345.0, np.float32),
        steps=5000,
    )
    assert error.step == 2345


def test_a_hole_that_the_search_steps_over_is_found():
    """Around w = 5.5 the loss is NaN but its slope finite, 0 / (|w - 5.5| - 0.2): the next step is sound again."""
    error = failing(
        lambda p, y: p["w"] + 0.0 * jnp.log(jnp.abs(p["w"] - 5.5) - 0.2) + 0 * y, {"w": 0.5}, optax.sgd(1.0)
    )
    assert error.step == 5
    assert "log_likelihood is nan for rows [0, 1, 2, 3] of the batch" in str(error)


def test_a_failure_in_a_minibatch_is_found():
    """Every minibatch that holds the row with the edge fails once w has passed it."""
    edges = np.full(10, 90.0, np.float32)
    edges[7] = 5.0
    error = failing(lambda p, y: p["w"] + 0.0 * jnp.log(y - p["w"]), {"w": 0.0}, optax.sgd(1.0), edges, batch_size=4)
    assert 5 <= error.step < 5 + 2 * 3
    assert "log_likelihood is nan for rows [" in str(error)
    assert "of the batch (rows [7] of the data)" in str(error)


def test_a_prior_that_becomes_nan_is_named():
    error = failing(
        lambda p, y: p["w"] + 0 * y, {"w": 0.0}, optax.sgd(1.0), log_prior=lambda p: 0.0 * jnp.log(3.0 - p["w"])
    )
    assert error.step == 3
    assert "log_prior is nan" in str(error)


def test_a_gradient_that_is_not_finite_names_its_term_and_leaf():
    """A square root at zero: the value is finite, the slope is not. v walks 3, 2, 1, 0."""

    def root(v):
        return -jnp.sqrt(jnp.sum(v**2))

    init = {"other": 1.0, "layer": {"v": np.array([3.0], np.float32)}}
    error = failing(lambda p, y: root(p["layer"]["v"]) - p["other"] ** 2 + 0 * y, init, optax.sgd(1.0))
    assert error.step == 3
    assert "the gradient of log_likelihood is not finite in 'layer/v'" in str(error)
    assert error.last["layer"]["v"] == 0.0
    error = failing(
        lambda p, y: -((p["other"] - y) ** 2), init, optax.sgd(1.0), log_prior=lambda p: 4 * root(p["layer"]["v"])
    )
    assert "the gradient of log_prior is not finite in 'layer/v'" in str(error)


def test_a_gradient_that_is_lost_while_it_is_accumulated_is_found_at_its_step():
    """Value and coordinates stay finite until the fourth batch; the sum of the gradients does not."""
    solver = optax.MultiSteps(optax.sgd(1.0), 4)
    error = failing(lambda p, y: -jnp.sqrt(p["w"] ** 2) + 0 * y, {"w": 0.0}, solver, batch_size=2)
    assert error.step == 0
    assert "the gradient of log_likelihood is not finite in 'w'" in str(error)


def test_a_memory_that_begins_infinite_is_no_failure():
    """`reduce_on_plateau` begins with an infinite best value."""
    solver = optax.chain(optax.sgd(0.05), optax.contrib.reduce_on_plateau(patience=3))
    model = jm.Model(log_likelihood=lambda w, y: -((w - y) ** 2), init=np.zeros((), "f"))
    assert abs(jm.fit(KEY, model, np.ones(4, "f"), jm.MAP(solver, steps=100)).mode - 1.0) < 1e-3


@pytest.mark.parametrize("solver", [jm.Newton(), jm.LBFGS(), optax.adam(0.1)], ids=["Newton", "L-BFGS", "Adam"])
def test_every_solver_fails_where_there_is_no_gradient(solver):
    error = failing(lambda p, y: -jnp.sqrt(p["w"] ** 2) + 0 * y, {"w": 0.0}, solver)
    assert error.step == 0
    assert "the gradient of log_likelihood is not finite in 'w'" in str(error)


# One member that fails among others that do not.


def trapped(traps):
    """Two wells, at -2 and 2; with `traps` the density is NaN beyond 1.5, where half of the starts go."""

    def log_likelihood(p, batch):
        pit, trap = batch
        return -((p["w"] ** 2 - 4) ** 2) / 8 + pit + jnp.where((trap > 0) & (p["w"] > 1.5), jnp.nan, 0.0)

    def init(key):
        return {"w": jax.random.uniform(key, (), minval=-1.0, maxval=1.0)}

    return jm.Model(log_likelihood=log_likelihood, init=init), (np.zeros(3, np.float32), np.full(3, float(traps), "f"))


@pytest.mark.parametrize("solver", [optax.adam(0.01), optax.sgd(0.05)], ids=["Adam", "SGD"])
def test_a_member_that_fails_leaves_the_others_as_they_were(solver):
    method = jm.Ensemble(jm.MAP(solver, steps=400), members=6)
    model, data = trapped(False)
    untouched = jm.fit(KEY, model, data, method)
    ensemble = jm.fit(KEY, model, trapped(True)[1], method)
    lost = [member.mode["w"] > 1.5 for member in untouched.members]
    assert 0 < sum(lost) < 6
    assert [status is Status.DIVERGED for status in ensemble.info.members] == lost
    assert ensemble.info.notes[0] == f"{sum(lost)} of 6 members diverged and were left out."
    kept = [member for member, gone in zip(untouched.members, lost, strict=True) if not gone]
    for alive, before in zip(ensemble.members, kept, strict=True):
        np.testing.assert_array_equal(alive.mode["w"], before.mode["w"])
        np.testing.assert_array_equal(alive.info.history, before.info.history)
    np.testing.assert_allclose(np.exp(ensemble.log_weights), 1 / len(kept))


def test_a_restart_that_fails_is_counted_and_the_best_other_returned():
    model, data = trapped(True)
    point = jm.fit(KEY, model, data, jm.MAP(optax.adam(0.02), steps=400, restarts=6))
    lost = sum(status is Status.DIVERGED for status in point.info.members)
    assert 0 < lost < 6
    kept = 6 - lost
    assert point.info.notes == (
        f"{lost} of 6 restarts diverged and were left out.",
        f"1 distinct maximum among {kept} restarts; the best was reached by {kept}.",
    )
    np.testing.assert_allclose(point.mode["w"], -2.0, atol=1e-2)


def test_a_fit_fails_if_every_member_does():
    """All restarts walk into a logarithm of a negative number; the first one tells."""
    model = jm.Model(
        log_likelihood=lambda p, y: p["w"] + 0.0 * jnp.log(y - p["w"]),
        init=lambda key: {"w": jax.random.uniform(key, ())},
    )
    data = np.full(3, 5.0, np.float32)
    for method in (jm.MAP(optax.sgd(1.0), restarts=3), jm.Ensemble(jm.MAP(optax.sgd(1.0)), members=3)):
        with pytest.raises(jm.FitError, match=r"diverged at step [56]: log_likelihood is nan") as raised:
            jm.fit(KEY, model, data, method)
        assert 4.0 < raised.value.last["w"] < 6.0


# Interrupts.


def test_an_interrupt_returns_the_last_state(fit, monkeypatch):
    calls = []

    def update(self, done, note=""):
        calls.append(done)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "update", update)
    stopped = fit(jm.MAP(ADAM, steps=100_000, batch_size=7))
    monkeypatch.undo()
    assert stopped.info.status is Status.INTERRUPTED
    assert len(stopped.info.history) == calls[-1] < 100_000
    whole = fit(jm.MAP(ADAM, steps=calls[-1], batch_size=7))
    np.testing.assert_array_equal(flat(stopped.mode), flat(whole.mode))
    np.testing.assert_array_equal(stopped.info.history, whole.info.history)


def test_an_interrupt_of_several_members_keeps_them_all(fit, monkeypatch):
    def update(self, done, note=""):
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "update", update)
    ensemble = fit(jm.Ensemble(jm.MAP(ADAM, steps=100_000), members=3))
    assert ensemble.info.members == (Status.INTERRUPTED,) * 3
    assert ensemble.info.status is Status.INTERRUPTED
    assert len({len(member.info.history) for member in ensemble.members}) == 1
