"""The distribution of D independent Poisson counts."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.data import Data, Dataset, observed_of, values_of
from jaxem.core.matrices import product
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.spaces import Positive
from jaxem.families import conjugate
from jaxem.families.conjugate import GammaPrior
from jaxem.families.protocol import impossible, missing_as_nan
from jaxem.families.stirling import deviance, of_count
from jaxem.families.sums import kept_where_unseen, per_cell, weighted_sums


class PoissonVectorParams(NamedTuple):
    """The parameters of ``PoissonVector``."""

    rates: Array  # (K, D)


class PoissonVectorStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk; with missing cells (K, D), sum_n r_nk [x_nd is seen]
    total: Array  # (K, D), sum_n r_nk x_nd over the cells seen


@register
@dataclasses.dataclass(frozen=True)
class PoissonVector:
    r"""The distribution of D counts that are independent and Poisson given the class.

    .. math:: \log p(x \mid k) = \sum_d x_d \log \lambda_{kd} - \lambda_{kd} - \log x_d!, \qquad
              \text{M: } \lambda_{kd} = \frac{\sum_n r_{nk}\, x_{nd}}{\sum_n r_{nk}}

    The data are counts (N, D); the parameters are a ``PoissonVectorParams``. Missing cells are left out of every sum.
    Each column is computed as by ``Poisson``, from terms of one sign.

    Arguments:
        prior: a ``GammaPrior``; the fit is then MAP, and a - 1 and b are added to the two sums of each cell.
            ``None`` (default): maximum likelihood.

    Raises:
        ValueError: ``prior`` is not a ``GammaPrior``.
    """

    prior: GammaPrior | None = None

    event_ndim: ClassVar[int] = 1
    accurate: ClassVar[bool] = True
    support: ClassVar[str] = "non-negative whole numbers"
    takes: ClassVar[tuple[str, ...]] = ("observed",)

    def __post_init__(self) -> None:
        conjugate.check(self, GammaPrior, self.prior, by_column=True)

    @property
    def dimensions(self) -> int | None:
        """D, the number of columns, where the prior has a number for each; else ``None``."""
        return conjugate.columns(self.prior)

    def declare(self) -> PoissonVectorParams:
        return PoissonVectorParams(Param.of(Positive(), "K D", location=True))  # pyright: ignore[reportArgumentType]

    def prepare(self, params: PoissonVectorParams, x: Data | None) -> PoissonVectorParams:
        return params

    def log_density(self, c: PoissonVectorParams, x: Data) -> Array:
        values, seen = values_of(x), observed_of(x)
        possible = self.supports(x)
        counts = jnp.where(possible[:, None], values, 0).astype(c.rates.dtype)
        of_data, lost = of_count(counts), deviance(counts.T[:, :, None], c.rates.T[:, None, :])
        if seen is not None:
            of_data, lost = jnp.where(seen, of_data, 0), jnp.where(seen.T[:, :, None], lost, 0)
        density = of_data.sum(axis=1)[:, None] - lost.sum(axis=0)
        return jnp.where(possible[:, None], density, impossible(values, density.dtype)[:, None])

    def statistics(self, c: Any, r: Array, hidden: Any, x: Data) -> PoissonVectorStatistics:
        values, seen = values_of(x), observed_of(x)
        if seen is None:
            return PoissonVectorStatistics(r.sum(axis=0), weighted_sums(r, values))
        return PoissonVectorStatistics(weighted_sums(r, seen), weighted_sums(r, jnp.where(seen, values, 0)))

    def maximize(self, c: PoissonVectorParams | None, sums: PoissonVectorStatistics) -> PoissonVectorParams:
        old = 1.0 if c is None else c.rates
        total, n = conjugate.added(self.prior, sums.total, per_cell(sums.sizes))
        return PoissonVectorParams(kept_where_unseen(total / n, sums.sizes if sums.sizes.ndim == 1 else n, old))

    def expected(self, c: Any, params: PoissonVectorParams, sums: PoissonVectorStatistics) -> Array:
        n = per_cell(sums.sizes)
        means = jnp.where(n == 0, 0, sums.total / jnp.where(n == 0, 1, n))  # a NaN in n is passed on
        return -(n * deviance(means, params.rates)).sum()

    def log_prior(self, params: PoissonVectorParams) -> Array | float:
        return conjugate.log_density(self.prior, params.rates)

    def contrasts(self, params: PoissonVectorParams) -> Array:
        return jnp.log(jnp.maximum(params.rates, jnp.finfo(params.rates.dtype).tiny))

    def features(self, x: Data) -> Array:
        return missing_as_nan(x)

    def supports(self, x: Data) -> Array:
        values, seen = values_of(x), observed_of(x)
        possible = (values >= 0) & (values == jnp.round(values)) & jnp.isfinite(values)
        return (possible if seen is None else possible | ~seen).all(axis=1)

    def impute(self, params: PoissonVectorParams, r: Array, x: Dataset) -> Array:
        return jnp.where(x.observed, x.values, product(r, params.rates))

    def sample(self, key: Array, params: PoissonVectorParams, labels: Array) -> Array:
        rates = params.rates[labels]
        return jax.random.poisson(key, rates).astype(rates.dtype)
