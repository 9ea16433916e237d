"""The binomial distribution."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.checks import whole_number
from jaxem.core.data import Data
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.spaces import UnitInterval
from jaxem.families import binomial_between, conjugate
from jaxem.families.conjugate import BetaPrior
from jaxem.families.protocol import impossible
from jaxem.families.stirling import deviance, of_count
from jaxem.families.sums import weighted_sum


class BinomialParams(NamedTuple):
    """The parameters of ``Binomial``."""

    probabilities: Array  # (K,), of a success


class BinomialStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk
    total: Array  # (K,), sum_n r_nk x_n


@register
@dataclasses.dataclass(frozen=True)
class Binomial:
    r"""The binomial distribution of the number of successes among T trials.

    .. math:: \log p(x \mid k) = \log \tbinom{T}{x} + x \log p_k + (T - x) \log (1 - p_k), \qquad
              \text{M: } p_k = \frac{\sum_n r_{nk}\, x_n}{T \sum_n r_{nk}}

    The data are (N,); the parameters are a ``BinomialParams``. Where each observation has its own number of trials, use
    ``Multinomial()`` on the columns (successes, failures): its likelihood is the same.

    Arguments:
        trials: T, a whole number of at least 1.
        prior: a ``BetaPrior``; the fit is then MAP, and alpha - 1 successes and beta - 1 failures are added to the
            sums.
            ``None`` (default): maximum likelihood.

    Raises:
        ValueError: ``trials`` is not a whole number of at least 1, or ``prior`` is not a ``BetaPrior`` of single
            numbers.

    Source: Loader (2000) for the computation of the log-density.
    """

    trials: int = dataclasses.field(metadata={"static": True})
    prior: BetaPrior | None = None

    event_ndim: ClassVar[int] = 0
    accurate: ClassVar[bool] = True
    whole: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "trials", whole_number("Binomial: trials", self.trials, 1))
        conjugate.check(self, BetaPrior, self.prior, by_column=False)

    @property
    def support(self) -> str:
        """A description of valid observations."""
        return f"a whole number from 0 to {self.trials}"

    @property
    def bounds(self) -> tuple[float, float]:
        """The ends of the support."""
        return 0.0, float(self.trials)

    def declare(self) -> BinomialParams:
        return BinomialParams(Param.of(UnitInterval(), "K", location=True))  # pyright: ignore[reportArgumentType]

    def prepare(self, params: BinomialParams, x: Data | None) -> BinomialParams:
        return params

    def log_density(self, c: BinomialParams, x: Array) -> Array:
        possible = self.supports(x)
        successes = jnp.where(possible, x, 0).astype(c.probabilities.dtype)
        every = jnp.full_like(successes, self.trials)
        of_data = of_count(successes) + of_count(every - successes) - of_count(every)
        density = of_data[:, None] - self._deviance(c, successes[:, None])
        return jnp.where(possible[:, None], density, impossible(x, density.dtype)[:, None])

    def _deviance(self, params: BinomialParams, successes: Array) -> Array:
        """D(x, T p) + D(T - x, T (1 - p)), the log-density lost by a p other than x / T, for ``successes (..., K)``."""
        p = jnp.expand_dims(params.probabilities, range(successes.ndim - 1))
        return deviance(successes, self.trials * p) + deviance(self.trials - successes, self.trials * (1 - p))

    def statistics(self, c: Any, r: Array, hidden: Any, x: Array) -> BinomialStatistics:
        return BinomialStatistics(r.sum(axis=0), weighted_sum(r, x))

    def maximize(self, c: Any, sums: BinomialStatistics) -> BinomialParams:
        # Rounding may leave the mean above the number of trials.
        total, trials = conjugate.added(self.prior, sums.total, self.trials * sums.sizes)
        return BinomialParams(jnp.minimum(total / trials, 1))

    def expected(self, c: Any, params: BinomialParams, sums: BinomialStatistics) -> Array:
        n = sums.sizes
        means = jnp.where(n == 0, 0, sums.total / jnp.where(n == 0, 1, n))  # a NaN in n is passed on
        return -(n * self._deviance(params, jnp.minimum(means, self.trials))).sum()

    def log_prior(self, params: BinomialParams) -> Array | float:
        return conjugate.log_density(self.prior, params.probabilities)

    def contrasts(self, params: BinomialParams) -> Array:
        """Twice the arcsine of the root of p, in standard deviations of an observation."""
        root = jnp.sqrt(params.probabilities)
        return 2 * self.trials**0.5 * jnp.arcsin(jnp.minimum(root, 1))[:, None]

    def mean(self, params: BinomialParams) -> Array:
        return self.trials * params.probabilities

    def features(self, x: Array) -> Array:
        return x[:, None]

    def supports(self, x: Array) -> Array:
        return (x >= 0) & (x <= self.trials) & (x == jnp.round(x))

    def sample(self, key: Array, params: BinomialParams, labels: Array) -> Array:
        p = params.probabilities[labels]
        return jax.random.binomial(key, jnp.asarray(self.trials, p.dtype), p, dtype=p.dtype)

    def _all(self, probabilities: Array) -> Array:
        """The log-probabilities of all counts, (1 or N, K, T + 1), from probabilities (1 or N, K)."""
        counts = jnp.arange(self.trials + 1, dtype=probabilities.dtype)
        return jax.vmap(lambda p: self.log_density(BinomialParams(p), counts).T)(probabilities)

    def log_interval(self, c: BinomialParams, low: Array, high: Array) -> Array:
        among = binomial_between.inside(self.trials, low, high)
        return binomial_between.log_interval(self._all(c.probabilities), among)

    def between(self, c: BinomialParams, low: Array, high: Array) -> binomial_between.Moments:
        logs = self._all(c.probabilities)
        _, shares = binomial_between.log_sum(logs, binomial_between.inside(self.trials, low, high))
        mean = (shares * jnp.arange(self.trials + 1, dtype=logs.dtype)[None, None, :]).sum(axis=2)
        saddle = jnp.where(shares > 0, shares * logs, 0).sum(axis=2) + self._deviance_by_rows(c, mean)
        return binomial_between.Moments(mean, saddle)

    def mean_between(self, c: BinomialParams, low: Array, high: Array) -> Array:
        return self.between(c, low, high).mean

    def _deviance_by_rows(self, c: BinomialParams, means: Array) -> Array:
        p = jnp.broadcast_to(c.probabilities, means.shape)
        of_row = lambda p, x: self._deviance(BinomialParams(p), x)
        return jax.vmap(of_row)(p, jnp.clip(means, 0, self.trials))

    def expected_log_density(self, c: BinomialParams, moments: binomial_between.Moments) -> Array:
        return moments.saddle - self._deviance_by_rows(c, moments.mean)

    def expected_statistics(self, c: Any, r: Array, moments: binomial_between.Moments) -> BinomialStatistics:
        return BinomialStatistics(r.sum(axis=0), (r * moments.mean).sum(axis=0))

    def sample_between(self, key: Array, params: BinomialParams, labels: Array, low: Array, high: Array) -> Array:
        p = params.probabilities[labels]
        ends = (jnp.broadcast_to(a, p.shape)[:, None].astype(p.dtype) for a in (low, high))
        logs = jnp.where(binomial_between.inside(self.trials, *ends), self._all(p[:, None]), -jnp.inf)
        return jax.random.categorical(key, logs[:, 0]).astype(p.dtype)
