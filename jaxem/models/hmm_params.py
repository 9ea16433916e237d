"""The parameters of a hidden Markov model, and the sums of its M-step."""

from typing import Any, NamedTuple


class HMMParams(NamedTuple):
    """The parameters of a hidden Markov model."""

    initial: Any  # the parameters of the gate; of Constant (K,), sums to one
    transition: Any  # of each row its gate; of Constant (K, K), from row to column; rows sum to one
    emissions: Any  # the parameters of the family, for K states


class HMMSums(NamedTuple):
    """The sums over sequences and steps that the M-step needs."""

    initial: Any  # of the gate; of Constant (K,), the expected number of sequences that start in each state
    transition: Any  # of the gates; of Constant (K, K), the expected number of transitions
    emissions: Any  # the sums of the family
