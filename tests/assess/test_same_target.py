"""The densities that methods see: measured from their own programs, and mutants that are caught."""

import importlib
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import jaxmap as jm
from jaxmap.assess.same_target import Probes, same_target, target_sentences
from jaxmap.infer import nuts_chains
from jaxmap.model import Density

pytestmark = pytest.mark.usefixtures("rank_promotion")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 2))
Y = X @ np.array([1.0, -2.0]) + 0.3 * RNG.normal(size=30)
SPLIT = (X[:20], Y[:20]), (X[20:], Y[20:])


def build():
    pair = (lambda key: jnp.zeros(2), lambda w, x: x @ w)
    return jm.supervised(pair, jm.Gaussian(scale=jm.Learned(dist.HalfNormal(1.0))), jm.Prior(dist.Normal(0.0, 1.0)))


SAMPLERS = {
    "NUTS": jm.NUTS(start=jm.Laplace(grade=0), warmup=10, draws=10, chains=2),
    "SGHMC": jm.SGHMC(start=jm.Laplace(grade=0), warmup=10, draws=10, chains=2, thin=1),
}

EVERY = {
    "MLE": jm.MLE(),
    "MAP": jm.MAP(),
    "Laplace": jm.Laplace(grade=0),
    "Ensemble": jm.Ensemble(jm.MAP(optax.adam(0.1), steps=5), members=2),
    "VI": jm.VI(steps=50, grade=0),
    "Given": jm.Given(build().start),
    **SAMPLERS,
}
POINTS = ("MAP", "Ensemble", "Given")


def compared(methods, precision="float64"):
    return jm.compare(jax.random.key(0), build(), SPLIT, methods, precision=precision)


def rows(comparison):
    return {row["method"]: row for row in comparison.same_target}


@pytest.mark.parametrize("precision", [pytest.param("float64", marks=pytest.mark.slow), "float32"])
def test_all_methods_see_one_density(precision):
    methods = {"MAP": jm.MAP(), "NUTS": SAMPLERS["NUTS"]} if precision == "float32" else EVERY
    comparison = compared(methods, precision)
    found = rows(comparison)
    assert set(found) == set(methods)
    for name, row in found.items():
        assert row["same"], row
        assert row["deviation"] < (1e-11 if precision == "float64" else 1e-2)
        assert row["probes"] == 5
        left = {"MLE": ["the prior", "the log-Jacobian"], **{k: ["the log-Jacobian"] for k in POINTS}}
        assert row["leaves_out"] == left.get(name, [])
    if precision == "float32":
        return
    text = str(comparison)
    assert "NUTS and SGHMC saw the same density up to a constant: largest deviation" in text
    assert "MLE leaves out the prior and the log-Jacobian." in text
    assert "MAP, Ensemble and Given leave out the log-Jacobian." in text


@dataclass(frozen=True)
class DoubledPrior(Density):
    """A mutant: the prior counts twice."""

    def log_prior(self, z):
        return super().log_prior(z) + self.model.log_prior(self.model.space.constrain(z))

    def smooth_log_prior(self, z):
        return self.log_prior(z)


def mutant(density):
    return DoubledPrior(density.model, density.prior, density.jacobian)


class MutantMAP(jm.MAP):
    def density(self, problem):
        return mutant(super().density(problem))


class MutantLaplace(jm.Laplace):
    def density(self, problem, prior):
        return replace(super().density(problem, prior), jacobian=False)


class MutantVI(jm.VI):
    def density(self, problem):
        return mutant(super().density(problem))


@pytest.mark.parametrize(
    ("method", "fits", "precision"),
    [
        (MutantMAP(), None, "float64"),
        (MutantMAP(), None, "float32"),
        (MutantLaplace(grade=0), ["log likelihood", "log prior"], "float64"),
        pytest.param(MutantVI(steps=50, grade=0), None, "float64", marks=pytest.mark.slow),
    ],
    ids=["doubled prior", "in float32", "no Jacobian", "doubled prior of a bound"],
)
def test_a_mutant_is_caught(method, fits, precision):
    comparison = compared({"MAP": jm.MAP(), "mutant": method}, precision)
    found = rows(comparison)
    assert found["MAP"]["same"]
    assert not found["mutant"]["same"]
    assert found["mutant"]["fits"] == fits
    assert found["mutant"]["deviation"] > 0.05
    assert "mutant saw ANOTHER density than it says" in str(comparison)


def test_a_sampler_whose_potential_has_lost_the_jacobian_is_caught(monkeypatch):
    monkeypatch.setattr(nuts_chains, "Density", lambda model: Density(model, jacobian=False))
    comparison = compared({"MAP": jm.MAP(), "NUTS": SAMPLERS["NUTS"]})
    assert not rows(comparison)["NUTS"]["same"]
    assert rows(comparison)["NUTS"]["fits"] == ["log likelihood", "log prior"]
    assert rows(comparison)["MAP"]["same"]


def test_the_parts_are_those_of_the_model_as_it_was_written(x64):
    problem = jm.infer.Problem.of(build(), SPLIT[0], precision="float64")
    probes = Probes(problem)
    for k in range(5):
        z = jax.tree.map(lambda leaf, k=k: np.asarray(leaf[k]), probes.z)
        w, log_scale = z["network"], z["likelihood"]["scale"]
        scale = np.exp(log_scale)
        away = (SPLIT[0][1] - SPLIT[0][0] @ w) / scale
        likelihood = np.sum(-0.5 * away**2 - np.log(scale) - 0.5 * np.log(2 * np.pi))
        prior = np.sum(-0.5 * w**2 - 0.5 * np.log(2 * np.pi)) + 0.5 * np.log(2 / np.pi) - 0.5 * scale**2
        np.testing.assert_allclose([p[k] for p in probes.parts[:3]], [likelihood, prior, log_scale], rtol=1e-10)


def test_what_cannot_be_measured_is_not_claimed():
    assert same_target([]) == []
    assert target_sentences([]) == []
    record = compared({"MAP": jm.MAP()}).records[0]
    nowhere = replace(record, arrays=record.arrays | {"seen": np.full(5, np.nan)})
    assert same_target([nowhere]) == []
    without = replace(record, arrays={k: v for k, v in record.arrays.items() if not k.startswith("seen")})
    assert same_target([without]) == []


def test_large_data_are_stood_for_by_the_first_examples(monkeypatch):
    module = importlib.import_module("jaxmap.assess.same_target")
    monkeypatch.setattr(module, "examples_at_a_time", lambda *given: 7)
    comparison = compared({"MAP": jm.MAP(), "Laplace": jm.Laplace(grade=0)})
    assert all(row["same"] and row["examples"] == 7 for row in comparison.same_target)
    assert "on the first 7 examples" in str(comparison)
