"""The exponential distribution."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.data import Data
from jaxem.core.parameters import Param
from jaxem.core.spaces import Positive
from jaxem.families import scales
from jaxem.families.protocol import impossible
from jaxem.families.sums import weighted_sum


class ExponentialParams(NamedTuple):
    """The parameters of ``Exponential``."""

    rates: Array  # (K,), per unit of x


class ExponentialStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk
    total: Array  # (K,), sum_n r_nk x_n


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Exponential:
    r"""The exponential distribution of a waiting time x >= 0.

    .. math:: \log p(x \mid k) = \log \lambda_k - \lambda_k x, \qquad
              \text{M: } \lambda_k = \frac{\sum_n r_{nk}}{\sum_n r_{nk}\, x_n}

    The data are (N,); the parameters are an ``ExponentialParams``, rates per unit of x.
    """

    event_ndim: ClassVar[int] = 0
    accurate: ClassVar[bool] = True
    support: ClassVar[str] = "a non-negative finite number"

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
        return ExponentialParams(sums.sizes / sums.total)

    def expected(self, c: Any, params: ExponentialParams, sums: ExponentialStatistics) -> Array:
        return (sums.sizes * jnp.log(params.rates) - params.rates * sums.total).sum()

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
