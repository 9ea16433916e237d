"""The log-normal distribution."""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.data import Data
from jaxem.families import normal_between, scales, unbounded
from jaxem.families.normal import Normal, NormalParams, NormalStatistics, Prepared
from jaxem.families.protocol import impossible

_NORMAL = Normal()


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class LogNormal:
    r"""The log-normal distribution of a positive number: its logarithm is normal.

    .. math:: \log p(x \mid k) = \log N(\log x;\, m_k, v_k) - \log x

    The M-step is that of ``Normal`` for log x. The data are (N,); the parameters are a ``NormalParams``, means and
    variances of log x.
    """

    event_ndim: ClassVar[int] = 0
    accurate: ClassVar[bool] = True
    centred: ClassVar[bool] = True
    support: ClassVar[str] = "a positive finite number"
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)

    def declare(self) -> NormalParams:
        return _NORMAL.declare()

    def prepare(self, params: NormalParams, x: Data | None) -> Prepared:
        return _NORMAL.prepare(params, x)

    def log_density(self, c: Prepared, x: Array) -> Array:
        possible = self.supports(x)
        y = scales.log(jnp.where(possible, x, 1))
        density = _NORMAL.log_density(c, y) - y[:, None]
        return jnp.where(possible[:, None], density, impossible(x, density.dtype)[:, None])

    def statistics(self, c: Prepared | None, r: Array, hidden: Any, x: Array) -> NormalStatistics:
        return _NORMAL.statistics(c, r, hidden, scales.log(x))

    def maximize(self, c: Prepared | None, sums: NormalStatistics) -> NormalParams:
        return _NORMAL.maximize(c, sums)

    def expected(self, c: Prepared, params: NormalParams, sums: NormalStatistics) -> Array:
        return _NORMAL.expected(c, params, sums)

    def contrasts(self, params: NormalParams) -> Array:
        return _NORMAL.contrasts(params)

    def mean(self, params: NormalParams) -> Array:
        return jnp.exp(params.means + params.variances / 2)

    def features(self, x: Array) -> Array:
        return jnp.log(x)[:, None]

    def supports(self, x: Array) -> Array:
        return (x > 0) & jnp.isfinite(x)

    def diagnose(self, x: np.ndarray, dtype: np.dtype) -> str | None:
        """Why no start can be made from the values ``x`` in this dtype; ``None`` where no reason is found."""
        return unbounded.constant(x[:, None], dtype)

    def degenerate(self, params: NormalParams) -> Array:
        return _NORMAL.degenerate(params)

    def sample(self, key: Array, params: NormalParams, labels: Array) -> Array:
        return jnp.exp(_NORMAL.sample(key, params, labels))

    def log_interval(self, c: Prepared, low: Array, high: Array) -> Array:
        return _NORMAL.log_interval(c, jnp.log(low), jnp.log(high))

    def between(self, c: Prepared, low: Array, high: Array) -> normal_between.Moments:
        """Of log x."""
        return _NORMAL.between(c, jnp.log(low), jnp.log(high))

    def mean_between(self, c: Prepared, low: Array, high: Array) -> Array:
        """The density times x is, up to a constant, that of a log-normal variable with m + v in the place of m."""
        variances = jnp.exp(c.logs)
        tilted = c._replace(means=c.means + variances)
        log_p, tilted_log_p = (self.log_interval(at, low, high) for at in (c, tilted))
        return jnp.exp(c.means + variances / 2 + (tilted_log_p - log_p))

    def expected_log_density(self, c: Prepared, moments: normal_between.Moments) -> Array:
        return _NORMAL.expected_log_density(c, moments) - (moments.origin + moments.deviation)

    def expected_statistics(self, c: Prepared, r: Array, moments: normal_between.Moments) -> NormalStatistics:
        return _NORMAL.expected_statistics(c, r, moments)

    def sample_between(self, key: Array, params: NormalParams, labels: Array, low: Array, high: Array) -> Array:
        y = _NORMAL.sample_between(key, params, labels, jnp.log(jnp.maximum(low, 0)), jnp.log(high))
        return jnp.clip(jnp.exp(y), low, high)
