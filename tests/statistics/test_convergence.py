"""R-hat, effective sample sizes and Monte Carlo errors: slow definitions, ArviZ, and what must hold."""

import tracemalloc
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm, rankdata

from jaxmap.statistics import convergence, ess_bulk, ess_tail, mcse_mean, rhat

STATISTICS = [rhat, ess_bulk, ess_tail, mcse_mean]
KINDS = ["independent", "sticky", "antithetic", "walk", "heavy", "integer", "binary", "unmixed"]


def draw(kind: str, chains: int, length: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([seed, chains, length])
    noise = rng.normal(size=(chains, length))
    carry = {"sticky": 0.9, "antithetic": -0.7, "walk": 1.0}.get(kind, 0.0)
    for t in range(1, length):
        noise[:, t] += carry * noise[:, t - 1]
    special = {
        "heavy": lambda: np.tan(np.pi * rng.uniform(-0.5, 0.5, size=noise.shape)),
        "integer": lambda: np.round(2 * noise),
        "binary": lambda: (noise > 0.3).astype(float),
        "unmixed": lambda: noise + np.arange(chains)[:, None],
    }
    return special[kind]() if kind in special else noise


def slow_split(x: np.ndarray) -> np.ndarray:
    half = x.shape[1] // 2
    return np.array([part for chain in x for part in (chain[:half], chain[len(chain) - half :])])


def slow_scores(x: np.ndarray) -> np.ndarray:
    return norm.ppf((rankdata(x.ravel()) - 3 / 8) / (x.size + 1 / 4)).reshape(x.shape)


def slow_rhat(x: np.ndarray) -> float:
    def one(z):
        within = np.mean([np.var(chain, ddof=1) for chain in z])
        between = z.shape[1] * np.var([np.mean(chain) for chain in z], ddof=1)
        return np.sqrt(((z.shape[1] - 1) / z.shape[1] * within + between / z.shape[1]) / within)

    halves = slow_split(x)
    return max(one(slow_scores(halves)), one(slow_scores(np.abs(halves - np.median(halves)))))


def slow_ess(z: np.ndarray) -> float:
    """Autocovariances by their definition, Geyer's rules one after another."""
    length, size = z.shape[1], z.size
    centred = z - z.mean(axis=1, keepdims=True)
    covariance = [np.mean([(c[: length - t] * c[t:]).sum() / length for c in centred]) for t in range(length)]
    within = covariance[0] * length / (length - 1)
    total = covariance[0] + np.var(z.mean(axis=1), ddof=1)
    rho = [1.0] + [1 - (within - c) / total for c in covariance[1:]]
    pairs = []
    tau = -1.0
    last = 0
    while rho[2 * last] + rho[2 * last + 1] > 0 and 2 * last + 1 < length - 3:
        pairs.append(rho[2 * last] + rho[2 * last + 1])
        pairs[-1] = min(pairs[-1], pairs[max(0, len(pairs) - 2)])
        tau += 2 * pairs[-1]
        last += 1
    tau += max(rho[2 * last], 0.0) if rho[2 * last] + rho[2 * last + 1] < 0 else rho[2 * last]
    return size / max(tau, 1 / np.log10(size))


def slow_ess_tail(x: np.ndarray) -> float:
    bounds = [np.quantile(x, p) for p in (0.05, 0.95)]
    return min(slow_ess(slow_split((x <= bound).astype(float))) for bound in bounds)


SLOW = {
    rhat: slow_rhat,
    ess_bulk: lambda x: slow_ess(slow_scores(slow_split(x))),
    ess_tail: slow_ess_tail,
    mcse_mean: lambda x: np.std(x, ddof=1) / np.sqrt(slow_ess(slow_split(x))),
}


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", ["independent", "sticky", "antithetic", "heavy", "unmixed"])
@pytest.mark.parametrize("shape", [(2, 12), (4, 101), (3, 60)])
def test_equals_the_slow_definition(statistic, kind, shape):
    x = draw(kind, *shape)
    np.testing.assert_allclose(statistic(x), SLOW[statistic](x), rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [4, 5, 6, 7, 8, 9, 51, 300])
@pytest.mark.parametrize("chains", [1, 2, 4])
def test_equals_arviz(arviz, kind, length, chains):
    x = draw(kind, chains, length)
    theirs = {
        rhat: lambda: arviz.rhat(x, method="rank"),
        ess_bulk: lambda: arviz.ess(x, method="bulk"),
        ess_tail: lambda: arviz.ess(x, method="tail", prob=(0.05, 0.95)),
        mcse_mean: lambda: arviz.mcse(x, method="mean"),
    }
    for ours, other in theirs.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = other()
        np.testing.assert_allclose(ours(x), expected, rtol=1e-10, err_msg=ours.__name__)


@pytest.mark.parametrize("statistic", [ess_bulk, ess_tail, mcse_mean], ids=lambda f: f.__name__)
def test_constant_draws_equal_arviz(arviz, statistic):
    x = np.full((4, 101), 0.1)
    tail = arviz.ess(x, method="tail", prob=(0.05, 0.95))
    assert statistic(x) == {ess_bulk: arviz.ess(x), ess_tail: tail, mcse_mean: 0.0}[statistic]
    assert np.isnan(rhat(x))


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("event", [(), (1,), (3,), (2, 3), (2, 1, 2), (0,), (2, 0)])
def test_event_axes_are_independent_points(statistic, event):
    x = np.random.default_rng(1).normal(size=(3, 30, *event)).cumsum(axis=1)
    result = statistic(x)
    assert result.shape == event
    assert result.dtype == np.float64
    for index in np.ndindex(*event):
        assert result[index] == statistic(x[(slice(None), slice(None), *index)])


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda f: f.__name__)
def test_blocks_change_nothing(statistic, monkeypatch):
    x = np.random.default_rng(2).normal(size=(2, 40, 23))
    whole = statistic(x)
    monkeypatch.setattr(convergence, "_BLOCK_DRAWS", 3 * 80)
    np.testing.assert_array_equal(statistic(x), whole)


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda f: f.__name__)
def test_memory_is_bounded_by_the_block(statistic, monkeypatch):
    x = np.random.default_rng(3).normal(size=(2, 50, 4000)).astype(np.float32)
    monkeypatch.setattr(convergence, "_BLOCK_DRAWS", 20_000)
    statistic(x[:, :, :10])
    tracemalloc.start()
    statistic(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000 * 120 + 4000 * 8 + 100_000


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_draw_that_is_not_finite_gives_nan_there_only(statistic, bad):
    x = np.random.default_rng(4).normal(size=(2, 20, 3))
    clean = statistic(x)
    x[1, 7, 1] = bad
    result = statistic(x)
    np.testing.assert_array_equal(np.isnan(result), [False, True, False])
    np.testing.assert_array_equal(result[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda f: f.__name__)
def test_jax_arrays_and_integers_are_taken(statistic):
    x = np.random.default_rng(5).poisson(4, size=(2, 50, 2))
    expected = statistic(x.astype(np.float64))
    np.testing.assert_array_equal(statistic(x), expected)
    np.testing.assert_array_equal(statistic(jnp.asarray(x, jnp.float32)), expected)
    np.testing.assert_array_equal(statistic(jnp.asarray(x, jnp.bfloat16)), expected)


def test_ess_bulk_sees_only_the_order():
    x = draw("sticky", 4, 200)
    for transform in (np.exp, lambda v: v**3, lambda v: np.arctan(v) * 1e-8):
        assert ess_bulk(transform(x)) == ess_bulk(x)


def test_bulk_rhat_sees_only_the_order():
    x = draw("unmixed", 4, 200)  # the chains differ in location, so the bulk part is the larger one
    assert rhat(np.exp(x)) == rhat(x)
    assert rhat(x) > 1.2


@pytest.mark.parametrize("statistic", [rhat, ess_bulk, ess_tail], ids=lambda f: f.__name__)
def test_location_scale_and_chain_order_do_not_matter(statistic):
    x = draw("sticky", 4, 150)
    np.testing.assert_allclose(statistic(1e-12 * x), statistic(x), rtol=1e-12)
    np.testing.assert_allclose(statistic(4 * x[::-1] + 8), statistic(x), rtol=1e-12)
    if statistic is not ess_tail:  # its quantiles are closed on one side
        np.testing.assert_allclose(statistic(-x), statistic(x), rtol=1e-12)


def test_mcse_scales_with_the_draws():
    x = draw("sticky", 4, 150)
    np.testing.assert_allclose(mcse_mean(1e-20 * x - 3e-20), 1e-20 * mcse_mean(x), rtol=1e-10)


def test_known_effective_sample_sizes():
    chains, length, points = 4, 1000, 40
    noise = np.random.default_rng(6).normal(size=(chains, length, points))
    for carry in (0.0, 0.5, 0.8):
        x = noise.copy()
        x[:, 0] /= np.sqrt(1 - carry**2)
        for t in range(1, length):
            x[:, t] += carry * x[:, t - 1]
        expected = chains * length * (1 - carry) / (1 + carry)
        # One estimate scatters by about 10 %, the mean of forty by 2 %.
        assert abs(ess_bulk(x).mean() / expected - 1) < 0.08
        sd = 1 / np.sqrt(1 - carry**2)
        assert abs(mcse_mean(x).mean() / (sd / np.sqrt(expected)) - 1) < 0.05


def test_mcse_is_the_scatter_of_the_mean():
    x = np.random.default_rng(7).normal(size=(2, 200, 500))
    scatter = x.mean(axis=(0, 1)).std()
    assert abs(mcse_mean(x).mean() / scatter - 1) < 4 / np.sqrt(2 * 500)


def test_antithetic_chains_are_worth_more_than_their_draws():
    assert ess_bulk(draw("antithetic", 4, 500)) > 4 * 500


def test_each_part_of_rhat_catches_what_the_others_miss(monkeypatch):
    noise = np.random.default_rng(8).normal(size=(4, 400))
    other_scale = noise * np.array([1, 1, 1, 3])[:, None]
    drift = noise + np.linspace(-3, 3, 400)
    assert rhat(noise) < 1.01
    assert rhat(other_scale) > 1.1
    assert rhat(drift) > 1.3
    with monkeypatch.context() as patch:  # the mutant that does not split
        patch.setattr(convergence, "_split", lambda block: block)
        assert rhat(drift) < 1.02
    with monkeypatch.context() as patch:  # the mutant that does not fold
        patch.setattr(np, "abs", lambda values: values)
        assert rhat(other_scale) < 1.02


def test_stuck_chains_have_infinite_rhat():
    assert rhat(np.repeat(np.array([[0.1], [0.7], [0.3]]), 100, axis=1)) == np.inf
    assert rhat(np.repeat(np.array([[0.1], [0.7]]), 100, axis=1)) == np.inf  # equally far from the median


def test_one_chain_has_no_rhat():
    assert np.isnan(rhat(draw("independent", 1, 100)))


def test_two_valued_draws_have_a_rhat():
    balanced = np.tile([0.0, 1.0], (4, 50))
    assert 0.9 < rhat(balanced) < 1.01
    assert rhat(np.concatenate([balanced, balanced > 2], axis=0)) > 1.1


def test_ess_tail_with_repeated_draws_counts_the_tie():
    # Where both neighbours of a quantile are the same draw, it is that draw, not one rounding below it.
    rng = np.random.default_rng(9)
    for _ in range(200):
        values = np.sort(rng.normal(size=8))
        code = rng.integers(0, 8, size=(2, 30))
        assert ess_tail(values[code]) == ess_tail(code)


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda f: f.__name__)
@pytest.mark.usefixtures("unchecked")
def test_errors_name_the_shape_and_the_remedy(statistic):
    with pytest.raises(ValueError, match=r"Expected draws with shape \(chains, draws, \.\.\.\); got \(7,\)\. Put"):
        statistic(np.ones(7))
    with pytest.raises(ValueError, match=r"Expected draws with at least 4 draws on axis 1; got \(100, 3\)\. Draw"):
        statistic(np.ones((100, 3)))
    with pytest.raises(ValueError, match=r"got \(0, 9\)"):
        statistic(np.ones((0, 9)))
    with pytest.raises(TypeError, match=r"Expected draws with real numbers; got dtype complex128\."):
        statistic(np.ones((2, 9), dtype=complex))
