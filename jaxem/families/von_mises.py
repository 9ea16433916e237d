"""The von Mises distribution of an angle."""

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
from jaxem.families import unbounded, von_mises_between
from jaxem.families.arcs import wrapped
from jaxem.families.bessel import log_i0e, one_minus_ratio
from jaxem.families.newton import root


class VonMisesParams(NamedTuple):
    """The parameters of ``VonMises``."""

    directions: Array  # (K,), in radians, known up to multiples of 2 pi
    concentrations: Array  # (K,)


class VonMisesStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk
    first: Array  # (K,), sum_n r_nk sin(x_n - origin_k)
    second: Array  # (K,), sum_n r_nk (1 - cos(x_n - origin_k))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class VonMises:
    r"""The von Mises distribution of an angle.

    .. math:: \log p(x \mid k) = \kappa_k \cos(x - m_k) - \log (2 \pi I_0(\kappa_k))

    .. math:: \text{M: } R_k e^{i m_k} = \frac{\sum_n r_{nk}\, e^{i x_n}}{\sum_n r_{nk}},\qquad
              1 - \frac{I_1(\kappa_k)}{I_0(\kappa_k)} = 1 - R_k

    The data are angles (N,) in radians, of any number of turns; the parameters are a ``VonMisesParams``. Directions
    are returned between -pi and pi. A concentration of zero is the uniform distribution; a large one is nearly normal
    with variance 1 / concentration. The equation for the concentration is solved to rounding in each M-step.

    Within ``Censored`` and ``Truncated`` an interval is an arc, from low counter-clockwise to high, low < high <= low +
    2 pi: across the cut of the circle from 3 to 4, not from 3 to 4 - 2 pi. The mean of angles is the direction of
    E e^(ix).

    Sums are taken about the direction of the context, of the sine and of 1 - cos = 2 sin^2 of half the angle, and the
    equation has 1 - R on its right-hand side: neither cancels where the concentration is large.

    Source: Mardia & Jupp (2000), sections 3.5 and 5.3; Banerjee et al. (2005) for the start of the concentration;
    Best & Fisher (1979) for sampling by rejection from a wrapped Cauchy distribution.
    """

    event_ndim: ClassVar[int] = 0
    accurate: ClassVar[bool] = True
    centred: ClassVar[bool] = True
    support: ClassVar[str] = "a finite number, an angle in radians"
    turn: ClassVar[float] = 2 * math.pi
    bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    def declare(self) -> VonMisesParams:
        directions = Param.of(Real(), "K", location=True)
        return VonMisesParams(directions, Param.of(Positive(), "K"))  # pyright: ignore[reportArgumentType]

    def prepare(self, params: VonMisesParams, x: Data | None) -> tuple[VonMisesParams, Array]:
        """The parameters, whose directions are the origin of the sums, and log(2 pi e^(-kappa) I_0(kappa)), (K,)."""
        return params, math.log(2 * math.pi) + log_i0e(params.concentrations)

    def log_density(self, c: tuple[VonMisesParams, Array], x: Array) -> Array:
        (directions, concentrations), constants = c
        return -concentrations[None, :] * _one_minus_cos(x[:, None] - directions[None, :]) - constants[None, :]

    def statistics(self, c: tuple[VonMisesParams, Array] | None, r: Array, hidden: Any, x: Array) -> VonMisesStatistics:
        y = x[:, None] if c is None else x[:, None] - c[0].directions[None, :]
        return VonMisesStatistics(r.sum(axis=0), (r * jnp.sin(y)).sum(axis=0), (r * _one_minus_cos(y)).sum(axis=0))

    def maximize(self, c: tuple[VonMisesParams, Array] | None, sums: VonMisesStatistics) -> VonMisesParams:
        sine, rest = sums.first / sums.sizes, sums.second / sums.sizes  # R e^(i turn) = 1 - rest + i sine
        turn = jnp.arctan2(sine, 1 - rest)
        directions = turn if c is None else wrapped(c[0].directions + turn)
        # Where the direction is far from the origin, the difference is rounding error; the next origin is near.
        hidden = 8 * float(jnp.finfo(sine.dtype).eps)
        spread = jnp.maximum(rest * (2 - rest) - sine**2, hidden * sine**2)  # 1 - R^2
        return VonMisesParams(directions, concentration(spread))

    def expected(self, c: tuple[VonMisesParams, Array], params: VonMisesParams, sums: VonMisesStatistics) -> Array:
        n, first, second = sums
        turn = params.directions - c[0].directions
        away = n * _one_minus_cos(turn) + second * jnp.cos(turn) - first * jnp.sin(turn)
        return -(params.concentrations * away + n * log_i0e(params.concentrations)).sum()

    def mean(self, params: VonMisesParams) -> Array:
        return params.directions

    def impute(self, params: VonMisesParams, r: Array, x: Data) -> Array:
        """The direction of E e^(ix) under the class probabilities ``r (N, K)``."""
        m, kappa = params
        lengths = r * (1 - one_minus_ratio(kappa))[None, :]
        return jnp.arctan2(lengths @ jnp.sin(m), lengths @ jnp.cos(m))

    def contrasts(self, params: VonMisesParams) -> Array:
        m, kappa = params
        length = kappa / jnp.sqrt(1 + kappa.mean())
        return jnp.stack([length * jnp.cos(m), length * jnp.sin(m), jnp.log1p(kappa)], axis=1)

    def features(self, x: Array) -> Array:
        return jnp.stack([jnp.cos(x), jnp.sin(x)], axis=1)

    def supports(self, x: Array) -> Array:
        return jnp.isfinite(x)

    def diagnose(self, x: np.ndarray, dtype: np.dtype) -> str | None:
        """Why no start can be made from the angles ``x`` in this dtype; ``None`` where no reason is found."""
        turned = np.angle(np.exp(1j * (x - x[0])))
        return unbounded.constant(x[:1, None], dtype) if np.abs(turned).max() <= 8 * np.finfo(dtype).eps else None

    def degenerate(self, params: VonMisesParams) -> Array:
        kappa = params.concentrations
        return (kappa > 1 / (4 * float(jnp.finfo(kappa.dtype).eps)) ** 2).any()

    def sample(self, key: Array, params: VonMisesParams, labels: Array) -> Array:
        return wrapped(params.directions[labels] + _draw(key, params.concentrations[labels]))

    def log_interval(self, c: tuple[VonMisesParams, Array], low: Array, high: Array) -> Array:
        return von_mises_between.log_interval(c, low, high)

    def between(self, c: tuple[VonMisesParams, Array], low: Array, high: Array) -> von_mises_between.Moments:
        return von_mises_between.between(c, low, high)

    def mean_between(self, c: tuple[VonMisesParams, Array], low: Array, high: Array) -> Array:
        return von_mises_between.mean(c, low, high)

    def impute_between(self, c: tuple[VonMisesParams, Array], r: Array, low: Array, high: Array) -> Array:
        return von_mises_between.mean(c, low, high, r)[:, 0]

    def expected_log_density(self, c: tuple[VonMisesParams, Array], moments: von_mises_between.Moments) -> Array:
        return von_mises_between.expected_log_density(c, moments)

    def expected_statistics(
        self, c: tuple[VonMisesParams, Array], r: Array, moments: von_mises_between.Moments
    ) -> VonMisesStatistics:
        sine, rest = von_mises_between.about(c[0].directions, moments)
        return VonMisesStatistics(r.sum(axis=0), (r * sine).sum(axis=0), (r * rest).sum(axis=0))

    def sample_between(self, key: Array, params: VonMisesParams, labels: Array, low: Array, high: Array) -> Array:
        of_each = jax.tree.map(lambda leaf: leaf[labels][:, None], self.prepare(params, None))
        ends = (jnp.broadcast_to(jnp.asarray(end, params.directions.dtype), labels.shape) for end in (low, high))
        return von_mises_between.sample(key, of_each, *(end[:, None] for end in ends))


