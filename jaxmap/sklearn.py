"""BayesRegressor and BayesClassifier: Bayesian networks for tables, as estimators of scikit-learn.

from jaxmap.sklearn import BayesRegressor

model = BayesRegressor().fit(x, y)
mean, std = model.predict(x_new, return_std=True)
"""

import functools
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import jax
import numpy as np
from scipy.optimize import minimize_scalar

from jaxmap.assess import Predictive, predict
from jaxmap.data import standardize
from jaxmap.infer import MAP, GaussianPosterior, Laplace, MixturePosterior, fit
from jaxmap.infer.load import unpack
from jaxmap.infer.storage import Saved
from jaxmap.model import Gaussian, HeteroscedasticGaussian, Model, Prior, Recipe, StudentT
from jaxmap.model.recipe import CLASSES, GIVEN, LEARNED, TWO_CLASSES
from jaxmap.optimize import LBFGS
from jaxmap.trees import precision_scope
from jaxmap.types import Method

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "Expected scikit-learn 1.6 or later to be installed; it is not. Run: pip install 'jaxmap[sklearn]'."
    ) from error

__all__ = ["BayesClassifier", "BayesRegressor"]

FULL_UP_TO = 1500
"""Parameters up to which the default method keeps the whole covariance matrix; beyond, Kronecker factors."""

STEPS = 300
"""Steps of L-BFGS for a network; more of them change weights that predictions do not depend on."""

HALVINGS, REFINED = 11, 3
"""The noise scale is sought between twice the size of y and a thousandth of it, by halves and so many steps more."""

SHIFTED = (Gaussian, StudentT, HeteroscedasticGaussian)
"""Likelihoods that mean the same in another unit of y."""


@functools.lru_cache(maxsize=32)
def _inner(recipe: Recipe) -> Model:
    """The model in the network's units: one for all data of a shape, which are then compiled for once."""
    return recipe.model()


def _default_method(sizes: tuple[int, ...]) -> Method:
    """Laplace by the Gauss-Newton matrix, which with a Gaussian prior is a Gaussian at saddles too, hence `force`.

    Networks end at saddles where a unit is not needed; a second-order solver then works long for nothing, so that they
    climb by L-BFGS. Linear models have no saddles, and Newton steps solve them at once.
    """
    solver, steps = (LBFGS(), STEPS) if len(sizes) > 2 else (None, None)
    count = sum((a + 1) * b for a, b in pairwise(sizes))
    curvature = "full" if count <= FULL_UP_TO else "kronecker"
    return Laplace(MAP(solver, space="unconstrained", steps=steps), curvature, grade=0, force=True)


