"""One pass over the observations, in blocks that stay in the cache: the only place that loops over data."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import trees
from jaxem.core.data import Data, Spread, count, take, tile_of

# Bytes of a block (its rows of data and of posterior): about the second-level cache of one CPU core; an accelerator
# needs enough work to fill it.
_BLOCK_BYTES = {"cpu": 2**20}
_BLOCK_BYTES_ELSEWHERE = 2**29
# Long rows (sequences, whole data sets) run faster side by side: up to _ABREAST of them share a block, as long as the
# block holds no more than _BLOCKS times the bytes above.
_ABREAST, _BLOCKS = 128, 8


def rows_in_cache(size: float) -> int:
    """The number of rows of ``size`` bytes in a block."""
    rows = _BLOCK_BYTES.get(jax.default_backend(), _BLOCK_BYTES_ELSEWHERE) / max(size, 1)
    return max(int(max(rows, min(_ABREAST, _BLOCKS * rows))), 1)


def reduce(one_block: Callable[[Any, Data], Any], operands: Any, data: Data, largest: int) -> Any:
    """The sum of ``one_block(operands, block)``, a tree of sums over observations, over all blocks of the data.

    A block has at most ``largest`` rows. Where data are spread over devices, each device adds up its own blocks, and
    one sum over devices follows. A stream is added up chunk by chunk, each in blocks.
    """

    def of_part(operands: Any, part: Data) -> Any:
        return accumulate(lambda block: one_block(operands, block), part, largest)

    return data.total(of_part, operands) if isinstance(data, Spread) else of_part(operands, data)


def accumulate(one_block: Callable[[Data], Any], data: Data, largest: int) -> Any:
    """The sum of ``one_block`` over blocks of at most ``largest`` rows, for data on one device.

    The sum is compensated, so that its rounding error does not grow with the number of blocks. No block cuts a tile.
    """
    rows, tile = count(data), tile_of(data)
    if rows <= largest:
        return one_block(data)
    tiles, largest = rows // tile, max(largest // tile, 1)
    block_size = tile * (tiles // -(-tiles // largest))  # equal blocks; fewer tiles than blocks remain
    blocks, rest = divmod(rows, block_size)
    sums = _sum_blocks(one_block, data, blocks, block_size)
    if rest:
        sums = trees.two_sum(*sums, one_block(take(data, rows - rest, rest)))
    return jax.tree.map(jnp.add, *sums)


def _sum_blocks(one_block: Any, data: Data, blocks: int, block_size: int) -> tuple[Any, Any]:
    """The sum over the full blocks, and its rounding error."""
    shapes = jax.eval_shape(one_block, jax.eval_shape(lambda: take(data, 0, block_size)))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def body(sums: tuple[Any, Any], index: Array) -> tuple[tuple[Any, Any], None]:
        return trees.two_sum(*sums, one_block(take(data, index * block_size, block_size))), None

    sums, _ = jax.lax.scan(body, (zeros, zeros), jnp.arange(blocks))
    return sums
