"""The Weibull distribution."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import newton
from jaxem.core.data import Data
from jaxem.core.parameters import Param
from jaxem.core.spaces import Positive
from jaxem.families import log_gamma_between, unbounded, weibull_between
from jaxem.families.protocol import impossible


class WeibullParams(NamedTuple):
    """The parameters of ``Weibull``."""

    shapes: Array  # (K,)
    scales: Array  # (K,), in the units of x


class WeibullStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk
    score: Array  # (K, 2), the gradient of Q in (log shape, log scale) at the parameters of the context


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Weibull:
    r"""The Weibull distribution of a positive number.

    .. math:: \log p(x \mid k) = \log a_k + z - e^z - \log x, \qquad z = a_k \log (x / b_k)

    .. math:: \text{M: } u_k \leftarrow u_k + (n_k J_k)^{-1} \nabla_{u_k} Q, \qquad u_k = (\log a_k, \log b_k), \quad
              J_k = \begin{pmatrix} (1 - \gamma)^2 + \pi^2 / 6 & -(1 - \gamma)\, a_k \\
                                    -(1 - \gamma)\, a_k & a_k^2 \end{pmatrix}

    The data are (N,); the parameters are a ``WeibullParams``, shapes a and scales b in the units of x. Q is no function
    of finitely many sums, so that an M-step takes one step of Fisher's scoring: it improves Q rather than maximising
    it, and EM, ``HardEM``, ``GEM`` and the accelerators of EM can fit it. J is the information of one observation.
    Shapes above 1 / (64 eps), whose classes are points to the precision of the data, count as collapsed.

    Source: Johnson, Kotz & Balakrishnan (1994), chapter 21, for the information.
    """

    event_ndim: ClassVar[int] = 0
    support: ClassVar[str] = "a positive finite number"
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)

    def declare(self) -> WeibullParams:
        shapes, scales = (Param.of(Positive(), "K", location=at, improves=True) for at in (False, True))
        return WeibullParams(shapes, scales)  # pyright: ignore[reportArgumentType]

    def prepare(self, params: WeibullParams, x: Data | None) -> WeibullParams:
        return params

    def log_density(self, c: WeibullParams, x: Array) -> Array:
        possible = self.supports(x)
        x_in = jnp.where(possible, x, 1)
        z = _logs(c, x_in)
        density = jnp.log(c.shapes)[None, :] + z - jnp.exp(z) - jnp.log(x_in)[:, None]
        return jnp.where(possible[:, None], density, impossible(x, density.dtype)[:, None])

    def statistics(self, c: WeibullParams, r: Array, hidden: Any, x: Array) -> WeibullStatistics:
        z = _logs(c, x)
        # Beyond this the density is zero, and so is r; a product with infinity must not arise.
        e = jnp.exp(weibull_between.bounded(z))
        score = jnp.stack([1 + z - z * e, c.shapes[None, :] * (e - 1)], axis=2)
        return WeibullStatistics(r.sum(axis=0), jnp.where(r[:, :, None] > 0, r[:, :, None] * score, 0).sum(axis=0))

    def maximize(self, c: WeibullParams, sums: WeibullStatistics) -> WeibullParams:
        information = sums.sizes[:, None, None] * _information(c.shapes)
        most = jnp.diagonal(information, axis1=1, axis2=2)
        step = newton.step(sums.score, information, most, sums.sizes)
        return WeibullParams(c.shapes * jnp.exp(step[:, 0]), c.scales * jnp.exp(step[:, 1]))

    def expected(self, c: WeibullParams, params: WeibullParams, sums: WeibullStatistics) -> Array:
        """The quadratic model of Q about the context: s'd - n d'Jd / 2, d the change of (log shape, log scale)."""
        d = jnp.log(jnp.stack(params, axis=1) / jnp.stack(c, axis=1))
        bend = (d[:, None, :] * _information(c.shapes) * d[:, :, None]).sum(axis=(1, 2))
        return (sums.score * d).sum() - (sums.sizes * bend).sum() / 2

    def start(self, key: Array, r: Array, x: Array) -> WeibullParams:
        """By the moments of log x: its variance is pi^2 / (6 a^2), its mean log b - gamma / a."""
        n, y = r.sum(axis=0), jnp.log(x)
        mean = (r * y[:, None]).sum(axis=0) / n
        variance = (r * (y[:, None] - mean[None, :]) ** 2).sum(axis=0) / n
        shapes = math.pi / jnp.sqrt(6 * variance)
        return WeibullParams(shapes, jnp.exp(mean + np.euler_gamma / shapes))

    def contrasts(self, params: WeibullParams) -> Array:
        logs = jnp.log(params.scales)
        return jnp.stack([(logs - logs.mean()) * params.shapes.mean(), jnp.log(params.shapes)], axis=1)

    def mean(self, params: WeibullParams) -> Array:
        return params.scales * jnp.exp(jax.lax.lgamma(1 + 1 / params.shapes))

    def features(self, x: Array) -> Array:
        return jnp.log(x)[:, None]

    def supports(self, x: Array) -> Array:
        return (x > 0) & jnp.isfinite(x)

    def diagnose(self, x: np.ndarray, dtype: np.dtype) -> str | None:
        """Why no start can be made from the values ``x`` in this dtype; ``None`` where no reason is found."""
        return unbounded.constant(x[:, None], dtype)

    def degenerate(self, params: WeibullParams) -> Array:
        return (params.shapes > 1 / (64 * float(jnp.finfo(params.shapes.dtype).eps))).any()

    def sample(self, key: Array, params: WeibullParams, labels: Array) -> Array:
        shapes, scales = params.shapes[labels], params.scales[labels]
        tiny = float(jnp.finfo(shapes.dtype).tiny)  # a small shape gives numbers that are not zero but vanish
        return jnp.maximum(scales * jax.random.exponential(key, labels.shape, shapes.dtype) ** (1 / shapes), tiny)

    def log_interval(self, c: WeibullParams, low: Array, high: Array) -> Array:
        return weibull_between.log_interval(c, low, high)

    def between(self, c: WeibullParams, low: Array, high: Array) -> weibull_between.Moments:
        return weibull_between.between(c, low, high)

    def mean_between(self, c: WeibullParams, low: Array, high: Array) -> Array:
        return weibull_between.mean(c, low, high)

    def expected_log_density(self, c: WeibullParams, moments: weibull_between.Moments) -> Array:
        return weibull_between.expected_log_density(c, moments)

    def expected_statistics(self, c: WeibullParams, r: Array, moments: weibull_between.Moments) -> WeibullStatistics:
        score = weibull_between.expected_score(c, moments)
        return WeibullStatistics(r.sum(axis=0), (r[:, :, None] * score).sum(axis=0))

    def sample_between(self, key: Array, params: WeibullParams, labels: Array, low: Array, high: Array) -> Array:
        shapes, scales = params.shapes[labels], params.scales[labels]
        start, end = (jnp.exp(shapes * log_gamma_between.log_ratio(jnp.maximum(a, 0), scales)) for a in (low, high))
        u = jax.random.uniform(key, labels.shape, shapes.dtype)
        drawn = scales * (start - jnp.log1p(u * jnp.expm1(start - end))) ** (1 / shapes)
        return jnp.clip(drawn, jnp.maximum(low, float(jnp.finfo(shapes.dtype).tiny)), high)


def _logs(c: WeibullParams, x: Array) -> Array:
    """z = a_k log(x_n / b_k), (N, K)."""
    return c.shapes[None, :] * jnp.log(x[:, None] / c.scales[None, :])


def _information(a: Array) -> Array:
    """J, the information of one observation about (log shape, log scale), (K, 2, 2)."""
    one, rest = jnp.ones_like(a), 1 - float(np.euler_gamma)
    rows = [[one * (rest**2 + math.pi**2 / 6), -rest * a], [-rest * a, a**2]]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
