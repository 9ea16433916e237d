r"""A negative binomial count of which only low <= x <= high is known, both ends included.

The probability of the interval is that of its most probable count p, times a sum of ratios, as for the Poisson
distribution (``poisson_between.py``); in the tail they fall like (phi m / (1 + phi m))^x, so that some 50 (1 + phi m)
terms count. The seating (``restaurant.py``) is hidden beside the count. With the rate l = m / (1 + phi m),

.. math:: \log p(x, \text{seating}) = x \log l - \log x! - \tfrac1\phi \log(1 + \phi m) + j \log \phi .
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from jaxem.families import count_loops, restaurant, stirling


class Moments(NamedTuple):
    """What Q needs of the count and its seating."""

    mean: Array  # (N, K), E x
    saddle: Array  # (N, K), M log M - M - E log x! with M = E x: free of the parameters
    joined: Array  # (N, K), E j


class _Ratios(NamedTuple):
    total: Array  # sum of p(x) / p(peak)
    distance: Array  # E x - peak
    log: Array  # E log of the ratio of Poisson probabilities at ``rate``, of x and of the peak
    joined: Array  # E j - j(peak)


def _sum(mean: Array, phi: Array, rate: Array, low: Array, high: Array, peak: Array) -> _Ratios:
    """The sums over the interval, element by element."""
    least = float(jnp.finfo(mean.dtype).eps) ** 1.5
    none, below = jnp.zeros_like(mean), 1 + phi * mean
    positive, log_rate = jnp.where(mean > 0, mean, 1), jnp.log(rate)

    class Side(NamedTuple):
        term: Array
        log: Array
        joined: Array

    def more(carry: Any) -> Array:
        _, up, down, _ = carry
        return ((up.term > least) | (down.term > least)).any()

    def step(carry: Any) -> Any:
        j, up, down, sums = carry
        x, last = peak + j, peak - j + 1  # x - 1 guests, or ``last`` of them, become x, or last - 1
        before, after = phi * (x - 1), phi * jnp.maximum(last - 1, 0)
        ratio = (mean / x) * ((1 + before) / below)
        up = Side(
            jnp.where(x <= high, up.term * ratio, 0),
            up.log + (log_rate - jnp.log(x)),
            up.joined + before / (1 + before),
        )
        inside = last - 1 >= low
        last = jnp.where(inside, last, 1)
        ratio = jnp.where(mean > 0, (last / positive) * (below / (1 + after)), 0)
        down = Side(
            jnp.where(inside, down.term * ratio, 0),
            down.log + (jnp.log(last) - log_rate),
            down.joined - after / (1 + after),
        )
        total, first, logs, joined = sums
        add = lambda a, b: a * up.term + b * down.term
        sums = total + add(1, 1), first + add(j, -j), logs + add(up.log, down.log), joined + add(up.joined, down.joined)
        return j + 1, up, down, sums

    start = Side(none + 1, none, none)
    _, _, _, (total, *others) = jax.lax.while_loop(
        more, step, (jnp.ones((), mean.dtype), start, start, (none + 1, none, none, none))
    )
    return _Ratios(total, *(a / total for a in others))


_ratios = count_loops.elementwise(_sum, 2)


def _each(f: Any) -> Any:
    """A function of ``restaurant`` for one count and one class, element by element."""
    one = lambda *numbers: jax.tree.map(lambda leaf: leaf[0, 0], f(*(a[None] for a in numbers)))
    return lambda *arrays: jax.vmap(one)(*(a.ravel() for a in arrays))


def _log_probability(x: Array, mean: Array, phi: Array) -> Array:
    return _each(restaurant.log_probability)(x, mean, phi).reshape(x.shape)


def _of_interval(c: Any, low: Array, high: Array) -> tuple[Array, Array, _Ratios]:
    """The most probable count, the rate of the Poisson distribution that it is compared with, and the sums."""
    m, phi, low, high = jnp.broadcast_arrays(*c, low, high)
    mode = jnp.floor(m * jnp.maximum(1 - phi, 0))
    peak = stop_gradient(jnp.clip(mode, low, high))
    rate = stop_gradient(jnp.where(peak > 0, peak, jnp.where(m > 0, m, 1)))
    return peak, rate, _ratios(m, phi, rate, low, high, peak)


def _log_mass(c: Any, low: Array, high: Array) -> Array:
    peak, _, ratios = _of_interval(c, low, high)
    own = (jnp.broadcast_to(a, peak.shape) for a in c)
    return _log_probability(peak, *own) + jnp.log(ratios.total)


def log_interval(c: Any, low: Array, high: Array) -> Array:
    """log P(low <= x <= high), (N, K)."""
    return count_loops.log_interval(_log_mass, c, low, high)


def between(c: Any, low: Array, high: Array) -> Moments:
    """What Q needs of x and of its seating given low <= x <= high."""
    peak, rate, ratios = _of_interval(c, low, high)
    _, phi = c
    seated = _each(restaurant.posterior)(peak, jnp.broadcast_to(phi, peak.shape)).joined
    mean = peak + ratios.distance
    at_peak = stirling.of_count(peak) - stirling.deviance(peak, rate)
    saddle = at_peak + ratios.log + stirling.deviance(mean, rate)
    return Moments(mean, saddle, seated.reshape(peak.shape) + ratios.joined)


def expected_log_density(c: Any, u: Moments) -> Array:
    """E log p(x, seating), (N, K)."""
    m, phi = c
    y = phi * m
    spread = m * (stirling.log1p_shortfall(y, 1 + y) - y / (1 + y))  # l - log(1 + phi m) / phi
    none = u.joined == 0
    seated = jnp.where(none, 0, u.joined * jnp.log(jnp.where(none, 1, phi)))
    return u.saddle - stirling.deviance(u.mean, m / (1 + y)) + spread + seated


def sample(key: Array, means: Array, dispersions: Array, low: Array, high: Array) -> Array:
    """One draw from each distribution given low <= x <= high."""
    low, high = (jnp.broadcast_to(jnp.asarray(end, means.dtype), means.shape) for end in (jnp.maximum(low, 0), high))
    m, phi, *ends = (a[:, None] for a in (means, dispersions, low, high))
    log_mass = log_interval((m, phi), *ends)[:, 0]
    log_p = lambda x: _log_probability(x, means, dispersions)
    return count_loops.search(key, log_p, log_mass, means, low, high)