class _Bayes(BaseEstimator):
    """What both estimators share: units, fit, predictive, and the way through a pickle."""

    def __init__(
        self,
        hidden: Any = (50,),
        method: Any = None,
        prior: Any = None,
        standardize: Any = True,
        precision: Any = "float64",
        random_state: Any = None,
    ):
        self.hidden = hidden
        self.method = method
        self.prior = prior
        self.standardize = standardize
        self.precision = precision
        self.random_state = random_state

    def __getstate__(self) -> dict[str, Any]:
        """Everything but compiled functions; the posterior as plain values and arrays."""
        state: dict[str, Any] = dict(cast(Any, super().__getstate__()))
        if "posterior_" in state:
            state["posterior_"] = self.posterior_.packed()
            del state["model_"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build the model anew around the posterior."""
        super().__setstate__(state)
        saved = state.get("posterior_")
        if isinstance(saved, Saved):
            self.posterior_ = unpack(saved, _inner(self._recipe))
            self.model_ = self._in_raw_units()

    def _begin(self, x: np.ndarray, y: np.ndarray, likelihood: Any, outputs: int, *, target: bool) -> None:
        """Check the parameters, settle the recipe, the units and the seed.

        Raises:
            ValueError: `hidden` is no tuple of widths.
        """
        widths: Any = self.hidden if isinstance(self.hidden, tuple | list) else (None,)
        if not all(isinstance(w, int | np.integer) and not isinstance(w, bool) and w > 0 for w in widths):
            raise ValueError(f"Expected hidden=(50,), or other widths, () for a linear model; got {self.hidden!r}.")
        prior = self.prior if self.prior is None or isinstance(self.prior, Prior) else Prior(self.prior)
        self._recipe = Recipe((x.shape[1], *(int(w) for w in widths), outputs), likelihood, prior)
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._scaling = None
        if self.standardize:
            with precision_scope(np.float64):
                self._scaling = standardize((x, y), target=target)

    def _inputs(self, x: np.ndarray) -> Any:
        """Raw inputs in the network's units."""
        return x if self._scaling is None else (x - self._scaling.x_shift) / self._scaling.x_scale

    def _solve(self, inputs: Any, y: np.ndarray) -> Any:
        method = _default_method(self._recipe.sizes) if self.method is None else self.method
        key, inner = jax.random.key(self._seed), _inner(self._recipe)
        return fit(key, inner, (inputs, y), method, precision=self.precision, progress=False)

    def _look(self, posterior: Any, inputs: Any) -> Predictive:
        """What a posterior predicts, in the network's units.

        Classes of a Gaussian over a network's weights are predicted by the probit formula: it is the same for a row
        whatever rows stand beside it, which draws are not.
        """
        first = posterior.members[0] if isinstance(posterior, MixturePosterior) else posterior
        tangent = isinstance(first, GaussianPosterior) and first.linearised
        how = "probit" if tangent and self._recipe.likelihood in (TWO_CLASSES, CLASSES) else None
        return predict(jax.random.key(self._seed), _inner(self._recipe), posterior, inputs, how=how)

    def _predictive(self, X: Any) -> Predictive:
        """What is predicted for new rows, in the network's units."""
        check_is_fitted(self)
        x: Any = validate_data(self, X, dtype=np.float64, reset=False)
        return self._look(self.posterior_, self._inputs(x))

    def _in_raw_units(self) -> Model:
        """The model that takes and means raw units, over the same parameters."""
        return self._recipe.model(self._scaling)


class BayesRegressor(RegressorMixin, _Bayes):
    """A Bayesian tanh network, or a linear model, for a real target or a count.

    By default weights are N(0, 1) in standardised units, the scale of the noise is the one of the largest evidence
    (MacKay, 1992), and the posterior is the Laplace approximation there, whose predictions are closed
    forms. A noise scale that is fitted together with the weights, as a mode, goes to zero where a network can pass
    through all points; its evidence does not.

    Args:
        hidden: widths of the hidden layers; () is a linear model.
        method: a method such as `jm.MAP()` or `jm.NUTS()`; None: as above. With a method the default noise scale is a
            parameter like any other, half-normal(1).
        prior: a `jm.Prior` on the weights, whose paths are `layers/0/kernel`, `layers/0/bias` ...; None: N(0, 1).
        likelihood: such as `jm.StudentT()`, `jm.Poisson()` or `jm.Gaussian(0.5)`; None: Gaussian noise, as above.
        standardize: centre and scale X, and y where the likelihood is Gaussian or a Student t: prior and likelihood
            then speak of these units. False: X and y as they are.
        precision: "float64", as scikit-learn computes, or "float32".
        random_state: an int, a numpy RandomState, or None for another seed each time.

    Attributes:
        posterior_: what `jm.fit` returned; `posterior_.info.status` says how the fit ended, its densities are in nats
            of the standardised target.
        model_: a `jm.Model` in raw units: `jm.predict(key, est.model_, est.posterior_, X)` gives all that is predicted.
        noise_: the scale of the noise in units of y, where it was found by the evidence.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.
    """

    def __init__(
        self,
        hidden: Any = (50,),
        method: Any = None,
        prior: Any = None,
        likelihood: Any = None,
        standardize: Any = True,
        precision: Any = "float64",
        random_state: Any = None,
    ):
        super().__init__(hidden, method, prior, standardize, precision, random_state)
        self.likelihood = likelihood

    def fit(self, X: Any, y: Any) -> "BayesRegressor":
        """Fit to a table X (n, d) and a target y (n,)."""
        checked: Any = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        x, y = checked[0], np.asarray(checked[1], np.float64)
        default = GIVEN if self.method is None else LEARNED
        likelihood = default if self.likelihood is None else self.likelihood
        outputs = 2 if isinstance(likelihood, HeteroscedasticGaussian) else 1
        self._begin(x, y, likelihood, outputs, target=isinstance(likelihood, (str, *SHIFTED)))
        self._noise = None
        x, y = self._inputs(x), (y - self._y_shift) / self._y_scale
        if likelihood == GIVEN:
            self.posterior_, self._noise = self._by_evidence(x, y)
            self.noise_ = self._noise * self._y_scale
        else:
            self.posterior_ = self._solve(x, y)
        self.model_ = self._in_raw_units()
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predict the mean, and with `return_std` the standard deviation of y, noise included; each (n,)."""
        seen = self._predictive(X)
        mean = np.asarray(seen.mean, np.float64) * self._y_scale + self._y_shift
        return (mean, np.sqrt(seen.variance) * self._y_scale) if return_std else mean

    def predict_quantiles(self, X: Any, quantiles: Sequence[float] = (0.05, 0.95)) -> np.ndarray:
        """Predict quantiles of y, noise included, (n, k); the default ones hold 90 % between them."""
        found = self._predictive(X).quantile(np.atleast_1d(np.asarray(quantiles, float)))
        return np.asarray(found, np.float64).T * self._y_scale + self._y_shift

    @property
    def _y_shift(self) -> float:
        return 0.0 if self._scaling is None or self._scaling.y_shift is None else float(self._scaling.y_shift)

    @property
    def _y_scale(self) -> float:
        return 1.0 if self._scaling is None or self._scaling.y_scale is None else float(self._scaling.y_scale)

    def _by_evidence(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, float]:
        """The Laplace approximation under the noise scale of the largest evidence, and that scale.

        From twice the size of y it is halved until the evidence falls; Brent's method then refines it.
        """
        size = float(np.sqrt(np.mean(y**2))) or 1.0
        tried: dict[float, Any] = {}

        def loss(log_noise: float) -> float:
            if log_noise not in tried:
                noise = np.full(len(x), np.exp(log_noise))
                tried[log_noise] = self._solve({"x": x, "noise": noise}, y)
            return -tried[log_noise].log_evidence

        steps = np.log(size) + np.log(2) * (1 - np.arange(HALVINGS + 1))
        last = next((k for k in range(1, HALVINGS + 1) if loss(steps[k]) >= loss(steps[k - 1])), None)
        if last is not None and last > 1:
            bracket = tuple(steps[last - 2 : last + 1])
            minimize_scalar(loss, bracket=bracket, method="brent", options={"maxiter": REFINED})
        best = min(tried, key=loss)
        return tried[best], float(np.exp(best))

    def _inputs(self, x: np.ndarray) -> Any:
        scaled = super()._inputs(x)
        return scaled if self._noise is None else {"x": scaled, "noise": np.full(len(x), self._noise)}

    def _in_raw_units(self) -> Model:
        if self._noise is None:
            return super()._in_raw_units()
        return self._recipe.model(self._scaling, Gaussian(scale=self._noise))


class BayesClassifier(ClassifierMixin, _Bayes):
    """A Bayesian tanh network, or a linear model, for classes.

    By default weights are N(0, 1) in standardised units and the posterior is the Laplace approximation, whose class
    probabilities are taken from the probit formula: a closed form, that is less sure of itself than a point estimate
    where data are few.

    Args:
        hidden: widths of the hidden layers; () is a linear model.
        method: a method such as `jm.MAP()` or `jm.NUTS()`; None: Laplace.
        prior: a `jm.Prior` on the weights, whose paths are `layers/0/kernel`, `layers/0/bias` ...; None: N(0, 1).
        standardize: centre and scale X: the prior then speaks of these units. False: X as it is.
        precision: "float64", as scikit-learn computes, or "float32".
        random_state: an int, a numpy RandomState, or None for another seed each time.

    Attributes:
        classes_: the labels, sorted.
        posterior_, model_: as in `BayesRegressor`; the model means the numbers of the labels in `classes_`.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.
    """

    def fit(self, X: Any, y: Any) -> "BayesClassifier":
        """Fit to a table X (n, d) and labels y (n,).

        Raises:
            ValueError: y has a single class, or is no label.
        """
        checked: Any = validate_data(self, X, y, dtype=np.float64)
        x, y = checked
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"Expected y with two classes or more; got one class, {self.classes_.tolist()[0]!r}.")
        two = len(self.classes_) == 2
        likelihood, outputs = (TWO_CLASSES, 1) if two else (CLASSES, len(self.classes_))
        self._begin(x, numbers, likelihood, outputs, target=False)
        self.posterior_ = self._solve(self._inputs(x), numbers)
        self.model_ = self._in_raw_units()
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict the probability of each class, (n, classes)."""
        return np.asarray(self._predictive(X).probs, np.float64)

    def predict(self, X: Any) -> np.ndarray:
        """Predict the most probable label, (n,)."""
        probs = self.predict_proba(X)
        return self.classes_[np.argmax(probs, axis=1)]
