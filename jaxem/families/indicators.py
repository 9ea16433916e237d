"""Log-densities of Bernoulli and categorical observations, as one matrix product with 0/1 indicators."""

import jax.numpy as jnp
from jax import Array

from jaxem.core.matrices import product


def log_density(indicators: Array, log_probabilities: Array) -> Array:
    """sum_j indicators_nj log_probabilities_kj, (N, K); -inf where a value of probability zero was observed.

    In the sum 0 times -inf must be 0, so values of probability zero are counted by a matrix product of their own.
    """
    impossible = log_probabilities == -jnp.inf
    impossible_seen = product(indicators, impossible.astype(indicators.dtype).T)
    finite = jnp.where(impossible, 0, log_probabilities)
    return jnp.where(impossible_seen > 0, -jnp.inf, product(indicators, finite.T))


def log(probabilities: Array) -> Array:
    """log p; -inf with derivative 0 where p is 0."""
    possible = probabilities != 0  # true for NaN, which is passed on
    return jnp.where(possible, jnp.log(jnp.where(possible, probabilities, 1)), -jnp.inf)


def log_of_rest(probabilities: Array) -> Array:
    """log(1 - p), accurate for small p; -inf with derivative 0 where p is 1."""
    possible = probabilities != 1
    p = jnp.where(possible, probabilities, 0)
    small = p < 0.25  # beyond it 1 - p is exact enough, while XLA's log1p in 64 bits loses two digits near p = 0.4
    rest = jnp.where(small, jnp.log1p(-jnp.where(small, p, 0)), jnp.log(1 - jnp.where(small, 0, p)))
    return jnp.where(possible, rest, -jnp.inf)
