"""A hidden Markov model with normal emissions, with the interface of hmmlearn."""

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from jaxem.families import MultivariateNormal, PriorObservations
from jaxem.families.multivariate_normal import MultivariateNormalParams
from jaxem.sklearn.hmm import Emission, HiddenMarkov
from jaxem.sklearn.hmm_reading import broadcast

_MATRICES = ("full", "tied")


class GaussianHMM(HiddenMarkov):
    r"""A hidden Markov model with normal emissions.

    The objective is log-likelihood plus log-prior. The priors are those that hmmlearn's updates maximise: Dirichlet
    distributions of ``startprob_`` and of each row of ``transmat_``, and, up to a constant,

    .. math:: \log p(m, S) = -\tfrac12 \sum_k \left( \nu \log |S_k| + \operatorname{tr}(\Lambda_k S_k^{-1})
              + \kappa (m_k - \mu_k)' S_k^{-1} (m_k - \mu_k) \right)

    with kappa = ``means_weight``, mu = ``means_prior``, Lambda = ``covars_prior`` (added to every element of a matrix
    where it is a number, as in hmmlearn) and nu = max(``covars_weight`` - 1, 0), for full and tied covariances
    max(``covars_weight`` - D, 0).

    Where it differs from hmmlearn: EM runs until it has converged (``n_iter=1000``); means start from k-means++ and
    covariances from their clusters; NaN is a cell that was not observed; ``implementation`` has no effect, because the
    recursions are scaled and turn to logarithms where numbers underflow; a fit that failed raises ``ValueError``.

    Arguments:
        n_components: the number of states K.
        covariance_type: ``"diag"`` (default), ``"spherical"``, ``"full"`` or ``"tied"``.
        min_covar: what is added to the variances of the start, in squared units of X.
        startprob_prior: concentration of the Dirichlet prior of ``startprob_``, at least 1; a number or (K,).
        transmat_prior: likewise of each row of ``transmat_``; a number, (K,) or (K, K).
        means_prior: mu; broadcasts to (K, D).
        means_weight: kappa; a number, (K,) or (K, 1).
        covars_prior: Lambda; broadcasts to (K, D) for diagonal and spherical covariances, to (K, D, D) for full and to
            (D, D) for tied ones.
        covars_weight: nu as above; a number.
        algorithm: how ``predict`` and ``decode`` find states: ``"viterbi"`` (default) or ``"map"``.
        random_state: a seed or a generator, for starts and samples.
        n_iter: the greatest number of EM iterations.
        tol: EM ends where it estimates that at most so much objective is left to win (hmmlearn: where an iteration
            wins less).
        verbose: whether progress is printed.
        params: the letters of what is fitted: ``s`` startprob, ``t`` transmat, ``m`` means, ``c`` covars. What is left
            out is held at its value.
        init_params: the letters of what is initialised; what is left out starts at its attribute, where that is set.
        implementation: ``"log"`` or ``"scaling"``; no effect.
        n_init: how many starts are tried; the best fit is kept.

    Attributes:
        startprob_: (K,).
        transmat_: (K, K).
        means_: (K, D).
        covars_: the covariance matrices (K, D, D); to be set in the shape of its type: (K,) spherical, (K, D) diag,
            (K, D, D) full, (D, D) tied.
        monitor_: the objective after each iteration, and whether EM converged.
        model_: what jaxem fitted.
        fit_: its ``Fit``.
        n_features_in_: the number of columns of the X of the fit.
        feature_names_in_: their names, where X had some.

    Source: Rabiner (1989); hmmlearn 0.3.3 for the interface.
    """

    _emitted: ClassVar[dict[str, Emission]] = {
        "m": Emission("means_", "emissions.means"),
        "c": Emission("_covars_", "emissions.covariances"),
    }
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **HiddenMarkov._parameter_constraints,
        "covariance_type": [StrOptions({"spherical", "diag", "full", "tied"})],
        "min_covar": [Interval(Real, 0, None, closed="left")],
    }

    _shaping: ClassVar[tuple[str, ...]] = ("n_components", "covariance_type")

    covariance_type: str
    min_covar: float
    means_prior: Any
    means_weight: Any
    covars_prior: Any
    covars_weight: Any
    means_: Any  # (K, D)
    _covars_: Any

    def __init__(
        self,
        n_components: int = 1,
        covariance_type: str = "diag",
        min_covar: float = 1e-3,
        startprob_prior: Any = 1.0,
        transmat_prior: Any = 1.0,
        means_prior: Any = 0,
        means_weight: Any = 0,
        covars_prior: Any = 1e-2,
        covars_weight: Any = 1,
        algorithm: str = "viterbi",
        random_state: Any = None,
        n_iter: int = 1000,
        tol: float = 1e-2,
        verbose: Any = False,
        params: str = "stmc",
        init_params: str = "stmc",
        implementation: str = "log",
        n_init: int = 1,
    ) -> None:
        self._take(locals())

    @property
    def covars_(self) -> np.ndarray:
        """The covariance matrices, (K, D, D)."""
        covars, (k, d) = self._covars_, (self.n_components, self._width())
        if self.covariance_type in _MATRICES:
            return np.array(np.broadcast_to(covars, (k, d, d)))
        variances = np.broadcast_to(covars.reshape(k, -1), (k, d))
        return variances[:, :, None] * np.eye(d, dtype=variances.dtype)[None]

    @covars_.setter
    def covars_(self, covars: Any) -> None:
        covars = np.array(covars, dtype=np.result_type(np.asarray(covars), np.float32))
        if self.covariance_type == "spherical" and covars.size == self.n_components:
            covars = covars.reshape(self.n_components)
        _check_covars(covars, self.covariance_type, self.n_components)
        self._covars_ = covars

    def _family(self, width: int, free: str) -> MultivariateNormal:
        return MultivariateNormal(self.covariance_type, self._prior(width, free))

    def _prior(self, d: int, free: str) -> PriorObservations | None:
        """The prior of what is free; ``None`` where it is flat."""
        k, matrices = self.n_components, self.covariance_type in _MATRICES
        mean = broadcast("means_prior", self.means_prior, (k, d))
        kappa = np.asarray(self.means_weight, float)
        kappa = broadcast("means_weight", kappa[:, 0] if kappa.shape == (k, 1) else kappa, (k,))
        size: Any = np.maximum(np.asarray(self.covars_weight, float) - (d if matrices else 1), 0)
        shape = {"tied": (d, d), "full": (k, d, d)}.get(self.covariance_type, (k, d))
        scatter = broadcast("covars_prior", self.covars_prior, shape)
        scatter = scatter.sum(axis=1) if self.covariance_type == "spherical" else scatter
        if np.ndim(size) > 0:
            raise ValueError(f"covars_weight must be a number; it is {self.covars_weight}")
        if (kappa < 0).any():
            raise ValueError(f"means_weight must be at least 0; it is {self.means_weight}")
        if "c" not in free:
            size, scatter = 0.0, 0 * scatter
        if not (("m" in free or "c" in free) and kappa.any()) and not size and not scatter.any():
            return None
        try:
            prior = PriorObservations(mean, kappa, size, scatter)
            prior.check(self.covariance_type)
        except ValueError as error:
            raise ValueError(f"covars_prior, or another prior, does not fit the covariance_type: {error}") from None
        return prior

    def _emissions(self, arrays: dict[str, np.ndarray]) -> MultivariateNormalParams:
        return MultivariateNormalParams(arrays["m"], arrays["c"])  # pyright: ignore[reportArgumentType]

    def _arrays_of(self, emissions: Any) -> dict[str, np.ndarray]:
        return {"m": emissions.means, "c": emissions.covariances}

    def _spread_start(self, arrays: dict[str, np.ndarray]) -> None:
        covars = arrays["c"]
        of_diagonal = np.eye(covars.shape[-1], dtype=covars.dtype) if self.covariance_type in _MATRICES else 1
        arrays["c"] = covars + self.min_covar * of_diagonal

    def _check_emissions(self) -> None:
        self.means_ = means = self._floats("means_")
        if means.ndim != 2 or len(means) != self.n_components:
            raise ValueError(f"means_ must have shape (n_components, n_features); it has {means.shape}")
        _check_covars(self._floats("_covars_"), self.covariance_type, self.n_components)


def _check_covars(covars: np.ndarray, kind: str, k: int) -> None:
    """Raise ``ValueError`` where ``covars`` are no covariances of this type."""
    axes = {"spherical": 1, "diag": 2, "full": 3, "tied": 2}
    if kind not in axes:
        raise ValueError(f"covariance_type must be one of {list(axes)}; it is {kind!r}")
    of_matrices = kind in _MATRICES
    square = not of_matrices or (covars.ndim >= 2 and covars.shape[-1] == covars.shape[-2])
    if covars.ndim != axes[kind] or not square or (kind != "tied" and len(covars) != k):
        shapes = {
            "spherical": "(n_components,)",
            "diag": "(n_components, n_features)",
            "full": "(n_components, n_features, n_features)",
            "tied": "(n_features, n_features)",
        }
        raise ValueError(f"{kind!r} covars must have shape {shapes[kind]}; they have {covars.shape}")
    if not of_matrices:
        if not (covars > 0).all():
            raise ValueError(f"{kind!r} covars must be positive")
        return
    symmetric = np.allclose(covars, np.swapaxes(covars, -1, -2))
    if not symmetric or not (np.linalg.eigvalsh(covars) > 0).all():
        raise ValueError(f"{kind!r} covars must be symmetric, positive-definite")
