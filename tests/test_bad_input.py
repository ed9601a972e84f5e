"""What users get wrong: each mistake is refused in words, by us, before anything is computed.

One table. A row is a mistake, and a part of the message that it must earn.
"""

import traceback
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from numpyro.distributions import constraints

import jaxmap as jm

KEY = jax.random.key(0)
X = np.linspace(-1.0, 1.0, 6, dtype=np.float32)[:, None]
Y = 2.0 * X[:, 0] + np.float32(0.1) * (-1) ** np.arange(6, dtype=np.float32)
LABELS = np.arange(6) % 3
NETWORK = (
    lambda key: {"kernel": jnp.zeros((1, 1)), "bias": jnp.zeros(1)},
    lambda p, x: x @ p["kernel"] + p["bias"][None],
)
LOGITS = (lambda key: {"kernel": jnp.zeros((1, 3))}, lambda p, x: x @ p["kernel"])
NORMAL = dist.Normal(0.0, 1.0)
PRIOR = jm.Prior(NORMAL)


@dataclass(frozen=True)
class Refusing:
    """A method that must not be reached: the mistake is seen before any fit is paid for."""

    def run(self, problem, seeds):
        raise AssertionError("the fit began")

    def finish(self, problem, runs, index):
        raise AssertionError("the fit began")


class World:
    """Sound models and results to make mistakes with, each made once."""

    def linear(self, likelihood=None, prior=PRIOR, **options):
        return jm.supervised(NETWORK, likelihood or jm.Gaussian(0.5), prior, **options)

    def free(self, **parts):
        return jm.Model(**({"log_likelihood": lambda p, batch: -((batch - p) ** 2), "init": 0.5} | parts))

    @cached_property
    def model(self):
        return self.linear()

    @cached_property
    def classes(self):
        return jm.supervised(LOGITS, jm.Categorical(), PRIOR)

    @cached_property
    def params(self):
        return {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}

    @cached_property
    def posterior(self):
        return jm.fit(KEY, self.model, (X, Y), jm.Given(self.params))

    @cached_property
    def predictive(self):
        return jm.predict(KEY, self.model, self.posterior, X)

    @cached_property
    def class_predictive(self):
        given = jm.Given({"kernel": jnp.ones((1, 3))})
        return jm.predict(KEY, self.classes, jm.fit(KEY, self.classes, (X, LABELS), given), X)

    @cached_property
    def scaled(self):
        data = (np.hstack([X, X**2]), Y)
        network = (lambda key: {"kernel": jnp.ones((2, 1))}, lambda p, x: x @ p["kernel"])
        model = jm.supervised(network, jm.Gaussian(0.5), PRIOR, scaling=jm.standardize(data))
        return model, jm.fit(KEY, model, data, jm.Given({"kernel": jnp.ones((2, 1))}))

    def fit(self, data=(X, Y), model=None, method=Refusing(), **options):
        return jm.fit(KEY, self.model if model is None else model, data, method, **options)

    def fit_free(self, data=np.ones(4, np.float32), method=Refusing(), **parts):
        return jm.fit(KEY, self.free(**parts), data, method)

    def predict(self, x=X, **options):
        return jm.predict(KEY, self.model, self.posterior, x, **options)

    def score(self, y):
        return jm.score(self.predictive, y)

    def compare(self, test=(X, Y), methods=None, model=None, **options):
        splits = options.pop("splits", ((X, Y), test))
        methods = {"row": Refusing()} if methods is None else methods
        return jm.compare(KEY, self.model if model is None else model, splits, methods, **options)


WORLD = World()


