r"""A Poisson count of which only low <= x <= high is known, both ends included: log P(low <= x <= high) and E x.

With p the most probable count of the interval, P is the probability of p times a sum of ratios, which starts at p and
goes both ways until terms no longer count: of the order of the root of the rate, and fewer in a tail.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from jaxem.families import stirling
from jaxem.families.count_loops import elementwise, search
from jaxem.families.count_loops import log_interval as count_log_interval


class Moments(NamedTuple):
    """What Q needs: E log p(x; rate) = saddle - D(E x, rate), with the deviance D (``stirling.py``)."""

    mean: Array  # (N, K), E x
    saddle: Array  # (N, K), m log m - m - E log x! with m = E x: free of the rate


class _Ratios(NamedTuple):
    total: Array  # sum of p(x) / p(peak)
    distance: Array  # E x - peak
    log: Array  # E log(p(x) / p(peak))


def _sum(rate: Array, low: Array, high: Array, peak: Array) -> _Ratios:
    """The sums over the interval, element by element."""
    least = float(jnp.finfo(rate.dtype).eps) ** 1.5
    none = jnp.zeros_like(rate)
    positive = jnp.where(rate > 0, rate, 1)
    log_rate = jnp.log(positive)

    class Side(NamedTuple):
        term: Array
        log: Array

    def more(carry: Any) -> Array:
        _, up, down, _ = carry
        return ((up.term > least) | (down.term > least)).any()

    def step(carry: Any) -> Any:
        j, up, down, (total, first, logs) = carry
        above, below = peak + j, peak - j
        up = Side(jnp.where(above <= high, up.term * (rate / above), 0), up.log + (log_rate - jnp.log(above)))
        last = jnp.where(below >= low, below + 1, 1)  # a count above zero
        ratio = jnp.where(rate > 0, last / positive, 0)
        down = Side(jnp.where(below >= low, down.term * ratio, 0), down.log + (jnp.log(last) - log_rate))
        add = lambda a, b: a * up.term + b * down.term
        sums = total + add(1, 1), first + add(j, -j), logs + add(up.log, down.log)
        return j + 1, up, down, sums

    start = Side(none + 1, none)
    _, _, _, (total, first, logs) = jax.lax.while_loop(
        more, step, (jnp.ones((), rate.dtype), start, start, (none + 1, none, none))
    )
    return _Ratios(total, first / total, logs / total)


_ratios = elementwise(_sum, 1)


def _log_probability(x: Array, rate: Array) -> Array:
    """log p(x), element by element."""
    return stirling.of_count(x) - stirling.deviance(x, rate)


def _of_interval(rates: Array, low: Array, high: Array) -> tuple[Array, Array, _Ratios]:
    """The log-probability of the most probable count, that count, and the sums relative to it."""
    shape = jnp.broadcast_shapes(rates.shape, low.shape)
    rate, low, high = (jnp.broadcast_to(a, shape) for a in (rates, low, high))
    peak = stop_gradient(jnp.clip(jnp.floor(rate), low, high))
    return _log_probability(peak, rate), peak, _ratios(rate, low, high, peak)


def log_interval(rates: Array, low: Array, high: Array) -> Array:
    """log P(low <= x <= high), (N, K)."""
    return count_log_interval(_log_mass, rates, low, high)


def _log_mass(rates: Array, low: Array, high: Array) -> Array:
    log_peak, _, ratios = _of_interval(rates, low, high)
    return log_peak + jnp.log(ratios.total)


def between(rates: Array, low: Array, high: Array) -> Moments:
    """What Q needs of x given low <= x <= high."""
    log_peak, peak, ratios = _of_interval(rates, low, high)
    mean = peak + ratios.distance
    return Moments(mean, log_peak + ratios.log + stirling.deviance(mean, jnp.broadcast_to(rates, mean.shape)))


def sample(key: Array, rates: Array, low: Array, high: Array) -> Array:
    """One draw from each distribution given low <= x <= high, by a search from low upwards."""
    low, high = (jnp.broadcast_to(jnp.asarray(end, rates.dtype), rates.shape) for end in (jnp.maximum(low, 0), high))
    ends = low[:, None], high[:, None]
    log_mass = log_interval(rates[:, None], *ends)[:, 0]
    return search(key, lambda x: _log_probability(x, rates), log_mass, rates, low, high)
