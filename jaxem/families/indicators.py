"""What Bernoulli and categorical observations share: log-densities as one product with 0/1 indicators."""

import jax.numpy as jnp
from jax import Array


def log_density(indicators: Array, probabilities: Array) -> Array:
    """sum_j indicators_nj log(probabilities_kj), (N, K), -inf where an impossible value was seen.

    As a matrix product; 0 times log 0 is 0, so values of probability zero are counted apart.
    """
    possible = probabilities != 0  # NaN is no zero
    log_probabilities = jnp.log(jnp.where(possible, probabilities, 1))
    impossible_seen = indicators @ (~possible).astype(indicators.dtype).T
    return jnp.where(impossible_seen > 0, -jnp.inf, indicators @ log_probabilities.T)
