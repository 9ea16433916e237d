r"""The distribution function of a family of single numbers: the probabilities on both sides of an observation.

Both sides are computed, each without a difference from one, so that an observation far in either tail has a residual:

.. math:: F(x^-) = P(X < x), \qquad P(X = x), \qquad 1 - F(x) = P(X > x) .

The middle one is zero for continuous x. A family that may be seen in part (``Censored``) has them by its intervals;
others have a function ``tails(c, x)``, most of which call the functions below.
"""

from typing import Any, NamedTuple, NoReturn

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import betainc, gammainc, gammaincc, ndtr

from jaxem.core.contexts import Context
from jaxem.core.data import Data
from jaxem.core.trees import float_dtype
from jaxem.families import parts


class Tails(NamedTuple):
    """Three probabilities that sum to one, of each observation and, within a family, of each class."""

    below: Array  # P(X < x)
    at: Array  # P(X = x)
    above: Array  # P(X > x)


def of_family(family: Any, c: Context, x: Data) -> Tails:
    """The tails of each observation in each class, (N, K), as the family has them.

    Raises:
        ValueError: the family has no distribution function: its observations are several numbers, categories or angles.
    """
    if hasattr(family, "tails"):
        return family.tails(c, x)
    of_numbers = getattr(family, "event_ndim", None) == 0 and getattr(family, "turn", None) is None
    if not of_numbers or not hasattr(family, "log_interval"):
        refuse(family)
    c = parts.by_rows(c)
    return by_intervals(family, c, jnp.asarray(x, float_dtype(c))[:, None], *family.bounds)


def refuse(family: Any) -> NoReturn:
    """Raise the ``ValueError`` of a family that has no distribution function."""
    raise ValueError(
        f"{type(family).__name__} has no distribution function: residuals need a family of single numbers, such as "
        "Normal() or Poisson()"
    )


def by_intervals(family: Any, c: Context, x: Array, low: float, high: float, log_mass: Array | float = 0.0) -> Tails:
    """The tails of x (N, 1) given ``low`` <= x <= ``high``, an event of probability e^``log_mass``, by probabilities of
    intervals. The arrays of c are (1, K) or (N, K)."""
    whole = getattr(family, "whole", False)
    step = 1.0 if whole else 0.0
    p = lambda a, b: jnp.exp(family.log_interval(c, a, b) - log_mass)
    inside = jnp.clip(x, low, high)
    ends = jnp.full_like(x, low), jnp.full_like(x, high)
    some, more = x > low, x < high
    below = jnp.where(some, p(ends[0], jnp.clip(x - step, low, high)), 0)
    above = jnp.where(more, p(jnp.clip(x + step, low, high), ends[1]), 0)
    at = jnp.where(x == inside, p(inside, inside), 0) if whole else jnp.zeros_like(below)
    unknown = jnp.isnan(x)
    return Tails(*(jnp.where(unknown, jnp.nan, part) for part in (below, at, above)))


def of_normal(z: Array) -> Tails:
    """Of a standard normal variable."""
    return Tails(ndtr(z), jnp.zeros_like(z), ndtr(-z))


def of_student_t(z: Array, tails: Array) -> Tails:
    """Of a t variable with nu = 1 / ``tails`` degrees of freedom; the normal one where ``tails`` is zero.

    P(T > |z|) = I_x(nu / 2, 1 / 2) / 2 with x = nu / (nu + z^2). Rounding of x, times nu, spoils that for large nu;
    there Wallace's normal variable has an error of 1 / nu^2.
    """
    z, tails = jnp.broadcast_arrays(z, tails)
    light = tails < float(jnp.finfo(z.dtype).eps) ** (1 / 3)
    nu = 1 / jnp.where(light, 1, tails)
    heavy_tail = 0.5 * betainc(nu / 2, jnp.full_like(nu, 0.5), 1 / (1 + z**2 / nu))
    spread = tails * z**2
    root = jnp.abs(z) * jnp.sqrt(jnp.where(spread > 0, jnp.log1p(spread) / jnp.where(spread > 0, spread, 1), 1))
    outer = jnp.where(light, ndtr(-root * (8 + tails) / (8 + 3 * tails)), heavy_tail)
    return Tails(jnp.where(z < 0, outer, 1 - outer), jnp.zeros_like(z), jnp.where(z < 0, 1 - outer, outer))


def of_beta(x: Array, a: Array, b: Array) -> Tails:
    """Of a beta variable."""
    x, a, b = jnp.broadcast_arrays(x, a, b)
    inside = jnp.clip(x, 0, 1)
    return Tails(betainc(a, b, inside), jnp.zeros_like(x), betainc(b, a, 1 - inside))


def of_negative_binomial(x: Array, mean: Array, dispersion: Array, at: Array) -> Tails:
    """Of a count with variance m + phi m^2, whose probability is ``at``.

    P(X < x) = I_p(1 / phi, x) with p = 1 / (1 + phi m). Rounding of p, divided by phi, spoils that where phi is small;
    there the Poisson distribution with its first correction has an error of (phi m)^2.
    """
    x, m, phi = jnp.broadcast_arrays(x, mean, dispersion)
    small = phi * jnp.maximum(m, x) < float(jnp.finfo(m.dtype).eps) ** (1 / 3)
    size, count, after = 1 / jnp.where(small, 1, phi), jnp.maximum(x, 1), jnp.maximum(x + 1, 1)
    # P(X <= x) moves by phi m^2 / 2 times the difference of the Poisson probabilities of x and x - 1.
    moved = 0.5 * phi * m * (m - x) * at
    before = 0.5 * phi * m * ((m - x + 1) / jnp.where(m > 0, m, 1)) * x * at  # the same at x - 1
    p, rest = 1 / (1 + m / size), (m / size) / (1 + m / size)
    below = jnp.where(small, gammaincc(count, m) + before, betainc(size, count, p))
    above = jnp.where(small, gammainc(after, m) - moved, betainc(after, size, rest))
    below, above = (jnp.clip(part, 0, 1) for part in (below, above))
    return Tails(jnp.where(x > 0, below, 0), at, jnp.where(x < 0, 1, above))
