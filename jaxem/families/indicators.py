"""What Bernoulli and categorical observations share: log-densities as one product with 0/1 indicators."""

import jax.numpy as jnp
from jax import Array

from jaxem.core.matrices import product


def log_density(indicators: Array, log_probabilities: Array) -> Array:
    """sum_j indicators_nj log_probabilities_kj, (N, K), -inf where an impossible value was seen.

    As a matrix product; 0 times -inf is 0 here, so values of probability zero are counted apart.
    """
    impossible = log_probabilities == -jnp.inf
    impossible_seen = product(indicators, impossible.astype(indicators.dtype).T)
    finite = jnp.where(impossible, 0, log_probabilities)
    return jnp.where(impossible_seen > 0, -jnp.inf, product(indicators, finite.T))


def log(probabilities: Array) -> Array:
    """log p; where p is 0, -inf that no derivative comes from."""
    possible = probabilities != 0  # NaN is no zero
    return jnp.where(possible, jnp.log(jnp.where(possible, probabilities, 1)), -jnp.inf)


def log_of_rest(probabilities: Array) -> Array:
    """log(1 - p), right to rounding where p is small; where p is 1, -inf that no derivative comes from."""
    possible = probabilities != 1
    return jnp.where(possible, jnp.log1p(-jnp.where(possible, probabilities, 0)), -jnp.inf)
