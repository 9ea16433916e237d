"""The Bernoulli distribution of D independent zeros and ones."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.data import Data
from jaxem.core.parameters import Param
from jaxem.core.spaces import UnitInterval
from jaxem.families import indicators
from jaxem.families.protocol import impossible
from jaxem.families.sums import weighted_sums
from jaxem.latent.classes import log_times


class BernoulliParams(NamedTuple):
    """The parameters of ``Bernoulli``."""

    probabilities: Array  # (K, D), of a one


class BernoulliStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk
    ones: Array  # (K, D), sum_n r_nk x_nd


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Bernoulli:
    r"""The distribution of D zeros and ones that are independent given the class.

    .. math:: \log p(x \mid k) = \sum_d x_d \log p_{kd} + (1 - x_d) \log (1 - p_{kd}), \qquad
              \text{M: } p_{kd} = \frac{\sum_n r_{nk}\, x_{nd}}{\sum_n r_{nk}}

    The data are (N, D); the parameters are a ``BernoulliParams``. A mixture of this family is latent class analysis.

    Source: Lazarsfeld & Henry (1968).
    """

    event_ndim: ClassVar[int] = 1
    accurate: ClassVar[bool] = True
    support: ClassVar[str] = "zeros and ones"

    def declare(self) -> BernoulliParams:
        return BernoulliParams(Param.of(UnitInterval(), "K D", location=True))  # pyright: ignore[reportArgumentType]

    def prepare(self, params: BernoulliParams, x: Data | None) -> Array:
        """Log-probabilities of ones, then of zeros, (K, 2 D)."""
        p = params.probabilities
        return jnp.concatenate([indicators.log(p), indicators.log_of_rest(p)], axis=1)

    def log_density(self, c: Array, x: Array) -> Array:
        ones = x.astype(c.dtype)
        density = indicators.log_density(jnp.concatenate([ones, 1 - ones], axis=1), c)
        return jnp.where(self.supports(x)[:, None], density, impossible(x, density.dtype)[:, None])

    def statistics(self, c: Any, r: Array, hidden: Any, x: Array) -> BernoulliStatistics:
        return BernoulliStatistics(r.sum(axis=0), weighted_sums(r, x))

    def maximize(self, c: Any, sums: BernoulliStatistics) -> BernoulliParams:
        # Rounding may leave the sum of ones above the sum of weights.
        return BernoulliParams(jnp.minimum(sums.ones / sums.sizes[:, None], 1))

    def expected(self, c: Any, params: BernoulliParams, sums: BernoulliStatistics) -> Array:
        p, ones = params.probabilities, sums.ones
        zeros = sums.sizes[:, None] - ones
        return (log_times(ones, p) + zeros * jnp.log1p(-jnp.where(zeros > 0, p, 0))).sum()

    def contrasts(self, params: BernoulliParams) -> Array:
        return params.probabilities

    def features(self, x: Array) -> Array:
        return x

    def supports(self, x: Array) -> Array:
        return ((x == 0) | (x == 1)).all(axis=1)

    def sample(self, key: Array, params: BernoulliParams, labels: Array) -> Array:
        p = params.probabilities[labels]
        return jax.random.bernoulli(key, p).astype(p.dtype)
