"""Fits on a mesh of eight virtual devices are those of one; in processes of their own, since such devices may hang."""

import os
import subprocess
import sys
import textwrap

import pytest

import jaxmap as jm

PROGRAM = textwrap.dedent(
    """
    import jax
    jax.config.update("jax_num_cpu_devices", 8)
    import jax.numpy as jnp
    import numpy as np
    import numpyro.distributions as dist
    import optax
    import jaxmap as jm
    from jax.sharding import AxisType

    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 3))
    noisy, sign = np.sin(x[:, 0]) + 0.1 * rng.normal(size=64), (x[:, 1] > 0).astype(int)
    key = jax.random.key(0)

    def linear():
        pair = lambda key: {"w": jnp.zeros(3)}, lambda params, x: x @ params["w"]
        return jm.supervised(pair, jm.Bernoulli(), jm.Prior(dist.Normal(0.0, 1.0)))

    def network():
        def init(key):
            return {"a": jax.random.normal(key, (3, 4)), "b": jnp.ones((4, 1))}

        pair = init, lambda params, x: jnp.tanh(x @ params["a"]) @ params["b"]
        return jm.supervised(pair, jm.Gaussian(0.1), jm.Prior(dist.Normal(0.0, 1.0)))

    def same(a, b, rtol):
        for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            assert not isinstance(u, jax.Array) or len(u.devices()) == 1
            np.testing.assert_allclose(u, v, rtol=rtol, atol=rtol * np.max(np.abs(v)))

    shared, apart = jm.mesh(data=8), jm.mesh(member=4, data=2)
    """
)

FITS = textwrap.dedent(
    """
    alone = jm.fit(key, linear(), (x, sign), precision="float64")
    both = jm.fit(key, linear(), (x, sign), precision="float64", mesh=shared)
    assert both.info.status is jm.Status.CONVERGED
    same(both.mode, alone.mode, 1e-12)

    explicit = jax.make_mesh((2, 4), ("data", "member"), axis_types=(AxisType.Explicit,) * 2)
    few = x[:61], noisy[:61]  # neither the examples nor the batches divide evenly
    for method in (
        jm.Ensemble(jm.MAP(optax.adam(1e-2), steps=20, batch_size=9), members=8),
        jm.MAP(jm.Newton(steps=3, curvature="ggn"), restarts=4),
    ):
        alone = jm.fit(key, network(), few, method, precision="float64")
        both = jm.fit(key, network(), few, method, precision="float64", mesh=explicit)
        for a, b in zip(getattr(alone, "members", [alone]), getattr(both, "members", [both]), strict=True):
            same(b.mode, a.mode, 1e-9)

    for given, told in ((apart, "got 1 of MAP"), (jax.make_mesh((8,), ("model",)), "got ['model']"), (8, "got int")):
        try:
            jm.fit(key, linear(), (x, sign), mesh=given)
            raise SystemExit("accepted")
        except (TypeError, ValueError) as error:
            assert told in str(error), error
    for method in (jm.SGHMC(chains=4), jm.Bootstrap(), jm.VI()):
        try:
            jm.fit(key, linear(), (x, sign), method, mesh=apart)
            raise SystemExit("accepted")
        except ValueError as error:
            assert f"got jm.{type(method).__name__}(), which one device computes as a whole" in str(error), error
    print("equal")
    """
)

CHAINS = textwrap.dedent(
    """
    few = jm.NUTS(chains=2, draws=8, warmup=12)  # four devices share the members, each with both of their chains
    alone = jm.fit(key, linear(), (x, sign), jm.Ensemble(few, members=4), precision="float64")
    both = jm.fit(key, linear(), (x, sign), jm.Ensemble(few, members=4), precision="float64", mesh=apart)
    for a, b in zip(alone.members, both.members, strict=True):
        same(b.draws, a.draws, 1e-9)

    sampler = jm.NUTS(chains=4, draws=8, warmup=12)
    alone = jm.fit(key, linear(), (x, sign), sampler, precision="float64")
    both = jm.fit(key, linear(), (x, sign), sampler, precision="float64", mesh=apart)
    same(both.draws, alone.draws, 1e-9)
    same(jm.predict(key, linear(), both, x).mean, jm.predict(key, linear(), alone, x).mean, 1e-9)
    print("equal")
    """
)


def run(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program with devices of its own; a hang of theirs ends it."""
    flags = "--xla_cpu_collective_call_terminate_timeout_seconds=30 --xla_backend_optimization_level=0"
    settings = os.environ | {"PJRT_NPROC": "32", "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, env=settings, check=False
    )


@pytest.mark.parametrize("fits", [FITS, pytest.param(CHAINS, marks=pytest.mark.slow)], ids=["fits", "chains"])
def test_a_mesh_changes_nothing_but_where_things_are_computed(fits):
    found = run(PROGRAM + fits)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "equal"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: jm.mesh(member=64, data=64), "Expected at most"),
        (lambda: jm.mesh(data=0), "Expected data to be a positive integer; got 0"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()
