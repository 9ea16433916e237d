"""Counts of which only an interval is known: derivatives of sums in loops, and draws by a search."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from jaxem.families import parts


def elementwise(f: Callable[..., Any], parameters: int) -> Callable[..., Any]:
    """``f`` of arrays, element by element, of which the first ``parameters`` have derivatives.

    The derivatives are found in the forward mode alone, so that loops have derivatives of any order and in either mode.
    """

    def along(i: int) -> Callable[..., Any]:
        def slope(*arrays: Array) -> Any:
            of = lambda one: f(*arrays[:i], one, *arrays[i + 1 :])
            return jax.jvp(of, (arrays[i],), (jnp.ones_like(arrays[i]),))[1]

        return slope

    @jax.custom_jvp
    def g(*arrays: Array) -> Any:
        return f(*arrays)

    @g.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        slopes = elementwise(lambda *arrays: [along(i)(*arrays) for i in range(parameters)], parameters)(*primals)
        moves = [jax.tree.map(lambda leaf, t=t: leaf * t, own) for own, t in zip(slopes, tangents, strict=False)]
        return g(*primals), jax.tree.map(lambda *leaves: sum(leaves[1:], start=leaves[0]), *moves)

    return g


def search(key: Array, log_p: Callable[[Array], Array], log_mass: Array, mean: Array, low: Array, high: Array) -> Array:
    """One draw from each distribution given ``low`` <= x <= ``high``, (n,), by a search from low upwards.

    Arguments:
        log_p: the log-probabilities (n,) of counts (n,).
        log_mass: the log-probabilities (n,) of the intervals.
        mean: below it, (n,), a probability of zero does not end the search.
    """
    left = jax.random.uniform(key, mean.shape, mean.dtype) * jnp.exp(log_mass)

    def step(carry: Any) -> Any:
        x, left = carry
        p = jnp.exp(log_p(x))
        go = (left > p) & (x < high) & ((p > 0) | (x < mean))
        return jnp.where(go, x + 1, x), jnp.where(go, left - p, -1)

    return jax.lax.while_loop(lambda carry: (carry[1] > 0).any(), step, (low, left))[0]


def log_interval(log_mass: Callable[[Any, Array, Array], Array], c: Any, low: Array, high: Array) -> Array:
    """log P(low <= x <= high) from ``log_mass(c, low, high)``: near one by the mass of what lies outside."""
    log_p, fixed = log_mass(c, low, high), stop_gradient(c)
    some, more = low > 0, high < jnp.inf
    below = log_mass(fixed, jnp.zeros_like(low), jnp.where(some, low - 1, 0))
    above = log_mass(fixed, jnp.where(more, high + 1, 0), jnp.where(more, jnp.inf, 0))
    return parts.near_one(log_p, jnp.where(some, jnp.exp(below), 0) + jnp.where(more, jnp.exp(above), 0))
