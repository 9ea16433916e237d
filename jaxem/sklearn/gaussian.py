"""``GaussianMixture``."""

from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from jaxem.families import MultivariateNormal, MultivariateNormalParams
from jaxem.families.forms import FORMS, SAME
from jaxem.models.mixture_params import MixtureParams
from jaxem.sklearn.base import Real
from jaxem.sklearn.classes import Classes

_FOUR = ("full", "tied", "diag", "spherical")
ILL_DEFINED = (
    "Fitting the mixture model failed because some components have ill-defined empirical covariance (for instance "
    "caused by singleton or collapsed samples). Try to decrease the number of components, increase reg_covar, or scale "
    "the input data. "
)


class GaussianMixture(Classes):
    r"""A mixture of normal distributions, by EM.

    .. math:: p(x) = \sum_k w_k\, N(x; m_k, S_k)

    The parameters and attributes are scikit-learn's, with these differences. ``reg_covar`` is part of the objective
    (see ``floor`` of ``jaxem.families.MultivariateNormal``), so that the objective rises in each iteration. ``tol`` is
    the log-likelihood per observed value that may be left to the maximum, not the last change. Cells of X may be NaN
    where ``reg_covar`` is 0, or the covariances are diagonal. ``transform`` gives the class probabilities.

    Arguments:
        n_components: the number of classes; default 1.
        covariance_type: ``"full"`` (default), ``"tied"``, ``"diag"``, ``"spherical"``, or one of the fourteen names of
            mclust, such as ``"VEV"``.
        tol: see above; default 1e-10.
        reg_covar: added to the variances by each M-step, in squared units of X; default 1e-6.
        max_iter: the greatest number of iterations; default 1000.
        n_init: the number of starts, of which the best fit is kept; default 1.
        init_params: ``"kmeans"`` (default), ``"k-means++"``, ``"random_from_data"`` or ``"random"``.
        weights_init: weights to start from, (K,); default: by ``init_params``.
        means_init: means to start from, (K, D); default: likewise.
        precisions_init: inverse covariances to start from, shaped like ``precisions_``; default: likewise. It needs one
            of scikit-learn's four types.
        random_state: an int, a ``RandomState`` or ``None``; default ``None``.
        warm_start: whether ``fit`` starts from the result of the last fit; default False.
        algorithm: an algorithm of jaxem, such as ``jaxem.SQUAREM()``; default: as ``jaxem.fit`` chooses.
        verbose: whether the progress of the fit is printed; default 0.

    Attributes: ``weights_``, ``means_``, ``covariances_``, ``precisions_``, ``precisions_cholesky_``, ``converged_``,
    ``n_iter_``, ``lower_bound_``, ``lower_bounds_``, and jaxem's own ``model_`` and ``fit_``. With the names of mclust
    other than VVV, EEE, VVI and VII, ``covariances_`` and precisions are matrices (K, D, D).

    Source: Celeux & Govaert (1995) for the fourteen types.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Classes._parameter_constraints,
        "covariance_type": [StrOptions({*FORMS, *SAME})],
        "reg_covar": [Interval(Real, 0, None, closed="left")],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
    }

    _failure: ClassVar[str] = ILL_DEFINED

    means_: np.ndarray  # (K, D)
    covariances_: np.ndarray
    precisions_: np.ndarray  # the inverses of the covariances
    precisions_cholesky_: np.ndarray  # upper triangular U with U U' = precision, or roots of precisions
    covariance_type: str
    reg_covar: float
    weights_init: Any
    means_init: Any
    precisions_init: Any

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-10,
        reg_covar: float = 1e-6,
        max_iter: int = 1000,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        algorithm: Any = None,
        verbose: int = 0,
    ) -> None:
        self._take(locals())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._may_miss
        return tags

    @property
    def _may_miss(self) -> bool:
        """Whether cells of X may be missing."""
        return "observed" in self._family(None).takes

    def _family(self, X: Any) -> MultivariateNormal:
        return MultivariateNormal(self.covariance_type, floor=float(self.reg_covar) or None)

    def _read(self, X: Any, reset: bool) -> np.ndarray:
        return self._matrix(X, reset, ensure_all_finite="allow-nan" if self._may_miss else True)

    def _starts(self, model: Any, data: Any, X: np.ndarray, sample_weight: Any, random: np.random.RandomState) -> Any:
        given = given_start(self, X)
        if all(value is not None for value in given):
            return [MixtureParams(given[0], MultivariateNormalParams(*given[1:]))]
        starts = super()._starts(model, data, X, sample_weight, random)
        if self._warm() or all(value is None for value in given):
            return starts
        each = starts if isinstance(starts, list) else list(starts) * self.n_init
        made = [model.init(self._key(random), data, start) for start in each]
        chosen = lambda value, own: own if value is None else value
        return [
            MixtureParams(
                chosen(given[0], start.weights),
                MultivariateNormalParams(*map(chosen, given[1:], start.components)),
            )
            for start in made
        ]

    def _publish(self) -> None:
        super()._publish()
        means, own = self.fit_.params.components
        self.means_, form = np.asarray(means), self.model_.family.covariance
        if form not in _FOUR:
            own = self.model_.family.covariances(self.fit_.params.components)
        self.covariances_ = np.asarray(own)
        self.precisions_cholesky_, self.precisions_ = precisions(self.covariances_, form not in ("diag", "spherical"))


def precisions(covariances: np.ndarray, of_matrices: bool) -> tuple[np.ndarray, np.ndarray]:
    """Upper triangular U and U U', the inverses of covariance matrices; of variances s, s^-1/2 and s^-1."""
    if not of_matrices:
        roots = 1 / np.sqrt(covariances)
        return roots, roots**2
    lower = np.linalg.cholesky(covariances)
    one = np.broadcast_to(np.eye(lower.shape[-1], dtype=lower.dtype), lower.shape)
    upper = np.swapaxes(np.linalg.solve(lower, one), -1, -2)
    return upper, upper @ np.swapaxes(upper, -1, -2)


