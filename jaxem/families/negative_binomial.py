"""The negative binomial distribution."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.data import Data
from jaxem.core.parameters import Param
from jaxem.core.spaces import Positive
from jaxem.families import negative_binomial_between, restaurant
from jaxem.families.protocol import impossible
from jaxem.families.restaurant import Seating
from jaxem.families.sums import weighted_sum
from jaxem.families.tails import Tails, of_negative_binomial


class NegativeBinomialParams(NamedTuple):
    """The parameters of ``NegativeBinomial``."""

    means: Array  # (K,)
    dispersions: Array  # (K,), one over the size; 0 is the Poisson distribution


class NegativeBinomialStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk
    total: Array  # (K,), sum_n r_nk x_n
    joined: Array  # (K,), sum_n r_nk E (x_n - tables_nk)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class NegativeBinomial:
    r"""The negative binomial distribution of a count x = 0, 1, 2, ..., with mean m and variance m + phi m^2.

    .. math:: p(x \mid k) = \frac{\Gamma(x + 1 / \phi_k)}{x!\, \Gamma(1 / \phi_k)}
              \left(\frac{1}{1 + \phi_k m_k}\right)^{1 / \phi_k} \left(\frac{\phi_k m_k}{1 + \phi_k m_k}\right)^x

    It is a Poisson distribution whose rate has a gamma distribution of shape 1 / phi ("size"). It is also a sum of a
    Poisson number t of counts from a logarithmic distribution, and this hidden number is part of q: EM then converges
    at a rate that does not approach 1 as phi approaches 0, which it does with the rate as hidden variable.

    .. math:: \text{E: } \bar t_{nk} = \sum_{i < x_n} \frac{1}{1 + \phi_k i} \qquad
              \text{M: } m_k = \frac{\sum_n r_{nk} x_n}{\sum_n r_{nk}},\;
              \frac{\log(1 + \phi_k m_k)}{\phi_k m_k} = \frac{\sum_n r_{nk} \bar t_{nk}}{\sum_n r_{nk} x_n}

    The data are (N,); the parameters are a ``NegativeBinomialParams``. A dispersion of 0, the Poisson distribution, is
    an edge: it is the maximum where the counts vary less than under a Poisson distribution, and a dispersion that
    starts at exactly 0 stays there. A mean of 0 is allowed: then only x = 0 is possible.

    Source: Adamidis (1999); Zhou & Carin (2015) for the hidden number; Loader (2000) for the log-density.
    """

    event_ndim: ClassVar[int] = 0
    accurate: ClassVar[bool] = True
    support: ClassVar[str] = "a non-negative whole number"
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)
    whole: ClassVar[bool] = True

    def declare(self) -> NegativeBinomialParams:
        means, dispersions = Param.of(Positive(), "K", location=True), Param.of(Positive(), "K")
        return NegativeBinomialParams(means, dispersions)  # pyright: ignore[reportArgumentType]

    def prepare(self, params: NegativeBinomialParams, x: Data | None) -> NegativeBinomialParams:
        return params

    def log_density(self, c: NegativeBinomialParams, x: Array) -> Array:
        density = restaurant.log_probability(x.astype(c.means.dtype), c.means, c.dispersions)
        return jnp.where(self.supports(x)[:, None], density, impossible(x, density.dtype)[:, None])

    def hidden(self, c: NegativeBinomialParams, x: Array) -> Seating:
        return restaurant.posterior(x.astype(c.means.dtype), c.dispersions)

    def complete(self, c: NegativeBinomialParams, u: Seating, x: Array) -> Array:
        return self.log_density(c, x) + restaurant.expected_log(x.astype(c.means.dtype), c.dispersions, u)

    def hidden_entropy(self, c: NegativeBinomialParams, u: Seating, x: Array) -> Array:
        return restaurant.entropy(u)

    def hidden_divergence(self, u: Seating, other: Seating) -> Array:
        return restaurant.divergence(u, other)

    def statistics(self, c: Any, r: Array, u: Any, x: Array) -> NegativeBinomialStatistics:
        if c is None:  # a start has no parameters: this is the E-step at a dispersion of 1
            u = restaurant.posterior(x.astype(r.dtype), jnp.ones_like(r[0]))
        return NegativeBinomialStatistics(r.sum(axis=0), weighted_sum(r, x), (r * u.joined).sum(axis=0))

    def maximize(self, c: Any, sums: NegativeBinomialStatistics) -> NegativeBinomialParams:
        n, total, joined = sums
        means = total / n
        share = joined / jnp.where(total == 0, 1, total)
        return NegativeBinomialParams(means, restaurant.solve(share) / jnp.where(means == 0, 1, means))

    def expected(self, c: Any, params: NegativeBinomialParams, sums: NegativeBinomialStatistics) -> Array:
        return restaurant.expected(params.means, params.dispersions, *sums).sum()

    def tails(self, c: NegativeBinomialParams, x: Array) -> Tails:
        at = jnp.exp(self.log_density(c, x))
        return of_negative_binomial(x.astype(at.dtype)[:, None], c.means[None, :], c.dispersions[None, :], at)

    def mean(self, params: NegativeBinomialParams) -> Array:
        return params.means

    def contrasts(self, params: NegativeBinomialParams) -> Array:
        m, phi = params
        return jnp.stack([jnp.log(jnp.maximum(m, jnp.finfo(m.dtype).tiny)), phi * m / (1 + phi * m)], axis=1)

    def features(self, x: Array) -> Array:
        return x[:, None]

    def supports(self, x: Array) -> Array:
        return (x >= 0) & (x == jnp.round(x)) & jnp.isfinite(x)

    def sample(self, key: Array, params: NegativeBinomialParams, labels: Array) -> Array:
        m, phi = params.means[labels], params.dispersions[labels]
        of_rates, of_counts = jax.random.split(key)
        size = 1 / jnp.where(phi == 0, 1, phi)
        log_gamma = jax.random.loggamma(of_rates, size, dtype=m.dtype)
        rates = jnp.where(phi == 0, m, m * jnp.exp(log_gamma - jnp.log(size)))
        return jax.random.poisson(of_counts, rates).astype(m.dtype)

    def log_interval(self, c: NegativeBinomialParams, low: Array, high: Array) -> Array:
        return negative_binomial_between.log_interval(c, low, high)

    def between(self, c: NegativeBinomialParams, low: Array, high: Array) -> negative_binomial_between.Moments:
        return negative_binomial_between.between(c, low, high)

    def mean_between(self, c: NegativeBinomialParams, low: Array, high: Array) -> Array:
        return negative_binomial_between.between(c, low, high).mean

    def expected_log_density(self, c: NegativeBinomialParams, moments: negative_binomial_between.Moments) -> Array:
        return negative_binomial_between.expected_log_density(c, moments)

    def expected_statistics(
        self, c: Any, r: Array, moments: negative_binomial_between.Moments
    ) -> NegativeBinomialStatistics:
        sums = ((r * a).sum(axis=0) for a in (moments.mean, moments.joined))
        return NegativeBinomialStatistics(r.sum(axis=0), *sums)

    def sample_between(
        self, key: Array, params: NegativeBinomialParams, labels: Array, low: Array, high: Array
    ) -> Array:
        m, phi = params.means[labels], params.dispersions[labels]
        return negative_binomial_between.sample(key, m, phi, low, high)
