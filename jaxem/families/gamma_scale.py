r"""The hidden scale of a t distribution: x | u ~ N(m, S / u), u ~ Gamma(nu / 2, nu / 2).

Everything is a function of tau = 1 / nu, smooth at tau = 0, where u = 1 and the distribution is normal. With z the
squared Mahalanobis distance of D variables (of a row with missing cells: the seen ones), the posterior of u is

.. math:: u \mid x \sim \text{Gamma}\left(\frac{\nu + D}{2}, \frac{\nu + z}{2}\right), \qquad
          \bar u = E\, u = \frac{1 + \tau D}{1 + \tau z}, \qquad E \log u = \log \bar u - g(\tfrac{\nu + D}{2}),

with g(a) = log a - psi(a) > 0. Q depends on nu through the sum over observations of

.. math:: E (u - 1 - \log u) = (\bar u - 1 - \log \bar u) + g(\tfrac{\nu + D}{2}),

two terms of one sign. Its mean X gives the equation of the M-step, g(nu / 2) = X.

Source: Lange, Little & Taylor (1989), Liu & Rubin (1995).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.families import stirling

_STEPS = 6  # of Newton's method, whose error is squared in each and begins at 0.015


class Scales(NamedTuple):
    """The posterior of the scales: gamma distributions."""

    means: Array  # (N, K)
    spreads: Array  # (N, K), one over the shape: the variance of u divided by its squared mean
    gaps: Array  # (N, K), log E u - E log u


def log_kernel(tails: Array, d: int | Array, z: Array) -> Array:
    r"""log p(x) + (D log 2 pi + log|S|) / 2, (N, K), from ``tails (K,)`` and squared distances ``z (N, K)``.

    Here and below D is one number, or that of each row, (N, 1).

    .. math:: \log\Gamma\tfrac{\nu + D}{2} - \log\Gamma\tfrac{\nu}{2} - \tfrac D2 \log\tfrac\nu2
              - \tfrac{\nu + D}{2} \log(1 + z / \nu)

    The first three terms are the remainders of Stirling's formula and what is left of its main terms. The last one is
    written with log(1 + y) / y, y = z / nu, below y = 1; from there on as it stands, since in the derivative of that
    quotient y^2 would overflow.
    """
    tails = tails[None, :]
    t, y = tails * d, tails * z
    rise = _remainder(tails / (1 + t)) - _remainder(tails)
    constant = 0.5 * ((d - 1) * jnp.log1p(t) - d * stirling.log1p_shortfall(t, 1 + t)) + rise
    near = y < 1
    few, some = jnp.where(near, y, 0), jnp.where(near, 1, tails)
    close = jnp.where(near, z, 0) * (1 + t) * stirling.log1p_ratio(few, 1 + few)
    far = (1 / some + d) * jnp.log1p(jnp.where(near, 1, y))
    return constant - 0.5 * jnp.where(near, close, far)


def posterior(tails: Array, d: int | Array, z: Array) -> Scales:
    """The posterior of the scales, from squared distances ``z (N, K)``."""
    tails = tails[None, :]
    above = 1 + tails * d
    spreads = 2 * tails / above  # the same for all observations of as many variables
    means = above / (1 + tails * z)
    return Scales(means, *(jnp.broadcast_to(a, z.shape) for a in (spreads, gap(spreads))))


def expected_log(u: Scales) -> Array:
    """E log u, (N, K)."""
    return jnp.log(u.means) - u.gaps


def excess(u: Scales) -> Array:
    """E (u - 1 - log u), (N, K)."""
    y = u.means - 1
    return y * stirling.log1p_shortfall(y, u.means) + u.gaps


def complete(tails: Array, d: int | Array, z: Array, u: Scales) -> Array:
    """E log p(x, u) + (D log 2 pi + log|S|) / 2, (N, K); without u where tails = 0, as u = 1 is then known."""
    return expected_hidden(tails[None, :], d, expected_log(u), excess(u)) - 0.5 * u.means * z


def expected_hidden(tails: Array, d: int | Array, log_u: Array, excess: Array) -> Array:
    """The terms of ``complete`` without x, from E log u and E (u - 1 - log u); their axes broadcast with ``tails``."""
    a = _shape(tails)
    prior = (0.5 * jnp.log(a / (2 * math.pi)) - _remainder(tails)) - a * excess
    return jnp.where(tails == 0, 0, (0.5 * d - 1) * log_u + prior)


def entropy(u: Scales) -> Array:
    """The entropy of u, (N, K); 0 where it is known."""
    known = u.spreads == 0
    i = jnp.where(known, 1, u.spreads)
    shaped = 0.5 * jnp.log(2 * math.pi * i) + stirling.remainder_of_inverse(i) + (1 / i - 1) * u.gaps
    return jnp.where(known, 0, jnp.log(u.means) + shaped)


def divergence(u: Scales, v: Scales) -> Array:
    """The KL divergence from u to v, (N, K)."""
    known = (u.spreads == 0) & (v.spreads == 0)
    i, j = (jnp.where(known, 1, q.spreads) for q in (u, v))
    of_shapes = stirling.remainder_of_inverse(j) - stirling.remainder_of_inverse(i) + 0.5 * jnp.log(j / i)
    of_shapes = of_shapes - (1 / i - 1 / j) * u.gaps
    ratio = u.means / v.means
    return jnp.where(known, 0, stirling.deviance(jnp.ones_like(ratio), ratio) / j + of_shapes)


def expected_prior(tails: Array, n: Array, excess: Array) -> Array:
    """E log p(u) from the sums, (K,), up to terms free of ``tails``; 0 at 0, where u is known."""
    a = _shape(tails)
    return jnp.where(tails == 0, 0, n * (0.5 * jnp.log(a) - _remainder(tails)) - a * excess)


def solve(x: Array) -> Array:
    """1 / nu with g(nu / 2) = x, for x >= 0, to rounding: Newton's method for log g in log nu, which is nearly linear.

    It is 0 where log-densities differ from those at 0 by less than rounding error.

    Source: Minka (2002), *Estimating a gamma distribution*, for the first approximation.
    """
    positive = jnp.where(x > 0, x, 1)
    root = jnp.sqrt((positive - 3) ** 2 + 24 * positive)
    below, above = 12 * positive / (3 - jnp.minimum(positive, 3) + root), 0.5 * (root + positive - 3)

    def step(i: Array, target: Array) -> Array:
        i = jax.lax.stop_gradient(i)
        g, slope = jax.jvp(gap, (i,), (i,))
        return i * jnp.exp(jnp.clip((target - jnp.log(g)) * (g / slope), -1, 1))

    target = jnp.log(positive)
    start = jnp.where(positive < 3, below, above)
    i, _ = jax.lax.scan(lambda i, _: (step(i, jax.lax.stop_gradient(target)), None), start, length=_STEPS)
    # The last step is differentiated: at the root it has the derivative of the solution.
    none = (x >= 0) & (x <= float(jnp.finfo(x.dtype).eps) / 16)
    return jnp.where(none, 0, 0.5 * step(i, target) * jnp.where(x >= 0, 1, jnp.nan))


def gap(i: Array) -> Array:
    """log a - psi(a) for a = 1 / i, to full relative accuracy: i / 2 + i^2 times the derivative of delta in i."""
    return 0.5 * i + i**2 * jax.jvp(stirling.remainder_of_inverse, (i,), (jnp.ones_like(i),))[1]


def draw(key: Array, tails: Array) -> Array:
    """One scale for each of ``tails (n,)``."""
    a = _shape(tails)
    return jnp.where(tails == 0, 1, jnp.exp(jax.random.loggamma(key, a, dtype=a.dtype) - jnp.log(a)))


def draw_posterior(key: Array, u: Scales) -> Array:
    """A draw of each scale from its posterior, shaped like ``u.means``."""
    return u.means * draw(key, 0.5 * u.spreads)


def _remainder(tails: Array) -> Array:
    """delta(nu / 2)."""
    return stirling.remainder_of_inverse(2 * tails)


def _shape(tails: Array) -> Array:
    """nu / 2; 1 where it is infinite."""
    return 0.5 / jnp.where(tails == 0, 0.5, tails)
