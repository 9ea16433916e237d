r"""An angle of which only an arc is known: log P(arc), and the expectations of its sine and cosine.

An arc goes from ``low`` counter-clockwise to ``high``, at most one turn. With y = x - m it lies on one side of the
direction y = 0, or contains either y = 0 or the opposite y = pi, and is then cut there. An arc that contains both is
what its complement, on one side, leaves of the circle, and no less than half of it in probability. On each part the
density falls from the end p nearer to the direction to p + d by

.. math:: F(d) = \kappa \left( \cos p - \cos(p + d) \right) = 2 \kappa \sin(p + \tfrac d2) \sin \tfrac d2 \ge 0,

in which nothing cancels, and one Gauss-Legendre rule is exact to rounding as far as F counts. Nodes are fixed in units
of x, so that derivatives in the parameters, of any order, are expectations by the same rule too.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from jaxem.families import indicators, parts, quadrature
from jaxem.families.arcs import wrapped
from jaxem.families.bessel import one_minus_ratio

_TURN = 2 * math.pi


class Moments(NamedTuple):
    """Expectations of an angle about an origin."""

    origin: Array  # (N, K)
    sine: Array  # (N, K), E sin(x - origin)
    rest: Array  # (N, K), E (1 - cos(x - origin))


class _Arc(NamedTuple):
    """An arc about the direction, or the complement of one that contains both y = 0 and y = pi."""

    low: Array  # this and what follows: (N, K); y between -pi and pi
    high: Array
    width: Array
    centred: Array  # whether it contains y = 0
    opposite: Array  # whether it contains y = pi
    inverted: Array  # whether it is the complement


class _Nodes(NamedTuple):
    log_peak: Array  # (N, K), the log-density where it is largest, with derivatives of its constant only
    sine: Array  # this and what follows: (points, 2, N, K), with derivatives in the parameters
    rest: Array
    shares: Array  # densities relative to the peak, times weights


def _arc(low: Array, high: Array, width: Array) -> _Arc:
    """From the ends, between -pi and pi, and the width, between 0 and 2 pi."""
    over = low + width - high > math.pi  # the arc passes y = pi
    centred = jnp.where(over, (low <= 0) | (high >= 0), (low <= 0) & (high >= 0))
    both = over & centred
    a, b = jnp.where(both, high, low), jnp.where(both, low, high)
    return _Arc(a, b, jnp.where(both, _TURN - width, width), centred & ~both, over & ~both, both)


def _of(c: Any, low: Array, high: Array) -> _Arc:
    """The arc from ``low`` to ``high``; the whole circle where they are infinite."""
    directions = stop_gradient(c[0].directions)
    some = jnp.isfinite(low) & jnp.isfinite(high)
    end = lambda x: jnp.where(some, wrapped(jnp.where(some, x, 0) - directions), math.pi)
    width = jnp.where(some, jnp.minimum(jnp.where(some, high - low, 0), _TURN), _TURN)
    return _arc(end(low), end(high), jnp.broadcast_to(width, jnp.broadcast_shapes(width.shape, directions.shape)))


def _complement(arc: _Arc) -> _Arc:
    """Of an arc that contains y = 0 or y = pi."""
    return arc._replace(low=arc.high, high=arc.low, width=_TURN - arc.width, centred=arc.opposite, opposite=arc.centred)


def _sides(arc: _Arc) -> tuple[Array, Array, Array]:
    """The nearer ends p, the lengths and the signs of y, of two parts, (2, N, K); the second of one side is empty.

    The shorter part is computed from its ends, the other from what is left of the width.
    """
    a, b, two = arc.low, arc.high, arc.centred | arc.opposite
    first, second = jnp.where(arc.centred, b, math.pi - a), jnp.where(arc.centred, -a, math.pi + b)
    short = jnp.clip(jnp.minimum(first, second), 0, arc.width)
    lengths = (jnp.where(first <= second, part, arc.width - part) for part in (short, arc.width - short))
    near = jnp.minimum(jnp.abs(a), jnp.abs(b))
    of_two = (jnp.where(arc.centred, 0, jnp.where(two, end, near)) for end in (a, -b))
    first, second = lengths
    first, second = jnp.where(two, first, arc.width), jnp.where(two, second, 0)
    signs = jnp.where(two | (a >= 0), 1, -1).astype(a.dtype), -jnp.ones_like(a)
    return jnp.stack(tuple(of_two)), jnp.stack([first, second]), jnp.stack(signs)


def _reach(kappa: Array, p: Array) -> Array:
    """The d where F(d) counts no more; pi where it counts everywhere.

    F(d) = 2 kappa h is a quadratic equation for the tangent of d / 2.
    """
    cos, sin, most = jnp.cos(p), jnp.sin(p), quadrature.drop(p.dtype)
    everywhere = 2 * kappa * jnp.cos(p / 2) ** 2 <= most
    h = jnp.where(everywhere, 1, most / jnp.where(everywhere, 1, 2 * kappa))
    tangent = 2 * h / (sin + jnp.sqrt(jnp.maximum(sin**2 + 4 * h * (cos - h), 0)))
    return jnp.where(everywhere, math.pi, 2 * jnp.arctan(tangent))


def _nodes(c: Any, arc: _Arc) -> _Nodes:
    (directions, kappa), constants = c
    fixed = stop_gradient(kappa)[None]
    p, lengths, signs = _sides(arc)
    ends = jnp.minimum(lengths, _reach(fixed, p))
    t, weights = (array.reshape(-1, 1, 1, 1) for array in quadrature.rule(p.dtype))
    d, p0 = t * ends[None], p.min(axis=0, keepdims=True)
    below = 2 * fixed * jnp.sin((p + p0) / 2) * jnp.sin((p - p0) / 2)
    falls = 2 * fixed[None] * jnp.sin(p[None] + d / 2) * jnp.sin(d / 2) + below[None]
    y = signs[None] * (p[None] + d) + (stop_gradient(directions) - directions)[None, None]
    rest = 2 * jnp.sin(y / 2) ** 2
    logs = -kappa[None, None] * rest
    shares = weights * ends[None] * jnp.exp(logs - stop_gradient(logs) - falls)
    log_peak = -constants - 2 * fixed[0] * jnp.sin(p0[0] / 2) ** 2
    return _Nodes(log_peak, jnp.sin(y), rest, shares)


def _log_mass(nodes: _Nodes) -> Array:
    total = nodes.shares.sum(axis=(0, 1))
    some = total > 0
    return nodes.log_peak + jnp.where(some, jnp.log(jnp.where(some, total, 1)), -jnp.inf)


def _mass(nodes: _Nodes) -> Array:
    return jnp.exp(nodes.log_peak) * nodes.shares.sum(axis=(0, 1))


def log_interval(c: Any, low: Array, high: Array) -> Array:
    """log P(arc), (N, K)."""
    arc, fixed = _of(c, low, high), stop_gradient(c)
    nodes = _nodes(c, arc)
    outside = jnp.where(arc.centred | arc.opposite, _mass(_nodes(fixed, _complement(arc))), 1)
    return jnp.where(arc.inverted, indicators.log_of_rest(_mass(nodes)), parts.near_one(_log_mass(nodes), outside))


def between(c: Any, low: Array, high: Array) -> Moments:
    """What Q needs of x given that it lies in the arc."""
    arc = _of(c, low, high)
    nodes = _nodes(c, arc)
    total = nodes.shares.sum(axis=(0, 1))
    total = jnp.where(total > 0, total, 1)
    sine, rest = ((nodes.shares * values).sum(axis=(0, 1)) / total for values in (nodes.sine, nodes.rest))
    odds = jnp.where(arc.inverted, _mass(nodes), 0)
    left = lambda whole, part: jnp.where(arc.inverted, (whole - odds * part) / (1 - odds), part)
    origin = jnp.broadcast_to(c[0].directions, sine.shape)
    return Moments(origin, left(0, sine), left(one_minus_ratio(c[0].concentrations), rest))


def about(directions: Array, u: Moments) -> tuple[Array, Array]:
    """E sin(x - m) and E (1 - cos(x - m)), (N, K), for ``directions`` m."""
    turn = directions - u.origin
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    return u.sine * cos - (1 - u.rest) * sin, 2 * jnp.sin(turn / 2) ** 2 + u.rest * cos - u.sine * sin


def expected_log_density(c: Any, u: Moments) -> Array:
    """E log p(x), (N, K)."""
    (directions, kappa), constants = c
    return -kappa * about(directions, u)[1] - constants


def mean(c: Any, low: Array, high: Array, r: Array | None = None) -> Array:
    """The direction of E e^(ix) given the arc, (N, K), at most half a turn from its middle.

    With class probabilities ``r (N, K)``: that of their mixture, (N, 1).
    """
    some = jnp.isfinite(low) & jnp.isfinite(high)
    middle = jnp.where(some, low + (jnp.where(some, high, 0) - jnp.where(some, low, 0)) / 2, 0)
    sine, rest = about(middle, between(c, low, high))
    cosine = 1 - rest
    if r is not None:
        sine, cosine = ((r * part).sum(axis=1, keepdims=True) for part in (sine, cosine))
    found = middle + jnp.arctan2(sine, cosine)
    return jnp.where(high - low <= math.pi, jnp.clip(found, low, high), found)


def sample(key: Array, c: Any, low: Array, high: Array) -> Array:
    """One draw within the arc, (n,), from arrays (n, 1): the distribution function is inverted by bisection.

    Probabilities are those from a draw to the farther end.
    """
    directions = c[0].directions
    whole = jnp.isinf(low) | jnp.isinf(high)
    low, high = jnp.where(whole, directions - math.pi, low), jnp.where(whole, directions + math.pi, high)
    a, b, width = wrapped(low - directions), wrapped(high - directions), jnp.minimum(high - low, _TURN)
    from_low = jnp.abs(a) <= jnp.abs(b)

    def log_mass(d: Array) -> Array:
        """From d beyond the nearer end to the farther one."""
        arc = _arc(jnp.where(from_low, wrapped(a + d), a), jnp.where(from_low, b, wrapped(b - d)), width - d)
        nodes = _nodes(c, arc)
        return jnp.where(arc.inverted, indicators.log_of_rest(_mass(nodes)), _log_mass(nodes))

    u = 1 - jax.random.uniform(key, width.shape, width.dtype)
    target = jnp.log(u) + log_mass(jnp.zeros_like(width))

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = 0.5 * (ends[0] + ends[1])
        more = log_mass(middle) > target
        return jnp.where(more, middle, ends[0]), jnp.where(more, ends[1], middle)

    steps = int(jnp.finfo(width.dtype).nmant) + 12
    start, end = jax.lax.fori_loop(0, steps, halve, (jnp.zeros_like(width), width))
    d = 0.5 * (start + end)
    x = jnp.clip(jnp.where(from_low, low + d, high - d), low, high)
    return jnp.where(whole, wrapped(x), x)[:, 0]
