"""The parameters of a hidden Markov model, and the sums of its M-step."""

from typing import Any, NamedTuple

from jax import Array


class HMMParams(NamedTuple):
    """The parameters of a hidden Markov model."""

    initial: Array  # (K,), sums to one
    transition: Array  # (K, K), from row to column; rows sum to one
    emissions: Any  # the parameters of the family, for K states


class HMMSums(NamedTuple):
    """The sums over sequences and steps that the M-step needs."""

    initial: Array  # (K,), expected number of sequences that start in each state
    transition: Array  # (K, K), expected number of transitions
    emissions: Any  # the sums of the family
