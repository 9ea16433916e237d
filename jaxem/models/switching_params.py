"""The parameters of a switching autoregression, its context and its sums."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array


class SwitchingParams(NamedTuple):
    """The parameters of ``SwitchingAutoregression``."""

    initial: Any  # (K,), or () where the first regime follows the stationary distribution
    transition: Array  # (K, K), from row to column; rows sum to one
    means: Array  # (K,)
    coefficients: Array  # (P,), of the deviations 1, ..., P steps before
    variances: Array  # (), or (K,) where the variance switches too


class Prepared(NamedTuple):
    at: SwitchingParams
    pi: Array  # (K^(P+1),), of the regimes of the first P + 1 steps
    A: Array  # (K^(P+1), K^(P+1))
    means: Array  # (K^(P+1), P + 1), the mean of each of the last P + 1 steps, the latest first


class SwitchingSums(NamedTuple):
    initial: Array  # (K,), expected number of sequences that start in each regime
    transition: Array  # (K, K), expected number of moves
    sizes: Array  # (K^(P+1),), expected number of windows with these regimes
    first: Array  # (K^(P+1), P + 1), sums of windows less the centre
    second: Array  # (1 or K, P + 1, P + 1), of their products, by the variance of the latest step


def of_errors(coefficients: Array) -> Array:
    """(1, -phi_1, ..., -phi_p): what the deviations of a window are multiplied by to give the error."""
    return jnp.concatenate([jnp.ones((1,), coefficients.dtype), -coefficients])
