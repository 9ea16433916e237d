"""The Bernoulli distribution of D independent zeros and ones."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.data import Data, Dataset, observed_of, values_of
from jaxem.core.matrices import product
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.spaces import UnitInterval
from jaxem.families import conjugate, indicators
from jaxem.families.conjugate import BetaPrior
from jaxem.families.protocol import impossible, missing_as_nan
from jaxem.families.sums import kept_where_unseen, per_cell, weighted_sums
from jaxem.latent.classes import log_times


class BernoulliParams(NamedTuple):
    """The parameters of ``Bernoulli``."""

    probabilities: Array  # (K, D), of a one


class BernoulliStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk; (K, D), over the observed cells, where some are missing
    ones: Array  # (K, D), sum_n r_nk x_nd


@register
@dataclasses.dataclass(frozen=True)
class Bernoulli:
    r"""The distribution of D zeros and ones that are independent given the class.

    .. math:: \log p(x \mid k) = \sum_d x_d \log p_{kd} + (1 - x_d) \log (1 - p_{kd}), \qquad
              \text{M: } p_{kd} = \frac{\sum_n r_{nk}\, x_{nd}}{\sum_n r_{nk}}

    The data are (N, D), of which cells may be missing; the parameters are a ``BernoulliParams``. A mixture of this
    family is latent class analysis.

    Arguments:
        prior: a ``BetaPrior``; the fit is then MAP, and alpha - 1 ones and beta - 1 zeros are added to those of
            each cell.
            ``None`` (default): maximum likelihood.

    Raises:
        ValueError: ``prior`` is not a ``BetaPrior``.

    Source: Lazarsfeld & Henry (1968).
    """

    prior: BetaPrior | None = None

    event_ndim: ClassVar[int] = 1
    accurate: ClassVar[bool] = True
    support: ClassVar[str] = "zeros and ones"
    takes: ClassVar[tuple[str, ...]] = ("observed",)
    never_in_part: ClassVar[str] = (
        "an interval of zeros and ones holds one of them, or both; give that value, or a missing cell"
    )

    def __post_init__(self) -> None:
        conjugate.check(self, BetaPrior, self.prior, by_column=True)

    @property
    def dimensions(self) -> int | None:
        """D, the number of columns, where the prior has a number for each; else ``None``."""
        return conjugate.columns(self.prior)

    def declare(self) -> BernoulliParams:
        return BernoulliParams(Param.of(UnitInterval(), "K D", location=True))  # pyright: ignore[reportArgumentType]

    def prepare(self, params: BernoulliParams, x: Data | None) -> Array:
        """Log-probabilities of ones, then of zeros, (K, 2 D)."""
        p = params.probabilities
        return jnp.concatenate([indicators.log(p), indicators.log_of_rest(p)], axis=1)

    def log_density(self, c: Array, x: Data) -> Array:
        values, seen = values_of(x), observed_of(x)
        ones = values.astype(c.dtype)
        zeros = 1 - ones
        if seen is not None:
            ones, zeros = jnp.where(seen, ones, 0), jnp.where(seen, zeros, 0)
        density = indicators.log_density(jnp.concatenate([ones, zeros], axis=1), c)
        return jnp.where(self.supports(x)[:, None], density, impossible(values, density.dtype)[:, None])

    def statistics(self, c: Any, r: Array, hidden: Any, x: Data) -> BernoulliStatistics:
        values, seen = values_of(x), observed_of(x)
        if seen is None:
            return BernoulliStatistics(r.sum(axis=0), weighted_sums(r, values))
        return BernoulliStatistics(weighted_sums(r, seen), weighted_sums(r, jnp.where(seen, values, 0)))

    def maximize(self, c: Any, sums: BernoulliStatistics) -> BernoulliParams:
        ones, n = conjugate.added(self.prior, sums.ones, per_cell(sums.sizes))
        # Rounding may leave the sum of ones above the sum of weights.
        p = jnp.minimum(ones / n, 1)
        old = 0.5 if c is None else jnp.exp(c[:, : p.shape[1]])
        return BernoulliParams(kept_where_unseen(p, sums.sizes if sums.sizes.ndim == 1 else n, old))

    def expected(self, c: Any, params: BernoulliParams, sums: BernoulliStatistics) -> Array:
        p, ones = params.probabilities, sums.ones
        zeros = per_cell(sums.sizes) - ones
        return (log_times(ones, p) + zeros * jnp.log1p(-jnp.where(zeros > 0, p, 0))).sum()

    def log_prior(self, params: BernoulliParams) -> Array | float:
        return conjugate.log_density(self.prior, params.probabilities)

    def contrasts(self, params: BernoulliParams) -> Array:
        return params.probabilities

    def features(self, x: Data) -> Array:
        return missing_as_nan(x)

    def supports(self, x: Data) -> Array:
        values, seen = values_of(x), observed_of(x)
        possible = (values == 0) | (values == 1)
        return (possible if seen is None else possible | ~seen).all(axis=1)

    def impute(self, params: BernoulliParams, r: Array, x: Dataset) -> Array:
        return product(r, params.probabilities)

    def sample(self, key: Array, params: BernoulliParams, labels: Array) -> Array:
        p = params.probabilities[labels]
        return jax.random.bernoulli(key, p).astype(p.dtype)