def given_start(estimator: GaussianMixture, X: np.ndarray) -> tuple[Any, Any, Any]:
    """The weights, means and covariances that the user gave to start from, each ``None`` where not given.

    Raises ``ValueError``, in scikit-learn's words, where a shape or a value is wrong.
    """
    (k, d), form = (estimator.n_components, X.shape[1]), estimator._family(None).covariance
    read = lambda value: None if value is None else np.asarray(value, X.dtype)
    w, m, p = map(read, (estimator.weights_init, estimator.means_init, estimator.precisions_init))
    if w is not None:
        _shape("weights", w, (k,))
        if (w < 0).any() or (w > 1).any():
            raise ValueError(
                "The parameter 'weights' should be in the range [0, 1], but got max value "
                f"{w.max():.5f}, min value {w.min():.5f}"
            )
        if abs(1 - w.sum()) > 8 * k * float(np.finfo(w.dtype).eps):
            raise ValueError(f"The parameter 'weights' should be normalized, but got sum(weights) = {w.sum():.5f}")
    if m is not None:
        _shape("means", m, (k, d))
    if p is None:
        return w, m, None
    if form not in _FOUR:
        raise ValueError(f"precisions_init needs a covariance_type among {', '.join(_FOUR)}; it is {form!r}")
    _shape(f"{form} precision", p, {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}[form])
    if form in ("diag", "spherical"):
        if (p <= 0).any():
            raise ValueError(f"'{form} precision' should be positive")
        return w, m, 1 / p
    near = np.allclose(p, np.swapaxes(p, -1, -2), rtol=1e-4 if p.dtype == np.float32 else 1e-7)
    if not near or (np.linalg.eigvalsh(p) <= 0).any():
        raise ValueError(f"'{form} precision' should be symmetric, positive-definite")
    return w, m, np.linalg.inv(p)


def _shape(name: str, value: np.ndarray, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
        raise ValueError(f"The parameter '{name}' should have the shape of {shape}, but got {value.shape}")
