"""``StudentTMixture``, and ``MixtureModel`` for every other family."""

from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import HasMethods, StrOptions

from jaxem import families
from jaxem.algorithms import SQUAREM
from jaxem.families import MultivariateStudentT, Product
from jaxem.families.covariance import FORMS
from jaxem.sklearn.base import Interval, Real
from jaxem.sklearn.classes import Classes
from jaxem.sklearn.gaussian import ILL_DEFINED


class StudentTMixture(Classes):
    r"""A mixture of multivariate t distributions, by EM: outlying rows have little influence.

    .. math:: p(x) = \sum_k w_k\, t(x; m_k, S_k, \nu_k)

    Arguments:
        n_components: the number of classes; default 1.
        covariance_type: the form of the scatter matrices S_k: ``"full"`` (default), ``"tied"``, ``"diag"`` or
            ``"spherical"``.
        freedom: the degrees of freedom: ``"free"`` (default), one for each class; ``"tied"``, one for all; or a number.
        algorithm: an algorithm of jaxem; default: ``SQUAREM()``, as EM is slow where the tails are light.
        tol, max_iter, n_init, init_params, random_state, warm_start, verbose: as for ``GaussianMixture``.

    Attributes: ``weights_`` (K,), ``locations_`` (K, D), ``scatters_``, shaped like ``covariances_`` of
    ``GaussianMixture``, ``freedom_`` (K,), and those of every fit.

    Source: Peel & McLachlan (2000).
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Classes._parameter_constraints,
        "covariance_type": [StrOptions({*FORMS})],
        "freedom": [StrOptions({"free", "tied"}), Interval(Real, 0, None, closed="neither")],
    }
    _failure: ClassVar[str] = ILL_DEFINED

    locations_: np.ndarray
    scatters_: np.ndarray
    freedom_: np.ndarray
    covariance_type: str
    freedom: Any

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        freedom: Any = "free",
        algorithm: Any = None,
        tol: float = 1e-10,
        max_iter: int = 1000,
        n_init: int = 1,
        init_params: str = "kmeans",
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
    ) -> None:
        self._take(locals())

    def _family(self, X: Any) -> MultivariateStudentT:
        return MultivariateStudentT(self.covariance_type, self.freedom)

    def _algorithm(self) -> Any:
        return SQUAREM() if self.algorithm is None else self.algorithm

    def _publish(self) -> None:
        super()._publish()
        self.locations_, self.scatters_, tails = self.fit_.params.components
        nu = self.freedom if tails is None else np.divide(1, tails, out=np.full_like(tails, np.inf), where=tails > 0)
        self.freedom_ = np.broadcast_to(np.asarray(nu, self.locations_.dtype), self.weights_.shape).copy()


class MixtureModel(Classes):
    r"""A mixture of any family of distributions of jaxem.

    .. math:: p(x) = \sum_k w_k\, p(x \mid \theta_k)

    A family of a single number on several columns takes them as independent given the class.

    Arguments:
        n_components: the number of classes; default 1.
        family: a family, such as ``jaxem.families.PoissonVector()``, or the name of one; default
            ``"Normal"``.
        algorithm: an algorithm of jaxem; default: as ``jaxem.fit`` chooses.
        init_params: ``"k-means++"`` (default), ``"random_from_data"``, ``"random"`` or ``"kmeans"``.
        tol, max_iter, n_init, random_state, warm_start, verbose: as for ``GaussianMixture``.

    Attributes: ``weights_`` (K,), ``components_``, the parameters of the family, and those of every fit.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Classes._parameter_constraints,
        "family": [str, HasMethods(["declare", "log_density", "statistics", "maximize", "expected"])],
    }

    components_: Any
    family: Any

    def __init__(
        self,
        n_components: int = 1,
        *,
        family: Any = "Normal",
        algorithm: Any = None,
        tol: float = 1e-10,
        max_iter: int = 1000,
        n_init: int = 1,
        init_params: str = "k-means++",
        random_state: Any = None,
        warm_start: bool = False,
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
        return "observed" in getattr(named_family(self.family), "takes", ())

    def _family(self, X: np.ndarray) -> Any:
        family: Any = named_family(self.family)
        if family.event_ndim == 0 and X.shape[1] > 1:
            parts: dict[str, Any] = dict.fromkeys(self._names(X), family)
            return Product(parts)
        return family

    def _names(self, X: np.ndarray) -> list[str]:
        return list(map(str, getattr(self, "feature_names_in_", [f"x{j}" for j in range(X.shape[1])])))

    def _read(self, X: Any, reset: bool) -> np.ndarray:
        return self._matrix(X, reset, ensure_all_finite="allow-nan" if self._may_miss else True)

    def _values(self, X: np.ndarray) -> Any:
        if named_family(self.family).event_ndim > 0:
            return X
        return X[:, 0] if X.shape[1] == 1 else dict(zip(self._names(X), X.T, strict=True))

    def _drawn(self, X: Any, n: int) -> np.ndarray:
        columns = [X[name] for name in self._names(np.empty((0, self.n_features_in_)))] if isinstance(X, dict) else [X]
        return np.concatenate([np.asarray(column)[:n].reshape(n, -1) for column in columns], axis=1)

    def _publish(self) -> None:
        super()._publish()
        self.components_ = self.fit_.params.components


def named_family(family: Any) -> Any:
    """A family, or that of this name in ``jaxem.families``; ``ValueError`` where there is none."""
    if not isinstance(family, str):
        return family
    known = sorted(
        name
        for name in dir(families)
        if isinstance(kind := getattr(families, name), type)
        and hasattr(kind, "log_density")
        and not name.startswith("_")
        and name != "Family"
    )
    if family not in known:
        raise ValueError(f"family must be a family of jaxem.families, or the name of one: {', '.join(known)}")
    try:
        return getattr(families, family)()
    except TypeError as error:
        raise ValueError(f"the family {family} has arguments: give jaxem.families.{family}(...)") from error
