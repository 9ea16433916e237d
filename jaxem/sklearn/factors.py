"""``FactorAnalysis``."""

import dataclasses
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.extmath import randomized_svd
from sklearn.utils.validation import check_is_fitted

from jaxem import models
from jaxem.models.factor_analysis_params import FactorAnalysisParams
from jaxem.sklearn.base import Estimator, Integral, doubles
from jaxem.sklearn.scores import Density

_FAINTEST = 0.01  # of the noise: the least that a factor explains at a start; one of no effect would stay so


class FactorAnalysis(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Density):
    r"""Factor analysis, by EM: x = mean + components' z + e, with z ~ N(0, I) and e ~ N(0, diag(noise)).

    The parameters and attributes are scikit-learn's, with these differences. ``tol`` is the log-likelihood per observed
    value that may be left to the maximum. Cells of X may be NaN. Data need more columns than factors.

    Arguments:
        n_components: the number of factors, at least 1; default 1.
        tol: see above; default 1e-10.
        max_iter: the greatest number of iterations; default 1000.
        noise_variance_init: noise variances to start from, (D,); default: half of the variances of X. The loadings that
            are best for these noise variances are the start.
        svd_method: how the start is computed: ``"lapack"`` (default), exactly, or ``"randomized"``.
        iterated_power: the power iterations of ``"randomized"``; default 3.
        rotation: ``"varimax"`` or ``"quartimax"``; default ``None``: components' noise^-1 components is diagonal.
        random_state: for ``"randomized"``: an int, a ``RandomState`` or ``None``; default 0.
        warm_start: whether ``fit`` starts from the result of the last fit; default False.
        algorithm: an algorithm of jaxem, such as ``jaxem.SQUAREM()``, often much faster; default: as
            ``jaxem.fit`` chooses.
        verbose: whether the progress of the fit is printed; default 0.

    Attributes: ``components_`` (k, D), ``noise_variance_`` (D,), ``mean_`` (D,), ``loglike_``, the log-likelihood after
    each iteration, and those of every fit.

    Source: Rubin & Thayer (1982).
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Estimator._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "noise_variance_init": ["array-like", None],
        "svd_method": [StrOptions({"randomized", "lapack"})],
        "iterated_power": [Interval(Integral, 0, None, closed="left")],
        "rotation": [StrOptions({"varimax", "quartimax"}), None],
    }
    _parameter_constraints.pop("n_init")

    components_: np.ndarray
    noise_variance_: np.ndarray
    mean_: np.ndarray
    loglike_: list[float]
    noise_variance_init: Any
    svd_method: str
    iterated_power: int
    rotation: str | None

    def __init__(
        self,
        n_components: int = 1,
        *,
        tol: float = 1e-10,
        max_iter: int = 1000,
        noise_variance_init: Any = None,
        svd_method: str = "lapack",
        iterated_power: int = 3,
        rotation: str | None = None,
        random_state: Any = 0,
        warm_start: bool = False,
        algorithm: Any = None,
        verbose: int = 0,
    ) -> None:
        self._take(locals())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def _read(self, X: Any, reset: bool) -> np.ndarray:
        return self._matrix(X, reset, ensure_all_finite="allow-nan")

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the model by EM.

        Arguments:
            X: observations (N, D): an array or a data frame.
            y: not used.
            sample_weight: (N,), how many times each observation counts; default: once each.

        Returns:
            The estimator.

        Raises:
            ValueError: a parameter or X is not valid, or the fit failed; the message says why.
        """
        self._validate_params()
        X = self._read(X, reset=True)
        k, d = self.n_components, X.shape[1]
        if k >= d:
            raise ValueError(f"{k} factors need more than {k} columns, to be told from noise; n_features = {d}")
        random = self._random()
        with doubles():
            data, model = self._weighted(X, sample_weight, X), models.FactorAnalysis(k)
            self._climb(model, data, [self._start(X, k, sample_weight, random)], random)
            canonical = np.asarray(model.canonical(self.fit_.params).loadings)
        turned = canonical if self.rotation is None else rotated(canonical, self.rotation)
        self.fit_ = dataclasses.replace(self.fit_, params=self.fit_.params._replace(loadings=turned))
        self.components_, self.noise_variance_ = turned.T, self.fit_.params.noise
        self.mean_ = self.fit_.params.mean
        assert self.fit_.trace is not None
        self.loglike_ = self.fit_.trace[1 : self.n_iter_ + 1].tolist()
        return self

    def _start(self, X: np.ndarray, k: int, sample_weight: Any, random: np.random.RandomState) -> FactorAnalysisParams:
        """The best loadings for given noise: the principal components of X in units of the noise, without its part."""
        w = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, float)
        seen = ~np.isnan(X) * w[:, None]
        share = seen / np.maximum(seen.sum(axis=0), np.finfo(float).tiny)
        mean = (share * np.nan_to_num(X)).sum(axis=0)
        centred = np.where(np.isnan(X), 0, X - mean)
        noise = (share * centred**2).sum(axis=0) / 2
        if self.noise_variance_init is not None:
            noise = np.asarray(self.noise_variance_init, float)
            if noise.shape != (X.shape[1],):
                raise ValueError(
                    "noise_variance_init dimension does not agree with number of features : "
                    f"{noise.size} != {X.shape[1]}"
                )
        roots = np.sqrt(np.where(noise > 0, noise, 1))  # a constant column is refused by the fit
        z = centred * np.sqrt(w / max(w.sum(), np.finfo(float).tiny))[:, None] / roots
        if self.svd_method == "lapack":
            squares, columns = np.linalg.eigh(z.T @ z)
            s, v = np.sqrt(np.maximum(squares[::-1], 0)), columns.T[::-1]
        else:
            _, s, v = randomized_svd(z, k, n_iter=self.iterated_power, random_state=random)  # pyright: ignore
        loadings = np.zeros((X.shape[1], k))
        loadings[:, : len(s[:k])] = (np.sqrt(np.maximum(s**2 - 1, _FAINTEST))[:, None] * v)[:k].T * roots[:, None]
        found: list[Any] = [leaf.astype(X.dtype) for leaf in (mean, loadings, noise)]
        return FactorAnalysisParams(*found)

    def transform(self, X: Any) -> np.ndarray:
        """The expected factors of each row.

        Arguments:
            X: observations (N, D).

        Returns:
            Factors (N, k); a data frame where ``set_output`` asks for one.
        """
        check_is_fitted(self)
        with doubles():
            return np.asarray(self.model_.predict(self.fit_, self._data(X)))

    def get_covariance(self) -> np.ndarray:
        """The covariance matrix of the model.

        Returns:
            components' components + diag(noise), (D, D).
        """
        check_is_fitted(self)
        return self.components_.T @ self.components_ + np.diag(self.noise_variance_)

    def get_precision(self) -> np.ndarray:
        """The inverse of ``get_covariance()``, by a matrix of factors.

        Returns:
            A matrix (D, D).
        """
        check_is_fitted(self)
        scaled = self.components_ / self.noise_variance_
        inner = np.eye(len(scaled), dtype=scaled.dtype) + scaled @ self.components_.T
        return np.diag(1 / self.noise_variance_) - scaled.T @ np.linalg.solve(inner, scaled)

    def sample(self, n_samples: int = 1) -> np.ndarray:
        """Draws from the fitted model.

        Arguments:
            n_samples: how many, at least 1; default 1.

        Returns:
            Observations (n, D).
        """
        check_is_fitted(self)
        with doubles():
            return np.asarray(self.model_.sample(self._key(), self.fit_, n_samples))


def rotated(loadings: np.ndarray, criterion: str) -> np.ndarray:
    r"""Loadings (D, k) rotated to a maximum of the orthomax criterion.

    .. math:: \sum_j \left( \sum_d l_{dj}^4 - \frac{\gamma}{D} \Big(\sum_d l_{dj}^2\Big)^2 \right), \qquad
              \gamma = 1\ (varimax),\ 0\ (quartimax)

    Source: Kaiser (1958); Horst (1965) for the iteration by singular values.
    """
    d, k = loadings.shape
    gamma = 1.0 if criterion == "varimax" else 0.0
    turn, reached = np.eye(k), 0.0
    for _ in range(500):
        turned = loadings @ turn
        slope = loadings.T @ (turned**3 - gamma / d * turned * (turned**2).sum(axis=0))
        u, s, v = np.linalg.svd(slope)
        turn = u @ v
        if s.sum() <= reached * (1 + 1e-12):
            break
        reached = s.sum()
    return (loadings @ turn).astype(loadings.dtype)
