"""Counts with more zeros than their distribution has."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.checks import instance
from jaxem.core.contexts import Context
from jaxem.core.data import Data
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.spaces import UnitInterval
from jaxem.families import indicators, observed, protocol
from jaxem.families.protocol import Family
from jaxem.families.tails import Tails, of_family


class ZeroInflatedParams(NamedTuple):
    """The parameters of ``ZeroInflated``."""

    zeros: Array  # (K,), the probability of a structural zero
    counts: Any  # the parameters of the family of counts


class ZeroInflatedStatistics(NamedTuple):
    zeros: Array  # (K,), sum_n r_nk tau_nk
    others: Array  # (K,), sum_n r_nk (1 - tau_nk)
    counts: Any  # the sums of the family of counts, with weights r_nk (1 - tau_nk)


class Prepared(NamedTuple):
    zeros: Array  # (K,)
    counts: Context


class Structural(NamedTuple):
    """The posterior of the hidden variables: whether a zero is structural, and those of the family if it is not."""

    probabilities: Array  # (N, K), tau_nk
    counts: Any


@register
@dataclasses.dataclass(frozen=True)
class ZeroInflated:
    r"""Observations of a family that are replaced by zero with a probability of their own in each class.

    .. math:: p(x \mid k) = \pi_k [x = 0] + (1 - \pi_k) f(x \mid \theta_k)

    Whether a zero is structural is hidden, and its posterior is part of q, with the family's own hidden variables.

    .. math:: \text{E: } \tau_{nk} = \frac{\pi_k [x_n = 0]}{\pi_k + (1 - \pi_k) f(0 \mid \theta_k)} \qquad
              \text{M: } \pi_k = \frac{\sum_n r_{nk} \tau_{nk}}{\sum_n r_{nk}},\;
              \theta_k \text{ the family's maximiser under weights } r_{nk} (1 - \tau_{nk})

    The data are (N,); the parameters are a ``ZeroInflatedParams``. A probability of exactly 0 stays 0 and gives the
    family itself. Where the data have no more zeros than the family explains, the maximum is at 0.

    A mixture of several classes determines only sum_k w_k pi_k: its structural zeros could belong to any class. A
    hidden Markov model determines each pi_k. The probability of zero must not be free in the family already, as it is
    for zeros and ones.

    Arguments:
        family: a family of single numbers, such as ``Poisson()`` or ``NegativeBinomial()``.

    Raises:
        ValueError: ``family`` is not a family of single numbers.

    Source: Lambert (1992).
    """

    family: Family

    event_ndim: ClassVar[int] = 0

    def __post_init__(self) -> None:
        instance("ZeroInflated: family", self.family, "a family, such as Poisson()", "declare", "log_density")
        if self.family.event_ndim != 0:
            name = type(self.family).__name__
            raise ValueError(f"ZeroInflated: family must be of single numbers; an observation of {name} holds several")

    @property
    def accurate(self) -> bool:
        """Whether log-densities are right to a few units in the last place, as declared by the family."""
        return getattr(self.family, "accurate", False)

    @property
    def centred(self) -> bool:
        """Whether a start makes a second pass, as declared by the family."""
        return getattr(self.family, "centred", False)

    @property
    def support(self) -> str:
        """A description of valid observations."""
        return f"zero or {self.family.support}"

    def declare(self) -> ZeroInflatedParams:
        return ZeroInflatedParams(Param.of(UnitInterval(), "K"), self.family.declare())  # pyright: ignore[reportArgumentType]

    def prepare(self, params: ZeroInflatedParams, x: Data | None) -> Prepared:
        return Prepared(params.zeros, self.family.prepare(params.counts, x))

    def log_density(self, c: Prepared, x: Array) -> Array:
        log_f, zero, p = self.family.log_density(c.counts, x), (x == 0)[:, None], c.zeros[None, :]
        # The sum is linear in p, so that its derivative is right at p = 0 too.
        log_f0 = jnp.where(zero, log_f, 0)
        top = jax.lax.stop_gradient(jnp.maximum(log_f0, jnp.log(p)))
        at_zero = p * _exp(-top) + (1 - p) * _exp(log_f0 - top)
        return jnp.where(zero, top + jnp.log(at_zero), indicators.log_of_rest(p) + log_f)

    def hidden(self, c: Prepared, x: Array) -> Structural:
        odds = indicators.log(c.zeros)[None, :] - indicators.log_of_rest(c.zeros)[None, :]
        tau = jax.nn.sigmoid(odds - self.family.log_density(c.counts, x))
        return Structural(jnp.where((x == 0)[:, None], tau, 0), observed.hidden(self.family, c.counts, x))

    def complete(self, c: Prepared, u: Structural, x: Array) -> Array:
        tau = u.probabilities
        count = indicators.log_of_rest(c.zeros)[None, :] + observed.complete(self.family, c.counts, u.counts, x)
        return _times(tau, indicators.log(c.zeros)[None, :]) + _times(1 - tau, count)

    def hidden_entropy(self, c: Prepared, u: Structural, x: Array) -> Array:
        tau = u.probabilities
        own = -_times(tau, indicators.log(tau)) - _times(1 - tau, indicators.log_of_rest(tau))
        if not jax.tree.leaves(u.counts):
            return own
        return own + (1 - tau) * observed.hidden_entropy(self.family, c.counts, u.counts, x)

    def hidden_divergence(self, u: Structural, other: Structural) -> Array:
        p, q = u.probabilities, other.probabilities
        own = _times(p, indicators.log(p) - indicators.log(q))
        own = own + _times(1 - p, indicators.log_of_rest(p) - indicators.log_of_rest(q))
        if not jax.tree.leaves(u.counts):
            return own
        return own + (1 - p) * protocol.hidden_divergence(self.family, u.counts, other.counts)

    def statistics(self, c: Prepared | None, r: Array, u: Any, x: Array) -> ZeroInflatedStatistics:
        # At a start, half of the zeros are structural.
        tau = jnp.where((x == 0)[:, None], 0.5, 0).astype(r.dtype) if c is None else u.probabilities
        structural, rest = r * tau, r * (1 - tau)
        counts = self.family.statistics(c and c.counts, rest, () if c is None else u.counts, x)
        return ZeroInflatedStatistics(structural.sum(axis=0), rest.sum(axis=0), counts)

    def maximize(self, c: Prepared | None, sums: ZeroInflatedStatistics) -> ZeroInflatedParams:
        zeros, others, counts = sums
        return ZeroInflatedParams(zeros / (zeros + others), self.family.maximize(c and c.counts, counts))

    def expected(self, c: Prepared, params: ZeroInflatedParams, sums: ZeroInflatedStatistics) -> Array:
        zeros, others, counts = sums
        p = params.zeros
        own = _times(zeros, indicators.log(p)) + _times(others, indicators.log_of_rest(p))
        return own.sum() + self.family.expected(c.counts, params.counts, counts)

    def log_prior(self, params: ZeroInflatedParams) -> Array | float:
        return protocol.log_prior(self.family, params.counts)

    def degenerate(self, params: ZeroInflatedParams) -> Array:
        return protocol.degenerate(self.family, params.counts)

    def tails(self, c: Prepared, x: Array) -> Tails:
        p, own, y = c.zeros[None, :], of_family(self.family, c.counts, x), x[:, None]
        zero = (jnp.where(place, p, 0) for place in (y > 0, y == 0, y < 0))
        return Tails(*(extra + (1 - p) * part for extra, part in zip(zero, own, strict=True)))

    def mean(self, params: ZeroInflatedParams) -> Array:
        return (1 - params.zeros) * self.family.mean(params.counts)  # pyright: ignore[reportAttributeAccessIssue]

    def contrasts(self, params: ZeroInflatedParams) -> Array:
        own = params.zeros[:, None]
        if not hasattr(self.family, "contrasts"):
            return own
        return jnp.concatenate([own, self.family.contrasts(params.counts)], axis=1)  # pyright: ignore[reportAttributeAccessIssue]

    def features(self, x: Array) -> Array:
        return self.family.features(x)

    def supports(self, x: Array) -> Array:
        return (x == 0) | self.family.supports(x)

    def diagnose(self, x: np.ndarray, dtype: np.dtype) -> str | None:
        """Why no start can be made from the values ``x`` in this dtype; ``None`` where no reason is found."""
        return protocol.diagnose(self.family, x, dtype)

    def sample(self, key: Array, params: ZeroInflatedParams, labels: Array) -> Array:
        of_zeros, of_counts = jax.random.split(key)
        zeros = params.zeros[labels]
        structural = jax.random.uniform(of_zeros, labels.shape, zeros.dtype) < zeros
        return jnp.where(structural, 0, self.family.sample(of_counts, params.counts, labels))


def _exp(a: Array) -> Array:
    """e^a, finite."""
    return jnp.exp(jnp.minimum(a, math.log(float(jnp.finfo(a.dtype).max)) - 1))


def _times(weight: Array, log_p: Array) -> Array:
    """weight times log_p, 0 where the weight is 0."""
    return jnp.where(weight == 0, 0, weight * jnp.where(weight == 0, 0, log_p))
