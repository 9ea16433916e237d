r"""A t variable of which only low <= x <= high is known: log P(low <= x <= high) and what Q needs of x and its scale.

In standard units z the density is a power of 1 + tau z^2, tau = 1 / nu. Let sinh v = tau^(1/2) z and y = v / tau^(1/2),
which is z itself where tau = 0. The density of y is log-concave and falls from a point p >= 0 to p + d by

.. math:: F(d) = \frac{\log\cosh \delta + \log(1 + \tanh v_p \tanh \delta)}{\tau}, \qquad \delta = \tau^{1/2} d \ge 0,

two terms of one sign. An interval on one side of zero is mirrored to the right of it, and p is its nearer end; one that
contains zero has p = 0 and two sides. Integrals are taken over d. Nodes are fixed in units of x, so that derivatives in
the parameters, of any order, are expectations by the same rule too. Given x, the hidden scale u has its usual posterior
(``gamma_scale.py``), of which expectations are taken over the nodes.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from jaxem.families import gamma_scale, parts, quadrature, scales, stirling

_POINTS = {32: 10, 64: 20}


class Moments(NamedTuple):
    """Expectations over x and its hidden scale u, relative to an origin."""

    origin: Array  # (N, K)
    scales: Array  # (N, K), E u
    first: Array  # (N, K), E u (x - origin)
    second: Array  # (N, K), E u (x - origin)^2
    excess: Array  # (N, K), E (u - 1 - log u)


class _Nodes(NamedTuple):
    at: Array  # (N, K), p, in standard units
    z: Array  # (points, N, K), with derivatives in the parameters
    squares: Array  # (points, N, K), z^2, limited
    beyond: Array  # (points, N, K), how much larger log(1 + tau z^2) is than by that
    shares: Array  # (points, N, K), densities in y relative to that at p, times weights


def _far(dtype: jnp.dtype) -> float:
    """A number whose square does not overflow."""
    return float(jnp.finfo(dtype).max) ** 0.45


def _log_cosh(delta: Array) -> Array:
    """log(cosh delta) / delta^2, even, smooth at 0."""
    near = delta < 1
    small, large = jnp.where(near, delta, 0), jnp.where(near, 1, delta)
    square = jnp.sinh(small) ** 2
    ratio = jnp.where(small > 0, jnp.sinh(small) / jnp.where(small > 0, small, 1), 1)
    far = (large - math.log(2) + jnp.log1p(jnp.exp(-2 * large))) / large**2
    return jnp.where(near, 0.5 * ratio**2 * stirling.log1p_ratio(square, 1 + square), far)


def _fall(tails: Array, at: Array, d: Array) -> Array:
    """F(d) >= 0, how far the log-density in y falls from p = ``at`` to p + d."""
    root = jnp.sqrt(tails)
    delta = root * d
    tanh = d * jnp.where(delta > 0, jnp.tanh(delta) / jnp.where(delta > 0, delta, 1), 1)  # over tau^(1/2)
    product = (at / jnp.hypot(1, root * at)) * tanh
    return d**2 * _log_cosh(delta) + product * stirling.log1p_ratio(tails * product, 1 + tails * product)


def _width(tails: Array, at: Array, width: Array) -> Array:
    """The distance in y from p = ``at`` to p + ``width``, both at least zero, in standard units."""
    root, finite = jnp.sqrt(tails), jnp.isfinite(width)
    width = jnp.where(finite, width, 1)
    a, b = root * at, root * (at + width)
    slopes = jnp.hypot(1, a), jnp.hypot(1, b)
    step = width * ((1 + (a + b) / (slopes[0] + slopes[1])) / (a + slopes[0]))
    return jnp.where(finite, step * stirling.log1p_ratio(root * step, 1 + root * step), jnp.inf)


def _reach(tails: Array, at: Array, fall: float) -> Array:
    """The d where F(d) = ``fall``: cosh(v_p + delta) is cosh v_p times e^(tau fall)."""
    root, rise = jnp.sqrt(tails), tails * fall
    square = 1 + tails * jnp.minimum(at, _far(at.dtype)) ** 2
    slow = rise < 1
    few = jnp.where(slow, rise, 0)
    grown = 2 * fall * jnp.where(few > 0, jnp.expm1(2 * few) / jnp.where(few > 0, 2 * few, 1), 1) * square
    near = _width(tails, at, grown / (at + jnp.sqrt(jnp.minimum(at, _far(at.dtype)) ** 2 + grown)))
    tanh = root * at / jnp.hypot(1, root * at)
    far = jnp.where(slow, 1, rise) + jnp.log1p(jnp.sqrt(1 - jnp.exp(-2 * rise) / square)) - jnp.log1p(tanh)
    return jnp.where(slow, near, far / jnp.where(slow, 1, root))


def _moved(tails: Array, at: Array, d: Array) -> Array:
    """The z whose distance in y from p = ``at`` is d >= 0, at most so large that its square is finite."""
    far = _far(at.dtype)
    delta = jnp.minimum(jnp.sqrt(tails) * d, math.log(far))
    slope = jnp.where(delta > 0, jnp.sinh(delta) / jnp.where(delta > 0, delta, 1), 1)
    z = at * jnp.cosh(delta) + jnp.hypot(1, jnp.sqrt(tails) * at) * (jnp.minimum(d, far) * slope)
    return jnp.minimum(z, far)


def _limited(tails: Array, at: Array, d: Array, z: Array) -> tuple[Array, Array]:
    """z at the distance d in y from ``at``, limited, and how much larger log(1 + tau z^2) is than by that.

    Far below the limit of ``_far``, since derivatives in z^2 are probabilities over z^2, which must not underflow.
    """
    limit = float(jnp.finfo(z.dtype).max) ** 0.25
    root, v = jnp.sqrt(tails), jnp.arcsinh(jnp.sqrt(tails) * jnp.minimum(at, _far(z.dtype)))
    most = jnp.minimum(z, limit)
    # There log(1 + tau z^2) is linear in v.
    return most, jnp.where((z > limit) & (root > 0), 2 * (v + root * d - jnp.arcsinh(root * most)), 0)


class _Sides(NamedTuple):
    """An interval about the point p of the largest density, mirrored where it lies on the left of zero."""

    tails: Array  # this and what follows: (N, K)
    at: Array  # p >= 0, in standard units
    sign: Array  # -1 where mirrored
    right: Array  # the distance in y from p to the farther end
    left: Array  # to the other end, which is p itself but where the interval contains zero


def _sides(c: Any, low: Array, high: Array) -> _Sides:
    a, b, width = (low - c.locations) * c.inverse_roots, (high - c.locations) * c.inverse_roots, high - low
    a, b, width, tails = jnp.broadcast_arrays(a, b, width * c.inverse_roots, c.tails)
    both, sign = (a <= 0) & (b >= 0), jnp.where(b < 0, -1, 1).astype(a.dtype)
    at = jnp.where(both, 0, jnp.where(b < 0, -b, a))
    right, left = jnp.where(both, b, width), jnp.where(both, -a, 0)
    return _Sides(tails, at, sign, _width(tails, at, right), _width(tails, jnp.zeros_like(at), left))


def _rule(tails: Array, at: Array, end: Array) -> tuple[Array, Array]:
    """Distances d in y from p = ``at`` and weights, (points, N, K), for 0 <= d <= ``end``, as far as they count.

    In v the density bends within a distance of about 2 of zero, and what is left of the bend is negligible at 36, in
    expectations of the scale times x too.
    Panels meet there and in between, and where the density has fallen by a quarter of what counts.
    """
    most, bits = quadrature.drop(at.dtype), jnp.finfo(at.dtype).bits
    root, end = jnp.sqrt(tails), jnp.minimum(end, _reach(tails, at, most))
    v, curved = jnp.arcsinh(root * at), root > 0
    bends = [jnp.where(curved, jnp.maximum(edge - v, 0) / jnp.where(curved, root, 1), 0) for edge in (2.0, 8.0, 36.0)]
    inner = [jnp.minimum(edge, end) for edge in (_reach(tails, at, most / 4), *bends)]
    edges = jnp.sort(jnp.stack([jnp.zeros_like(end), *inner, end]), axis=0)[:, None]
    t, weights = (array.reshape(1, -1, 1, 1) for array in quadrature.rule(at.dtype, _POINTS[bits]))
    start, end = edges[:-1], edges[1:]
    d, weights = start * (1 - t) + end * t, (end - start) * weights
    return d.reshape(-1, *at.shape), weights.reshape(-1, *at.shape)


def _nodes(c: Any, low: Array, high: Array) -> _Nodes:
    fixed = stop_gradient(c)
    tails, at, sign, *ends = _sides(fixed, low, high)
    found = []
    for near, end, side in ((at, ends[0], sign), (jnp.zeros_like(at), ends[1], -sign)):
        d, weights = _rule(tails, near, end)
        z, fall = (of(tails[None], near[None], d) for of in (_moved, _fall))
        z, beyond = _limited(tails[None], near[None], d, z)
        found.append((side[None] * z, weights * jnp.exp(-fall), beyond))
    z, shares, beyond = (jnp.concatenate(parts) for parts in zip(*found, strict=True))
    # One and zero, with derivatives:
    ratio, shift = c.inverse_roots / fixed.inverse_roots, (fixed.locations - c.locations) * c.inverse_roots
    z = ratio[None] * z + shift[None]
    squares = z**2
    logs = gamma_scale.log_kernel(c.tails, 1, squares) - 0.5 * c.logs[None]
    logs = logs - jnp.where(beyond > 0, 0.5 * (1 + 1 / jnp.where(c.tails > 0, c.tails, 1))[None] * beyond, 0)
    return _Nodes(at, z, squares, beyond, shares * jnp.exp(logs - stop_gradient(logs)))


def _log_mass(c: Any, low: Array, high: Array) -> Array:
    nodes = _nodes(c, low, high)
    square = jnp.minimum(nodes.at, _far(nodes.at.dtype)) ** 2
    tails = stop_gradient(c.tails)
    spread = tails * square
    centre = gamma_scale.log_kernel(tails, 1, jnp.zeros_like(square)[None])[0] - 0.5 * math.log(2 * math.pi)
    peak = centre - 0.5 * square * stirling.log1p_ratio(spread, 1 + spread)
    return peak + jnp.log(nodes.shares.sum(axis=0))


def log_interval(c: Any, low: Array, high: Array) -> Array:
    """log P(low <= x <= high), (N, K)."""
    log_p, fixed = _log_mass(c, low, high), stop_gradient(c)
    some, more = low > -jnp.inf, high < jnp.inf
    below = jnp.exp(_log_mass(fixed, jnp.full_like(low, -jnp.inf), jnp.where(some, low, 0)))
    above = jnp.exp(_log_mass(fixed, jnp.where(more, high, 0), jnp.full_like(high, jnp.inf)))
    return parts.near_one(log_p, jnp.where(some, below, 0) + jnp.where(more, above, 0))


def between(c: Any, low: Array, high: Array) -> Moments:
    """What Q needs of x and its scale given low <= x <= high."""
    nodes = _nodes(c, low, high)
    share = nodes.shares / nodes.shares.sum(axis=0, keepdims=True)
    u = gamma_scale.posterior(c.tails, 1, nodes.squares)
    unit = scales.reciprocal(c.inverse_roots)
    mean = lambda values: (share * values).sum(axis=0)
    found = mean(u.means), mean(u.means * nodes.z) * unit, mean(u.means * nodes.squares) * unit**2
    return Moments(jnp.broadcast_to(c.locations, found[0].shape), *found, mean(gamma_scale.excess(u) + nodes.beyond))


def about(locations: Array, u: Moments) -> tuple[Array, Array]:
    """E u (x - m) and E u (x - m)^2, (N, K), for ``locations`` m."""
    d = locations - u.origin
    return u.first - d * u.scales, u.second - 2 * d * u.first + d * d * u.scales


def expected_log_density(c: Any, u: Moments) -> Array:
    """E log p(x, u), (N, K)."""
    normal = -0.5 * (math.log(2 * math.pi) + c.logs + about(c.locations, u)[1] * c.inverse_roots**2)
    return normal + gamma_scale.expected_hidden(c.tails, 1, u.scales - 1 - u.excess, u.excess)


def mean(c: Any, low: Array, high: Array) -> Array:
    r"""E x given low <= x <= high, (N, K); infinite where nu is at most 1 and one end is.

    With A the end nearer to zero and E the rise of log(1 + tau z^2) / (2 tau) from it to the other end,

    .. math:: \Bigl| \int z f(z)\, \mathrm d z \Bigr| = (1 + \tau A^2) f(A)\, \frac{1 - e^{-(1 - \tau) E}}{1 - \tau} .
    """
    tails = c.tails
    a, b = jnp.broadcast_arrays((low - c.locations) * c.inverse_roots, (high - c.locations) * c.inverse_roots)
    contains, whole = (a < 0) & (b > 0), jnp.isinf(a) & jnp.isinf(b)  # of a whole line: where it is symmetric
    near, far = (jnp.where(whole, 0, end) for end in (jnp.minimum(abs(a), abs(b)), jnp.maximum(abs(a), abs(b))))
    apart = jnp.where(contains, far - near, (high - low) * c.inverse_roots)
    endless, apart = jnp.isinf(apart) & ~whole, jnp.where(jnp.isinf(apart) | whole, 0, apart)
    rise = jnp.where(endless, jnp.inf, _fall(tails, near, _width(tails, near, apart)))
    t = jnp.broadcast_to(1 - tails, rise.shape)
    gone = jnp.where(t == 0, rise, -jnp.expm1(-t * rise) / jnp.where(t == 0, 1, t))
    none = jnp.zeros_like(near)
    below = jnp.where(contains, _fall(tails, none, _width(tails, none, near)), 0)  # of the density in y, from its peak
    size = jnp.hypot(1, jnp.sqrt(tails) * near) * jnp.exp(-below) * gone / _nodes(c, low, high).shares.sum(axis=0)
    x = c.locations + jnp.where(abs(b) < abs(a), -size, size) / c.inverse_roots
    return jnp.clip(x, low, high)


def sample(key: Array, c: Any, low: Array, high: Array) -> Array:
    """One draw given low <= x <= high, (n,), from arrays (n, 1): the distribution function is inverted by bisection.

    Probabilities are those on the side of the farther end, so that draws far out are as fine as those in the middle.
    """
    tails, at, sign, right, left = _sides(c, low, high)
    log_u = jnp.log1p(-jax.random.uniform(key, at.shape, at.dtype))
    most = 2 * quadrature.drop(at.dtype)
    right, left = (
        jnp.minimum(right, _reach(tails, at, most)),
        jnp.minimum(left, _reach(tails, jnp.zeros_like(at), most)),
    )

    def beyond(d: Array) -> Array:
        z = jnp.where(d < 0, -_moved(tails, jnp.zeros_like(at), -d), _moved(tails, at, jnp.maximum(d, 0)))
        return jnp.clip(c.locations + sign * z / c.inverse_roots, low, high)

    def log_mass(x: Array) -> Array:
        return _log_mass(c, jnp.where(sign > 0, x, low), jnp.where(sign > 0, high, x))

    target = log_u + _log_mass(c, low, high)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = 0.5 * (ends[0] + ends[1])
        more = log_mass(beyond(middle)) > target
        return jnp.where(more, middle, ends[0]), jnp.where(more, ends[1], middle)

    a, b = jax.lax.fori_loop(0, int(jnp.finfo(at.dtype).nmant) + 12, halve, (-left, right))
    return beyond(0.5 * (a + b))[:, 0]
