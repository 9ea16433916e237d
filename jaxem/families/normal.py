"""The normal distribution in one dimension."""

import dataclasses
import math
from typing import ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.constraints import Positive, Real
from jaxem.core.records import register
from jaxem.families import scales, unbounded
from jaxem.families.covariance import collapsed


class NormalParams(NamedTuple):
    means: Array  # (K,)
    variances: Array  # (K,)


class NormalStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk
    first: Array  # (K,), sum_n r_nk (x_n - origin_k)
    second: Array  # (K,), sum_n r_nk (x_n - origin_k)^2


@register
@dataclasses.dataclass(frozen=True)
class Normal:
    r"""One real number: log p(x | k) = -(log(2 pi v_k) + (x - m_k)^2 / v_k) / 2.

    Data ``(N,)``. Maximiser: m_k = sum_n r_nk x_n / n_k, v_k = sum_n r_nk (x_n - m_k)^2 / n_k. ``origin``: where
    the statistics are taken about, ``(K,)``; set by ``anchor``, so that nothing cancels far from zero.
    """

    origin: Array | None = None

    event_ndim: ClassVar[int] = 0
    accurate: ClassVar[bool] = True
    support: ClassVar[str] = "a finite number"

    @property
    def constraints(self) -> NormalParams:
        return NormalParams(Real(), Positive())  # pyright: ignore[reportArgumentType]

    def log_density(self, params: NormalParams, x: Array) -> Array:
        # Divided before it is squared, so that the square neither overflows nor vanishes.
        z = (x[:, None] - params.means[None, :]) * scales.inverse_root(params.variances)[None, :]
        return -0.5 * (math.log(2 * math.pi) + scales.log(params.variances)[None, :] + z**2)

    def statistics(self, weights: Array, x: Array) -> NormalStatistics:
        y = x[:, None] if self.origin is None else x[:, None] - self.origin[None, :]
        first = weights * y
        return NormalStatistics(weights.sum(axis=0), first.sum(axis=0), (first * y).sum(axis=0))

    def maximize(self, statistics: NormalStatistics) -> NormalParams:
        n = statistics.sizes
        delta = statistics.first / n
        means = delta if self.origin is None else self.origin + delta
        # Far from the origin the difference is rounding error. So much is left in: no variance is zero by cancellation,
        # and the next iteration, with its origin at these means, sees what it is.
        hidden = 8 * float(jnp.finfo(delta.dtype).eps)
        return NormalParams(means, statistics.second / n - (1 - hidden) * delta**2)

    def expected(self, params: NormalParams, statistics: NormalStatistics) -> Array:
        n, first, second = statistics
        d = params.means if self.origin is None else params.means - self.origin
        scatter = second - 2 * d * first + n * d**2
        return -0.5 * (n * jnp.log(params.variances) + scatter / params.variances).sum()

    def contrasts(self, params: NormalParams) -> Array:
        means, variances = params
        middle = means - means.mean()
        return jnp.stack([middle / jnp.sqrt(variances.mean()), jnp.log(variances)], axis=1)

    def features(self, x: Array) -> Array:
        return x[:, None]

    def supports(self, x: Array) -> Array:
        return jnp.isfinite(x)

    def diagnose(self, x: np.ndarray, dtype: np.dtype) -> str | None:
        """Why no start can be made from the values ``x`` in this dtype; ``None`` where nothing is known against it."""
        x = x[:, None]
        remedy = "use MultivariateNormal('diag', NormalInverseWishart.from_data(x[:, None], k)) on x[:, None]"
        return unbounded.out_of_range(x, dtype) or unbounded.constant(x, dtype, remedy)

    def degenerate(self, params: NormalParams) -> Array:
        return collapsed(params.means[:, None], params.variances[:, None])

    def anchor(self, params: NormalParams) -> Self:
        return dataclasses.replace(self, origin=params.means)

    def sample(self, key: Array, params: NormalParams, labels: Array) -> Array:
        noise = jax.random.normal(key, labels.shape, params.means.dtype)
        return params.means[labels] + jnp.sqrt(params.variances[labels]) * noise
