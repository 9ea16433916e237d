r"""A beta variable of which only low <= x <= high is known: log P(low <= x <= high), E x, E log x and E log(1 - x).

By quadrature over t = logit x. Its density is log-concave: with s = a + b and the mean m = a / s,

.. math:: \log f(t) = \text{const} - s \left( D(m, x) + D(1 - m, 1 - x) \right),

D as in ``stirling.py``. Let o be the point of the interval with the largest density, and x lie at t(o) + d. Then

.. math:: \log \frac{f(t)}{f(t(o))} = - a \frac{D(o, x)}{o} - b \frac{D(1 - o, 1 - x)}{1 - o}
          - \left( b o - a (1 - o) \right) \frac{x - o}{o (1 - o)},

three terms of one sign, each computed from d without cancellation. Nodes are fixed in units of x.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import stop_gradient

from jaxem.families import parts, quadrature, stirling
from jaxem.families.log_gamma_between import log_width

_POINTS = {32: 12, 64: 24}


class Moments(NamedTuple):
    """E of x, log x and log(1 - x), relative to an origin o."""

    origin: Array  # (N, K), o
    rest: Array  # (N, K), 1 - o
    slope: Array  # (N, K), E (x - o) / (o (1 - o))
    below: Array  # (N, K), E D(o, x) / o
    above: Array  # (N, K), E D(1 - o, 1 - x) / (1 - o)


def _moved(origin: Array, rest: Array, d: Array) -> tuple[Array, Array, Array]:
    """(x - o) / (o (1 - o)), D(o, x) / o and D(1 - o, 1 - x) / (1 - o) of the x with logit x = logit o + d."""
    most = float(np.log(float(jnp.finfo(d.dtype).max))) / 2
    step = jnp.expm1(jnp.minimum(d, most))
    z = origin * step
    ratio = jnp.where(d < 0, rest + origin * jnp.exp(jnp.minimum(d, 0)), 1 + z)  # (1 - o) / (1 - x)
    log_ratio = jnp.where(jnp.abs(z) < 0.5, jnp.log1p(jnp.maximum(z, -0.5)), jnp.log(ratio))
    log_ratio = log_ratio + jnp.maximum(d - most, 0)
    slope, log_x = step / ratio, d - log_ratio  # log_x: log(x / o)
    return slope, _excess(rest * slope, log_x), _excess(-origin * slope, -log_ratio)


def _excess(y: Array, log: Array) -> Array:
    """y - log(1 + y), where ``log`` is log(1 + y)."""
    above = jnp.exp(log)
    close = above > 0.1
    return jnp.where(close, y * stirling.log1p_shortfall(y, jnp.where(close, above, 1)), y - log)


def _gap(origin: Array, rest: Array, c: Any) -> Array:
    """o - m, from the nearer end."""
    return jnp.where(origin < 0.5, origin - c.means, c.rests - rest)


class _Nodes(NamedTuple):
    origin: Array  # (N, K)
    rest: Array  # (N, K)
    slope: Array  # this and what follows: (N, K, points), see ``_moved``
    below: Array
    above: Array
    shares: Array  # f(t) / f(t(o)) times weights, with derivatives in the parameters


def _nodes(c: Any, low: Array, high: Array) -> _Nodes:
    a, b, m, one_minus_m = stop_gradient(tuple(c))
    o = jnp.clip(m, low, high)
    rest = jnp.where(m < low, 1 - low, jnp.where(m > high, 1 - high, one_minus_m))
    tilt = (a + b) * _gap(o, rest, stop_gradient(c))

    def fall(d: Array) -> Array:
        slope, below, above = _moved(o, rest, d)
        return a * below + b * above + tilt * slope

    left = log_width(low, o) + log_width(rest, 1 - low)
    right = log_width(o, high) + log_width(1 - high, rest)
    left, right = (jnp.minimum(width, _reach(fall, sign, o)) for width, sign in ((left, -1), (right, 1)))
    d, weights = _rule(jnp.log(o) - jnp.log(rest), a + b, left, right)
    slope, below, above = _moved(o[:, :, None], rest[:, :, None], d)
    a, b = c.alphas[:, :, None], c.betas[:, :, None]
    live = b * o[:, :, None] - a * rest[:, :, None]
    falls = a * below + b * above + (tilt[:, :, None] + (live - stop_gradient(live))) * slope
    return _Nodes(o, rest, slope, below, above, weights * jnp.exp(-falls))


def _reach(fall: Any, sign: int, like: Array) -> Array:
    """How far from o, on one side, the log-density falls by what counts: by bisection of the logarithm."""
    most = quadrature.drop(like.dtype)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = 0.5 * (ends[0] + ends[1])
        far = fall(sign * jnp.exp(middle)) > most
        return jnp.where(far, ends[0], middle), jnp.where(far, middle, ends[1])

    return jnp.exp(jax.lax.fori_loop(0, 14, halve, (jnp.full_like(like, -42), jnp.full_like(like, 42)))[1])


def _rule(p: Array, s: Array, left: Array, right: Array) -> tuple[Array, Array]:
    """Distances d from p = logit o and weights, (N, K, points), for -``left`` <= d <= ``right``.

    log f(t) is a t - s log(1 + e^t). It bends near t = 0, or where s e^t is about 1, over a distance of about 4, and
    what is left of the bend is negligible at a distance of 36. Panels meet there. By symmetry p is negative.
    """
    mirrored = p > 0
    left, right = jnp.where(mirrored, right, left), jnp.where(mirrored, left, right)
    bend = jnp.maximum(-jnp.log(jnp.maximum(s, 1)) + jnp.abs(p), 0)  # its distance from p
    inner = [jnp.clip(edge, -left, right) for edge in (-36.0, -4.0, 0.0, bend - 4, bend + 4, bend + 36)]
    inner[3] = jnp.maximum(inner[3], 0)
    edges = jnp.stack(jnp.broadcast_arrays(-left, *inner, right), axis=2)[..., None]
    t, weights = quadrature.rule(p.dtype, _POINTS[jnp.finfo(p.dtype).bits])
    start, end = edges[:, :, :-1], edges[:, :, 1:]
    d = start * t[None, :, :, ::-1] + end * t[None]  # the rule is symmetric; exact next to p
    d, weights = (array.reshape(*p.shape, -1) for array in (d, (end - start) * weights[None]))
    return jnp.where(mirrored[:, :, None], -d, d), weights


def _at_mean(a: Array, b: Array) -> Array:
    return stirling.at_saddle(a) + stirling.at_saddle(b) - stirling.at_saddle(a + b)


def _deviances(c: Any, origin: Array, rest: Array) -> tuple[Array, Array]:
    """D(m, o) and D(1 - m, 1 - o)."""
    return stirling.deviance(c.means, origin), stirling.deviance(c.rests, rest)


def _log_mass(c: Any, low: Array, high: Array) -> Array:
    found = _nodes(c, low, high)
    below, above = _deviances(c, found.origin, found.rest)
    peak = _at_mean(c.alphas, c.betas) - (c.alphas + c.betas) * (below + above)
    return peak + jnp.log(found.shares.sum(axis=2))


def log_interval(c: Any, low: Array, high: Array) -> Array:
    """log P(low <= x <= high), (N, K)."""
    log_p, fixed = _log_mass(c, low, high), stop_gradient(c)
    some, more = low > 0, high < 1
    below = jnp.exp(_log_mass(fixed, jnp.zeros_like(low), jnp.where(some, low, 0.5)))
    above = jnp.exp(_log_mass(fixed, jnp.where(more, high, 0.5), jnp.ones_like(high)))
    return parts.near_one(log_p, jnp.where(some, below, 0) + jnp.where(more, above, 0))


def between(c: Any, low: Array, high: Array) -> Moments:
    """What Q needs of x given low <= x <= high."""
    found = _nodes(c, low, high)
    shares = found.shares / found.shares.sum(axis=2, keepdims=True)
    of_nodes = (found.slope, found.below, found.above)
    return Moments(found.origin, found.rest, *((shares * values).sum(axis=2) for values in of_nodes))


def deviances(c: Any, u: Moments) -> tuple[Array, Array]:
    """E D(m, x) and E D(1 - m, 1 - x), (N, K), for other means than those of the moments."""
    below, above = _deviances(c, u.origin, u.rest)
    gap = _gap(u.origin, u.rest, c)
    return below + c.means * u.below + gap * u.rest * u.slope, above + c.rests * u.above + gap * u.origin * u.slope


def deviation(c: Any, u: Moments) -> Array:
    """E x - m, (N, K)."""
    return _gap(u.origin, u.rest, c) + u.origin * u.rest * u.slope


def expected_log_density(c: Any, u: Moments) -> Array:
    """E log p(x), (N, K)."""
    log_x = jnp.log(u.origin) + u.rest * u.slope - u.below
    log_rest = jnp.log(u.rest) - u.origin * u.slope - u.above
    return _at_mean(c.alphas, c.betas) - (c.alphas + c.betas) * sum(deviances(c, u)) - (log_x + log_rest)


def sample(key: Array, c: Any, low: Array, high: Array) -> Array:
    """One draw given low <= x <= high, (n,), from arrays (n, 1): the distribution function is inverted by bisection."""
    log_u = jnp.log1p(-jax.random.uniform(key, c.means.shape, c.means.dtype))
    target = log_u + _log_mass(c, low, high)
    limits = jnp.finfo(c.means.dtype)
    least, most = float(np.log(float(limits.tiny))), -float(np.log(float(limits.epsneg)))
    ends = (jnp.clip(jnp.log(x) - jnp.log1p(-x), least, most) for x in (low, high))

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        a, b = ends
        middle = 0.5 * (a + b)
        more = _log_mass(c, low, jnp.maximum(jax.nn.sigmoid(middle), low)) < target
        return jnp.where(more, middle, a), jnp.where(more, b, middle)

    a, b = jax.lax.fori_loop(0, int(limits.nmant) + 12, halve, tuple(ends))
    return jnp.clip(jax.nn.sigmoid(0.5 * (a + b)), low, high)[:, 0]
