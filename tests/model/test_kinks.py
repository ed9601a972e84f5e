"""L1 and elastic-net priors: densities by quadrature, proximal maps by brute force, penalties in both directions."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import integrate, stats

import jaxmap as jm
from jaxmap.model.kinks import ElasticNet, is_log_concave, kink_of, smooth_log_prob, soft_threshold

RNG = np.random.default_rng(5)
SIGMA, N = 0.7, 5
LOSSES = [(per, loss) for per in ("sum", "mean") for loss in ("nll", "mse", "half_mse")]
each_loss = pytest.mark.parametrize(("per", "loss"), LOSSES)


def options(per, loss):
    given = {"per": per, "loss": loss}
    given |= {"num_examples": N} if per == "mean" else {}
    return given | ({"noise_scale": SIGMA} if loss != "nll" else {})


def factor(per, loss):
    """How many times the loss fits into the negative log-likelihood, by hand."""
    return {"nll": 1.0, "mse": 1 / (2 * SIGMA**2), "half_mse": 1 / SIGMA**2}[loss] * (N if per == "mean" else 1)


# Densities.

RATIOS = [0.01, 0.3, 1.0, 9.99, 10.01, 30.0, 300.0]


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("l2", [1e-3, 1.0, 50.0])
def test_the_elastic_net_is_normalised(ratio, l2, x64):
    l1 = ratio * np.sqrt(l2)
    log_norm = float(ElasticNet(l1, l2).log_norm())
    # in units of the narrower of the two widths, so that the quadrature sees it
    unit = min(1 / l1, l2**-0.5)
    half, _ = integrate.quad(lambda s: np.exp(-l1 * s * unit - l2 * (s * unit) ** 2 / 2), 0, np.inf, epsabs=1e-13)
    np.testing.assert_allclose(log_norm, np.log(2 * half * unit), rtol=1e-10, atol=1e-7)
    at = np.array([-2.0, -0.1, 0.0, 0.4]) * unit
    expected = -l1 * np.abs(at) - l2 * at**2 / 2 - np.log(2 * half * unit)
    np.testing.assert_allclose(ElasticNet(l1, l2).log_prob(at), expected, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_norm_of_the_elastic_net_is_smooth_and_finite_at_every_ratio(dtype):
    with jax.enable_x64(dtype == "float64"):
        ratios = jnp.asarray(np.logspace(-4, 4, 400), dtype)
        value, slope = jax.vmap(jax.value_and_grad(lambda a: ElasticNet(a, jnp.ones((), dtype)).log_norm()))(ratios)
    assert np.all(np.isfinite(value))
    # d log Z / d l1 = -E|b|, between the means of a half normal and of an exponential
    assert np.all(-np.asarray(slope) <= np.minimum(np.sqrt(2 / np.pi), 1 / np.asarray(ratios)) * (1 + 1e-3))
    assert np.all(np.asarray(slope) < 0)


def test_the_l1_prior_is_normalised(x64):
    grid = np.linspace(-80, 80, 400_001)
    density = np.exp(jax.vmap(jm.l1(0.7))(jnp.asarray(grid)))
    np.testing.assert_allclose(np.trapezoid(density, grid), 1.0, rtol=1e-6)


@pytest.mark.parametrize("ratio", [0.1, 1.0, 30.0, 300.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_samples_of_the_elastic_net_have_its_distribution(ratio, dtype):
    """Kolmogorov and Smirnov, against the cdf by Gaussian tails; at ratio 30 the tail itself underflows."""
    l2 = 4.0
    l1 = ratio * np.sqrt(l2)
    with jax.enable_x64(dtype == "float64"):
        prior = ElasticNet(jnp.asarray(l1, dtype), jnp.asarray(l2, dtype))
        drawn = np.asarray(prior.sample(jax.random.key(3), (4000,)), np.float64)
    assert np.all(np.isfinite(drawn))
    assert 0.45 < np.mean(drawn > 0) < 0.55
    upper = np.exp(stats.norm.logsf(ratio + np.sqrt(l2) * np.abs(drawn)) - stats.norm.logsf(ratio))
    cdf = np.where(drawn > 0, 1 - upper / 2, upper / 2)
    assert stats.kstest(cdf, "uniform").pvalue > 1e-3
    wrong = np.exp(stats.norm.logsf(1.2 * ratio + 1 + np.sqrt(l2) * np.abs(drawn)) - stats.norm.logsf(1.2 * ratio + 1))
    assert stats.kstest(np.where(drawn > 0, 1 - wrong / 2, wrong / 2), "uniform").pvalue < 1e-3


def test_an_elastic_net_prior_is_sampled_with_the_shapes_of_the_parameters(key):
    params = {"w": jnp.zeros((50, 40)), "b": jnp.zeros(())}
    drawn = jm.elastic_net(1.0, 2.0).sample(key, params)
    assert drawn["w"].shape == (50, 40)
    assert drawn["b"].shape == ()
    half, _ = integrate.quad(lambda b: np.exp(-b - b**2), 0, np.inf)
    mean, _ = integrate.quad(lambda b: b * np.exp(-b - b**2) / half, 0, np.inf)
    np.testing.assert_allclose(jnp.mean(jnp.abs(drawn["w"])), mean, atol=5 * mean / np.sqrt(2000))


def test_the_smooth_part_and_the_kink_add_up_to_the_density(x64):
    value = jnp.asarray(RNG.normal(size=(2, 3)))
    ordinary = dist.Laplace(jnp.asarray(0.4), 0.5)
    for made in (ordinary, ordinary.expand([3]), ordinary.expand([2, 3]).to_event(2), ElasticNet(0.7, 2.0)):
        kink = kink_of(made)
        total = jnp.sum(smooth_log_prob(made, value)) - jnp.sum(kink.weight * jnp.abs(value - kink.center))
        np.testing.assert_allclose(total, jnp.sum(made.log_prob(value)), rtol=1e-13)
    assert kink_of(dist.Normal(0.0, 1.0)) is None
    np.testing.assert_allclose(smooth_log_prob(dist.Normal(0.0, 1.0), value), dist.Normal(0.0, 1.0).log_prob(value))


def test_log_concavity_is_known_for_what_is_log_concave_and_claimed_for_nothing_else():
    gaussian, laplace, net = dist.Normal(0.0, 1.0), dist.Laplace(0.0, 1.0), ElasticNet(1.0, 1.0)
    for made in (gaussian, net, gaussian.expand([3]), net.expand([3]).to_event(1)):
        assert is_log_concave(made)
        assert is_log_concave(made, strongly=True)
    assert is_log_concave(laplace)
    assert not is_log_concave(laplace.expand([2]), strongly=True)
    for made in (dist.Cauchy(0.0, 1.0), dist.StudentT(3.0), dist.LogNormal(0.0, 1.0), gaussian.mask(False)):
        assert not is_log_concave(made)


# Proximal maps.


def brute_force(value, weight, center, step):
    """argmin_b |b - value|^2 / (2 step) + weight |b - center| on a grid that is refined around the best."""
    low, high = min(value, center) - 1.0, max(value, center) + 1.0
    for _ in range(12):
        grid = np.append(np.linspace(low, high, 401), center)
        best = grid[np.argmin((grid - value) ** 2 / (2 * step) + weight * np.abs(grid - center))]
        low, high = best - (high - low) / 100, best + (high - low) / 100
    return best


@pytest.mark.parametrize("center", [0.0, 1.5, -3.0])
@pytest.mark.parametrize("step", [0.1, 1.0, 7.0])
def test_the_proximal_map_is_the_minimiser(center, step, x64):
    values = np.array([-4.0, -0.3, 0.0, center, center + 0.05, 1.6, 9.0])
    prior = jm.Prior({"a": dist.Laplace(center, 0.5), "b": dist.Normal(0.0, 1.0), "c": jm.elastic_net(0.3, 2.0)})
    found = prior.proximal({k: jnp.asarray(values) for k in "abc"}, step)
    np.testing.assert_allclose(found["a"], [brute_force(v, 2.0, center, step) for v in values], atol=1e-6)
    np.testing.assert_array_equal(found["b"], values)
    np.testing.assert_allclose(found["c"], [brute_force(v, 0.3, 0.0, step) for v in values], atol=1e-6)


def test_the_proximal_map_lands_on_the_kink_exactly():
    """Not merely near it: 0.1 + (1.5 - 0.1) is not 1.5 in floating point, and a zero is what people ask for."""
    center = jnp.asarray(1.5)
    found = soft_threshold(jnp.linspace(1.0, 2.0, 101), kink_of(dist.Laplace(center, 1.0)), 0.6)
    np.testing.assert_array_equal(found, np.full(101, 1.5, np.float32))


@pytest.mark.parametrize(
    "laplace",
    [
        dist.Laplace(1.5, 0.5),
        dist.Laplace(np.full(3, 1.5), 0.5),
        dist.Laplace(1.5, 0.5).expand([3]).to_event(1),
        dist.Laplace(np.full(3, 1.5), np.full(3, 0.5)).to_event(1),
    ],
    ids=["scalar", "vector", "expanded event", "event"],
)
def test_laplace_priors_of_every_shape_have_their_kink(laplace):
    params = {"w": jnp.asarray([1.4, 1.5, 4.0])}
    prior = jm.Prior({"w": laplace})
    np.testing.assert_allclose(prior.proximal(params, 0.25)["w"], [1.5, 1.5, 3.5], rtol=1e-6)
    total = prior.smooth(params) - 2.0 * (0.1 + 2.5)
    np.testing.assert_allclose(total, prior(params), rtol=1e-6)


def test_only_the_leaves_with_a_kink_are_moved():
    prior = jm.Prior.by_path({"*/kernel": jm.l1(2.0), "*": dist.Normal(0.0, 1.0), "free": jm.flat})
    params = {"a": {"kernel": jnp.asarray([3.0, -0.5]), "bias": jnp.ones(2)}, "free": jnp.ones(1)}
    assert [kink is None for kink in prior.kinks(params)] == [True, False, True]
    moved = prior.proximal(params, 0.5)
    np.testing.assert_allclose(moved["a"]["kernel"], [2.0, 0.0])
    np.testing.assert_array_equal(moved["a"]["bias"], params["a"]["bias"])
    np.testing.assert_array_equal(moved["free"], params["free"])


# Penalties are priors.


def penalised_loss(w, x, y, l1, l2, per, loss):
    """What people minimise, with its penalty, as they write it."""
    squares = (y - x @ w) ** 2
    each = {"nll": -dist.Normal(x @ w, SIGMA).log_prob(y), "mse": squares, "half_mse": squares / 2}[loss]
    return {"sum": jnp.sum, "mean": jnp.mean}[per](each) + l1 * jnp.sum(jnp.abs(w)) + l2 / 2 * jnp.sum(w**2)


@each_loss
def test_the_gradient_of_a_penalised_loss_is_that_of_the_log_posterior(per, loss, x64):
    x, y, w = (jnp.asarray(RNG.normal(size=shape)) for shape in ((N, 4), (N,), (4,)))
    for l1, l2 in ((0.3, 0.0), (0.0, 0.2), (0.3, 0.2)):
        prior = jm.elastic_net(l1, l2, **options(per, loss))
        loss_slope = jax.grad(penalised_loss)(w, x, y, l1, l2, per, loss)
        joint = jax.grad(lambda v, p=prior: jnp.sum(-dist.Normal(x @ v, SIGMA).log_prob(y)) - p({"w": v}))(w)
        np.testing.assert_allclose(factor(per, loss) * loss_slope, joint, rtol=1e-10)
    np.testing.assert_allclose(
        jm.l1(0.3, **options(per, loss))({"w": w}), jm.elastic_net(0.3, 0.0, **options(per, loss))({"w": w})
    )


@each_loss
def test_the_way_back_from_a_prior_to_its_penalty(per, loss):
    given = options(per, loss)
    np.testing.assert_allclose(jm.l1(0.3, **given).as_l1(**given), 0.3, rtol=1e-6)
    np.testing.assert_allclose(jm.elastic_net(0.3, 0.2, **given).as_elastic_net(**given), (0.3, 0.2), rtol=1e-6)
    tree = jm.Prior({"a": jm.l1(0.3, **given), "b": jm.weight_decay(0.2, **given), "c": jm.flat})
    both = tree.as_elastic_net(**given)
    np.testing.assert_allclose([both["a"], both["b"], both["c"]], [(0.3, 0), (0, 0.2), (0, 0)], rtol=1e-6)
    by_path = jm.Prior.by_path({"*": jm.l1(0.3, **given), "*/bias": jm.flat}).as_l1(**given)
    np.testing.assert_allclose([by_path["*"], by_path["*/bias"]], [0.3, 0.0], rtol=1e-6)


@each_loss
def test_one_prior_is_different_penalties_in_different_losses(per, loss):
    laplace = jm.Prior(dist.Laplace(0.0, 0.5))
    np.testing.assert_allclose(laplace.as_l1(**options(per, loss)), 2.0 / factor(per, loss), rtol=1e-6)
    gaussian = jm.Prior(dist.Normal(0.0, 0.5))
    np.testing.assert_allclose(gaussian.as_weight_decay(**options(per, loss)), 4.0 / factor(per, loss), rtol=1e-6)


def test_strengths_of_zero_are_the_simpler_priors():
    assert repr(jm.l1(0.0)) == repr(jm.elastic_net(0.0, 0.0)) == "Prior(flat)"
    assert isinstance(jm.elastic_net(0.0, 2.0).rules, dist.Normal)
    assert isinstance(jm.elastic_net(2.0, 0.0).rules, dist.Laplace)
    assert jm.l1(0.0).as_l1() == jm.l1(0.0).as_weight_decay() == 0.0
    assert jm.elastic_net(0.0, 0.0).as_elastic_net() == (0.0, 0.0)


@pytest.mark.parametrize(
    ("prior", "way"),
    [
        (jm.l1(1.0), "as_weight_decay"),
        (jm.elastic_net(1.0, 1.0), "as_weight_decay"),
        (jm.weight_decay(1.0), "as_l1"),
        (jm.elastic_net(1.0, 1.0), "as_l1"),
        (jm.Prior(dist.Laplace(1.0, 1.0)), "as_l1"),
        (jm.Prior(dist.Laplace(0.0, np.array([1.0, 2.0]))), "as_l1"),
        (jm.Prior(dist.StudentT(3.0)), "as_elastic_net"),
        (jm.Prior(dist.Normal(1.0, 1.0)), "as_elastic_net"),
        (jm.Prior({"a": jm.l1(1.0), "b": dist.Cauchy(0.0, 1.0)}), "as_l1"),
    ],
    ids=repr,
)
def test_a_prior_that_is_no_such_penalty_is_refused(prior, way):
    with pytest.raises(ValueError, match=r"Expected a zero-mean .* with one scale; got"):
        getattr(prior, way)()


@pytest.mark.parametrize("strength", [-1.0, np.nan, np.inf, "1", np.ones(2)], ids=str)
def test_impossible_strengths_are_refused(strength, unchecked):
    for make in (jm.l1, lambda s: jm.elastic_net(s, 1.0), lambda s: jm.elastic_net(1.0, s)):
        with pytest.raises(ValueError, match=r"Expected a finite L[12] strength >= 0; got"):
            make(strength)


@pytest.mark.parametrize("make", [jm.l1, lambda strength, **given: jm.elastic_net(strength, 1.0, **given)])
@pytest.mark.parametrize(
    "given",
    [{"per": "mean"}, {"num_examples": 5}, {"loss": "mse"}, {"noise_scale": 1.0}, {"per": "batch"}, {"loss": "l1"}],
    ids=str,
)
def test_numbers_that_are_missing_or_not_used_are_errors(make, given):
    with pytest.raises(ValueError, match="Expected"):
        make(1.0, **given)


@pytest.mark.parametrize(("l1", "l2"), [(-1.0, 1.0), (1.0, -1.0), (0.0, 1.0), (np.nan, 1.0)])
def test_an_impossible_elastic_net_is_no_prior(l1, l2):
    with pytest.raises(ValueError, match=r"Expected l[12] of the prior ElasticNet"):
        jm.Prior(ElasticNet(l1, l2, validate_args=False))


# Hierarchies.


def scale_mixture():
    rules = {"tau": dist.HalfNormal(1.0), "w": lambda p: dist.Laplace(0.0, p["tau"])}
    return jm.Model(
        log_likelihood=lambda p, y: dist.Normal(p["w"], 1.0).log_prob(y),
        log_prior=jm.Prior(rules),
        init={"tau": 1.0, "w": 0.5},
    )


@pytest.mark.parametrize("method", [jm.MAP(), jm.Laplace(), jm.Ensemble(jm.MAP(), members=2)], ids=str)
def test_a_hierarchical_laplace_prior_has_no_point_estimate(method, key):
    with pytest.raises(TypeError, match="Expected an L1 prior of fixed scale for a point estimate; got a function"):
        jm.fit(key, scale_mixture(), np.ones(3, np.float32), method)


def test_a_hierarchical_laplace_prior_has_a_density_and_draws(key, x64):
    model = scale_mixture()
    params = {"tau": jnp.asarray(0.5), "w": jnp.asarray(1.2)}
    expected = stats.halfnorm.logpdf(0.5) + stats.laplace.logpdf(1.2, scale=0.5)
    np.testing.assert_allclose(model.log_prior(params), expected, rtol=1e-12)
    drawn = jm.fit(key, model, np.ones(3), jm.NUTS(chains=2, warmup=50, draws=50), precision="float64")
    assert np.all(np.isfinite(drawn.draws["w"]))
    assert model.log_prior.sample(key, params)["w"].shape == ()


def test_a_hierarchy_of_gaussians_beside_an_l1_prior_has_a_point_estimate(key):
    rules = {"tau": dist.LogNormal(0.0, 0.1), "v": lambda p: dist.Normal(0.0, p["tau"]), "w": jm.l1(10.0)}
    model = jm.Model(
        log_likelihood=lambda p, y: dist.Normal(p["w"] + p["v"], 1.0).log_prob(y),
        log_prior=jm.Prior(rules),
        init={"tau": 1.0, "v": 0.3, "w": 0.5},
    )
    point = jm.fit(key, model, np.ones(3), jm.MAP(), precision="float64")
    assert point.mode["w"] == 0.0
    assert point.mode["v"] > 0.1
    assert point.info.status is jm.Status.CONVERGED
    assert point.info.certificate.held == ("w",)
