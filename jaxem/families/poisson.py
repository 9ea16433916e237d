"""The Poisson distribution."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln, xlogy

from jaxem.core.constraints import Positive
from jaxem.core.discrete import log_times


class PoissonParams(NamedTuple):
    rates: Array  # (K,)


class PoissonStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk
    total: Array  # (K,), sum_n r_nk x_n


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Poisson:
    r"""Counts x = 0, 1, 2, ...: log p(x | k) = x log(rate_k) - rate_k - log x!.

    Data ``(N,)``. Maximiser: rate_k = sum_n r_nk x_n / sum_n r_nk. A rate of zero is allowed: only x = 0 is then
    possible.
    """

    event_ndim: ClassVar[int] = 0
    support: ClassVar[str] = "a non-negative whole number"

    @property
    def constraints(self) -> PoissonParams:
        return PoissonParams(Positive())  # pyright: ignore[reportArgumentType]

    def log_density(self, params: PoissonParams, x: Array) -> Array:
        rates = params.rates
        counts = x.astype(rates.dtype)[:, None]
        density = xlogy(counts, rates[None, :]) - rates[None, :] - gammaln(counts + 1)
        return jnp.where(self.supports(x)[:, None], density, -jnp.inf)

    def statistics(self, weights: Array, x: Array) -> PoissonStatistics:
        return PoissonStatistics(weights.sum(axis=0), x.astype(weights.dtype) @ weights)

    def maximize(self, statistics: PoissonStatistics) -> PoissonParams:
        return PoissonParams(statistics.total / statistics.sizes)

    def expected(self, params: PoissonParams, statistics: PoissonStatistics) -> Array:
        return (log_times(statistics.total, params.rates) - statistics.sizes * params.rates).sum()

    def features(self, x: Array) -> Array:
        return x[:, None]

    def supports(self, x: Array) -> Array:
        return (x >= 0) & (x == jnp.round(x)) & jnp.isfinite(x)

    def sample(self, key: Array, params: PoissonParams, labels: Array) -> Array:
        rates = params.rates[labels]
        return jax.random.poisson(key, rates).astype(rates.dtype)
