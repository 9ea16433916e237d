r"""A normal x of which only low <= x <= high is known: log P(low <= x <= high), E x and Var x.

In standard units the interval is (a, b), and p is its point nearest to zero. With z = p + d,

.. math:: P = \varphi(p) \int e^{-d (2 p + d) / 2}\, \mathrm d d,

by quadrature over d, and moments of d by the same nodes. Nodes are fixed in units of x, so that derivatives in the
parameters, of any order, are expectations by the same rule too.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jax.scipy.special import ndtr, ndtri

from jaxem.families import parts, quadrature, scales


class Moments(NamedTuple):
    """E x and Var x, the mean as a deviation from an origin."""

    origin: Array  # (N, K)
    deviation: Array  # (N, K), E x - origin
    variance: Array  # (N, K)


class _Nodes(NamedTuple):
    peak: Array  # (N, K), p
    offsets: Array  # (N, K, points), d
    logs: Array  # (N, K, points), of the density at the nodes relative to that at p
    weights: Array  # (1, 1, points)
    widths: Array  # (N, K), of the part of the interval that counts
    ratio: Array  # one, with the derivative of a change of scale
    shift: Array  # zero, with the derivative of a change of the mean


def _nodes(c: Any, low: Array, high: Array) -> _Nodes:
    means, roots = stop_gradient((c.means, c.inverse_roots))
    a, b, width = (low - means) * roots, (high - means) * roots, (high - low) * roots
    p = jnp.clip(0, a, b)
    most = 2 * quadrature.drop(p.dtype)
    reach = most / (jnp.abs(p) + jnp.sqrt(p**2 + most))  # where the density has dropped that far
    right = jnp.minimum(jnp.where(a > 0, width, jnp.maximum(b, 0)), reach)
    left = jnp.minimum(jnp.where(b < 0, width, jnp.maximum(-a, 0)), reach)
    t, weights = quadrature.rule(p.dtype)
    d = (left + right)[:, :, None] * t - left[:, :, None]
    ratio, shift = c.inverse_roots / roots, (means - c.means) * c.inverse_roots
    z = p[:, :, None] + d
    moved = -0.5 * (ratio**2 - 1)[:, :, None] * z**2 - (ratio * shift)[:, :, None] * z - 0.5 * (shift**2)[:, :, None]
    logs = -0.5 * d * (2 * p[:, :, None] + d) + moved
    return _Nodes(p, d, logs, weights, left + right, ratio, shift)


def log_interval(c: Any, low: Array, high: Array) -> Array:
    """log P(low <= x <= high), (N, K)."""
    nodes = _nodes(c, low, high)
    integral = nodes.widths * (nodes.weights * jnp.exp(nodes.logs)).sum(axis=2)
    log_p = -0.5 * (nodes.peak**2 + math.log(2 * math.pi)) + jnp.log(integral) + jnp.log(nodes.ratio)
    means, roots = stop_gradient((c.means, c.inverse_roots))
    outside = ndtr((low - means) * roots) + ndtr((means - high) * roots)
    return parts.near_one(log_p, outside)


def between(c: Any, low: Array, high: Array) -> Moments:
    """The mean and the variance of x given low <= x <= high."""
    nodes = _nodes(c, low, high)
    share = nodes.weights * jnp.exp(nodes.logs)
    share = share / share.sum(axis=2, keepdims=True)
    d = (share * nodes.offsets).sum(axis=2)
    variance = (share * (nodes.offsets - d[:, :, None]) ** 2).sum(axis=2)
    unit = scales.reciprocal(c.inverse_roots)
    z = nodes.ratio * (nodes.peak + d) + nodes.shift
    return Moments(jnp.broadcast_to(c.means, z.shape), z * unit, variance * (nodes.ratio * unit) ** 2)


def expected_log_density(c: Any, u: Moments) -> Array:
    """E log p(x), (N, K)."""
    z = (u.deviation - (c.means - u.origin)) * c.inverse_roots
    return -0.5 * (math.log(2 * math.pi) + c.logs + z**2 + u.variance * c.inverse_roots**2)


def sample(key: Array, means: Array, deviations: Array, low: Array, high: Array) -> Array:
    """One draw from each normal distribution given low <= x <= high, by the inverse of its distribution function."""
    a, b = (low - means) / deviations, (high - means) / deviations
    mirrored = a + b > 0  # the half of the line where probabilities are small numbers, not one minus such
    a, b = jnp.where(mirrored, -b, a), jnp.where(mirrored, -a, b)
    u = jax.random.uniform(key, means.shape, means.dtype)
    z = jnp.clip(ndtri(ndtr(a) + u * (ndtr(b) - ndtr(a))), a, b)
    return jnp.clip(means + deviations * jnp.where(mirrored, -z, z), low, high)
