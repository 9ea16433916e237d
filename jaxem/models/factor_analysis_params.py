"""The parameters of a factor analysis."""

from typing import NamedTuple

from jax import Array


class FactorAnalysisParams(NamedTuple):
    """The parameters of a factor analysis."""

    mean: Array  # (D,)
    loadings: Array  # (D, k)
    noise: Array  # (D,), variances
