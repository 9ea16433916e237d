"""The normal distribution in one dimension."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem.core.checks import number
from jaxem.core.data import Data
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.spaces import Positive, Real
from jaxem.families import normal_between, scales, unbounded
from jaxem.families.covariance import collapsed
from jaxem.families.tails import Tails, of_normal


class NormalParams(NamedTuple):
    """The parameters of ``Normal``."""

    means: Array  # (K,)
    variances: Array  # (K,)


class NormalStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk
    first: Array  # (K,), sum_n r_nk (x_n - origin_k)
    second: Array  # (K,), sum_n r_nk (x_n - origin_k)^2


class Prepared(NamedTuple):
    means: Array  # (K,), the origin of the sums
    inverse_roots: Array  # (K,), of the variances
    logs: Array  # (K,), of the variances


@register
@dataclasses.dataclass(frozen=True)
class Normal:
    r"""The normal distribution of one real number.

    .. math:: \log p(x \mid k) = -\tfrac12 \left( \log (2\pi v_k) + (x - m_k)^2 / v_k \right)

    .. math:: \text{M: } n_k = \textstyle\sum_n r_{nk},\; m_k = \sum_n r_{nk}\, x_n / n_k,\;
              v_k = \sum_n r_{nk} (x_n - m_k)^2 / n_k

    The data are (N,); the parameters are a ``NormalParams``.

    Arguments:
        floor: rho >= 0, a floor under the variances in squared units of x, so that no class collapses onto a point.
            Each density is multiplied by exp(-rho / (2 v_k)), so that the M-step adds rho to each variance, as
            does scikit-learn's ``reg_covar`` (whose E-step leaves the factor out, so that it ends at other parameters,
            and no objective rises). The objective of the fit, ``log_prob`` and ``log_likelihood`` contain this factor:
            they are no log-likelihood. The criteria and cross-validation leave it out. It may be traced. ``None``
            (default): no floor.

    Raises:
        ValueError: ``floor`` is not a finite number of at least 0.
    """

    floor: ArrayLike | None = None

    event_ndim: ClassVar[int] = 0
    accurate: ClassVar[bool] = True
    centred: ClassVar[bool] = True
    support: ClassVar[str] = "a finite number"
    bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        if self.floor is not None:
            number("Normal: floor", self.floor, 0, math.inf)

    def declare(self) -> NormalParams:
        means = Param.of(Real(), "K", location=True)
        return NormalParams(means, Param.of(Positive(), "K"))  # pyright: ignore[reportArgumentType]

    def prepare(self, params: NormalParams, x: Data | None) -> Prepared:
        return Prepared(params.means, scales.inverse_root(params.variances), scales.log(params.variances))

    def log_density(self, c: Prepared, x: Array) -> Array:
        # The deviation is divided before it is squared, so that the square neither overflows nor vanishes.
        z = (x[:, None] - c.means[None, :]) * c.inverse_roots[None, :]
        of_class = c.logs
        if self.floor is not None:  # a floor of 0 times a square that overflows would be NaN
            of_class = of_class + self._floor(c.logs) * c.inverse_roots * c.inverse_roots
        return -0.5 * (math.log(2 * math.pi) + of_class[None, :] + z**2)

    def _floor(self, like: Array) -> Array | float:
        return 0.0 if self.floor is None else jnp.asarray(self.floor, like.dtype)

    def statistics(self, c: Prepared | None, r: Array, hidden: Any, x: Array) -> NormalStatistics:
        y = x[:, None] if c is None else x[:, None] - c.means[None, :]
        first = r * y
        return NormalStatistics(r.sum(axis=0), first.sum(axis=0), (first * y).sum(axis=0))

    def maximize(self, c: Prepared | None, sums: NormalStatistics) -> NormalParams:
        n = sums.sizes
        delta = sums.first / n
        means = delta if c is None else c.means + delta
        # Where the means are far from the origin, the difference is rounding error. An amount of that size is added,
        # so that cancellation makes no variance zero. The next iteration has its origin at these means.
        hidden = 8 * float(jnp.finfo(delta.dtype).eps)
        return NormalParams(means, sums.second / n - (1 - hidden) * delta**2 + self._floor(delta))

    def expected(self, c: Prepared, params: NormalParams, sums: NormalStatistics) -> Array:
        n, first, second = sums
        d = params.means - c.means
        scatter = second - 2 * d * first + n * d * d + n * self._floor(d)  # 0 where n is, even where d^2 overflows
        return -0.5 * (n * jnp.log(params.variances) + scatter / params.variances).sum()

    def contrasts(self, params: NormalParams) -> Array:
        means, variances = params
        middle = means - means.mean()
        return jnp.stack([middle / jnp.sqrt(variances.mean()), jnp.log(variances)], axis=1)

    def mean(self, params: NormalParams) -> Array:
        return params.means

    def features(self, x: Array) -> Array:
        return x[:, None]

    def supports(self, x: Array) -> Array:
        return jnp.isfinite(x)

    def diagnose(self, x: np.ndarray, dtype: np.dtype) -> str | None:
        """Why no start can be made from the values ``x`` in this dtype; ``None`` where no reason is found."""
        x = x[:, None]
        found = unbounded.out_of_range(x, dtype)
        if found is not None or self.floor is not None:
            return found
        return unbounded.constant(x, dtype, "give a floor under the variances, Normal(floor=...)")

    def degenerate(self, params: NormalParams) -> Array:
        return collapsed(params.means[:, None], params.variances[:, None])

    def sample(self, key: Array, params: NormalParams, labels: Array) -> Array:
        noise = jax.random.normal(key, labels.shape, params.means.dtype)
        return params.means[labels] + jnp.sqrt(params.variances[labels]) * noise

    def tails(self, c: Prepared, x: Array) -> Tails:
        return of_normal((x[:, None] - c.means[None, :]) * c.inverse_roots[None, :])

    def log_interval(self, c: Prepared, low: Array, high: Array) -> Array:
        return normal_between.log_interval(c, low, high)

    def between(self, c: Prepared, low: Array, high: Array) -> normal_between.Moments:
        return normal_between.between(c, low, high)

    def mean_between(self, c: Prepared, low: Array, high: Array) -> Array:
        u = normal_between.between(c, low, high)
        return u.origin + u.deviation

    def expected_log_density(self, c: Prepared, moments: normal_between.Moments) -> Array:
        return normal_between.expected_log_density(c, moments)

    def expected_statistics(self, c: Prepared, r: Array, moments: normal_between.Moments) -> NormalStatistics:
        y = moments.deviation - (c.means - moments.origin)
        first = r * y
        return NormalStatistics(r.sum(axis=0), first.sum(axis=0), (first * y + r * moments.variance).sum(axis=0))

    def sample_between(self, key: Array, params: NormalParams, labels: Array, low: Array, high: Array) -> Array:
        means, deviations = params.means[labels], jnp.sqrt(params.variances[labels])
        return normal_between.sample(key, means, deviations, low, high)
