r"""Logarithms of factorials and powers, without cancellation.

In x log(rate) - rate - log x!, numbers of the size of x log x cancel to a number of the size of log x. In 32 bits that
leaves four digits for a count of 300, and none for a count of a million. Such sums are therefore written with the
deviance D and the remainder delta of Stirling's formula,

.. math:: D(x, \lambda) = x \log(x / \lambda) + \lambda - x \ge 0, \qquad
          \delta(b) = \log\Gamma(b) - (b - \tfrac12) \log b + b - \tfrac12 \log 2 \pi > 0,

each of which is computed to full relative accuracy. With v = (x - lambda) / (x + lambda),

.. math:: D = (x - \lambda) v + 2 x (\operatorname{artanh} v - v)

is a series that converges quickly where x / lambda lies between 1/2 and 2. Elsewhere log x - log(lambda) is computed
from mantissas and exponents; the difference of the exponents is exact.

Source: Loader (2000), *Fast and accurate computation of binomial probabilities*.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxem.families.scales import log, reciprocal

# Coefficients of delta(b) as 1 / b times a series in 1 / b^2, accurate to 64 bits for b >= ``FROM``.
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
FROM = 10
# (artanh(v) - v) / v^3 = 1/3 + v^2 / 5 + v^4 / 7 + ... as a polynomial in v^2 <= 1/9, for each number of bits. It
# interpolates at the Chebyshev points, which needs two thirds of the terms of the series. Errors: 1.3e-9 and 2e-17.
_SERIES = {
    32: (0.3333333366, 0.19999853166, 0.14296178997, 0.108532879, 0.11612164612),
    64: (
        *(0.33333333333333329, 0.20000000000007291, 0.14285714283554379, 0.11111111358713931, 0.090908947180664291),
        *(0.076927850324793116, 0.066570721048274681, 0.060005364047953563, 0.044003692430723369, 0.080820228059717661),
    ),
}


def _series(square: Array) -> Array:
    """(artanh(v) - v) / v^3 from v^2 <= 1/9, element by element."""
    *others, last = _SERIES[jnp.finfo(square.dtype).bits]
    series = jnp.full_like(square, last)
    for coefficient in reversed(others):
        series = series * square + coefficient
    return series


@jax.custom_jvp
def deviance(x: Array, rate: Array) -> Array:
    """D(x, rate) for x >= 0 and rate >= 0, element by element, with axes of length one broadcast.

    It is ``rate`` where x = 0, and infinite where only the rate is 0. Logarithms are taken of x and of the rate before
    broadcasting, not for each pair.
    """
    tiny = float(jnp.finfo(rate.dtype).tiny)
    positive = jnp.where(rate == 0, tiny, rate)
    half = 0.5 * x - 0.5 * rate
    v = half / (0.5 * x + 0.5 * positive)  # halved so that the sum does not overflow
    near = 2 * (half * v + x * (v * v**2 * _series(v**2)))
    (log_x, power_x), (log_rate, power_rate) = _split_log(jnp.where(x > 0, x, 1)), _split_log(positive)
    log_ratio = math.log(2) * (power_x - power_rate) + (log_x - log_rate)
    far = jnp.where((rate != 0) | (x == 0), x * log_ratio - 2 * half, jnp.inf)
    return jnp.where(jnp.abs(v) < 1 / 3, near, far)


def _deviance_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """log(x / rate) dx + (rate - x) / rate d rate."""
    (x, rate), (dx, d_rate) = primals, tangents
    value = deviance(x, rate)
    tangent = jnp.zeros_like(value)
    if not isinstance(dx, SymbolicZero):
        tangent = tangent + jnp.log1p((x - rate) * reciprocal(rate)) * dx
    if not isinstance(d_rate, SymbolicZero):
        tangent = tangent - score(x, rate) * d_rate
    return value, tangent


deviance.defjvp(_deviance_jvp, symbolic_zeros=True)


@jax.custom_jvp
def score(x: Array, rate: Array) -> Array:
    """(x - rate) / rate, element by element: accurate near its zero, and -1 where x = 0.

    It is 0 where only the rate is 0. Such an x has probability 0, so that it contributes nothing. (For x = 1 the
    probability has a nonzero derivative from the right, which this leaves out.)
    """
    edge = jnp.where(x == 0, -1, 0).astype(x.dtype)
    return jnp.where((rate != 0) & (x != 0), (x - rate) * reciprocal(_nonzero(rate)), edge)


@score.defjvp
def _score_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """dx / rate - x d rate / rate^2: one term each, so that nothing cancels."""
    (x, rate), (dx, d_rate) = primals, tangents
    inverse = jnp.where(rate != 0, reciprocal(_nonzero(rate)), 0)
    return score(x, rate), (dx - (x * inverse) * d_rate) * inverse


def _nonzero(rate: Array) -> Array:
    return jnp.where(rate != 0, rate, 1)


@jax.custom_jvp
def remainder(b: Array) -> Array:
    r"""delta(b) for b > 0, right to a few units in the last place with all its derivatives.

    .. math:: \delta(b) = \delta(b + 1) + (b + \tfrac12) \log(1 + 1/b) - 1
                        = \delta(b + 1) + \operatorname{artanh}(v) / v - 1, \qquad v = 1 / (2 b + 1)

    ``FROM`` such steps lead to where the series is accurate. All steps have the sign of delta, and so have those of
    each derivative, so that nothing cancels.
    """
    after, v, low = _steps(b)
    direct = (low + 0.5) * jnp.log1p(1 / low) - 1
    return jnp.where(after < 1, direct, v**2 * _series(v**2)).sum(axis=0) + series_of_remainder(b + FROM)


@jax.custom_jvp
def _slope_of_remainder(b: Array) -> Array:
    """delta'(b) < 0; a step is log(1 + 1 / b) - (b + 1/2) / (b (b + 1)) = 2 (artanh v - v / (1 - v^2))."""
    after, v, low = _steps(b)
    direct = jnp.log1p(1 / low) - (low + 0.5) / (low * (low + 1))
    near = jnp.where(after < 1, direct, -2 * v**3 * (1 / (1 - v**2) - _series(v**2)))
    return near.sum(axis=0) + _derivative(series_of_remainder)(b + FROM)


