"""The target: task, likelihood and the sentence that says so."""

import json

import numpy as np
import pytest

from jaxmap.data import Table, Target, choose_target

pytestmark = pytest.mark.usefixtures("unchecked")
DRAWS = np.random.default_rng(0)


def chosen(values, **options):
    cells = np.empty(len(values), object)
    cells[:] = [str(value) for value in values]
    frame = Table("t.csv", {"y": cells})
    target = choose_target(frame, np.arange(len(values)), "y", **options)
    assert target.sentence.startswith("y is ")
    assert Target.from_plain(json.loads(json.dumps(target.plain()))) == target
    return target, target.encode(frame)


CASES = {
    "numbers": (DRAWS.normal(size=200), "regression", "gaussian"),
    "prices": (np.exp(DRAWS.normal(10, 1, 200)), "regression", "log_gaussian"),
    "positive but not skewed": (DRAWS.uniform(1, 2, 200), "regression", "gaussian"),
    "skewed with a zero": (np.r_[0, np.exp(DRAWS.normal(0, 1, 200))], "regression", "gaussian"),
    "large whole numbers": (DRAWS.integers(0, 10**6, 200), "regression", "gaussian"),
    "grades that do not begin at 1": (DRAWS.integers(3, 9, 200), "regression", "gaussian"),
    "few counts": (DRAWS.poisson(3.0, 400), "counts", "poisson"),
    "overdispersed counts": (DRAWS.negative_binomial(2, 0.2, 400), "counts", "negative_binomial"),
    "zeros and ones": (DRAWS.integers(0, 2, 100), "binary", "bernoulli"),
    "yes and no": (["yes", "no"] * 20, "binary", "bernoulli"),
    "three texts": (["a", "b", "c"] * 20, "classes", "categorical"),
    "numbered classes": (DRAWS.integers(1, 4, 200), "classes", "categorical"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_task_follows_from_the_values(name):
    values, task, family = CASES[name]
    target, y = chosen(values)
    assert (target.task, target.family) == (task, family)
    if not target.classes:
        np.testing.assert_allclose(y, np.asarray(values, float))
    else:
        assert [target.classes[i] for i in y] == [str(value) for value in values]


def test_options_override_it():
    assert chosen(CASES["numbered classes"][0], task="regression")[0].task == "regression"
    assert chosen(CASES["prices"][0], log="no")[0].family == "gaussian"
    assert chosen(CASES["positive but not skewed"][0], log="yes")[0].family == "log_gaussian"
    assert chosen(CASES["few counts"][0], task="classes")[0].family == "categorical"


def test_classes_are_in_order_and_equal_numbers_are_one_class():
    assert chosen(["10", "9", "10.0", "9"])[0].classes == ("9", "10")
    assert chosen(["b", "a", "b", "a"])[0].classes == ("a", "b")


def test_the_logarithm_is_judged_on_the_training_rows():
    cells = np.empty(60, object)
    cells[:] = [str(v) for v in np.r_[np.linspace(1, 2, 50), np.full(10, 1e6)]]
    frame = Table("t.csv", {"y": cells})
    assert choose_target(frame, np.arange(50), "y").family == "gaussian"
    assert choose_target(frame, np.arange(60), "y").family == "log_gaussian"
