r"""The hidden variable of a negative binomial count: how x guests sit down at t tables.

With mean m, dispersion phi and size alpha = 1 / phi, a Poisson number t of tables, each with a number of guests from a
logarithmic distribution, has x guests altogether. Given x, the guests sit as in the Chinese restaurant process: guest
i + 1 opens a table with probability alpha / (alpha + i) = 1 / (1 + phi i), or sits beside one of the i earlier guests,
each with probability phi / (1 + phi i). A seating with j = x - t guests who joined a table therefore has probability

.. math:: p(\text{seating} \mid x) = \phi^{\,j} e^{-R(x, \phi)}, \quad R = \sum_{i < x} \log(1 + \phi i), \quad
          \bar \jmath = E\, j = \sum_{i < x} \frac{\phi i}{1 + \phi i} = \phi\, \partial R / \partial \phi .

Both are smooth at phi = 0, where all guests sit alone and x is a Poisson count.

Source: Adamidis (1999), *An EM algorithm for estimating negative binomial parameters*; Zhou & Carin (2015), *Negative
binomial process count and mixture modeling*.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.families import stirling

_STEPS = 6  # of Newton's method
_FEW = stirling.FROM  # up to this count R is added up


class Seating(NamedTuple):
    """The posterior of the seating of each observation, in each class."""

    joined: Array  # (N, K), the expected number of guests who joined a table
    dispersions: Array  # (N, K)
    totals: Array  # (N, K), R: minus the log-probability of a seating with no joined guest


def log_probability(x: Array, means: Array, dispersions: Array) -> Array:
    r"""log p(x_n | k), (N, K), for whole numbers ``x (N,)`` and ``means`` (K,), or (N, K).

    .. math:: \log p = s(x) - D(x, m, \phi) + \left(R - (x + \tfrac1\phi) \log(1 + \phi x) + x\right)

    with s(x) as for ``Poisson`` and a deviance D that is 0 at m = x.
    """
    x = x[:, None]
    deviance = _deviance(x, jnp.atleast_2d(means), dispersions[None, :])
    return stirling.of_count(x) - deviance + _remainder(x, dispersions)


def posterior(x: Array, dispersions: Array) -> Seating:
    """The posterior of the seatings, from counts ``x (N,)``."""
    x = x[:, None]
    totals, joined = jax.jvp(
        lambda phi: x * _rise(x * phi[None, :]) + _remainder(x, phi), (dispersions,), (dispersions,)
    )
    return Seating(joined, jnp.broadcast_to(dispersions, joined.shape), totals)


def expected_log(x: Array, dispersions: Array, u: Seating) -> Array:
    """E log p(seating | x, k), (N, K), under the posterior ``u``."""
    return _times_log(u.joined, dispersions[None, :]) - _total(x[:, None], dispersions)


def entropy(u: Seating) -> Array:
    """The entropy of the seatings, (N, K)."""
    return u.totals - _times_log(u.joined, u.dispersions)


def divergence(u: Seating, v: Seating) -> Array:
    """The KL divergence from u to v, (N, K)."""
    both = (u.dispersions > 0) & (v.dispersions > 0)
    ratio = jnp.where(both, u.dispersions, 1) / jnp.where(both, v.dispersions, 1)
    logs = jnp.where(both, u.joined * jnp.log(ratio), jnp.where(u.joined > 0, jnp.inf, 0))
    return logs - u.totals + v.totals


def solve(share: Array) -> Array:
    """phi m from the share of the guests who joined a table, 1 - log(1 + y) / y at y = phi m, to rounding.

    Newton's method for log(y / log(1 + y) - 1) in log y, which is nearly linear. The result is 0 where log-densities
    differ from those at 0 by less than rounding error.
    """
    inside = jnp.where(share > 0, share, 0.5)
    target = jnp.log(inside) - jnp.log1p(-inside)

    def odds(y: Array) -> Array:
        return jnp.log(stirling.log1p_shortfall(y, 1 + y)) - jnp.log(stirling.log1p_ratio(y, 1 + y))

    def step(y: Array, target: Array) -> Array:
        y = jax.lax.stop_gradient(y)
        value, slope = jax.jvp(odds, (y,), (y,))
        return y * jnp.exp(jnp.clip((target - value) / slope, -2, 2))

    o = jax.lax.stop_gradient(jnp.exp(target))
    start = 2 * o * (1 + 0.5 * jnp.log1p(o))
    y, _ = jax.lax.scan(lambda y, _: (step(y, jax.lax.stop_gradient(target)), None), start, length=_STEPS)
    # The last step is differentiated: at the root it has the derivative of the solution.
    none = (share >= 0) & (share <= float(jnp.finfo(share.dtype).eps) / 16)
    return jnp.where(none, 0, step(y, target) * jnp.where(share >= 0, 1, jnp.nan))


def expected(means: Array, dispersions: Array, n: Array, total: Array, joined: Array) -> Array:
    """Q from the sums, (K,), up to terms free of the parameters."""
    x = jnp.where(n == 0, 0, total / jnp.where(n == 0, 1, n))
    seated = _times_log(joined, jnp.where(x == 0, 1, x) * dispersions) - total * (1 + _rise(x * dispersions))
    return seated - n * _deviance(x, means, dispersions)


def _deviance(x: Array, m: Array, phi: Array) -> Array:
    r"""x log(x / m) - (x + 1 / phi) log((1 + phi x) / (1 + phi m)), as two terms that are not negative.

    .. math:: x (v - 1 - \log v) + \frac{1}{\phi} (w - 1 - \log w), \quad
              w = \frac{1 + \phi x}{1 + \phi m},\; v = w \frac m x

    with v - 1 = -s / x and w - 1 = phi s from the same s = (x - m) / (1 + phi m), so that no difference of rounded
    numbers is taken. It is log(1 + phi m) / phi where x = 0, and infinite where only m is 0.
    """
    none, impossible = x == 0, (m == 0) & (x > 0)
    at_none = m * stirling.log1p_ratio(phi * m, 1 + phi * m)
    x, m = jnp.where(none, 1, x), jnp.where(impossible | none, 1, m)
    below = 1 + phi * m
    w, s = (1 + phi * x) / below, (x - m) / below
    both = stirling.log1p_shortfall(phi * s, w) - stirling.log1p_shortfall(-s / x, w * (m / x))
    return jnp.where(none, at_none, jnp.where(impossible, jnp.inf, s * both))


def _rise(t: Array) -> Array:
    """(1 + 1 / t) log(1 + t) - 1, 0 at t = 0."""
    return t * stirling.log1p_ratio(t, 1 + t) - stirling.log1p_shortfall(t, 1 + t)


def _total(x: Array, dispersions: Array) -> Array:
    """R, (N, K), from ``x (N, 1)``; added up for few guests, so that nothing cancels where each sits alone."""
    i = jnp.arange(_FEW, dtype=x.dtype)[:, None]
    added = jnp.cumsum(jnp.log1p(i * dispersions[None, :]), axis=0)
    few = jnp.concatenate([jnp.zeros_like(added[:1]), added])
    large = jnp.maximum(x, _FEW)
    return jnp.where(
        x <= _FEW, _of(few, x), large * _rise(large * dispersions[None, :]) + _remainder(large, dispersions)
    )


def _remainder(x: Array, dispersions: Array) -> Array:
    """R - x ((1 + 1 / t) log(1 + t) - 1) with t = phi x, (N, K).

    It is delta(x + 1 / phi) - delta(1 / phi) - log(1 + t) / 2, whose terms are of one sign.
    """
    i, phi = jnp.arange(_FEW + 1, dtype=x.dtype)[:, None], dispersions[None, :]
    start = stirling.remainder_of_inverse(phi)
    at_few = 1 + i * phi
    few = stirling.remainder_of_inverse(phi / at_few) - start - 0.5 * jnp.log1p(i * phi)
    large = jnp.maximum(x, _FEW)
    end = stirling.series_of_remainder_in_inverse(phi / (1 + large * phi))
    return jnp.where(x <= _FEW, _of(few, x), end - start - 0.5 * jnp.log1p(large * phi))


def _of(few: Array, x: Array) -> Array:
    """Row x of a table for few guests, (N, K)."""
    return few[jnp.clip(x[:, 0], 0, _FEW).astype(jnp.int32)]


def _times_log(a: Array, b: Array) -> Array:
    """a log b, 0 where a = 0."""
    none = a == 0
    return jnp.where(none, 0, a * jnp.log(jnp.where(none, 1, b)))