def _curvature_of_remainder(b: Array) -> Array:
    """delta''(b) > 0; a step is 1 / (2 b^2 (b + 1)^2)."""
    after = _steps(b)[0]
    steps = 0.5 * reciprocal(after * (after + 1)) ** 2
    return steps.sum(axis=0) + _derivative(_derivative(series_of_remainder))(b + FROM)


remainder.defjvps(lambda db, value, b: _slope_of_remainder(b) * db)
_slope_of_remainder.defjvps(lambda db, value, b: _curvature_of_remainder(b) * db)


def _derivative(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda b: jax.jvp(function, (b,), (jnp.ones_like(b),))[1]


def _steps(b: Array) -> tuple[Array, Array, Array]:
    """b, b + 1, ..., b + FROM - 1 along a new first axis; v there, where they are at least 1; they, where below 1."""
    steps = np.arange(FROM).reshape(FROM, *(1,) * b.ndim)
    after = jnp.expand_dims(b, 0) + jnp.asarray(steps, b.dtype)
    return after, 1 / (2 * jnp.maximum(after, 1) + 1), jnp.minimum(after, 1)


def at_saddle(a: Array) -> Array:
    r"""a log a - a - log Gamma(a) for a > 0, with derivatives log a - psi(a), 1 / a - psi'(a), ... to full accuracy.

    .. math:: = \tfrac12 \log \frac{a}{2 \pi} - \delta(a)
    """
    return 0.5 * (log(a) - math.log(2 * math.pi)) - remainder(a)


def log_minus_digamma(a: Array) -> Array:
    """log a - psi(a) > 0, the derivative of ``at_saddle``, to full accuracy with all its derivatives."""
    return 0.5 * reciprocal(a) - _slope_of_remainder(a)


def remainder_of_inverse(i: Array) -> Array:
    r"""delta(1 / i) for i >= 0: smooth at i = 0, where it is 0, and accurate relative to itself.

    .. math:: \delta(a) = \delta(a + 1) + \frac{\operatorname{artanh} v}{v} - 1, \quad v = \frac{1}{2 a + 1}

    takes it to where the series holds. All terms are positive.
    """
    steps = jnp.arange(1, FROM, dtype=i.dtype).reshape(-1, *(1,) * i.ndim)
    v = i[None] / (2 + (2 * steps + 1) * i[None])  # at most 1 / 3
    square = v**2
    later = (square * _series(square)).sum(axis=0)
    return _first_step(i) + later + series_of_remainder_in_inverse(i / (1 + FROM * i))


def _first_step(i: Array) -> Array:
    """artanh(v) / v - 1 for v = i / (2 + i)."""
    near = i < 1
    v = jnp.where(near, i, 0) / (2 + jnp.where(near, i, 0))
    far = jnp.where(near, 1, i)
    return jnp.where(near, v**2 * _series(v**2), (1 / far + 0.5) * jnp.log1p(far) - 1)


def log1p_ratio(y: Array, above: Array) -> Array:
    """log(1 + y) / y for y > -1, smooth at 0, where it is 1; ``above`` is 1 + y, without cancellation near y = -1."""
    near, v, excess, far = _log1p(y, above)
    return jnp.where(near, (1 - v) * (1 + excess), far)


def log1p_shortfall(y: Array, above: Array) -> Array:
    """1 - log(1 + y) / y for y > -1, to full relative accuracy; ``above`` is 1 + y."""
    near, v, excess, far = _log1p(y, above)
    return jnp.where(near, v - (1 - v) * excess, 1 - far)


def _log1p(y: Array, above: Array) -> tuple[Array, Array, Array, Array]:
    """Whether |v| < 1 / 3, where v = y / (2 + y); there v and artanh(v) / v - 1; elsewhere log(1 + y) / y."""
    near = (y < 1) & (y > -0.5)
    v = jnp.where(near, y, 0) / jnp.where(near, 1 + above, 1)
    far = jnp.log(jnp.where(near, 1, above)) / jnp.where(near, 1, y)
    return near, v, v**2 * _series(v**2), far


def series_of_remainder(b: Array) -> Array:
    """delta(b) for b >= ``FROM``, by the series."""
    return series_of_remainder_in_inverse(1 / b)


def series_of_remainder_in_inverse(inverse: Array) -> Array:
    """delta(1 / inverse) for inverse <= 1 / ``FROM``, by the series."""
    square = inverse**2
    series = jnp.full_like(inverse, _STIRLING[-1])
    for coefficient in _STIRLING[-2::-1]:
        series = series * square + coefficient
    return inverse * series


# s(x) for x = 0, 1, ..., 9, where Stirling's series is not yet accurate to 64 bits.
_SMALL = np.array(
    [
        *(0.0, -1.0, -1.30685281944005469, -1.49592260322372593, -1.63287638586838314),
        *(-1.74030218061154412, -1.82869439664177099, -1.90379031767822116, -1.9690705693065628, -2.02680628405549517),
    ]
)


def of_count(x: Array) -> Array:
    """s(x) = x log x - x - log x! <= 0 for whole numbers x >= 0, the log-probability of a Poisson count at rate x."""
    small = jnp.asarray(_SMALL, x.dtype)[jnp.clip(x, 0, len(_SMALL) - 1).astype(jnp.int32)]
    large = jnp.maximum(x, len(_SMALL))
    series = -0.5 * (math.log(2 * math.pi) + jnp.log(large)) - series_of_remainder(large)
    return jnp.where(x < len(_SMALL), small, series)


def gamma_at_saddle(a: Array, below: Array) -> Array:
    r"""a log a - a - log Gamma(a - below), element by element.

    .. math:: = D(a, b) + (below + \tfrac12) \log b - \tfrac12 \log 2\pi - \delta(b), \quad b = a - below
    """
    b = a - below
    return deviance(a, b) + (below + 0.5) * jnp.log(b) - 0.5 * math.log(2 * math.pi) - remainder(b)


def _split_log(a: Array) -> tuple[Array, Array]:
    """l and e with log a = l + e log 2, |l| <= log(2) / 2."""
    mantissa, exponent = jnp.frexp(a)
    low = mantissa < math.sqrt(0.5)
    return jnp.log(jnp.where(low, 2 * mantissa, mantissa)), (exponent - low.astype(exponent.dtype)).astype(a.dtype)
