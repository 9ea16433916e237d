"""The Poisson distribution."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.scipy.special import digamma

from jaxem.core.data import Data
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.spaces import Positive
from jaxem.families import conjugate, poisson_between, stirling
from jaxem.families.conjugate import GammaPrior
from jaxem.families.protocol import impossible
from jaxem.families.sums import weighted_sum


class PoissonParams(NamedTuple):
    """The parameters of ``Poisson``."""

    rates: Array  # (K,)


class PoissonStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk
    total: Array  # (K,), sum_n r_nk x_n


@register
@dataclasses.dataclass(frozen=True)
class Poisson:
    r"""The Poisson distribution of a count x = 0, 1, 2, ...

    .. math:: \log p(x \mid k) = x \log \lambda_k - \lambda_k - \log x!, \qquad
              \text{M: } \lambda_k = \frac{\sum_n r_{nk}\, x_n}{\sum_n r_{nk}}

    The data are (N,); the parameters are a ``PoissonParams``. A rate of zero is allowed: then only x = 0 is possible.
    The log-density is right to five units in the last place for all counts and rates.

    Arguments:
        prior: a ``GammaPrior``; the fit is then MAP, and a - 1 and b are added to the two sums.
            ``None`` (default): maximum likelihood.

    Raises:
        ValueError: ``prior`` is not a ``GammaPrior`` of single numbers.

    Source: Loader (2000) for the computation of the log-density.
    """

    prior: GammaPrior | None = None

    event_ndim: ClassVar[int] = 0
    accurate: ClassVar[bool] = True
    support: ClassVar[str] = "a non-negative whole number"
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)
    whole: ClassVar[bool] = True

    def __post_init__(self) -> None:
        conjugate.check(self, GammaPrior, self.prior, by_column=False)

    def declare(self) -> PoissonParams:
        return PoissonParams(Param.of(Positive(), "K", location=True))  # pyright: ignore[reportArgumentType]

    def prepare(self, params: PoissonParams, x: Data | None) -> PoissonParams:
        return params

    def log_density(self, c: PoissonParams, x: Array) -> Array:
        density = log_probability(x.astype(c.rates.dtype), c.rates)
        return jnp.where(self.supports(x)[:, None], density, impossible(x, density.dtype)[:, None])

    def statistics(self, c: Any, r: Array, hidden: Any, x: Array) -> PoissonStatistics:
        return PoissonStatistics(r.sum(axis=0), weighted_sum(r, x))

    def maximize(self, c: Any, sums: PoissonStatistics) -> PoissonParams:
        total, n = conjugate.added(self.prior, sums.total, sums.sizes)
        return PoissonParams(total / n)

    def expected(self, c: Any, params: PoissonParams, sums: PoissonStatistics) -> Array:
        n = sums.sizes
        means = jnp.where(n == 0, 0, sums.total / jnp.where(n == 0, 1, n))  # a NaN in n is passed on
        return -(n * stirling.deviance(means, params.rates)).sum()

    def log_prior(self, params: PoissonParams) -> Array | float:
        return conjugate.log_density(self.prior, params.rates)

    def contrasts(self, params: PoissonParams) -> Array:
        rates = params.rates
        return jnp.log(jnp.maximum(rates, jnp.finfo(rates.dtype).tiny))[:, None]

    def mean(self, params: PoissonParams) -> Array:
        return params.rates

    def features(self, x: Array) -> Array:
        return x[:, None]

    def supports(self, x: Array) -> Array:
        return (x >= 0) & (x == jnp.round(x)) & jnp.isfinite(x)

    def sample(self, key: Array, params: PoissonParams, labels: Array) -> Array:
        rates = params.rates[labels]
        return jax.random.poisson(key, rates).astype(rates.dtype)

    def log_interval(self, c: PoissonParams, low: Array, high: Array) -> Array:
        return poisson_between.log_interval(c.rates, low, high)

    def between(self, c: PoissonParams, low: Array, high: Array) -> poisson_between.Moments:
        return poisson_between.between(c.rates, low, high)

    def mean_between(self, c: PoissonParams, low: Array, high: Array) -> Array:
        return self.between(c, low, high).mean

    def expected_log_density(self, c: PoissonParams, moments: poisson_between.Moments) -> Array:
        return moments.saddle - stirling.deviance(moments.mean, c.rates)

    def expected_statistics(self, c: PoissonParams, r: Array, moments: poisson_between.Moments) -> PoissonStatistics:
        return PoissonStatistics(r.sum(axis=0), (r * moments.mean).sum(axis=0))

    def sample_between(self, key: Array, params: PoissonParams, labels: Array, low: Array, high: Array) -> Array:
        return poisson_between.sample(key, params.rates[labels], low, high)


@jax.custom_jvp
def log_probability(x: Array, rates: Array) -> Array:
    r"""log p(x_n | rate_k), (N, K), for whole numbers ``x (N,)`` and ``rates (K,)`` of one floating dtype.

    .. math:: \log p = s(x) - D(x, \lambda), \qquad s(x) = x \log x - x - \log x! = -\tfrac12 \log(2\pi x) - \delta(x)

    with the deviance D and the remainder delta of Stirling's formula (see ``stirling.py``). All terms have one sign,
    so that nothing cancels. The value is -inf where x > 0 and the rate is 0. The derivative in the rate is written
    out: (x - rate) / rate.
    """

    def table() -> Array:
        return stirling.of_count(x)[None, :] - stirling.deviance(x[None, :], rates[:, None])

    def unknown() -> Array:
        return jnp.full((rates.shape[0], x.shape[0]), jnp.nan, x.dtype)

    # Observations are in columns, so that rows are long. The condition makes XLA compute the table once. It would
    # otherwise compute it twice, for the maximum over classes and for the exponentials, as the last operation is cheap.
    return jax.lax.cond(jnp.isnan(rates).any(), unknown, table).T


def _log_probability_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, rates), (dx, d_rates) = primals, tangents
    tangent = jnp.zeros((x.shape[0], rates.shape[0]), rates.dtype)
    if not isinstance(d_rates, SymbolicZero):
        tangent = stirling.score(x[:, None], rates[None, :]) * d_rates[None, :]
    if not isinstance(dx, SymbolicZero):
        tangent = tangent + (jnp.log(rates)[None, :] - digamma(x + 1)[:, None]) * dx[:, None]
    return log_probability(x, rates), tangent


log_probability.defjvp(_log_probability_jvp, symbolic_zeros=True)
