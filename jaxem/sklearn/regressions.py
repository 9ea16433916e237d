"""``MixtureOfRegressions``."""

from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from jaxem import inference
from jaxem.core.compilation import program
from jaxem.core.conversion import convert
from jaxem.core.data import count
from jaxem.families import Normal, Regression
from jaxem.gates import Constant, Softmax
from jaxem.models import Mixture
from jaxem.sklearn.base import Estimator, Integral, Real, doubles
from jaxem.sklearn.mixtures import named_family
from jaxem.sklearn.starts import KINDS


class MixtureOfRegressions(RegressorMixin, Estimator):
    r"""A mixture of regressions of y on X: each row belongs to one of several classes, each with its own coefficients.

    .. math:: p(y \mid x) = \sum_k w_k(x)\, p(y \mid x, \beta_k, \phi_k)

    ``predict`` gives the expected response, ``predict_class`` and ``predict_class_proba`` the classes (scikit-learn
    reserves ``predict_proba`` for classifiers), ``score`` is R^2.

    Arguments:
        n_components: the number of classes; default 2.
        family: the distribution of the response, such as ``jaxem.families.Poisson()``, or its name; or a whole
            ``jaxem.families.Regression``. Default ``"Normal"``.
        fit_intercept: whether there is an intercept; default True. It has no effect on a whole ``Regression``.
        gate: ``"constant"`` (default), class probabilities w_k; or ``"softmax"``, which depend on X.
        reg_covar: the floor under the variances of a normal response, in squared units of y; default ``None``: 1e-6 for
            the name ``"Normal"``, and what ``family`` says otherwise. It is refused beside other families.
        init_params: ``"k-means++"`` (default), ``"random_from_data"`` or ``"random"``.
        tol, max_iter, n_init, random_state, warm_start, algorithm, verbose: as for ``GaussianMixture``.

    Attributes: ``coef_`` (K, columns), ``intercept_`` (K,), ``dispersions_`` (K,) where the response has any,
    ``weights_`` (K,), the mean class probabilities, and those of every fit.

    Source: McLachlan & Peel (2000), chapter 5; Jordan & Jacobs (1994) for gates.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Estimator._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "family": [str, HasMethods(["declare", "log_density", "statistics", "maximize", "expected"])],
        "fit_intercept": ["boolean"],
        "reg_covar": [Interval(Real, 0, None, closed="left"), None],
        "gate": [StrOptions({"constant", "softmax"})],
        "init_params": [StrOptions({*KINDS})],
    }

    coef_: np.ndarray
    intercept_: np.ndarray
    dispersions_: np.ndarray | None
    weights_: np.ndarray
    family: Any
    fit_intercept: bool
    gate: str
    reg_covar: float | None
    init_params: str

    def __init__(
        self,
        n_components: int = 2,
        *,
        family: Any = "Normal",
        fit_intercept: bool = True,
        gate: str = "constant",
        reg_covar: float | None = None,
        tol: float = 1e-10,
        max_iter: int = 1000,
        n_init: int = 1,
        init_params: str = "k-means++",
        random_state: Any = None,
        warm_start: bool = False,
        algorithm: Any = None,
        verbose: int = 0,
    ) -> None:
        self._take(locals())

    def _regression(self) -> Any:
        family: Any = named_family(self.family)
        if self.family == "Normal" or self.reg_covar is not None:
            if not isinstance(family, Normal):
                raise ValueError("reg_covar is for the family Normal: leave it out")
            family = Normal(floor=float(1e-6 if self.reg_covar is None else self.reg_covar) or None)
        return family if isinstance(family, Regression) else Regression(family, intercept=bool(self.fit_intercept))

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the mixture by EM.

        Arguments:
            X: covariates (N, columns): an array or a data frame.
            y: responses (N,).
            sample_weight: (N,), how many times each row counts; default: once each.

        Returns:
            The estimator.

        Raises:
            ValueError: a parameter or the data are not valid, or every fit failed; the message says why.
        """
        self._validate_params()
        X, y = self._both(X, y, reset=True)
        random = self._random()
        with doubles():
            data = self._weighted(y, sample_weight, X, X)
            gate = Softmax() if self.gate == "softmax" else Constant()
            model = Mixture(self._regression(), self.n_components, gate)
            self._climb(model, data, (KINDS[self.init_params],), random)
            found = self.fit_.params.components
            self.weights_ = np.asarray(model.class_sizes(self.fit_.params, data))
        own = found.coefficients
        intercept = self._regression().intercept
        self.coef_ = own[:, int(intercept) :]
        self.intercept_ = own[:, 0] if intercept else np.zeros(self.n_components, own.dtype)
        self.dispersions_ = found.dispersions
        return self

    def _both(self, X: Any, y: Any, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        X, y = validate_data(
            self,
            X,
            y,
            reset=reset,
            dtype=(np.float64, np.float32),
            y_numeric=True,
            ensure_min_samples=max(2, self.n_components) if reset else 1,
        )
        return X, y.astype(X.dtype)

    def as_data(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """X and y as the functions of jaxem take them.

        An example is ``jaxem.summary(self.model_, self.fit_, self.as_data(X, y))``.

        Arguments:
            X: covariates, as for ``fit``.
            y: responses, as for ``fit``; default: zeros, for functions that do not read them.
            sample_weight: (N,), how many times each row counts; default: once each.

        Returns:
            A ``jaxem.Dataset``.
        """
        check_is_fitted(self)
        if y is None:
            X = self._matrix(X, reset=False)
            y = np.zeros(len(X), X.dtype)
        else:
            X, y = self._both(X, y, reset=False)
        return self._weighted(y, sample_weight, X, X)

    def predict(self, X: Any) -> np.ndarray:
        r"""The expected response, :math:`\sum_k w_k(x)\, E(y \mid x, k)`.

        Arguments:
            X: covariates (N, columns).

        Returns:
            Responses (N,).
        """
        check_is_fitted(self)
        with doubles():
            return np.asarray(_expected(self.model_, *convert(self.model_, self._params, self.as_data(X))))

    def predict_class_proba(self, X: Any, y: Any = None) -> np.ndarray:
        """The probability of each class, given X and y, or given X alone.

        Arguments:
            X: covariates (N, columns).
            y: responses (N,); default: unknown.

        Returns:
            Probabilities (N, K).
        """
        check_is_fitted(self)
        with doubles():
            if y is None:
                return np.asarray(_gate(self.model_, *convert(self.model_, self._params, self.as_data(X))))
            return np.asarray(self._density.predict_proba(self._params, self.as_data(X, y)))

    def predict_class(self, X: Any, y: Any = None) -> np.ndarray:
        """The most probable class, given X and y, or given X alone.

        Arguments:
            X: covariates (N, columns).
            y: responses (N,); default: unknown.

        Returns:
            Classes (N,), from 0 to K - 1.
        """
        return self.predict_class_proba(X, y).argmax(axis=1)

    def log_density(self, X: Any, y: Any) -> np.ndarray:
        """log p(y | x) of each row.

        Arguments:
            X: covariates (N, columns).
            y: responses (N,).

        Returns:
            Log-densities (N,).
        """
        check_is_fitted(self)
        with doubles():
            return np.asarray(self._density.log_prob(self._params, self.as_data(X, y)))

    def bic(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The Bayesian information criterion, -2 log L + p log n; lower is better.

        Arguments:
            X: covariates (N, columns).
            y: responses (N,).
            sample_weight: (N,), how many times each row counts; default: once each.

        Returns:
            The criterion; see ``jaxem.inference.bic``.
        """
        return self._criterion(inference.bic, self.as_data(X, y, sample_weight))

    def aic(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Akaike's information criterion, -2 log L + 2 p; lower is better.

        Arguments:
            X: covariates (N, columns).
            y: responses (N,).
            sample_weight: (N,), how many times each row counts; default: once each.

        Returns:
            The criterion; see ``jaxem.inference.aic``.
        """
        return self._criterion(inference.aic, self.as_data(X, y, sample_weight))


@program
def _gate(model: Mixture, params: Any, x: Any) -> Any:
    """The class probabilities of each row before its response is seen, (N, K)."""
    p = jnp.exp(model.gate.log_prob(model.gate.prepare(params.weights, x), x))
    return jnp.broadcast_to(p, (count(x), model.k))


@program
def _expected(model: Any, params: Any, x: Any) -> Any:
    return model.family.impute(params.components, _gate(model, params, x), x)
