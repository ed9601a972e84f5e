"""Sums over examples shared out over a mesh: in a process of its own, with four virtual devices."""

import os
import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent(
    """
    import jax
    jax.config.update("jax_num_cpu_devices", 4)
    import jax.numpy as jnp
    import numpy as np
    import numpyro.distributions as dist
    from jax.sharding import AxisType
    import jaxmap as jm
    from jaxmap.curvature import sum_over_examples

    rng = np.random.default_rng(0)
    x = rng.normal(size=(61, 3))
    y = np.sin(x[:, 0]) + 0.1 * rng.normal(size=61)

    def init(key):
        hidden = {"kernel": jax.random.normal(key, (3, 4)), "bias": jnp.zeros(4)}
        return {"a": hidden, "b": {"kernel": jnp.ones((4, 1))}}

    def apply(params, x):
        return jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"]) @ params["b"]["kernel"]

    def model():
        return jm.supervised((init, apply), jm.Gaussian(0.1), jm.Prior(dist.Normal(0.0, 1.0)))

    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        total = jax.jit(lambda v: sum_over_examples(lambda d, w: jnp.sum(w * d), v, 8)).lower(jnp.ones(64)).compile()
    assert "all-reduce(" in total.as_text() and "all-gather(" not in total.as_text()

    key = jax.random.key(0)
    point = jm.fit(key, model(), (x, y), jm.MAP(), precision="float64")
    for curvature in ("full", "kronecker"):
        method = jm.Laplace(point, curvature=curvature, grade=0)
        alone = jm.fit(key, model(), (x, y), method, precision="float64")
        with jax.set_mesh(mesh):
            shared = jm.fit(key, model(), (x, y), method, precision="float64")
        np.testing.assert_allclose(shared.log_evidence, alone.log_evidence, rtol=1e-9)
        np.testing.assert_allclose(shared.covariance.dense(), alone.covariance.dense(), atol=1e-9)
    print("equal")
    """
)


@pytest.mark.slow
def test_a_mesh_changes_nothing_but_where_the_examples_are():
    flag = "--xla_cpu_collective_call_terminate_timeout_seconds=30"
    settings = os.environ | {"PJRT_NPROC": "32", "XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300, env=settings, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "equal"
