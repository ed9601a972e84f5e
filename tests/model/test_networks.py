"""Networks: four ways to write one, the same function of the same parameters; what is not a function is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from flax import linen, nnx

import jaxmap as jm
from jaxmap.model import as_network
from jaxmap.trees import paths

X = jnp.asarray(np.random.default_rng(2).normal(size=(5, 2)), jnp.float32)
PATHS = ["a/bias", "a/kernel", "b/bias", "b/kernel"]


class Net(nnx.Module):
    def __init__(self, rngs, outputs=1, dropout=None, norm=None):
        self.a = nnx.Linear(2, 3, rngs=rngs)
        self.b = nnx.Linear(3, outputs, rngs=rngs)
        self.dropout = None if dropout is None else nnx.Dropout(0.5, deterministic=dropout == "off", rngs=rngs)
        self.norm = None if norm is None else nnx.BatchNorm(3, use_running_average=norm == "frozen", rngs=rngs)

    def __call__(self, x):
        x = nnx.tanh(self.a(x))
        for layer in (self.norm, self.dropout):
            x = x if layer is None else layer(x)
        return self.b(x)


class LinenNet(linen.Module):
    outputs: int = 1
    dropout: str | None = None
    norm: str | None = None

    @linen.compact
    def __call__(self, x):
        x = linen.tanh(linen.Dense(3, name="a")(x))
        if self.norm is not None:
            x = linen.BatchNorm(use_running_average=self.norm == "frozen", name="norm")(x)
        if self.dropout is not None:
            x = linen.Dropout(0.5, deterministic=self.dropout == "off")(x)
        return linen.Dense(self.outputs, name="b")(x)


def pure_init(key):
    keys = jax.random.split(key)
    layers = {"a": jax.random.normal(keys[0], (2, 3)), "b": jax.random.normal(keys[1], (3, 1))}
    return {name: {"kernel": kernel, "bias": jnp.zeros(kernel.shape[1])} for name, kernel in layers.items()}


def pure_apply(params, x):
    hidden = jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"][None])
    return hidden @ params["b"]["kernel"] + params["b"]["bias"][None]


KINDS = {
    "nnx factory": lambda: as_network(Net),
    "nnx lambda": lambda: as_network(lambda rngs: Net(rngs)),
    "nnx instance": lambda: as_network(Net(nnx.Rngs(1))),
    "linen": lambda: as_network(LinenNet(), X[:1]),
    "pair": lambda: as_network((pure_init, pure_apply)),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_all_kinds_are_the_same_function_of_plain_nested_dicts(kind, key, rank_promotion):
    network = KINDS[kind]()
    params = network.init(key)
    assert type(params) is type(params["a"]) is dict
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    assert paths(params) == PATHS
    shared = pure_init(jax.random.key(5))
    outputs = jax.jit(network.apply)(shared, X)
    assert outputs.shape == (5,)  # (n, 1) is squeezed
    np.testing.assert_allclose(outputs, pure_apply(shared, X)[:, 0], rtol=1e-5)


@each_kind
def test_other_keys_give_other_starts_except_for_an_instance(kind, key):
    network = KINDS[kind]()
    first, again, other = (network.init(k)["a"]["kernel"] for k in (key, key, jax.random.key(9)))
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) == (kind == "nnx instance")
    assert network.fresh == (kind != "nnx instance")


@each_kind
def test_starts_can_be_vectorised(kind, key):
    network = KINDS[kind]()
    stacked = jax.vmap(network.init)(jax.random.split(key, 3))["b"]["kernel"]
    assert stacked.shape == (3, 3, 1)
    assert np.array_equal(stacked[0], stacked[1]) == (kind == "nnx instance")


def test_an_instance_starts_at_its_own_values_and_takes_new_ones_back(key):
    module = Net(nnx.Rngs(1))
    network = as_network(module)
    params = network.init(key)
    np.testing.assert_array_equal(params["a"]["kernel"], module.a.kernel[...])
    moved = jax.tree.map(lambda leaf: leaf + 1.0, params)
    before = module(X)
    nnx.update(module, moved)
    np.testing.assert_array_equal(module.a.kernel[...], moved["a"]["kernel"])
    np.testing.assert_allclose(module(X)[:, 0], network.apply(moved, X), rtol=1e-6)
    assert not np.allclose(before, module(X))


def test_the_network_does_not_change_with_the_module(key):
    module = Net(nnx.Rngs(1))
    network = as_network(module)
    params = network.init(key)
    before = network.apply(params, X)
    nnx.update(module, jax.tree.map(lambda leaf: leaf + 1.0, params))
    np.testing.assert_array_equal(network.apply(params, X), before)


def test_layers_with_numbers_for_names(key):
    sequence = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.tanh, nnx.Linear(3, 1, rngs=nnx.Rngs(0)))
    params = as_network(sequence).init(key)
    assert paths(params) == ["layers/0/bias", "layers/0/kernel", "layers/2/bias", "layers/2/kernel"]
    nnx.update(sequence, params)


@pytest.mark.parametrize(
    "make", [lambda: as_network(lambda rngs: Net(rngs, outputs=2)), lambda: as_network(LinenNet(2), X[:1])]
)
def test_several_outputs_keep_their_axis(make, key):
    network = make()
    assert jax.eval_shape(network.apply, network.init(key), X).shape == (5, 2)


def test_only_one_column_is_squeezed():
    for shape, expected in (((5,), (5,)), ((5, 1), (5,)), ((1, 1), (1,)), ((5, 2), (5, 2)), ((5, 1, 1), (5, 1, 1))):
        network = as_network((lambda key: {}, lambda params, x, shape=shape: jnp.ones(shape)))
        assert network.apply({}, X).shape == expected


@pytest.mark.parametrize("option", [{"dropout": "off"}, {"norm": "frozen"}], ids=str)
@pytest.mark.parametrize("flavour", ["nnx", "linen"])
def test_evaluation_mode_is_accepted_and_pure(flavour, option, key, rank_promotion):
    network = (
        as_network(lambda rngs: Net(rngs, **option)) if flavour == "nnx" else as_network(LinenNet(**option), X[:1])
    )
    params = network.init(key)
    norm = ["norm/bias", "norm/scale"] if "norm" in option else []
    assert paths(params) == PATHS + norm  # statistics and counters are no parameters
    apply = jax.jit(network.apply)
    np.testing.assert_array_equal(apply(params, X), apply(params, X))
    # Frozen statistics do not look at the batch: one example is itself in any company.
    np.testing.assert_allclose(network.apply(params, X[:1]), apply(params, X)[:1], rtol=1e-5)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"dropout": "on"}, "active dropout"),
        ({"norm": "training"}, "batch statistics in training"),
    ],
    ids=str,
)
def test_training_mode_is_refused_with_reason_and_remedy(option, words):
    reason = (
        rf"Expected a network in evaluation mode; got {words}.*not a log-probability of the parameters\. (Build|Use)"
    )
    with pytest.raises(ValueError, match=reason):
        as_network(lambda rngs: Net(rngs, **option))
    with pytest.raises(ValueError, match=reason):
        as_network(Net(nnx.Rngs(0), **option))
    with pytest.raises(ValueError, match=reason):
        as_network(LinenNet(**option), X[:1])
    module = Net(nnx.Rngs(0), **option)
    module.eval()
    as_network(module)


class Counting(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.Linear(2, 1, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros(()))

    def __call__(self, x):
        self.calls[...] = self.calls[...] + 1.0
        return self.a(x)


class Noisy(nnx.Module):
    def __init__(self, rngs):
        self.a, self.rngs = nnx.Linear(2, 1, rngs=rngs), rngs

    def __call__(self, x):
        return self.a(x) + self.rngs.normal((len(x), 1))


@pytest.mark.parametrize("module", [Counting, Noisy])
def test_a_module_that_changes_its_own_state_is_refused(module, key, unchecked):
    network = as_network(module)
    params = network.init(key)
    with pytest.raises(ValueError, match="Expected a network in evaluation mode; got a module that changes its own"):
        jax.jit(network.apply)(params, X)


def test_restarts_of_an_instance_are_refused(key, unchecked):
    data = (np.asarray(X), np.ones(5, np.float32))
    for method in (jm.MAP(restarts=2), jm.Ensemble(members=2), jm.NUTS(chains=2, warmup=1, draws=1)):
        model = jm.supervised(Net(nnx.Rngs(1)), jm.Gaussian(), jm.Prior(dist.Normal(0.0, 1.0)))
        with pytest.raises(ValueError, match=r"Expected a network that can be initialised afresh.*Give .* a factory"):
            jm.fit(key, model, data, method)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (None, "Expected an nnx factory"),
        ("mlp", "Expected an nnx factory"),
        ((pure_init, pure_apply, None), "Expected an nnx factory"),
        ([pure_init, pure_apply], "Expected an nnx factory"),
        ((pure_init, {"a": 1.0}), "Expected an nnx factory"),
        (nnx.Linear, "Expected a network factory .* Write `lambda rngs"),
        (lambda: Net(nnx.Rngs(0)), "Expected a network factory"),
        (lambda rngs: (pure_init, pure_apply), r"to return an nnx\.Module; got tuple"),
        (LinenNet, r"to return an nnx\.Module; got LinenNet"),
    ],
    ids=["None", "text", "triple", "list", "params", "wants widths", "wants nothing", "makes a pair", "linen class"],
)
def test_what_is_not_a_network_is_refused(network, words, unchecked):
    with pytest.raises(TypeError, match=words):
        as_network(network)


def test_a_linen_module_asks_for_an_example():
    with pytest.raises(ValueError, match=r"Expected example=x\[:1\] with a linen module"):
        as_network(LinenNet())


def test_networks_with_several_heads_go_to_a_likelihood_of_ones_own(unchecked):
    """A likelihood may be any function of the outputs, and outputs any tree of arrays."""
    network = (lambda key: {"a": jnp.ones(2)}, lambda p, x: {"mean": x @ p["a"], "log_scale": x[:, 0]})
    model = jm.supervised(network, lambda heads: dist.Normal(heads["mean"], jnp.exp(heads["log_scale"])))
    y = jnp.ones(5)
    expected = dist.Normal(X.sum(axis=1), jnp.exp(X[:, 0])).log_prob(y)
    np.testing.assert_allclose(model.log_likelihood(model.start, (X, y)), expected, rtol=1e-5)


# Mixed precision and rematerialisation.


class HalfNet(Net):
    """Computes in bfloat16 by the dtype of its layers; its parameters are float32."""

    def __init__(self, rngs):
        super().__init__(rngs)
        self.a = nnx.Linear(2, 3, dtype=jnp.bfloat16, rngs=rngs)
        self.b = nnx.Linear(3, 1, dtype=jnp.bfloat16, rngs=rngs)


MIXED = {
    "an option": lambda: jm.supervised(Net, jm.Gaussian(0.5), compute_dtype=jnp.bfloat16),
    "the module's own": lambda: jm.supervised(HalfNet, jm.Gaussian(0.5)),
    "a pair of functions": lambda: jm.supervised((pure_init, pure_apply), jm.Gaussian(0.5), compute_dtype=jnp.bfloat16),
}


@pytest.mark.parametrize("name", MIXED)
def test_networks_compute_in_bfloat16_and_sum_in_float32(name):
    model = MIXED[name]()
    params, y = model.start, jnp.zeros(5)
    program = str(jax.make_jaxpr(jax.grad(model.log_joint))(params, (X, y)))
    products = [line for line in program.splitlines() if "dot_general[" in line]
    assert products
    assert all(":bf16[" in line for line in products)
    outputs, values = model.apply(params, X), model.log_likelihood(params, (X, y))
    assert outputs.dtype == values.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.grad(model.log_joint)(params, (X, y)))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(values, dist.Normal(outputs, 0.5).log_prob(y), rtol=1e-6)
    full = jm.supervised((lambda key: params, as_network(Net).apply), jm.Gaussian(0.5)).apply(params, X)
    np.testing.assert_allclose(outputs, full, rtol=0.05, atol=0.02)
    assert np.any(outputs != full)


def test_a_fit_in_mixed_precision_ends_where_the_other_does():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 2)).astype(np.float32)
    data = x, np.sin(x[:, 0]) + 0.1 * rng.normal(size=64)
    method = jm.MAP(optax.adam(optax.cosine_decay_schedule(0.03, 600)), steps=600, batch_size=16)
    found = [
        jm.fit(jax.random.key(0), jm.supervised(Net, jm.Gaussian(0.3), compute_dtype=compute), data, method)
        for compute in (None, jnp.bfloat16)
    ]
    assert {leaf.dtype for leaf in jax.tree.leaves(found[1].mode)} == {jnp.dtype("float32")}
    losses = [-point.info.log_likelihood / 64 for point in found]
    assert abs(losses[0] - losses[1]) < 0.02


@pytest.mark.usefixtures("unchecked")
def test_densities_in_half_precision_are_refused():
    with pytest.raises(TypeError, match=r"Expected compute_dtype=jnp\.bfloat16 or None; got .*float16"):
        jm.supervised(Net, jm.Gaussian(0.5), compute_dtype=jnp.float16)
    model = jm.Model(log_likelihood=lambda w, y: -((w - y.astype(jnp.bfloat16)) ** 2).astype(jnp.bfloat16), init=1.0)
    with pytest.raises(
        TypeError, match="Expected log_likelihood in float32, in which examples are summed; got bfloat16"
    ):
        jm.fit(jax.random.key(0), model, np.ones(3, np.float32), jm.MAP())


class RematNet(Net):
    def __call__(self, x):
        return self.b(nnx.remat(lambda layer, x: nnx.tanh(layer(x)))(self.a, x))


@pytest.mark.parametrize(
    "network", [RematNet, (pure_init, jax.checkpoint(pure_apply))], ids=["nnx.remat", "jax.checkpoint"]
)
def test_rematerialised_networks_take_the_same_steps(network):
    plain = Net if network is RematNet else (pure_init, pure_apply)
    models = [jm.supervised(net, jm.Gaussian(0.5), jm.Prior(dist.Normal(0.0, 1.0))) for net in (network, plain)]
    data, method = (X, jnp.sin(X[:, 0])), jm.MAP(optax.adam(0.03), steps=30, batch_size=3)
    again, once = (jm.fit(jax.random.key(0), model, data, method) for model in models)
    np.testing.assert_allclose(again.info.history, once.info.history, rtol=1e-5)
    assert "remat" in str(jax.make_jaxpr(jax.grad(models[0].log_joint))(models[0].start, data))
