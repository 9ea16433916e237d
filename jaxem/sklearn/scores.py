"""Scores of estimators of a distribution of X: log-densities and criteria."""

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from jaxem import inference
from jaxem.sklearn.base import Estimator, doubles


class Density(Estimator):
    """An estimator of the distribution of X, whose rows are independent."""

    def _read(self, X: Any, reset: bool) -> np.ndarray:
        """X as an array with one row for each observation."""
        return self._matrix(X, reset)

    def _values(self, X: np.ndarray) -> Any:
        """The values that the model is given, of what ``_read`` returned."""
        return X

    def as_data(self, X: Any, sample_weight: Any = None) -> Any:
        """X as the functions of jaxem take it, for example ``jaxem.summary(self.model_, self.fit_, self.as_data(X))``.

        Arguments:
            X: observations, as for ``fit``.
            sample_weight: (N,), how many times each observation counts; default: once each.

        Returns:
            An array, or a ``jaxem.Dataset``.
        """
        check_is_fitted(self)
        return self._data(X, sample_weight)

    def _data(self, X: Any, sample_weight: Any = None) -> Any:
        """``as_data`` of a fitted estimator, without names."""
        X = self._read(X, reset=False)
        return self._weighted(self._values(X), sample_weight, X)

    def score_samples(self, X: Any) -> np.ndarray:
        """The log-density of each observation.

        Arguments:
            X: observations (N, D).

        Returns:
            Log-densities (N,), without the floor of ``reg_covar``.
        """
        model = self._density
        with doubles():
            return np.asarray(model.log_prob(self._params, self._data(X)))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The mean of ``score_samples``; higher is better.

        Arguments:
            X: observations (N, D).
            y: not used.
            sample_weight: (N,), weights of the mean; default: equal.

        Returns:
            The mean.
        """
        return float(np.average(self.score_samples(X), weights=sample_weight))

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """The Bayesian information criterion, -2 log L + p log n; lower is better.

        Arguments:
            X: observations (N, D).
            sample_weight: (N,), how many times each observation counts; default: once each.

        Returns:
            The criterion, without prior and floor; see ``jaxem.inference.bic``.
        """
        return self._criterion(inference.bic, self.as_data(X, sample_weight))

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Akaike's information criterion, -2 log L + 2 p; lower is better.

        Arguments:
            X: observations (N, D).
            sample_weight: (N,), how many times each observation counts; default: once each.

        Returns:
            The criterion, without prior and floor; see ``jaxem.inference.aic``.
        """
        return self._criterion(inference.aic, self.as_data(X, sample_weight))
