"""Answers for each observation, computed for a few numbers of rows only, so that a new number seldom compiles."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.core import trees
from jaxem.core.data import Data, Sharded, count, split_weights, unpadded

_LARGEST = 2**17  # rows; beyond it what padding computes in vain costs more than a program
_SHORT = 2**8  # numbers; sixteen rows of so many cost less than a program


def of_rows(answer: Callable[[Data], Any], data: Data) -> Any:
    """``answer(observations)``, each array of which has a row for each observation, in the order of ``data``.

    Rows are filled up with copies of the first one to the next of the sizes 2^i and 3 * 2^(i-1), to 16 at least where a
    row is short, and their answers left out. In a trace, for more than 131,072 rows and on accelerators (where it would
    move the data to the host) the observations are taken as they are.
    """
    x = split_weights(data)[0]
    if isinstance(data, Sharded):
        return jax.tree.map(lambda leaf: unpadded(data, leaf), answer(x))
    if trees.is_traced(x) or jax.default_backend() != "cpu":  # the number of rows may be a symbol
        return answer(x)
    n = count(x)
    size = padded_size(n, 16 if _numbers(x) <= _SHORT * n else 1)
    if size == n or n == 0 or n > _LARGEST:
        return answer(x)

    def fill(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        return np.concatenate([leaf, np.broadcast_to(leaf[:1], (size - n, *leaf.shape[1:]))])

    found = answer(jax.tree.map(fill, x))
    if trees.holds_tracers(found):  # the parameters are traced
        return jax.tree.map(lambda leaf: leaf[:n], found)
    # With its dtype, JAX compiles no program for the shape.
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[:n], leaf.dtype), found)


def is_symbol(n: Any) -> bool:
    """Whether a number of rows is a symbol, which ``jax.export`` puts in the place of a number that may vary."""
    return not isinstance(n, int | np.integer)


def padded_size(n: int, least: int = 16) -> int:
    """The smallest of the sizes 2^i and 3 * 2^(i-1), from ``least`` (a power of 2) on, that is at least ``n``."""
    power = max(1 << max(n - 1, 0).bit_length(), least)
    return power // 4 * 3 if n <= power // 4 * 3 and power > least else power


def _numbers(x: Data) -> int:
    return sum(np.size(leaf) for leaf in jax.tree.leaves(x))
