"""The gamma distribution."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.data import Data
from jaxem.core.parameters import Param
from jaxem.core.spaces import Positive
from jaxem.families import gamma_between, scales, stirling, unbounded
from jaxem.families.newton import root
from jaxem.families.protocol import impossible
from jaxem.families.sums import weighted_sum


class GammaParams(NamedTuple):
    """The parameters of ``Gamma``."""

    shapes: Array  # (K,)
    rates: Array  # (K,), per unit of x


class GammaStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk
    first: Array  # (K,), sum_n r_nk (x_n - origin_k); about zero, sum_n r_nk x_n
    second: Array  # (K,), sum_n r_nk D(origin_k, x_n); about zero, sum_n r_nk log x_n


class Prepared(NamedTuple):
    shapes: Array  # (K,)
    rates: Array  # (K,)
    means: Array  # (K,), shape / rate, the origin of the sums


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Gamma:
    r"""The gamma distribution of a positive number.

    .. math:: \log p(x \mid k) = a_k \log b_k + (a_k - 1) \log x - b_k x - \log \Gamma(a_k)

    .. math:: \text{M: } m_k = \frac{\sum_n r_{nk}\, x_n}{\sum_n r_{nk}},\quad
              \log a_k - \psi(a_k) = \log m_k - \frac{\sum_n r_{nk} \log x_n}{\sum_n r_{nk}},\quad b_k = a_k / m_k

    The data are (N,); the parameters are a ``GammaParams``, shapes a and rates b per unit of x. The equation for the
    shape is solved to rounding in each M-step. Shapes above 1 / (16 eps^2), whose classes are points to the precision
    of the data, count as collapsed.

    With m = a / b and D(m, x) = m log(m / x) + x - m >= 0, computed without cancellation (``stirling.py``), the
    log-density is -log x - b D(m, x) + s(a), and the right-hand side of the equation for the shape is the mean of
    D(m, x) / m. This form stays accurate for shapes so large that the textbook's terms cancel.

    Source: Minka (2002), *Estimating a Gamma distribution*, for the equation in 1 / a and its start.
    """

    event_ndim: ClassVar[int] = 0
    accurate: ClassVar[bool] = True
    centred: ClassVar[bool] = True
    support: ClassVar[str] = "a positive finite number"
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)

    def declare(self) -> GammaParams:
        shapes, rates = (Param.of(Positive(), "K", location=True) for _ in range(2))
        return GammaParams(shapes, rates)  # pyright: ignore[reportArgumentType]

    def prepare(self, params: GammaParams, x: Data | None) -> Prepared:
        return Prepared(*params, self.mean(params))

    def log_density(self, c: Prepared, x: Array) -> Array:
        possible = self.supports(x)
        x_in = jnp.where(possible, x, 1)
        of_class = stirling.at_saddle(c.shapes)[None, :] - c.rates[None, :] * _deviances(c, x_in)
        density = of_class - scales.log(x_in)[:, None]
        return jnp.where(possible[:, None], density, impossible(x, density.dtype)[:, None])

    def statistics(self, c: Prepared | None, r: Array, hidden: Any, x: Array) -> GammaStatistics:
        if c is None:
            return GammaStatistics(r.sum(axis=0), weighted_sum(r, x), weighted_sum(r, jnp.log(x)))
        deviations = x[:, None] - c.means[None, :]
        return GammaStatistics(r.sum(axis=0), (r * deviations).sum(axis=0), (r * _deviances(c, x)).sum(axis=0))

    def maximize(self, c: Prepared | None, sums: GammaStatistics) -> GammaParams:
        n, first, second = sums
        hidden = 8 * float(jnp.finfo(n.dtype).eps)
        if c is None:
            means = first / n
            gaps = jnp.maximum(jnp.log(means) - second / n, hidden * (1 + jnp.abs(jnp.log(means))))
        else:
            means = c.means + first / n
            # Where the mean is far from the origin, the difference is rounding error; the next origin is this mean.
            moved = stirling.deviance(c.means, means)
            gaps = jnp.maximum(second / n - moved, hidden * moved) / c.means
        shapes = shape(gaps)
        return GammaParams(shapes, shapes / means)

    def expected(self, c: Prepared, params: GammaParams, sums: GammaStatistics) -> Array:
        n, first, second = sums
        a, b = params
        m, origin = self.mean(params), c.means
        deviances = n * stirling.deviance(m, origin) + first * (origin - m) / origin + second * (m / origin)
        return (n * stirling.at_saddle(a) - b * deviances).sum()

    def contrasts(self, params: GammaParams) -> Array:
        means = self.mean(params)
        spread = jnp.sqrt((means**2 / params.shapes).mean())
        return jnp.stack([(means - means.mean()) / spread, jnp.log(params.shapes)], axis=1)

    def mean(self, params: GammaParams) -> Array:
        return params.shapes * scales.reciprocal(params.rates)

    def features(self, x: Array) -> Array:
        return x[:, None]

    def supports(self, x: Array) -> Array:
        return (x > 0) & jnp.isfinite(x)

    def diagnose(self, x: np.ndarray, dtype: np.dtype) -> str | None:
        """Why no start can be made from the values ``x`` in this dtype; ``None`` where no reason is found."""
        return unbounded.constant(x[:, None], dtype)

    def degenerate(self, params: GammaParams) -> Array:
        return (params.shapes > 1 / (4 * float(jnp.finfo(params.shapes.dtype).eps)) ** 2).any()

    def sample(self, key: Array, params: GammaParams, labels: Array) -> Array:
        shapes = params.shapes[labels]
        tiny = float(jnp.finfo(shapes.dtype).tiny)  # a small shape gives numbers that are not zero but vanish
        return jnp.maximum(jax.random.gamma(key, shapes) / params.rates[labels], tiny)

    def log_interval(self, c: Prepared, low: Array, high: Array) -> Array:
        return gamma_between.log_interval(c, low, high)

    def between(self, c: Prepared, low: Array, high: Array) -> gamma_between.Moments:
        return gamma_between.between(c, low, high)

    def mean_between(self, c: Prepared, low: Array, high: Array) -> Array:
        u = gamma_between.between(c, low, high)
        return u.origin * (1 + u.growth)

    def expected_log_density(self, c: Prepared, moments: gamma_between.Moments) -> Array:
        return gamma_between.expected_log_density(c, moments)

    def expected_statistics(self, c: Prepared, r: Array, moments: gamma_between.Moments) -> GammaStatistics:
        first = (moments.origin - c.means) + moments.origin * moments.growth
        second = c.means * gamma_between.deviance(c.means, moments)
        return GammaStatistics(r.sum(axis=0), (r * first).sum(axis=0), (r * second).sum(axis=0))

    def sample_between(self, key: Array, params: GammaParams, labels: Array, low: Array, high: Array) -> Array:
        of_each = jax.tree.map(lambda leaf: leaf[labels][:, None], self.prepare(params, None))
        return gamma_between.sample(key, of_each, *(jnp.broadcast_to(a, labels.shape)[:, None] for a in (low, high)))


def _deviances(c: Prepared, x: Array) -> Array:
    """D(m_k, x_n), (N, K)."""
    return stirling.deviance(c.means[None, :], x[:, None])


def shape(gap: Array) -> Array:
    """The shape a with log a - psi(a) = ``gap``, element by element; gaps below eps^2 / 8 count as that."""
    gap = jnp.maximum(gap, float(jnp.finfo(gap.dtype).eps) ** 2 / 8)
    distance = jnp.sqrt((gap - 3) ** 2 + 24 * gap)
    start = jnp.where(gap < 1, 12 * gap / (3 - gap + distance), (distance + gap - 3) / 2)
    # In y = 1 / a the left-hand side is nearly linear.
    return 1 / root(lambda y, gap: stirling.log_minus_digamma(scales.reciprocal(y)) - gap, start, gap)