def matrices(params):
    """What people decay."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def spoiled(array, value):
    array = np.array(array)
    array[3] = value
    return array


DATA = {
    "NaN in x": (lambda w: w.fit((spoiled(X, np.nan), Y)), r"finite numbers in x; got 1 NaN .* rows \[3\]"),
    "infinity in x": (lambda w: w.fit((spoiled(X, np.inf), Y)), "finite numbers in x; got"),
    "NaN in y": (lambda w: w.fit((X, spoiled(Y, np.nan))), "finite numbers in y; got"),
    "infinity in y": (lambda w: w.fit((X, spoiled(Y, -np.inf))), "finite numbers in y; got"),
    "lengths differ": (lambda w: w.fit((X, Y[:-1])), "x has 6, y has 5"),
    "x transposed": (lambda w: w.fit((X.T, Y)), "x has 1, y has 6"),
    "y is a column": (lambda w: w.fit((X, Y[:, None])), r"got \(6, 1\)\. Squeeze y"),
    "empty data": (lambda w: w.fit((X[:0], Y[:0])), "at least one example; got none"),
    "no data": (lambda w: w.fit(None), "log_likelihood that accepts this data"),
    "x alone": (lambda w: w.fit(X), "log_likelihood that accepts this data"),
    "three arrays": (lambda w: w.fit((X, Y, Y)), "log_likelihood that accepts this data"),
    "a dict for a pair": (lambda w: w.fit({"x": X, "y": Y}), "log_likelihood that accepts this data"),
    "x and y swapped": (lambda w: w.fit((Y, X)), "log_likelihood that accepts this data"),
    "x of another width": (lambda w: w.fit((np.hstack([X, X]), Y)), "log_likelihood that accepts this data"),
    "x a vector": (lambda w: w.fit((X[:, 0], Y)), "log_likelihood that accepts this data"),
    "lists of lists": (lambda w: w.fit((X.tolist(), Y.tolist())), "got a scalar"),
    "y a number": (lambda w: w.fit((X, 1.0)), "y to be an array .*; got a scalar"),
    "text": (lambda w: w.fit((X, np.array(["yes"] * 6))), "y to be a numeric array; got dtype <U3"),
    "objects": (lambda w: w.fit((X.astype(object), Y)), "x to be a numeric array; got dtype object"),
    "complex numbers": (lambda w: w.fit((X.astype(complex), Y)), "x to be a numeric array; got dtype complex"),
    "dates": (lambda w: w.fit((np.arange(6).astype("M8[D]"), Y)), "got dtype datetime64"),
    "columns with names": (lambda w: w.fit((np.zeros(6, [("a", "f4")]), Y)), "numeric array; got dtype"),
    "masked values": (lambda w: w.fit((np.ma.masked_array(X, X > 0), Y)), ""),
    "integers beyond 32 bits": (lambda w: w.fit((np.full((6, 1), 2**40), Y)), "x"),
    "labels from 1": (
        lambda w: w.fit((X, LABELS + 1), w.classes),
        r"inside the support .*; got \[3, 3\] in rows \[2, 5\]",
    ),
    "label -1": (lambda w: w.fit((X, LABELS - 1), w.classes), r"inside the support .*; got \[-1, -1\]"),
    "labels from 1, in a list": (lambda w: w.fit([X, LABELS + 1], w.classes), "got"),
    "labels 0.5 apart": (lambda w: w.fit((X, LABELS + 0.5), w.classes), "integer"),
    "labels as floats": (lambda w: w.fit((X, LABELS.astype(float)), w.classes), "integer"),
    "one-hot labels": (lambda w: w.fit((X, np.eye(3)[LABELS]), w.classes), r"got \(6, 3\)"),
    "classes -1 and 1": (lambda w: w.fit((X, 2 * (LABELS % 2) - 1), w.linear(jm.Bernoulli())), r"support .*; got \[-1"),
    "probabilities for classes": (lambda w: w.fit((X, np.full(6, 0.5)), w.linear(jm.Bernoulli())), "support .*; got"),
    "negative counts": (lambda w: w.fit((X, LABELS - 1), w.linear(jm.Poisson())), "support .*; got"),
    "counts and a half": (lambda w: w.fit((X, LABELS + 0.5), w.linear(jm.NegativeBinomial())), "support .*; got"),
    "logits for one class": (lambda w: w.fit((X, LABELS * 0), w.linear(jm.Categorical())), "Use jm.Bernoulli"),
    "one output for two": (lambda w: w.fit((X, Y), w.linear(jm.HeteroscedasticGaussian())), "Double the last layer"),
    "a column too few, scaled": (lambda w: w.fit((X, Y), w.scaled[0]), "got"),
}

CALLS = {
    "an integer for a key": (lambda w: jm.fit(0, w.model, (X, Y), Refusing()), "key such as jax.random.key.* got 0"),
    "no key": (lambda w: jm.fit(w.model, (X, Y), Refusing()), "key such as"),
    "None for a key": (lambda w: jm.fit(None, w.model, (X, Y), Refusing()), "key such as .* got None"),
    "several keys": (lambda w: jm.fit(jax.random.split(KEY), w.model, (X, Y), Refusing()), "key such as"),
    "a method class": (lambda w: w.fit(method=jm.MAP), r"Write jm\.MAP\(\)"),
    "a class inside Laplace": (lambda w: w.fit(method=jm.Laplace(jm.MAP)), "got"),
    "a class inside Ensemble": (lambda w: w.fit(method=jm.Ensemble(jm.MAP)), "got"),
    "a class inside NUTS": (lambda w: w.fit(method=jm.NUTS(start=jm.Laplace)), "got"),
    "text inside NUTS": (lambda w: w.fit(method=jm.NUTS(start="map")), "got"),
    "the name of a method": (lambda w: w.fit(method="MAP"), "method such as jm.MAP.*got 'MAP'"),
    "an optimizer for a method": (lambda w: w.fit(method=optax.adam(1e-2)), "method such as jm.MAP"),
    "a network for a model": (lambda w: w.fit(model=NETWORK), "jm.Model; got tuple"),
    "a module for a model": (lambda w: w.fit(model=nnx.Linear(1, 1, rngs=nnx.Rngs(0))), "jm.Model; got Linear"),
    "a builder for a model": (lambda w: w.fit(model=lambda train: w.model), "jm.Model; got function"),
    "an unknown precision": (lambda w: w.fit(precision="double"), "precision=.*got 'double'"),
    "a dtype for a precision": (lambda w: w.fit(precision=jnp.float64), "precision=.*got"),
    "fit under jit": (lambda w: jax.jit(lambda k: jm.fit(k, w.model, (X, Y), Refusing()))(KEY), "run on the host"),
    "fit under jit of data": (lambda w: jax.jit(lambda d: w.fit(d))((X, Y)), "run on the host"),
    "fit under vmap": (
        lambda w: jax.vmap(lambda k: jm.fit(k, w.model, (X, Y), Refusing()))(jax.random.split(KEY)),
        "host",
    ),
    "given params under grad": (lambda w: jax.grad(lambda p: w.fit(method=jm.Given(p)).info.log_joint)(w.params), ""),
    "batches larger than the data": (
        lambda w: w.fit(method=jm.MAP(optax.sgd(0.1), batch_size=7)),
        "the 6 examples; got 7",
    ),
    "batches for Newton": (lambda w: w.fit(method=jm.MAP(jm.Newton(), batch_size=2)), "stochastic solver"),
    "no batch": (lambda w: jm.MAP(batch_size=0), "batch_size .*got 0"),
    "half a batch": (lambda w: jm.MAP(batch_size=2.5), "batch_size .*got 2.5"),
    "no steps": (lambda w: jm.MAP(steps=0), "steps .*got 0"),
    "steps as a float": (lambda w: jm.MAP(steps=1e3), "steps .*got 1000.0"),
    "no restarts": (lambda w: jm.MLE(restarts=0), "restarts .*got 0"),
    "no members": (lambda w: jm.Ensemble(members=0), "members .*got 0"),
    "no draws": (lambda w: jm.NUTS(draws=0), "draws .*got 0"),
    "per cent for a probability": (lambda w: jm.NUTS(target_accept_prob=80), "between 0 and 1; got 80"),
    "text for a probability": (lambda w: jm.NUTS(target_accept_prob="0.8"), "got"),
    "an unknown space": (lambda w: jm.MAP(space="log"), "got 'log'"),
    "an unknown curvature": (lambda w: jm.Laplace(curvature="kron"), "got 'kron'"),
    "an unknown hessian": (lambda w: jm.Laplace(hessian="diagonal"), "got 'diagonal'"),
    "the name of a solver": (lambda w: w.fit(method=jm.MAP("adam")), "as solver; got 'adam'"),
    "a solver class": (lambda w: w.fit(method=jm.MAP(jm.Newton)), "as solver; got"),
    "an optimizer not called": (lambda w: w.fit(method=jm.MAP(optax.adam)), "as solver; got"),
    "weight decay beside a prior": (lambda w: w.fit(method=jm.MAP(optax.adamw(1e-2), steps=2)), "weight_decay"),
    "weight decay of some leaves beside a prior": (
        lambda w: w.fit(method=jm.MAP(optax.adamw(1e-2, mask=matrices), steps=2)),
        "weight_decay",
    ),
    "weight decay by a tree of masks": (
        lambda w: w.fit(method=jm.MAP(optax.adamw(1e-2, mask={"kernel": True, "bias": False}), steps=2)),
        "weight_decay",
    ),
    "weight decay in a part": (
        lambda w: w.fit(
            method=jm.MAP(optax.partition({True: optax.adamw(1e-2), False: optax.adam(1e-2)}, matrices), steps=2)
        ),
        "weight_decay",
    ),
    "Gauss-Newton without a network": (lambda w: w.fit_free(method=jm.Laplace(hessian="ggn")), "hessian='exact'"),
    "given params of another shape": (
        lambda w: w.fit(method=jm.Given({"kernel": jnp.zeros((2, 1)), "bias": jnp.zeros(1)})),
        r"'kernel' of shape \(1, 1\); got \(2, 1\)",
    ),
    "given params of another tree": (
        lambda w: w.fit(method=jm.Given({"w": jnp.zeros(1)})),
        "parameters of the model; got w",
    ),
    "given a flat vector": (lambda w: w.fit(method=jm.Given(jnp.zeros(2))), "parameters of the model"),
    "given a module": (
        lambda w: w.fit(method=jm.Given(nnx.Linear(1, 1, rngs=nnx.Rngs(0)))),
        "parameters of the model; got",
    ),
    "given integers": (
        lambda w: w.fit(method=jm.Given({"kernel": np.zeros((1, 1), int), "bias": np.zeros(1)})),
        "of dtype int",
    ),
    "given NaN": (lambda w: w.fit(method=jm.Given({"kernel": np.full((1, 1), np.nan), "bias": np.zeros(1)})), "NaN"),
    "a posterior of another model": (
        lambda w: w.fit(model=w.scaled[0], data=(np.hstack([X, X]), Y), method=jm.Laplace(w.posterior)),
        "",
    ),
    "an integer to split with": (lambda w: jm.split(0, (X, Y)), "key .*got 0"),
    "a share as text": (lambda w: jm.split(KEY, (X, Y), "0.5"), "got '0.5'"),
    "a share that is NaN": (lambda w: jm.split(KEY, (X, Y), np.nan), "got nan"),
    "all rows tested": (lambda w: jm.split(KEY, (X, Y), 1.0), "both sides of 6; got 1.0"),
    "x alone standardised": (lambda w: jm.standardize(X), ""),
}

MODELS = {
    "no likelihood": (lambda w: jm.Model(init=1.0), "log_likelihood or observe; got neither"),
    "integer parameters": (lambda w: w.free(init={"a": np.arange(3)}), "floating parameters; got .*int64"),
    "integer weights of a network": (
        lambda w: jm.supervised((lambda k: {"a": np.ones(1, int)}, NETWORK[1]), jm.Gaussian()),
        "floating parameters; got",
    ),
    "half precision": (lambda w: w.fit_free(init=np.float16(0.5), method=jm.MAP()), "float16"),
    "brain floats": (lambda w: w.fit_free(init=jnp.bfloat16(0.5), method=jm.MAP()), "bfloat16"),
    "a module for init": (lambda w: w.free(init=nnx.Linear(1, 1, rngs=nnx.Rngs(0))), ""),
    "no parameters": (lambda w: w.fit_free(init=np.zeros(0, np.float32), log_likelihood=lambda p, b: -b), ""),
    "start outside the support": (
        lambda w: w.free(init=-1.0, support=constraints.positive),
        "init inside its support .*; got -1",
    ),
    "start on the edge": (
        lambda w: w.free(init=0.0, support=constraints.unit_interval),
        "init inside its support .*; got 0",
    ),
    "start outside the prior": (
        lambda w: w.free(init=-1.0, log_prior=jm.Prior(dist.HalfNormal(1.0))),
        "support .*; got -1",
    ),
    "start outside a uniform prior": (
        lambda w: w.linear(prior=jm.Prior(dist.Uniform(1.0, 2.0))),
        "inside its support .*; got",
    ),
    "weights below zero": (lambda w: w.linear(prior=jm.Prior(dist.HalfNormal(1.0))), "inside its support .*; got"),
    "discrete parameters": (
        lambda w: w.free(init=1.0, support=constraints.nonnegative_integer),
        "Sum the discrete parameter out",
    ),
    "support of another tree": (lambda w: w.free(support={"a": constraints.real}), "'a', which covers nothing"),
    "support as text": (lambda w: w.free(support="positive"), "numpyro constraint .*; got 'positive'"),
    "a sum for a likelihood": (
        lambda w: w.fit_free(log_likelihood=lambda p, b: -jnp.sum((b - p) ** 2)),
        r"shape \(4,\), one per example; got \(\)",
    ),
    "a mean for a likelihood": (
        lambda w: w.fit_free(log_likelihood=lambda p, b: -jnp.mean(b - p)[None]),
        r"got \(1,\)",
    ),
    "a column for a likelihood": (
        lambda w: w.fit_free(log_likelihood=lambda p, b: -((b - p) ** 2)[:, None]),
        r"got \(4, 1\)",
    ),
    "no likelihood returned": (lambda w: w.fit_free(log_likelihood=lambda p, b: None), r"shape \(4,\)"),
    "a complex likelihood": (lambda w: w.fit_free(log_likelihood=lambda p, b: 1j * b), "complex"),
    "a likelihood in numpy": (
        lambda w: w.fit_free(log_likelihood=lambda p, b: -np.square(np.asarray(b) - p)),
        "log_likelihood that accepts",
    ),
    "a likelihood that branches": (
        lambda w: w.fit_free(log_likelihood=lambda p, b: b if p > 0 else -b),
        "log_likelihood that accepts",
    ),
    "a likelihood of one argument": (lambda w: w.fit_free(log_likelihood=lambda p: -p), "log_likelihood that accepts"),
    "a likelihood that is NaN": (
        lambda w: w.fit_free(log_likelihood=lambda p, b: jnp.log(p - 1.0) + b),
        r"got nan for rows \[0",
    ),
    "a likelihood of minus infinity": (
        lambda w: w.fit_free(log_likelihood=lambda p, b: jnp.log(b - b[0])),
        r"got -inf for rows \[0",
    ),
    "a likelihood that ignores params": (
        lambda w: w.fit_free(log_likelihood=lambda p, b: -b, method=jm.MLE()),
        r"Use jm\.MAP",
    ),
    "a prior per parameter": (
        lambda w: w.fit_free(
            init=np.ones(2, np.float32), log_likelihood=lambda p, b: -((b - p[0]) ** 2), log_prior=lambda p: -(p**2)
        ),
        r"scalar; got shape \(2,\)",
    ),
    "a prior that is NaN": (
        lambda w: w.fit_free(log_prior=lambda p: jnp.log(p - 1.0)),
        "finite log_prior at the start; got nan",
    ),
    "a prior that returns nothing": (lambda w: w.fit_free(log_prior=lambda p: None), "log_prior"),
    "a prior of two arguments": (lambda w: w.fit_free(log_prior=lambda p, data: 0.0), "log_prior"),
    "a distribution for log_prior": (lambda w: w.fit_free(log_prior=NORMAL), "log_prior"),
    "observe returns numbers": (
        lambda w: w.fit(model=jm.Model(observe=lambda p, x: x[:, 0] * p, init=1.0)),
        "distribution",
    ),
    "observe returns one distribution": (
        lambda w: w.fit(model=jm.Model(observe=lambda p, x: dist.Normal(p, 1.0), init=1.0)),
        r"\(6,\)",
    ),
    "observe of columns": (
        lambda w: w.fit(model=jm.Model(observe=lambda p, x: dist.Normal(p * x, 1.0), init=1.0)),
        r"batch shape \(6,\).*got batch shape \(6, 1\)",
    ),
    "a vector of log densities": (
        lambda w: jm.fit(KEY, jm.from_log_density(lambda p: -(p**2), init=np.ones(2)), None, Refusing()),
        r"scalar; got shape \(2,\)",
    ),
    "data for a log density": (
        lambda w: jm.fit(KEY, jm.from_log_density(lambda p: -(p**2), init=1.0), np.ones(3), Refusing()),
        r"got \(1,\)",
    ),
    "a start of density zero": (
        lambda w: jm.fit(KEY, jm.from_log_density(jnp.log, init=0.0), None, Refusing()),
        "finite log-likelihood at the start; got -inf",
    ),
}

PARTS = {
    "a negative scale": (lambda w: jm.Gaussian(-1.0), "> 0; got -1"),
    "a scale of zero": (lambda w: jm.StudentT(scale=0.0), "> 0; got 0"),
    "a scale that is NaN": (lambda w: jm.Gaussian(np.nan), "> 0; got nan"),
    "a scale as text": (lambda w: jm.Gaussian("1"), "got"),
    "a distribution for a scale": (lambda w: jm.Gaussian(dist.HalfNormal(1.0)), "Learned"),
    "a class to learn": (lambda w: jm.Learned(dist.HalfNormal), "numpyro distribution.; got"),
    "a number to learn": (lambda w: jm.Learned(1.0), "numpyro distribution.; got 1.0"),
    "a scale that may be negative": (lambda w: jm.Gaussian(jm.Learned(NORMAL)), ""),
    "a likelihood class": (lambda w: w.linear(jm.Gaussian), r"Write jm\.Gaussian\(\)"),
    "the name of a likelihood": (lambda w: w.linear("gaussian"), "got 'gaussian'"),
    "a distribution for a likelihood": (lambda w: w.fit(model=w.linear(NORMAL)), "likelihood"),
    "a likelihood that returns numbers": (
        lambda w: w.fit(model=w.linear(lambda f: f)),
        "return a numpyro distribution; got",
    ),
    "a likelihood of no example": (lambda w: w.fit(model=w.linear(lambda f: NORMAL)), r"shape \(\)"),
    "a scale per row of another length": (lambda w: w.fit(model=w.linear(jm.Gaussian(np.ones(3)))), ""),
    "a number for a prior": (lambda w: w.linear(prior=1e-4), "prior rule; got 0.0001"),
    "a prior class": (lambda w: jm.Prior(dist.Normal), "prior rule; got"),
    "a discrete prior": (lambda w: jm.Prior(dist.Poisson(1.0)), "a continuous prior; got Poisson"),
    "a prior of another shape": (
        lambda w: w.linear(prior=jm.Prior(dist.Normal(np.zeros(5), 1.0))),
        r"its shape \(1,\); got one of shape \(5,\)",
    ),
    "a rule that matches nothing": (
        lambda w: w.linear(prior=jm.Prior.by_path({"*": NORMAL, "*/weight": NORMAL})),
        r"got '\*/weight' that matches nothing",
    ),
    "a leaf without rule": (lambda w: w.linear(prior=jm.Prior.by_path({"*/kernel": NORMAL})), "got none for 'bias'"),
    "a leaf with two rules": (
        lambda w: w.linear(prior=jm.Prior.by_path({"*": NORMAL, "k*": NORMAL, "*l": NORMAL})),
        "'kernel'; got a tie",
    ),
    "rules in a list": (lambda w: jm.Prior.by_path([("*", NORMAL)]), ""),
    "a tree with a leaf too few": (lambda w: w.linear(prior=jm.Prior({"kernel": NORMAL})), "got nothing for bias"),
    "a tree with a leaf too many": (
        lambda w: w.linear(prior=jm.Prior({"kernel": NORMAL, "bias": NORMAL, "b": NORMAL})),
        "'b', which covers nothing",
    ),
    "a prior that returns numbers": (
        lambda w: w.linear(prior=jm.Prior(lambda p: -jnp.sum(p["kernel"] ** 2))),
        "return a distribution; got",
    ),
    "a negative weight decay": (lambda w: jm.weight_decay(-1e-4), ">= 0; got -0.0001"),
    "weight decay as text": (lambda w: jm.weight_decay("1e-4"), "got"),
    "weight decay of a mean of unknown size": (lambda w: jm.weight_decay(1e-4, per="mean"), "num_examples=None"),
    "a Laplace prior as weight decay": (
        lambda w: jm.Prior(dist.Laplace(0.0, 1.0)).as_weight_decay(),
        "zero-mean Gaussian .*; got Laplace",
    ),
    "an unknown data set": (lambda w: jm.load_dataset("mnist"), "got 'mnist'"),
}

PREDICTIONS = {
    "predict: a model without observe": (lambda w: jm.predict(KEY, w.free(), w.posterior, X), "model with `observe`"),
    "predict: a network for a model": (lambda w: jm.predict(KEY, NETWORK, w.posterior, X), "jm.Model; got tuple"),
    "predict: model and posterior swapped": (lambda w: jm.predict(KEY, w.posterior, w.model, X), "jm.Model; got Point"),
    "predict: params for a posterior": (
        lambda w: jm.predict(KEY, w.model, w.params, X),
        "posterior from jm.fit; got dict",
    ),
    "predict: a method for a posterior": (
        lambda w: jm.predict(KEY, w.model, jm.MAP(), X),
        "posterior from jm.fit; got MAP",
    ),
    "predict: an integer for a key": (lambda w: jm.predict(0, w.model, w.posterior, X), "key such as .*got 0"),
    "predict: NaN": (lambda w: w.predict(spoiled(X, np.nan)), "finite numbers in x; got"),
    "predict: no rows": (lambda w: w.predict(X[:0]), "at least one example; got none"),
    "predict: text": (lambda w: w.predict(np.array([["a"]])), "x to be a numeric array; got"),
    "predict: x and y": (lambda w: w.predict((X, Y)), "x"),
    "predict: None": (lambda w: w.predict(None), "x"),
    "predict: a number": (lambda w: w.predict(1.0), "x to be an array .*; got a scalar"),
    "predict: another width": (lambda w: w.predict(np.hstack([X, X])), "x"),
    "predict: a column too few, scaled": (lambda w: jm.predict(KEY, *w.scaled, X), "got"),
    "predict: integers beyond 32 bits": (lambda w: w.predict(np.full((6, 1), 2**40)), "x"),
    "predict: the posterior of another model": (lambda w: jm.predict(KEY, w.scaled[0], w.posterior, X), ""),
    "predict: no draws": (lambda w: w.predict(draws=0), "draws to be a positive integer; got 0"),
    "predict: half a draw": (lambda w: w.predict(draws=2.5), "draws .*got 2.5"),
    "predict: all draws, as text": (lambda w: w.predict(draws="all"), "draws .*got 'all'"),
    "predict: under jit": (lambda w: jax.jit(lambda x: w.predict(x).mean)(X), "run on the host"),
    "score: a posterior": (lambda w: jm.score(w.posterior, Y), "jm.predict"),
    "score: means": (lambda w: jm.score(Y, Y), "jm.predict"),
    "score: swapped": (lambda w: jm.score(Y, w.predictive), "jm.predict"),
    "score: NaN": (lambda w: w.score(spoiled(Y, np.nan)), "finite numbers in y; got"),
    "score: a column": (lambda w: w.score(Y[:, None]), r"shape \(6,\); got \(6, 1\)\. Squeeze y"),
    "score: another length": (lambda w: w.score(Y[:-1]), r"shape \(6,\); got \(5,\)"),
    "score: text": (lambda w: w.score(np.array(["a"] * 6)), "y to be a numeric array; got"),
    "score: a number": (lambda w: w.score(1.0), "y .*; got a scalar"),
    "score: None": (lambda w: w.score(None), "y"),
    "score: x and y": (lambda w: w.score((X, Y)), "y"),
    "score: labels from 1": (lambda w: jm.score(w.class_predictive, LABELS + 1), "support"),
    "score: labels as floats": (lambda w: jm.score(w.class_predictive, LABELS.astype(float)), "integer"),
    "score: labels 0.5 apart": (lambda w: jm.score(w.class_predictive, LABELS + 0.5), ""),
    "score: one-hot labels": (lambda w: jm.score(w.class_predictive, np.eye(3, dtype=int)[LABELS]), r"got \(6, 3\)"),
    "the mean of classes": (lambda w: w.class_predictive.mean, "Use `probs`"),
    "the classes of numbers": (lambda w: w.predictive.probs, "Use `mean`"),
    "a quantile in per cent": (lambda w: w.predictive.quantile(95), "between 0 and 1; got 95"),
    "the cdf of a column": (lambda w: w.predictive.cdf(Y[:, None]), r"got \(6, 1\)"),
}

COMPARISONS = {
    "compare: a list of methods": (lambda w: w.compare(methods=[jm.MAP()]), "methods as a dict"),
    "compare: no methods": (lambda w: w.compare(methods={}), "methods as a dict .*got {}"),
    "compare: a method class": (lambda w: w.compare(methods={"MAP": jm.MAP}), "'MAP'; got"),
    "compare: the name of a method": (lambda w: w.compare(methods={"MAP": "map"}), "'MAP'; got 'map'"),
    "compare: numbered rows": (lambda w: w.compare(methods={1: Refusing()}), "got"),
    "compare: a reference that is no row": (lambda w: w.compare(reference="NUTS"), "one of row; got 'NUTS'"),
    "compare: no seeds": (lambda w: w.compare(seeds=0), "seeds >= 1; got 0"),
    "compare: a list of seeds": (lambda w: w.compare(seeds=[1, 2]), r"seeds >= 1; got \[1, 2\]"),
    "compare: true for seeds": (lambda w: w.compare(seeds=True), "seeds .*got True"),
    "compare: no test data": (lambda w: w.compare(splits=(X, Y)), r"splits as \(train, test\)"),
    "compare: None": (lambda w: w.compare(splits=None), r"splits as \(train, test\)"),
    "compare: three parts": (lambda w: w.compare(splits=((X, Y), (X, Y), (X, Y))), r"splits as \(train, test\)"),
    "compare: NaN to train on": (
        lambda w: w.compare(splits=((X, spoiled(Y, np.nan)), (X, Y))),
        "finite numbers in y; got",
    ),
    "compare: NaN to test on": (lambda w: w.compare((X, spoiled(Y, np.nan))), "finite numbers in y; got"),
    "compare: lengths differ": (lambda w: w.compare((X, Y[:-1])), "x has 6, y has 5"),
    "compare: no test rows": (lambda w: w.compare((X[:0], Y[:0])), "got none"),
    "compare: a column to test on": (lambda w: w.compare((X, Y[:, None])), r"got \(6, 1\)"),
    "compare: another width to test on": (lambda w: w.compare((np.hstack([X, X]), Y)), "x"),
    "compare: an unseen class": (
        lambda w: w.compare(model=w.classes, splits=((X, LABELS), (X, LABELS + 1))),
        "support",
    ),
    "compare: a network for a model": (lambda w: w.compare(model=NETWORK), "jm.Model"),
    "compare: a builder of nothing": (lambda w: w.compare(model=lambda train: None), "jm.Model; got NoneType"),
    "compare: a model without observe": (
        lambda w: w.compare(model=jm.Model(log_likelihood=lambda p, b: -((b[1] - p) ** 2), init=0.5)),
        "observe",
    ),
    "compare: an integer for a key": (
        lambda w: jm.compare(0, w.model, ((X, Y), (X, Y)), {"row": Refusing()}),
        "key such as .*got 0",
    ),
    "compare: an unknown precision": (lambda w: w.compare(precision="half"), "got 'half'"),
    "compare: a file for a folder": (lambda w: w.compare(folder=__file__), "folder for records; got the file"),
    "compare: under jit": (
        lambda w: jax.jit(lambda k: jm.compare(k, w.model, ((X, Y), (X, Y)), {"row": Refusing()}))(KEY),
        "run on the host",
    ),
}

TABLE = DATA | CALLS | MODELS | PARTS | PREDICTIONS | COMPARISONS


def where_it_was_raised(error):
    """The file of the innermost frame."""
    return traceback.extract_tb(error.__traceback__)[-1].filename


@pytest.mark.parametrize("mistake", TABLE)
def test_a_mistake_is_refused_by_us_in_words(mistake, unchecked, rank_promotion):
    call, words = TABLE[mistake]
    with pytest.raises((ValueError, TypeError), match=r"(?s)Expected.*" + words) as caught:
        call(WORLD)
    assert "/jaxmap/" in where_it_was_raised(caught.value).replace("\\", "/")


# What numpyro refuses in the constructor of a distribution is in the user's own line already.
BY_NUMPYRO = {
    "a prior of negative scale": lambda: jm.Prior(dist.Normal(0.0, -1.0)),
    "a prior of scale NaN": lambda: jm.Prior.by_path({"*": dist.Normal(0.0, np.nan)}),
    "a learned scale of negative scale": lambda: jm.Learned(dist.HalfNormal(-1.0)),
}


@pytest.mark.parametrize("mistake", BY_NUMPYRO)
def test_impossible_distributions_are_refused_by_numpyro(mistake):
    with pytest.raises(ValueError, match=r"got invalid .* parameter") as caught:
        BY_NUMPYRO[mistake]()
    assert "numpyro" in where_it_was_raised(caught.value)


UNKNOWN = {
    "fit": lambda w: jm.fit(KEY, w.model, (X, Y), Refusing(), dtype="float64"),
    "predict": lambda w: jm.predict(KEY, w.model, w.posterior, X, num_samples=3),
    "score": lambda w: jm.score(w.predictive, Y, metrics=["rmse"]),
    "compare": lambda w: w.compare(n_seeds=2),
    "MAP": lambda w: jm.MAP(step=3),
    "MLE has no space": lambda w: jm.MLE(space="unconstrained"),
    "Laplace": lambda w: jm.Laplace(mode=jm.MAP()),
    "Ensemble": lambda w: jm.Ensemble(size=3),
    "NUTS": lambda w: jm.NUTS(num_samples=100),
    "Model": lambda w: w.free(likelihood=None),
    "supervised": lambda w: w.linear(scale=1.0),
    "Gaussian": lambda w: jm.Gaussian(sigma=1.0),
    "weight_decay": lambda w: jm.weight_decay(1.0, n=10),
    "standardize": lambda w: jm.standardize((X, Y), axis=0),
    "options of fit are keywords": lambda w: jm.fit(KEY, w.model, (X, Y), Refusing(), "float64"),
    "options of predict are keywords": lambda w: jm.predict(KEY, w.model, w.posterior, X, 3),
    "options of compare are keywords": lambda w: jm.compare(KEY, w.model, ((X, Y), (X, Y)), {"row": Refusing()}, 3),
    "a key has no default": lambda w: jm.fit(model=w.model, data=(X, Y)),
}


@pytest.mark.parametrize("call", UNKNOWN)
def test_unknown_options_raise(call, unchecked):
    with pytest.raises(TypeError, match=r"unexpected keyword|positional argument"):
        UNKNOWN[call](WORLD)


SOUND = {
    "a list for a pair": lambda w: w.fit([X, Y], method=jm.Given(w.params)),
    "counts as floats": lambda w: w.fit((X, LABELS.astype(float)), w.linear(jm.Poisson()), jm.Given(w.params)),
    "labels as bytes": lambda w: w.fit((X, LABELS.astype(np.uint8)), w.classes, jm.Given({"kernel": jnp.ones((1, 3))})),
    "truth values for classes": lambda w: w.fit((X, LABELS > 0), w.linear(jm.Bernoulli()), jm.Given(w.params)),
    "one example": lambda w: w.fit((X[:1], Y[:1]), method=jm.Given(w.params)),
    "a raw key": lambda w: jm.fit(jax.random.PRNGKey(0), w.model, (X, Y), jm.Given(w.params)),
    "a numpy integer for a count": lambda w: jm.MAP(steps=np.int64(10)),
}


@pytest.mark.parametrize("call", SOUND)
def test_what_is_sound_is_not_refused(call, unchecked):
    """The other side of the table: strictness that stands in nobody's way."""
    SOUND[call](WORLD)
