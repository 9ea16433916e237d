r"""The logarithm of a gamma variable of which only an interval is known: nodes and weights for its expectations.

With t = log(x / m), m the mean and a the shape, the density of t is

.. math:: f(t) = e^{s(a) - a\, \epsilon(t)}, \qquad \epsilon(t) = e^t - 1 - t \ge 0, \qquad
          s(a) = a \log a - a - \log\Gamma(a) .

It is log-concave with its mode at 0, nearly normal for large a, and for small a falls like e^(a t) on the left over a
distance of 40 / a. Four Gauss-Legendre rules share the part of the interval that counts (``quadrature.py``). They meet
where e^t changes from negligible to small, to large. For a = 1 this is z = a log(x / b) of a Weibull variable.

Nodes are functions of numbers without derivatives. A family adds what the parameters change at fixed x.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import stop_gradient

from jaxem.families import quadrature

_POINTS = {32: 16, 64: 32}
_TERMS = {32: 10, 64: 18}  # of the series of epsilon(t) for |t| < 1


class Nodes(NamedTuple):
    """All (N, K, points) but the first."""

    least: Array  # (N, K), epsilon at the point of the interval nearest to the mode
    growth: Array  # e^t - 1
    excess: Array  # epsilon(t)
    logs: Array  # log f, relative to its value where epsilon is least
    weights: Array


def nodes(shapes: Array, low: Array, high: Array, width: Array) -> Nodes:
    """Of the part of ``low`` <= t <= ``high`` that counts.

    ``width`` is high - low without cancellation. An interval of width zero has nodes of equal weight.
    """
    a, low, high, width = (stop_gradient(jnp.asarray(value)) for value in (shapes, low, high, width))
    low = jnp.minimum(low, float(np.log(float(jnp.finfo(a.dtype).max))) / 3)  # beyond, f is zero
    p = jnp.clip(0, low, jnp.maximum(high, low))
    left, right = _reach(p, quadrature.drop(a.dtype) / a)
    left = jnp.minimum(left, jnp.where(high < 0, width, jnp.maximum(-low, 0)))
    right = jnp.minimum(right, jnp.where(low > 0, width, jnp.maximum(high, 0)))
    negligible = float(np.log(float(jnp.finfo(a.dtype).eps)))
    turn = jnp.maximum(-jnp.log(a), 0) - p  # where a e^t is about 1, or the mode
    inner = [jnp.clip(turn + shift, -left, right) for shift in (negligible, -4.0, 0.0)]
    edges = jnp.stack(jnp.broadcast_arrays(-left, *inner, right), axis=2)[..., None]
    t, weights = quadrature.rule(a.dtype, _POINTS[jnp.finfo(a.dtype).bits])
    start, end = edges[:, :, :-1], edges[:, :, 1:]
    d = start * t[None, :, :, ::-1] + end * t[None]  # the rule is symmetric; exact next to p
    point = (left + right == 0)[:, :, None, None]
    d, weights = (array.reshape(*p.shape, -1) for array in (d, jnp.where(point, 1, end - start) * weights[None]))
    p, a = p[:, :, None], jnp.broadcast_to(a, p.shape)[:, :, None]
    steps = jnp.expm1(d)
    rise = jnp.expm1(p) * steps + _excess(d)  # epsilon(p + d) - epsilon(p), two terms of one sign
    return Nodes(_excess(p)[:, :, 0], jnp.expm1(p) + jnp.exp(p) * steps, _excess(p) + rise, -a * rise, weights)


def _reach(p: Array, c: Array) -> tuple[Array, Array]:
    """How far from p, to the left and to the right, epsilon rises by c, or a little farther.

    By epsilon(p + r) - epsilon(p) >= (e^p - 1) r + e^p r^2 / 2 for r > 0 and p >= 0; then e^r <= 1 + (c + r) e^-p.
    And by epsilon(p - l) - epsilon(p) >= (1 - e^p) l + e^p l^2 / (2 + l) for l > 0 and p <= 0.
    """
    slope, bend = jnp.expm1(jnp.maximum(p, 0)), jnp.exp(jnp.maximum(p, 0))
    most = 2 * c / (slope + jnp.sqrt(slope**2 + 2 * c * bend))
    right = jnp.minimum(most, jnp.log1p((c + most) / bend))
    s = c + 2 * jnp.expm1(jnp.minimum(p, 0))
    root = jnp.sqrt(s**2 + 8 * c)
    return jnp.where(s > 0, (s + root) / 2, 4 * c / (root - s)), right


def _excess(t: Array) -> Array:
    """epsilon(t) = e^t - 1 - t, without cancellation."""
    near = jnp.where(jnp.abs(t) < 1, t, 0)
    series = jnp.zeros_like(t)
    for k in range(_TERMS[jnp.finfo(t.dtype).bits] + 1, 1, -1):
        series = (1 + series) * near / k
    # series = t / 2 (1 + t / 3 (1 + ...)), and epsilon = t series
    return jnp.where(jnp.abs(t) < 1, near * series, jnp.expm1(t) - t)


def log_ratio(x: Array, m: Array) -> Array:
    """log(x / m) for x >= 0, accurate near x = m."""
    near = jnp.abs(x - m) < m / 4
    far = jnp.where(near, 1, x)
    return jnp.where(near, jnp.log1p(jnp.where(near, x - m, 0) / m), jnp.log(far) - jnp.log(m))


def log_width(low: Array, high: Array) -> Array:
    """log(high / low) for 0 <= low <= high, accurate where they are close; infinite for low = 0 or high infinite."""
    close = (low > 0) & (high < 2 * low)
    base = jnp.where(low > 0, low, 1)
    narrow = jnp.log1p(jnp.where(close, high - low, 0) / base)
    return jnp.where(close, narrow, jnp.log(high) - jnp.log(low))
