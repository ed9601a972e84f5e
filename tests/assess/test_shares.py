"""Predictions and comparisons on eight virtual devices are those of one; in a process of its own."""

import textwrap

import pytest

from tests.infer.test_mesh import run

PROGRAM = textwrap.dedent(
    """
    import warnings
    warnings.simplefilter("error")
    import jax
    jax.config.update("jax_num_cpu_devices", 8)
    import jax.numpy as jnp
    import numpy as np
    import numpyro.distributions as dist
    import jaxmap as jm

    rng = np.random.default_rng(0)
    x = rng.normal(size=(61, 3))  # divides by neither axis
    y = np.sin(x[:, 0]) + 0.1 * rng.normal(size=61)
    key, mesh = jax.random.key(0), jm.mesh(member=4, data=2)

    def init(key):
        return {"a": 0.5 * jax.random.normal(key, (3, 4)), "b": jnp.ones((4, 1))}

    def apply(params, x):
        return jnp.tanh(x @ params["a"]) @ params["b"]

    learned = jm.Gaussian(scale=jm.Learned(dist.HalfNormal(1.0)))
    model = jm.supervised((init, apply), learned, jm.Prior(dist.Normal(0.0, 1.0)))

    def drawn(dtype):
        start = jax.tree.map(np.asarray, model.start)
        tree = jax.tree.map(lambda v: (v + 0.3 * rng.normal(size=(3, 9, *v.shape))).astype(dtype), start)
        tree["likelihood"]["scale"] = np.abs(tree["likelihood"]["scale"])
        info = jm.Info(jm.Status.CONVERGED, method="NUTS")
        return jm.Draws(tree, info, np.zeros((3, 9)))  # 27 draws over four devices

    def same(a, b, atol):
        assert a.size == b.size
        np.testing.assert_allclose(a.mean, b.mean, atol=atol, rtol=0)
        np.testing.assert_allclose(a.epistemic, b.epistemic, atol=atol, rtol=0)
        np.testing.assert_allclose(a.log_prob(y), b.log_prob(y), atol=20 * atol, rtol=0)

    def compared(posterior, atol, **options):
        alone = jm.predict(key, model, posterior, x, **options)
        same(jm.predict(key, model, posterior, x, mesh=mesh, **options), alone, atol)
        for other in (jm.mesh(data=8), jm.mesh(member=8)):
            same(jm.predict(key, model, posterior, x, mesh=other, **options), alone, atol)
    """
)

PREDICTIONS = textwrap.dedent(
    """
    compared(drawn(np.float32), 1e-6)
    compared(drawn(np.float64), 1e-12)
    point = jm.fit(key, model, (x, y), jm.MAP(jm.Newton(steps=3, curvature="ggn")), precision="float64")
    compared(point, 1e-12)
    gaussian = jm.fit(key, model, (x, y), jm.Laplace(point, grade=0, force=True), precision="float64")
    compared(gaussian, 1e-12)  # the linearised network
    compared(gaussian, 1e-12, how="weights", draws=7)
    ensemble = jm.MixturePosterior((point, point, point), np.log(np.array([0.2, 0.3, 0.5])), point.info)
    compared(ensemble, 1e-12)

    # the memory bound holds on each device: chunks of draws and of examples
    import importlib
    predict = importlib.import_module("jaxmap.assess.predict")
    predict.NUMBERS_AT_A_TIME, predict.DRAWS_AT_A_TIME = 400, 2
    again = jm.supervised((init, apply), learned, jm.Prior(dist.Normal(0.0, 1.0)))
    draws = drawn(np.float64)
    whole = jm.predict(key, model, draws, x)
    same(jm.predict(key, again, draws, x), whole, 1e-12)
    same(jm.predict(key, again, draws, x, mesh=mesh), whole, 1e-12)
    print("equal")
    """
)

COMPARISON = textwrap.dedent(
    """
    pair = lambda key: jnp.zeros(3), lambda w, x: x @ w
    linear = jm.supervised(pair, jm.Gaussian(0.1), jm.Prior(dist.Normal(0.0, 1.0)))
    splits = (x[:40], y[:40]), (x[40:], y[40:])
    methods = {"MAP": jm.MAP(), "Laplace": jm.Laplace(), "MAPs": jm.Ensemble(jm.MAP(), members=4)}
    alone = jm.compare(key, linear, splits, methods, precision="float64", reference="Laplace")
    both = jm.compare(key, linear, splits, methods, precision="float64", reference="Laplace", mesh=mesh)
    assert both.config["mesh"] == {"member": 4, "data": 2} and alone.config["mesh"] is None
    for a, b in zip(alone.records, both.records, strict=True):
        assert a.identity == b.identity
        for name in a.scores:
            np.testing.assert_allclose(b.scores[name], a.scores[name], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(b.arrays["seen"], a.arrays["seen"], rtol=1e-12)
        for name in ("elpd_loo", "log_evidence"):
            assert (name in a.info) == (name in b.info)
            np.testing.assert_allclose(b.info.get(name, 0.0), a.info.get(name, 0.0), rtol=1e-8)
    assert all(row["same"] for row in both.same_target)
    print("equal")
    """
)


AUDIT = textwrap.dedent(
    """
    pair = lambda key: jnp.zeros(3), lambda w, x: x @ w
    linear = jm.supervised(pair, jm.Gaussian(0.5), jm.Prior(dist.Normal(0.0, 1.0)))
    point = jm.fit(key, linear, (x, y), jm.MAP(), precision="float64")
    alone = jm.audit(key, linear, (x, y), point, precision="float64")
    both = jm.audit(key, linear, (x, y), point, precision="float64", mesh=mesh)
    assert both.verdict is alone.verdict and both.num_gradients == alone.num_gradients
    for name, value in alone.numbers.items():
        np.testing.assert_allclose(both.numbers[name], value, rtol=1e-8, atol=1e-12)
    print("equal")
    """
)


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(PREDICTIONS, id="predictions"),
        pytest.param(COMPARISON, id="comparison", marks=pytest.mark.slow),
        pytest.param(AUDIT, id="audit", marks=pytest.mark.slow),
    ],
)
def test_a_mesh_changes_nothing_but_where_things_are_computed(program):
    found = run(PROGRAM + program)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "equal"
