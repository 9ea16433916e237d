r"""A Weibull variable of which only low <= x <= high is known.

With z = a log(x / b), log P(low <= x <= high) = -e^{z_low} + log(1 - e^{-(e^{z_high} - e^{z_low})}). Q is no function
of finitely many moments: E log p(x; a', b') under a posterior at (a, b) is an integral of its own for each (a', b').
The posterior is therefore kept as its parameters and the interval, and expectations are taken by quadrature over z
(``log_gamma_between.py``, shape 1), with nodes fixed in units of x.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from jaxem.families import log_gamma_between, parts


class Moments(NamedTuple):
    """The posterior of x: the Weibull distribution with these parameters, given low <= x <= high; all (N, K)."""

    low: Array
    high: Array
    shapes: Array
    scales: Array


def _nodes(c: Any, low: Array, high: Array) -> tuple[Array, log_gamma_between.Nodes, Array]:
    """Nodes z (N, K, points) where they are placed, what belongs to them, and the densities relative to the largest
    times weights, with derivatives in c."""
    a, b = stop_gradient((c.shapes, c.scales))
    ends = (a * log_gamma_between.log_ratio(low, b), a * log_gamma_between.log_ratio(high, b))
    found = log_gamma_between.nodes(jnp.ones_like(a), *ends, a * log_gamma_between.log_width(low, high))
    z = found.growth - found.excess
    moved = _logs(c, a, b, z) - z  # zero, with a derivative
    relative = jnp.log(c.shapes / a)[:, :, None] + moved - (1 + found.growth) * jnp.expm1(moved)
    return z, found, found.weights * jnp.exp(found.logs + relative)


def _logs(c: Any, a: Array, b: Array, z: Array) -> Array:
    """a' log(x / b') where z = a log(x / b), (N, K, points)."""
    return (c.shapes / a)[:, :, None] * z + (c.shapes * jnp.log(b / c.scales))[:, :, None]


def log_interval(c: Any, low: Array, high: Array) -> Array:
    """log P(low <= x <= high), (N, K)."""
    _, found, shares = _nodes(c, low, high)
    log_p = jnp.log(shares.sum(axis=2)) - (1 + found.least)
    # The value is a closed form; the derivative is that of the rule.
    a, b = stop_gradient((c.shapes, c.scales))
    start = jnp.exp(a * log_gamma_between.log_ratio(low, b))
    risen = jnp.expm1(a * log_gamma_between.log_width(low, high))
    top = jnp.exp(a * log_gamma_between.log_ratio(high, b))
    risen_much = jnp.where(start < jnp.inf, top - jnp.where(start < jnp.inf, start, 0), 1)
    width = jnp.where(risen < 1, start * jnp.where(risen < 1, risen, 0), risen_much)
    return (parts.log_below(width) - start) + (log_p - stop_gradient(log_p))


def between(c: Any, low: Array, high: Array) -> Moments:
    """The posterior given low <= x <= high."""
    shape = jnp.broadcast_shapes(c.shapes.shape, low.shape)
    return Moments(*(jnp.broadcast_to(leaf, shape) for leaf in (low, high, c.shapes, c.scales)))


def expect(u: Moments, c: Any, f: Callable[[Array, Array], Array]) -> Array:
    """E f(z, log(x / b)), (N, K, ...), with z = a log(x / b) at the parameters c, and b of the moments."""
    z, _, shares = _nodes(u, u.low, u.high)
    shares = shares / shares.sum(axis=2, keepdims=True)
    a, b = stop_gradient((u.shapes, u.scales))
    values = f(_logs(c, a, b, z), z / a[:, :, None])
    return (shares.reshape(*shares.shape, *(1,) * (values.ndim - 3)) * values).sum(axis=2)


def bounded(z: Array) -> Array:
    """z, cut where the density is zero, so that a product with e^z does not overflow."""
    return jnp.minimum(z, math.log(float(jnp.finfo(z.dtype).max)) / 2)


def expected_log_density(c: Any, u: Moments) -> Array:
    """E log p(x), (N, K)."""
    inside = expect(u, c, lambda z, t: z - jnp.exp(bounded(z)) - t)
    return jnp.log(c.shapes) + inside - stop_gradient(jnp.log(u.scales))


def expected_score(c: Any, u: Moments) -> Array:
    """The expected gradient of log p(x) in (log shape, log scale), (N, K, 2)."""

    def score(z: Array, _: Array) -> Array:
        e = jnp.exp(bounded(z))
        return jnp.stack([1 + z - z * e, c.shapes[:, :, None] * (e - 1)], axis=3)

    return expect(u, c, score)


def mean(c: Any, low: Array, high: Array) -> Array:
    """E x given low <= x <= high, (N, K)."""
    u = between(c, low, high)
    return stop_gradient(u.scales) * expect(u, u, lambda z, t: jnp.exp(t))