def _one_minus_cos(angle: Array) -> Array:
    return 2 * jnp.sin(angle / 2) ** 2


def concentration(spread: Array) -> Array:
    """The concentration at which (I_1 / I_0)^2 = 1 - ``spread``, element by element, for 0 <= spread <= 1."""
    spread = jnp.clip(spread, float(jnp.finfo(spread.dtype).eps) ** 2 / 4, 1)
    length = jnp.sqrt(jnp.where(spread < 1, 1 - spread, 1))
    length = jnp.where(spread < 1, length, 0)
    start = length * (1 + spread) / spread
    return root(lambda kappa, gap: one_minus_ratio(kappa) - gap, start, spread / (1 + length))


def _draw(key: Array, kappa: Array) -> Array:
    """Angles about 0 with concentrations ``kappa (n,)``, by rejection.

    tan(x / 2) = t / (1 + 2 kappa)^(1/2) with t from the Cauchy distribution is proposed; x is taken with probability
    (1 + y) e^(-y), y = kappa (1 - cos x). More than half of the proposals are taken, whatever kappa.
    """
    half_width = 1 / jnp.sqrt(1 + 2 * kappa)

    def propose(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        key, angles, waiting = state
        key, t_key, u_key = jax.random.split(key, 3)
        new = 2 * jnp.arctan(half_width * jax.random.cauchy(t_key, kappa.shape, kappa.dtype))
        y = kappa * _one_minus_cos(new)
        taken = jnp.log(jax.random.uniform(u_key, kappa.shape, kappa.dtype)) <= jnp.log1p(y) - y
        return key, jnp.where(waiting, new, angles), waiting & ~taken & ~jnp.isnan(kappa)

    state = key, jnp.zeros_like(kappa), jnp.ones(kappa.shape, bool)
    return jax.lax.while_loop(lambda state: state[2].any(), propose, state)[1]
