"""The multivariate normal distribution."""

import dataclasses
from typing import ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.checks import brief
from jaxem.core.constraints import Real
from jaxem.core.records import register
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

# So few that log-densities from deviations take no longer, where a view would be made for them alone.
_FEW_DIMENSIONS = 4


class MultivariateNormalParams(NamedTuple):
    means: Array  # (K, D)
    covariances: Array  # full (K, D, D), tied (D, D), diag (K, D), spherical (K,)


class MultivariateNormalStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk
    first: Array  # (K, D), sum_n r_nk (x_n - origin_k)
    second: Array  # sum_n r_nk (x_n - origin_k)(x_n - origin_k)', in the form of the covariances


@register
@dataclasses.dataclass(frozen=True)
class MultivariateNormal:
    r"""D real numbers: log p(x | k) = -(D log 2 pi + log|S_k| + (x - m_k)' S_k^-1 (x - m_k)) / 2.

    Data ``(N, D)``. ``covariance``: ``"full"``, ``"tied"`` (one for all classes), ``"diag"``, ``"spherical"``.
    Maximiser: m_k = sum_n r_nk x_n / n_k, S_k = sum_n r_nk (x_n - m_k)(x_n - m_k)' / n_k, pooled as the form says.
    ``prior``: a ``NormalInverseWishart``, e.g. ``NormalInverseWishart.from_data(x, k)``; the fit is then MAP.
    ``origin``: the parameters whose means the statistics are taken about; set by ``anchor``, so that nothing cancels
    far from zero. ``view``: the same parameters, prepared for products of matrices; ``careful``: never by such
    products; both set by ``forms``.
    """

    covariance: str = dataclasses.field(default="full", metadata={"static": True})
    prior: NormalInverseWishart | None = None
    origin: MultivariateNormalParams | None = None
    view: products.View | None = None
    careful: bool = dataclasses.field(default=False, repr=False, metadata={"static": True})

    event_ndim: ClassVar[int] = 1
    accurate: ClassVar[bool] = True
    support: ClassVar[str] = "finite numbers"

    def __post_init__(self) -> None:
        if not isinstance(self.covariance, str) or self.covariance not in FORMS:
            raise ValueError(
                f"MultivariateNormal: covariance must be one of {list(FORMS)}; got {brief(self.covariance)}"
            )
        if self.prior is not None and not isinstance(self.prior, NormalInverseWishart):
            raise ValueError(f"MultivariateNormal: prior must be a NormalInverseWishart; got {brief(self.prior)}")

    @property
    def _form(self) -> Form:
        return FORMS[self.covariance]

    def _products(self, x: Array, k: int) -> products.Products | None:
        """What makes products of matrices of it; ``None`` for deviations from each mean."""
        if self.view is not None:
            return products.of(self.view)
        return None if self.careful else products.chosen(self.covariance, x.shape[0], k, x.shape[1])

    @property
    def constraints(self) -> MultivariateNormalParams:
        return MultivariateNormalParams(Real(), self._form.space)  # pyright: ignore[reportArgumentType]

    def log_density(self, params: MultivariateNormalParams, x: Array) -> Array:
        def by_deviations(x: Array) -> Array:
            return log_normal(self._form, params.covariances, deviations(x, params.means, params.means.shape[0]))

        by = self._products(x, params.means.shape[0])
        if by is not None and self.view is not None:
            return products.log_density(by, self.covariance, self.view, x).T
        if by is None or x.shape[1] <= _FEW_DIMENSIONS:
            return by_deviations(x).T
        return products.log_density(by, self.covariance, by.view(self.covariance, *params), x, by_deviations).T

    def statistics(self, weights: Array, x: Array) -> MultivariateNormalStatistics:
        def by_deviations(weights: Array, x: Array) -> tuple[Array, Array]:
            y = deviations(x, None if self.origin is None else self.origin.means, weights.shape[1])
            return first_moments(weights, y), self._form.second(weights, y)

        by = self._products(x, weights.shape[1])
        if by is None:
            moments = by_deviations(weights, x)
        elif self.view is not None:
            moments = products.moments(by, self.covariance, self.view, weights, x)
        else:
            about = None if self.origin is None else by.view(self.covariance, *self.origin)
            moments = products.moments(by, self.covariance, about, weights, x, by_deviations)
        return MultivariateNormalStatistics(weights.sum(axis=0), *moments)

    def maximize(self, statistics: MultivariateNormalStatistics) -> MultivariateNormalParams:
        n, first, second = statistics
        d = first.shape[-1]
        occupied = n if self.prior is None else jnp.where(n == 0, 1, n)
        delta = first / occupied[:, None]
        means = delta if self.origin is None else self.origin.means + delta
        scatter = scatter_about_mean(self._form, second, delta, n)
        if self.prior is None:
            return MultivariateNormalParams(means, scatter / self._form.divisor(n, d))
        return MultivariateNormalParams(*normal_prior.posterior_mode(self.prior, self.covariance, n, means, scatter))

    def expected(self, params: MultivariateNormalParams, statistics: MultivariateNormalStatistics) -> Array:
        n, first, second = statistics
        d = params.means if self.origin is None else params.means - self.origin.means
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
        """Why no start can be made from the rows ``x`` in this dtype; ``None`` where nothing is known against it."""
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

    def anchor(self, params: MultivariateNormalParams) -> Self:
        return dataclasses.replace(self, origin=params)

    def forms(self, params: MultivariateNormalParams, x: Array) -> tuple[Self, Self, Array] | None:
        by = self._products(x, params.means.shape[0])
        if by is None:
            return None
        view = by.view(self.covariance, *params)
        anchored = self.anchor(params)
        return dataclasses.replace(anchored, view=view), dataclasses.replace(anchored, careful=True), view.safe

    def sample(self, key: Array, params: MultivariateNormalParams, labels: Array) -> Array:
        k, d = params.means.shape
        factors = jnp.broadcast_to(self._form.factor(params.covariances, d), (k, d, d))
        noise = jax.random.normal(key, (labels.shape[0], d), params.means.dtype)
        return params.means[labels] + jnp.matmul(factors[labels], noise[:, :, None])[:, :, 0]
