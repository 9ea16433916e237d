r"""A gamma variable of which only low <= x <= high is known: log P(low <= x <= high), E x and E log x.

By quadrature over t = log(x / m) (``log_gamma_between.py``). Nodes are fixed in units of x. A change of the mean by the
factor e^-sigma moves them to t + sigma there, where

.. math:: \epsilon(t + \sigma) = \epsilon(t) + (e^\sigma - 1)\, e^t - \sigma .
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from jaxem.families import log_gamma_between, parts, scales, stirling


class Moments(NamedTuple):
    """E x and E log x, relative to an origin m."""

    origin: Array  # (N, K), m
    growth: Array  # (N, K), E x / m - 1
    excess: Array  # (N, K), E (x / m - 1 - log(x / m)) >= 0


def _shares(c: Any, low: Array, high: Array) -> tuple[Array, Array, Array, Array]:
    """The largest log-density relative to e^s(a), (N, K); of the nodes the densities relative to it times weights, the
    growth and the excess, with derivatives in the parameters."""
    a, m = stop_gradient((c.shapes, c.means))
    ends = (log_gamma_between.log_ratio(low, m), log_gamma_between.log_ratio(high, m))
    found = log_gamma_between.nodes(a, *ends, log_gamma_between.log_width(low, high))
    sigma = (scales.log(m) - scales.log(c.means))[:, :, None]  # zero, with a derivative
    moved = jnp.expm1(sigma) * (1 + found.growth)
    excess = found.excess + moved - sigma
    live = c.shapes[:, :, None]
    logs = found.logs - (live - a[:, :, None]) * found.excess - live * (moved - sigma)
    return -a * found.least, found.weights * jnp.exp(logs), found.growth + moved, excess


def _log_mass(c: Any, low: Array, high: Array) -> Array:
    peak, shares, _, _ = _shares(c, low, high)
    return stirling.at_saddle(c.shapes) + (peak + jnp.log(shares.sum(axis=2)))


def log_interval(c: Any, low: Array, high: Array) -> Array:
    """log P(low <= x <= high), (N, K)."""
    log_p = _log_mass(c, low, high)
    fixed, zero, top = stop_gradient(c), jnp.zeros_like(low), jnp.full_like(high, jnp.inf)
    below = jnp.where(low > 0, jnp.exp(_log_mass(fixed, zero, low)), 0)
    above = jnp.where(high < jnp.inf, jnp.exp(_log_mass(fixed, high, top)), 0)
    return parts.near_one(log_p, below + above)


def between(c: Any, low: Array, high: Array) -> Moments:
    """What Q needs of x given low <= x <= high."""
    _, shares, growth, excess = _shares(c, low, high)
    shares = shares / shares.sum(axis=2, keepdims=True)
    found = (shares * growth).sum(axis=2), (shares * excess).sum(axis=2)
    return Moments(jnp.broadcast_to(c.means, found[0].shape), *found)


def deviance(means: Array, u: Moments) -> Array:
    """E D(mean, x) / mean = E epsilon(log(x / mean)), (N, K), for other means than that of the moments."""
    ratio = u.origin * scales.reciprocal(means)
    return u.excess + u.growth * (ratio - 1) + stirling.deviance(means, u.origin) * scales.reciprocal(means)


def expected_log_density(c: Any, u: Moments) -> Array:
    """E log p(x), (N, K)."""
    return stirling.at_saddle(c.shapes) - c.shapes * deviance(c.means, u) - (scales.log(u.origin) + u.growth - u.excess)


def sample(key: Array, c: Any, low: Array, high: Array) -> Array:
    """One draw given low <= x <= high, (n,), from arrays (n, 1): the distribution function is inverted by bisection."""
    log_u = jnp.log1p(-jax.random.uniform(key, c.means.shape, c.means.dtype))
    target = log_u + _log_mass(c, low, high)
    least, most = _support(c)
    least, most = jnp.maximum(low, least), jnp.minimum(high, most)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        a, b = ends
        middle = jnp.sqrt(a) * jnp.sqrt(b)
        more = _log_mass(c, low, jnp.maximum(middle, low)) < target
        return jnp.where(more, middle, a), jnp.where(more, b, middle)

    steps = 1 + jnp.finfo(log_u.dtype).nmant + 11
    a, b = jax.lax.fori_loop(0, int(steps), halve, (least, jnp.maximum(most, least)))
    return jnp.clip(jnp.sqrt(a) * jnp.sqrt(b), low, high)[:, 0]


def _support(c: Any) -> tuple[Array, Array]:
    """Positive finite numbers between which all draws lie."""
    limits = jnp.finfo(c.means.dtype)
    return jnp.full_like(c.means, limits.tiny), jnp.full_like(c.means, limits.max)
