"""The parameters of a mixture."""

from typing import Any, NamedTuple


class MixtureParams(NamedTuple):
    """The parameters of a mixture."""

    weights: Any  # the parameters of the gate; of Constant (K,), non-negative, sum to one
    components: Any  # the parameters of the family, for K classes
