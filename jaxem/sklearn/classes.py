"""Estimators in which each row belongs to one of several classes."""

from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import Interval

from jaxem.core.compilation import program
from jaxem.models import Mixture
from jaxem.sklearn.base import Estimator, Integral, doubles
from jaxem.sklearn.scores import Density
from jaxem.sklearn.starts import Starting, in_order


class Classes(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Starting, Density):
    """A mixture: ``fit``, the class of each row, its probabilities, draws.

    A subclass defines ``_family(X)``, the distribution of a row within its class.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Estimator._parameter_constraints,
        **Starting._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
    }

    init_params: str
    weights_: np.ndarray  # (K,), the share of each class

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.estimator_type = "density_estimator"  # as DensityMixin says, whose ``score`` does nothing
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.model_.k

    def _family(self, X: np.ndarray) -> Any:
        raise NotImplementedError

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the mixture by EM.

        Arguments:
            X: observations (N, D): an array or a data frame.
            y: not used.
            sample_weight: (N,), how many times each observation counts; default: once each.

        Returns:
            The estimator.

        Raises:
            ValueError: a parameter or X is not valid, or every fit failed; the message says why.
        """
        self._validate_params()
        X = self._read(X, reset=True)
        self._check_rows(X)
        if self.init_params != "kmeans":
            X, sample_weight = in_order(X, sample_weight)
        random = self._random()
        with doubles():
            data, model = self._weighted(self._values(X), sample_weight, X), Mixture(self._family(X), self.n_components)
            starts = self._starts(model, data, X, sample_weight, random)
            self._climb(model, data, starts, random)
        self._publish()
        return self

    def _check_rows(self, X: np.ndarray) -> None:
        if X.shape[0] < self.n_components:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, "
                f"n_samples = {X.shape[0]}"
            )

    def _publish(self) -> None:
        """Set the attributes that show the parameters."""
        self.weights_ = np.asarray(self.fit_.params.weights)

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """``fit``, and the most probable class of each row.

        Arguments:
            X: observations (N, D).
            y: not used.
            sample_weight: (N,), how many times each observation counts; default: once each.

        Returns:
            Classes (N,).
        """
        return self.fit(X, sample_weight=sample_weight).predict(X)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row.

        Arguments:
            X: observations (N, D).

        Returns:
            Classes (N,), from 0 to K - 1.
        """
        model = self._density
        with doubles():
            return np.asarray(model.predict(self._params, self._data(X)))

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, given the row.

        Arguments:
            X: observations (N, D).

        Returns:
            Probabilities (N, K).
        """
        model = self._density
        with doubles():
            return np.asarray(model.predict_proba(self._params, self._data(X)))

    def transform(self, X: Any) -> np.ndarray:
        """``predict_proba``, as features for a later step of a pipeline.

        Arguments:
            X: observations (N, D).

        Returns:
            Probabilities (N, K); a data frame where ``set_output`` asks for one.
        """
        return self.predict_proba(X)

    def sample(self, n_samples: int = 1) -> tuple[Any, np.ndarray]:
        """Draws from the fitted mixture.

        Arguments:
            n_samples: how many, at least 1; default 1.

        Returns:
            Observations (n, D) and their classes (n,).

        Raises:
            ValueError: ``n_samples`` is below 1.
        """
        model = self._density
        if n_samples < 1:
            raise ValueError(f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least one sample.")
        # As many as the next power of two: each shape is compiled once.
        many = 1 << (int(n_samples) - 1).bit_length()
        with doubles():
            labels, X = _draw(model, self._key(), self._params, many)
        return self._drawn(X, n_samples), np.asarray(labels)[:n_samples]

    def _drawn(self, X: Any, n: int) -> Any:
        """Draws of the model as rows of X."""
        return np.asarray(X)[:n]


@program(quick="always", static_argnames=("n",))
def _draw(model: Any, key: Any, params: Any, n: int) -> tuple[Any, Any]:
    return model.sample_joint(key, params, n)
