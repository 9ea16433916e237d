"""A count from 0 to T of which only low <= x <= high is known, both ends included: sums over all T + 1 counts."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from jaxem.families import parts


class Moments(NamedTuple):
    """What Q needs: E log p(x) = saddle - D(E x), with the deviance D of the family."""

    mean: Array  # (N, K), E x
    saddle: Array  # (N, K), free of the parameters


def inside(trials: int, low: Array, high: Array) -> Array:
    """Whether each count lies in the interval, (N, 1, T + 1), from ends (N, 1)."""
    counts = jnp.arange(trials + 1, dtype=low.dtype)[None, None, :]
    return (counts >= low[:, :, None]) & (counts <= high[:, :, None])


def log_sum(logs: Array, among: Array) -> tuple[Array, Array]:
    """log of the sum of e^logs over those ``among`` all, and their shares of it, zero elsewhere."""
    some = among & (logs > -jnp.inf)
    peak = stop_gradient(jnp.where(some, logs, -jnp.inf).max(axis=2, keepdims=True))
    peak = jnp.where(jnp.isfinite(peak), peak, 0)
    terms = jnp.where(some, jnp.exp(jnp.where(some, logs - peak, 0)), 0)
    total = terms.sum(axis=2)
    return peak[:, :, 0] + jnp.log(total), terms / jnp.where(total > 0, total, 1)[:, :, None]


def log_interval(logs: Array, among: Array) -> Array:
    """log P(low <= x <= high), (N, K), from the log-probabilities of all counts (1 or N, K, T + 1)."""
    log_p, _ = log_sum(logs, among)
    outside = jnp.exp(log_sum(stop_gradient(logs), ~among)[0])
    return parts.near_one(log_p, outside)
