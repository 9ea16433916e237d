r"""A prior of normal classes that counts as observations seen before: their sums are added to those of the data.

Unlike the normal-inverse-Wishart prior (``normal_prior.py``) it may be improper, and other for each class. It has no
normaliser, so objectives under two such priors cannot be compared.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxem.core.checks import brief
from jaxem.core.records import register
from jaxem.families.covariance import FORMS, Form, expected_log_normal


@register
@dataclasses.dataclass(frozen=True)
class PriorObservations:
    r"""The conjugate prior of the mean m_k and covariance S_k of normal classes, up to a constant.

    .. math:: \log p(m, S) = -\tfrac12 \sum_k \left( \nu_k \log |S_k| + \operatorname{tr}(\Lambda_k S_k^{-1})
              + \kappa_k (m_k - \mu_k)' S_k^{-1} (m_k - \mu_k) \right)

    .. math:: \text{M: } m_k = \frac{\kappa_k \mu_k + n_k \bar x_k}{\kappa_k + n_k}, \qquad
              S_k = \frac{\Lambda_k + \kappa_k (m_k - \mu_k)(m_k - \mu_k)' + \sum_n r_{nk} (x_n - m_k)(x_n - m_k)'}
                         {\nu_k + n_k}

    A normal-inverse-Wishart prior has nu = dof + D + 2. The prior need not be proper: with all fields zero it is flat.
    A field may be the same for all classes or have one entry for each, and may be traced.

    Arguments:
        mean: mu, a number, (D,) or (K, D).
        shrinkage: kappa, at least 0: how many observations mu is worth; a number or (K,).
        size: nu, at least 0: how many observations Lambda is worth; a number or (K,), a number for a tied covariance.
        scatter: Lambda, a sum of squares in squared units of the data, of a shape that broadcasts to that of the
            covariances: at least 0 where these are variances, else positive-semidefinite matrices.

    Raises:
        ValueError: a field is not finite or has too many axes; a shrinkage, a size or a sum of squares is negative, or
            a matrix is not positive semidefinite.

    Source: Gelman et al. (2013), sections 3.3 and 3.6.
    """

    mean: ArrayLike = 0.0
    shrinkage: ArrayLike = 0.0
    size: ArrayLike = 0.0
    scatter: ArrayLike = 0.0

    def __post_init__(self) -> None:
        for name, axes in (("mean", 2), ("shrinkage", 1), ("size", 1), ("scatter", 3)):
            value = getattr(self, name)
            if isinstance(value, Tracer):
                continue
            number = np.asarray(value) if isinstance(value, int | float | np.ndarray | np.number | Array) else None
            good = number is not None and number.dtype.kind in "iuf" and number.ndim <= axes
            if number is None or not good or not np.isfinite(number).all():
                raise ValueError(
                    f"PriorObservations: {name} must be finite numbers of at most {axes} axes; got {brief(value)}"
                )
            if name in ("shrinkage", "size") and (number < 0).any():
                raise ValueError(f"PriorObservations: {name} must be at least 0; got {brief(value)}")
            object.__setattr__(self, name, jnp.asarray(value, jnp.result_type(value, float)))

    @property
    def dimensions(self) -> int | None:
        """D, the number of columns, where the mean has an entry for each; else ``None``."""
        shape = jnp.shape(self.mean)
        return shape[-1] if shape else None

    def check(self, covariance: str) -> None:
        """Raise ``ValueError`` where ``scatter`` is none of covariances of this form."""
        if isinstance(self.scatter, Tracer):
            return
        scatter, matrices = np.asarray(self.scatter), FORMS[covariance].of_matrices
        if matrices and scatter.ndim >= 2:
            square = scatter.shape[-1] == scatter.shape[-2] and np.allclose(scatter, np.swapaxes(scatter, -1, -2))
            least = np.linalg.eigvalsh(scatter).min() if square else -np.inf
            good = least >= -8 * np.finfo(scatter.dtype).eps * scatter.shape[-1] * np.abs(scatter).max()
        else:
            good = scatter.ndim < 3 and (scatter >= 0).all()
        if not good:
            what = "positive-semidefinite matrices" if matrices else "at least 0"
            raise ValueError(f"PriorObservations: scatter of {covariance!r} covariances must be {what}; got {scatter}")

    def added(
        self, form: Form, origin: Array | float, n: Array, first: Array, second: Array
    ) -> tuple[Array, Array, Array]:
        """The sums of data and prior.

        Arguments:
            form: the form of the covariances.
            origin: what sums are taken about, (K, D).
            n: class sizes (K,), or (K, D) where cells are missing.
            first: sums of x - origin, (K, D).
            second: sums of squares about the origin, in the shape of the covariances.

        Returns:
            The same three sums; the class sizes are those of the means, n + kappa.
        """
        kappa, away = _like(self.shrinkage, n), jnp.broadcast_to(_as(self.mean, first), first.shape) - origin
        per = kappa if kappa.ndim == 2 else kappa[:, None]
        return n + kappa, first + per * away, second + form.outer(away, kappa) + self._scatter(second)

    def divisor(self, form: Form, n: Array, d: int) -> Array:
        """What a sum of squares is divided by: that of n + nu.

        Arguments:
            form: the form of the covariances.
            n: class sizes of the data.
            d: the number of columns.

        Returns:
            The divisors, in a shape that broadcasts to the covariances.
        """
        return form.divisor(n, d) + form.divisor(self._sizes(form, n), d)

    def log_density(self, covariance: str, means: Array, covariances: Array) -> Array:
        """log p(m, S) of all classes, up to a constant, ()."""
        form, one = FORMS[covariance], jnp.ones_like(means[:, 0])
        scatter = form.outer(means - _as(self.mean, means), _like(self.shrinkage, one)) + self._scatter(covariances)
        return expected_log_normal(form, covariances, scatter, self._sizes(form, one), means.shape[1])

    def _sizes(self, form: Form, n: Array) -> Array:
        """nu, in the shape of the class sizes ``n``; (1,) where one covariance is that of all classes."""
        return jnp.asarray(self.size, n.dtype).reshape(1) if form.axes == "D D" else _like(self.size, n)

    def _scatter(self, like: Array) -> Array:
        return jnp.broadcast_to(_as(self.scatter, like), like.shape)


def _as(value: ArrayLike, like: Array) -> Array:
    """A field in the dtype of ``like``, with axes put in front so that it broadcasts strictly."""
    value = jnp.asarray(value, like.dtype)
    return value.reshape((1,) * max(like.ndim - value.ndim, 0) + value.shape)


def _like(value: ArrayLike, n: Array) -> Array:
    """A number, or one for each class (K,), in the shape of class sizes (K,) or (K, D)."""
    value = jnp.asarray(value, n.dtype)
    return jnp.broadcast_to(value.reshape(-1, *(1,) * (n.ndim - 1)), n.shape)
