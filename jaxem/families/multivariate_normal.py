"""The multivariate normal distribution."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.checks import brief
from jaxem.core.contexts import Choice
from jaxem.core.data import Data, count
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.spaces import Real
from jaxem.families import normal_prior, products, unbounded
from jaxem.families.covariance import (
    FORMS,
    Form,
    deviations,
    expected_log_normal,
    first_moments,
    is_degenerate,
    log_normal,
    scatter_about_mean,
)
from jaxem.families.normal_prior import NormalInverseWishart


class MultivariateNormalParams(NamedTuple):
    """The parameters of ``MultivariateNormal``."""

    means: Array  # (K, D)
    covariances: Array  # full (K, D, D), tied (D, D), diag (K, D), spherical (K,)


class MultivariateNormalStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk
    first: Array  # (K, D), sum_n r_nk (x_n - origin_k)
    second: Array  # sum_n r_nk (x_n - origin_k)(x_n - origin_k)', shaped like the covariances


class Prepared(NamedTuple):
    at: MultivariateNormalParams  # its means are the origin of the sums
    view: Any  # a ``Choice`` of the classes prepared for matrix products; None where deviations from means are as fast


@register
@dataclasses.dataclass(frozen=True)
class MultivariateNormal:
    r"""The normal distribution of D real numbers.

    .. math:: \log p(x \mid k) = -\tfrac12 \left( D \log 2\pi + \log |S_k|
              + (x - m_k)' S_k^{-1} (x - m_k) \right)

    .. math:: \text{M: } n_k = \textstyle\sum_n r_{nk},\; m_k = \sum_n r_{nk}\, x_n / n_k,\;
              S_k = \sum_n r_{nk} (x_n - m_k)(x_n - m_k)' / n_k

    This is the maximiser for full covariances. A tied covariance is the mean of the S_k with weights n_k; diagonal
    covariances are the diagonals of the S_k; spherical ones are the means of those diagonals. The data are (N, D); the
    parameters are a ``MultivariateNormalParams``.

    Arguments:
        covariance: ``"full"`` (default): a matrix for each class (K, D, D); ``"tied"``: one matrix for all classes
            (D, D); ``"diag"``: a variance for each class and variable (K, D); ``"spherical"``: one variance for each
            class (K,).
        prior: a ``NormalInverseWishart``, for example ``NormalInverseWishart.from_data(x, k)``; the fit is then MAP.
            ``None`` (default): maximum likelihood.

    Raises:
        ValueError: ``covariance`` is none of the four names, or ``prior`` is not a ``NormalInverseWishart``.
    """

    covariance: str = dataclasses.field(default="full", metadata={"static": True})
    prior: NormalInverseWishart | None = None

    event_ndim: ClassVar[int] = 1
    accurate: ClassVar[bool] = True
    centred: ClassVar[bool] = True
    support: ClassVar[str] = "finite numbers"
    separate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.covariance, str) or self.covariance not in FORMS:
            raise ValueError(
                f"MultivariateNormal: covariance must be one of {list(FORMS)}; got {brief(self.covariance)}"
            )
        if self.prior is not None and not isinstance(self.prior, NormalInverseWishart):
            raise ValueError(f"MultivariateNormal: prior must be a NormalInverseWishart; got {brief(self.prior)}")

    @property
    def dimensions(self) -> int | None:
        """D, the number of columns, where there is a prior; else ``None``."""
        return None if self.prior is None else jnp.shape(self.prior.mean)[0]

    @property
    def _form(self) -> Form:
        return FORMS[self.covariance]

    def declare(self) -> MultivariateNormalParams:
        means = Param.of(Real(), "K D", location=True)
        return MultivariateNormalParams(means, Param.of(self._form.space, self._form.axes))  # pyright: ignore[reportArgumentType]

    def prepare(self, params: MultivariateNormalParams, x: Data | None) -> Prepared:
        by = products.chosen(self.covariance, 0 if x is None else count(x), *params.means.shape)
        if by is None:
            return Prepared(params, None)
        view = by.view(self.covariance, *params)
        return Prepared(params, Choice(view.safe, view, None))

    def log_density(self, c: Prepared, x: Array) -> Array:
        if c.view is not None:
            return products.log_density(self.covariance, c.view, x).T
        means, covariances = c.at
        k = means.shape[0]
        textbook = lambda x: log_normal(self._form, covariances, deviations(x, means, k))
        return products.in_pieces(textbook, self.covariance, k, x).T

    def statistics(self, c: Prepared | None, r: Array, hidden: Any, x: Array) -> MultivariateNormalStatistics:
        k, means = r.shape[1], None if c is None else c.at.means

        def textbook(r: Array, x: Array) -> tuple[Array, Array]:
            y = deviations(x, means, k)
            return first_moments(r, y), self._form.second(r, y)

        if c is None or c.view is not None:
            moments = products.moments(self.covariance, None if c is None else c.view, r, x, textbook)
        else:
            moments = products.sum_of_pieces(textbook, self.covariance, r, x)
        return MultivariateNormalStatistics(r.sum(axis=0), *moments)

    def maximize(self, c: Prepared | None, sums: MultivariateNormalStatistics) -> MultivariateNormalParams:
        n, first, second = sums
        d = first.shape[-1]
        delta = first / jnp.where(n == 0, 1, n)[:, None]  # an empty class must not spoil a covariance that all share
        means = delta if c is None else c.at.means + delta
        scatter = scatter_about_mean(self._form, second, delta, n)
        if self.prior is None:
            return MultivariateNormalParams(means, scatter / self._form.divisor(n, d))
        return MultivariateNormalParams(*normal_prior.posterior_mode(self.prior, self.covariance, n, means, scatter))

    def expected(self, c: Prepared, params: MultivariateNormalParams, sums: MultivariateNormalStatistics) -> Array:
        n, first, second = sums
        d = params.means - c.at.means
        scatter = second - self._form.cross(first, d) + self._form.outer(d, n)
        return expected_log_normal(self._form, params.covariances, scatter, n, d.shape[1])

    def log_prior(self, params: MultivariateNormalParams) -> Array | float:
        if self.prior is None:
            return 0.0
        return normal_prior.log_prior(self.prior, self.covariance, *params)

    def contrasts(self, params: MultivariateNormalParams) -> Array:
        means, covariances = params
        k, d = means.shape
        scale = jnp.sqrt(jnp.broadcast_to(self._form.variances(covariances, d), (k, d)).mean(axis=0))
        parts = [(means - means.mean(axis=0)[None, :]) / scale[None, :]]
        if self.covariance == "full":
            parts.append((covariances / (scale[:, None] * scale[None, :])[None]).reshape(k, -1))
        elif self.covariance != "tied":
            parts.append((covariances.reshape(k, -1) / (scale**2)[None, :])[:, : covariances[0].size])
        return jnp.concatenate(parts, axis=1)

    def features(self, x: Array) -> Array:
        return x

    def supports(self, x: Array) -> Array:
        return jnp.isfinite(x).all(axis=1)

    def diagnose(self, x: np.ndarray, dtype: np.dtype) -> str | None:
        """Why no start can be made from the rows ``x`` in this dtype; ``None`` where no reason is found."""
        found = unbounded.out_of_range(x, dtype)
        if found is not None or self.prior is not None:
            return found
        name = f"MultivariateNormal({self.covariance!r}"
        prior = f"give a prior, e.g. {name}, NormalInverseWishart.from_data(x, k))"
        if self.covariance == "spherical":
            every = len(unbounded.constant_columns(x, dtype)) == x.shape[1]
            return unbounded.constant(x, dtype, prior) if every else None
        found = unbounded.constant(x, dtype, prior)
        if found is None and self.covariance != "diag":
            found = unbounded.dependent(x, dtype, f"use covariance='diag' or 'spherical', or {prior}")
        return found

    def degenerate(self, params: MultivariateNormalParams) -> Array:
        return is_degenerate(self._form, *params)

    def sample(self, key: Array, params: MultivariateNormalParams, labels: Array) -> Array:
        k, d = params.means.shape
        factors = jnp.broadcast_to(self._form.factor(params.covariances, d), (k, d, d))
        noise = jax.random.normal(key, (labels.shape[0], d), params.means.dtype)
        return params.means[labels] + jnp.matmul(factors[labels], noise[:, :, None])[:, :, 0]
