"""The exponential distribution."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.data import Data
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.spaces import Positive
from jaxem.families import conjugate, parts, quadrature, scales
from jaxem.families.conjugate import GammaPrior
from jaxem.families.protocol import impossible
from jaxem.families.sums import weighted_sum


class ExponentialParams(NamedTuple):
    """The parameters of ``Exponential``."""

    rates: Array  # (K,), per unit of x


class ExponentialStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk
    total: Array  # (K,), sum_n r_nk x_n


@register
@dataclasses.dataclass(frozen=True)
class Exponential:
    r"""The exponential distribution of a waiting time x >= 0.

    .. math:: \log p(x \mid k) = \log \lambda_k - \lambda_k x, \qquad
              \text{M: } \lambda_k = \frac{\sum_n r_{nk}}{\sum_n r_{nk}\, x_n}

    The data are (N,); the parameters are an ``ExponentialParams``, rates per unit of x.

    Arguments:
        prior: a ``GammaPrior``; the fit is then MAP, and a - 1 is added to the sum above, b to the one below.
            ``None`` (default): maximum likelihood.

    Raises:
        ValueError: ``prior`` is not a ``GammaPrior`` of single numbers.
    """

    prior: GammaPrior | None = None

    event_ndim: ClassVar[int] = 0
    accurate: ClassVar[bool] = True
    support: ClassVar[str] = "a non-negative finite number"
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)

    def __post_init__(self) -> None:
        conjugate.check(self, GammaPrior, self.prior, by_column=False)

    def declare(self) -> ExponentialParams:
        return ExponentialParams(Param.of(Positive(), "K", location=True))  # pyright: ignore[reportArgumentType]

    def prepare(self, params: ExponentialParams, x: Data | None) -> ExponentialParams:
        return params

    def log_density(self, c: ExponentialParams, x: Array) -> Array:
        density = scales.log(c.rates)[None, :] - x.astype(c.rates.dtype)[:, None] * c.rates[None, :]
        return jnp.where(self.supports(x)[:, None], density, impossible(x, density.dtype)[:, None])

    def statistics(self, c: Any, r: Array, hidden: Any, x: Array) -> ExponentialStatistics:
        return ExponentialStatistics(r.sum(axis=0), weighted_sum(r, x))

    def maximize(self, c: Any, sums: ExponentialStatistics) -> ExponentialParams:
        n, total = conjugate.added(self.prior, sums.sizes, sums.total)
        return ExponentialParams(n / total)

    def expected(self, c: Any, params: ExponentialParams, sums: ExponentialStatistics) -> Array:
        return (sums.sizes * jnp.log(params.rates) - params.rates * sums.total).sum()

    def log_prior(self, params: ExponentialParams) -> Array | float:
        return conjugate.log_density(self.prior, params.rates)

    def contrasts(self, params: ExponentialParams) -> Array:
        return jnp.log(params.rates)[:, None]

    def mean(self, params: ExponentialParams) -> Array:
        return 1 / params.rates

    def features(self, x: Array) -> Array:
        return x[:, None]

    def supports(self, x: Array) -> Array:
        return (x >= 0) & jnp.isfinite(x)

    def diagnose(self, x: np.ndarray, dtype: np.dtype) -> str | None:
        """Why no start can be made from the values ``x`` in this dtype; ``None`` where no reason is found."""
        if self.prior is not None:
            return None
        if x.max() == 0:
            return "the likelihood of these data has no maximum, for all observations are zero: no rate is high enough"
        if not 1 / x.max() < float(np.finfo(dtype).max) / 64:
            return f"the rate of these data would overflow {dtype}: divide the data by a typical value"
        return None

    def degenerate(self, params: ExponentialParams) -> Array:
        return jnp.isposinf(params.rates).any()  # every observation of the class is zero

    def sample(self, key: Array, params: ExponentialParams, labels: Array) -> Array:
        rates = params.rates[labels]
        return jax.random.exponential(key, labels.shape, rates.dtype) / rates

    def log_interval(self, c: ExponentialParams, low: Array, high: Array) -> Array:
        _, logs, weights, log_width = _nodes(c, low, high)
        log_p = log_width + jnp.log((weights * jnp.exp(logs)).sum(axis=2))
        # The value is a closed form; the derivative is that of the rule.
        width = jax.lax.stop_gradient((high - low) * c.rates)
        return (parts.log_below(width) - low * c.rates) + (log_p - jax.lax.stop_gradient(log_p))

    def between(self, c: ExponentialParams, low: Array, high: Array) -> Array:
        x, logs, weights, _ = _nodes(c, low, high)
        share = weights * jnp.exp(logs)
        return low + (share * x).sum(axis=2) / share.sum(axis=2)

    def mean_between(self, c: ExponentialParams, low: Array, high: Array) -> Array:
        return self.between(c, low, high)

    def expected_log_density(self, c: ExponentialParams, moments: Array) -> Array:
        return scales.log(c.rates) - c.rates * moments

    def expected_statistics(self, c: ExponentialParams, r: Array, moments: Array) -> ExponentialStatistics:
        return ExponentialStatistics(r.sum(axis=0), (r * moments).sum(axis=0))

    def sample_between(self, key: Array, params: ExponentialParams, labels: Array, low: Array, high: Array) -> Array:
        rates, low = params.rates[labels], jnp.maximum(low, 0)
        u = jax.random.uniform(key, labels.shape, rates.dtype)
        return jnp.minimum(low - jnp.log1p(u * jnp.expm1(-rates * (high - low))) / rates, high)


def _nodes(c: ExponentialParams, low: Array, high: Array) -> tuple[Array, Array, Array, Array]:
    """Of the part of the interval that counts: nodes x - low and -rate (x - low) there, (N, K, points), the weights of
    the rule, and log(width rate). Nodes are fixed in units of x, so that they have no derivative in the rate."""
    rates = jax.lax.stop_gradient(c.rates)
    width = jnp.minimum((high - low) * rates, quadrature.drop(rates.dtype))
    t, weights = quadrature.rule(rates.dtype)
    u = width[:, :, None] * t
    ratio = c.rates / rates
    logs = -ratio[:, :, None] * u
    return u / rates[:, :, None], logs, weights, jnp.log(width) + jnp.log(ratio)
