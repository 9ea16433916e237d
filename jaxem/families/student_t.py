"""The t distribution in one dimension."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.data import Data
from jaxem.core.parameters import Param
from jaxem.core.spaces import Positive, Real
from jaxem.families import freedom, gamma_scale, scales, student_t_between, unbounded
from jaxem.families.covariance import collapsed
from jaxem.families.freedom import Freedom
from jaxem.families.gamma_scale import Scales
from jaxem.families.tails import Tails, of_student_t


class StudentTParams(NamedTuple):
    """The parameters of ``StudentT``."""

    locations: Array  # (K,)
    squared_scales: Array  # (K,)
    tails: Array | None = None  # 1 / nu, (K,) where free, () where tied, None where given; 0 is the normal distribution


class StudentTStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk
    scales: Array  # (K,), sum_n r_nk E u_nk
    first: Array  # (K,), sum_n r_nk E u_nk (x_n - origin_k)
    second: Array  # (K,), sum_n r_nk E u_nk (x_n - origin_k)^2
    excess: Array  # (K,), sum_n r_nk E (u_nk - 1 - log u_nk)


class Prepared(NamedTuple):
    locations: Array  # (K,), the origin of the sums
    inverse_roots: Array  # (K,), of the squared scales
    logs: Array  # (K,), of the squared scales
    tails: Array  # (K,)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class StudentT:
    r"""The t distribution of one real number, with heavier tails than the normal distribution.

    .. math:: p(x \mid k) = \frac{\Gamma(\frac{\nu_k + 1}{2})}{\Gamma(\frac{\nu_k}{2}) \sqrt{\pi \nu_k s_k}}
              \left(1 + \frac{(x - m_k)^2}{\nu_k s_k}\right)^{-\frac{\nu_k + 1}{2}}

    It is a normal distribution with a hidden scale, x | u ~ N(m, s / u), u ~ Gamma(nu / 2, nu / 2), whose posterior is
    part of q. Observations far from the centre have small E u, and little influence.

    .. math:: \text{M: } m_k = \frac{\sum_n r_{nk} \bar u_{nk} x_n}{\sum_n r_{nk} \bar u_{nk}}, \quad
              s_k = \frac{\sum_n r_{nk} \bar u_{nk} (x_n - m_k)^2}{\sum_n r_{nk}}, \quad
              \log\tfrac{\nu_k}{2} - \psi(\tfrac{\nu_k}{2}) =
              \frac{\sum_n r_{nk}\, E(u_{nk} - 1 - \log u_{nk})}{\sum_n r_{nk}}

    The data are (N,); the parameters are a ``StudentTParams``, with tails = 1 / nu. Where the data have no heavier
    tails than a normal distribution, the maximum is at tails = 0, which EM approaches slowly: use ``SQUAREM()``, or
    ``Normal()``. Tails that start at exactly 0 stay there. Of an observation seen in part (``Censored``, ``Truncated``)
    the scale is hidden beside the observation itself.

    Arguments:
        freedom: the degrees of freedom nu: ``"free"`` (default), for each class; ``"tied"``, one for all classes; or a
            number above 0, which is not estimated (``math.inf``: the normal distribution).

    Raises:
        ValueError: ``freedom`` is none of these.

    Source: Lange, Little & Taylor (1989); Peel & McLachlan (2000) for mixtures.
    """

    freedom: Freedom = "free"

    event_ndim: ClassVar[int] = 0
    accurate: ClassVar[bool] = True
    centred: ClassVar[bool] = True
    support: ClassVar[str] = "a finite number"
    bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        freedom.check(self)

    def declare(self) -> StudentTParams:
        locations, squares = Param.of(Real(), "K", location=True), Param.of(Positive(), "K")
        return StudentTParams(locations, squares, freedom.declared(self.freedom))  # pyright: ignore[reportArgumentType]

    def prepare(self, params: StudentTParams, x: Data | None) -> Prepared:
        m, s, tails = params
        return Prepared(m, scales.inverse_root(s), scales.log(s), freedom.of_classes(self.freedom, tails, m))

    def _distance(self, c: Prepared, x: Array) -> Array:
        """(x_n - m_k)^2 / s_k, (N, K), at most so large that it stays finite when multiplied."""
        z = (x[:, None] - c.locations[None, :]) * c.inverse_roots[None, :]
        return jnp.minimum(z**2, float(jnp.finfo(z.dtype).max) ** 0.9)

    def log_density(self, c: Prepared, x: Array) -> Array:
        kernel = gamma_scale.log_kernel(c.tails, 1, self._distance(c, x))
        return kernel - 0.5 * (math.log(2 * math.pi) + c.logs[None, :])

    def hidden(self, c: Prepared, x: Array) -> Scales:
        return gamma_scale.posterior(c.tails, 1, self._distance(c, x))

    def complete(self, c: Prepared, u: Scales, x: Array) -> Array:
        own = gamma_scale.complete(c.tails, 1, self._distance(c, x), u)
        return own - 0.5 * (math.log(2 * math.pi) + c.logs[None, :])

    def hidden_entropy(self, c: Prepared, u: Scales, x: Array) -> Array:
        return gamma_scale.entropy(u)

    def hidden_divergence(self, u: Scales, other: Scales) -> Array:
        return gamma_scale.divergence(u, other)

    def statistics(self, c: Prepared | None, r: Array, u: Any, x: Array) -> StudentTStatistics:
        y = x[:, None] if c is None else x[:, None] - c.locations[None, :]
        ru = r if c is None else r * u.means
        excess = freedom.first(r) if c is None else (r * gamma_scale.excess(u)).sum(axis=0)
        first = ru * y
        return StudentTStatistics(r.sum(axis=0), ru.sum(axis=0), first.sum(axis=0), (first * y).sum(axis=0), excess)

    def maximize(self, c: Prepared | None, sums: StudentTStatistics) -> StudentTParams:
        n, w, first, second, excess = sums
        delta = first / w
        # As for ``Normal``: an amount of the size of the rounding error keeps the difference from vanishing.
        hidden = 8 * float(jnp.finfo(delta.dtype).eps)
        squares = (second - (1 - hidden) * delta * first) / n
        locations = delta if c is None else c.locations + delta
        return StudentTParams(locations, squares, freedom.maximize(self.freedom, n, excess))

    def expected(self, c: Prepared, params: StudentTParams, sums: StudentTStatistics) -> Array:
        n, w, first, second, excess = sums
        d = params.locations - c.locations
        normal = -0.5 * (
            n * jnp.log(params.squared_scales) + (second - 2 * d * first + w * d * d) / params.squared_scales
        )
        tails = freedom.of_classes(self.freedom, params.tails, d)
        return (normal + gamma_scale.expected_prior(tails, n, excess)).sum()

    def tails(self, c: Prepared, x: Array) -> Tails:
        return of_student_t((x[:, None] - c.locations[None, :]) * c.inverse_roots[None, :], c.tails[None, :])

    def mean(self, params: StudentTParams) -> Array:
        return params.locations

    def variances(self, params: StudentTParams) -> Array:
        """The variance of each class, s nu / (nu - 2).

        Arguments:
            params: the parameters, such as ``fit.params.components`` of a mixture.

        Returns:
            An array (K,); infinite where nu is at most 2.
        """
        tails = freedom.of_classes(self.freedom, params.tails, params.locations)
        return params.squared_scales / jnp.maximum(1 - 2 * tails, 0)

    def contrasts(self, params: StudentTParams) -> Array:
        m, s, _ = params
        tails = freedom.of_classes(self.freedom, params.tails, m)
        return jnp.stack([(m - m.mean()) / jnp.sqrt(s.mean()), jnp.log(s), tails], axis=1)

    def features(self, x: Array) -> Array:
        return x[:, None]

    def supports(self, x: Array) -> Array:
        return jnp.isfinite(x)

    def diagnose(self, x: np.ndarray, dtype: np.dtype) -> str | None:
        """Why no start can be made from the values ``x`` in this dtype; ``None`` where no reason is found."""
        x = x[:, None]
        return unbounded.out_of_range(x, dtype) or unbounded.constant(x, dtype)

    def degenerate(self, params: StudentTParams) -> Array:
        return collapsed(params.locations[:, None], params.squared_scales[:, None])

    def sample(self, key: Array, params: StudentTParams, labels: Array) -> Array:
        m, s, _ = params
        of_noise, of_scales = jax.random.split(key)
        tails = freedom.of_classes(self.freedom, params.tails, m)[labels]
        noise = jax.random.normal(of_noise, labels.shape, m.dtype)
        return m[labels] + jnp.sqrt(s[labels] / gamma_scale.draw(of_scales, tails)) * noise

    def log_interval(self, c: Prepared, low: Array, high: Array) -> Array:
        return student_t_between.log_interval(c, low, high)

    def between(self, c: Prepared, low: Array, high: Array) -> student_t_between.Moments:
        return student_t_between.between(c, low, high)

    def mean_between(self, c: Prepared, low: Array, high: Array) -> Array:
        return student_t_between.mean(c, low, high)

    def expected_log_density(self, c: Prepared, moments: student_t_between.Moments) -> Array:
        return student_t_between.expected_log_density(c, moments)

    def expected_statistics(self, c: Prepared, r: Array, moments: student_t_between.Moments) -> StudentTStatistics:
        parts = moments.scales, *student_t_between.about(c.locations, moments), moments.excess
        return StudentTStatistics(r.sum(axis=0), *((r * part).sum(axis=0) for part in parts))

    def sample_between(self, key: Array, params: StudentTParams, labels: Array, low: Array, high: Array) -> Array:
        of_each = jax.tree.map(lambda leaf: leaf[labels][:, None], self.prepare(params, None))
        ends = (jnp.broadcast_to(end, labels.shape)[:, None] for end in (low, high))
        return student_t_between.sample(key, of_each, *ends)
