"""How long fits take, roughly: enough to choose how hard to compile them and by which algorithm to climb."""

from typing import Any

import jax

from jaxem.core.data import Data, Sharded
from jaxem.core.model import Params
from jaxem.core.streams import Streamed

# Seconds on one core, measured on mixtures: an iteration takes some operations of its own, and a little for every pair
# of a number in the data and a parameter.
_OVERHEAD = 2e-5
_PAIR = 4e-11
_STEPS = 100  # iterations of a fit, typically


def iteration(params: Params, data: Data) -> float:
    """The seconds that one iteration takes."""
    if isinstance(data, Streamed):
        return 1.0  # whatever is read from a file is worth a full effort
    data = data.data if isinstance(data, Sharded) else data
    return _OVERHEAD + _PAIR * _numbers(data) * _numbers(params)


def fit(params: Params, data: Data) -> float:
    """The seconds that one fit takes."""
    return _STEPS * iteration(params, data)


def _numbers(tree: Any) -> int:
    return sum(getattr(leaf, "size", 1) for leaf in jax.tree.leaves(tree))
