"""Missing cells of the data: each becomes a finite value, and a mask records which cells were observed.

So no NaN enters a derivative: the derivative of ``where(mask, x, 0)`` is NaN where x is NaN. Rows that miss the same
cells share a pattern, so that what depends on the pattern alone is computed once for all of them.
"""

import dataclasses
import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxem.core import trees
from jaxem.core.arrays import as_array
from jaxem.core.data import Data, Dataset, Patterns, count, inside


def split(value: Any, name: str) -> tuple[Any, Any]:
    """An array with a number in every cell, and the mask of observed cells (``None`` where the dtype has no NaN).

    NaN, masked entries, ``None`` and the null values of other libraries are missing. A missing cell gets the first
    observed value of its column (last axis), or of the array where its column has none. Raises ``ValueError`` where
    nothing is observed, unless the array is traced.
    """
    if isinstance(value, jax.Array) or (isinstance(value, list) and trees.holds_tracers(value)):
        array = as_array(value, name)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            return array, None
        array = array if isinstance(array, Tracer) else np.asarray(array)
        observed = ~array.__array_namespace__().isnan(array)
        return fill(array, observed, name), observed
    if isinstance(value, np.ma.MaskedArray):
        array, absent = np.asarray(value.data), np.ma.getmaskarray(value)
    else:
        array = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)  # pyright: ignore[reportAttributeAccessIssue]
        absent = np.zeros(array.shape, bool)
    if array.dtype.kind == "O":
        absent = absent | np.vectorize(_is_null, otypes=[bool])(array)
    elif jnp.issubdtype(array.dtype, jnp.floating):
        absent = absent | np.isnan(array)
    return fill(array, ~absent, name), ~absent


def _is_null(entry: Any) -> bool:
    if entry is None or type(entry).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(entry, float | np.floating) and bool(np.isnan(entry))


def fill(array: Any, observed: Any, name: str) -> Any:
    """The array with each missing cell set to the first observed value of its column, or else of the array."""
    if not isinstance(observed, Tracer) and bool(observed.all()):
        return array
    if not isinstance(observed, Tracer) and not bool(observed.any()):
        raise ValueError(f"{name}: no value is observed")
    xp = np if isinstance(array, np.ndarray) else jnp
    columns, seen = (part.reshape(-1, array.shape[-1] if array.ndim > 1 else 1) for part in (array, observed))
    columns = xp.where(seen, columns, 0)  # finite even where nothing is observed, which a trace cannot refuse
    firsts = columns[seen.argmax(axis=0), xp.arange(columns.shape[1])]
    anywhere = columns.reshape(-1)[seen.reshape(-1).argmax()]
    firsts = xp.where(seen.any(axis=0), firsts, anywhere)
    return xp.where(seen, columns, firsts[None, :]).reshape(array.shape).astype(array.dtype)


def arranged(data: Dataset, lanes: bool = False) -> Dataset:
    """The data with finite numbers in missing cells, and the patterns of these; an observation of which nothing is seen
    gets weight 0. With ``lanes`` the arrays have a leading axis of data sets."""
    if data.observed is None:
        return dataclasses.replace(data, patterns=None) if data.patterns is not None else data
    data = dataclasses.replace(data, values=jax.tree.map(_finite, data.values, data.observed))
    of_rows = lambda mask, lengths: inside(mask, lengths).reshape(mask.shape[0], -1).any(axis=1)
    of_rows = jax.vmap(of_rows, (0, None if data.lengths is None else 0)) if lanes else of_rows
    observed, lengths = trees.at_hand((data.observed, data.lengths))
    something = functools.reduce(operator.or_, [of_rows(mask, lengths) for mask in jax.tree.leaves(observed)])
    traced = trees.is_traced(data.observed, something)  # a mask that is known, too, under jit
    if traced or (bool(something.any()) and not bool(something.all())):  # nothing at all: a prediction, never a fit
        dtype = trees.float_dtype(data.values)
        weights = jnp.ones(something.shape, dtype) if data.weights is None else data.weights
        data = dataclasses.replace(data, weights=jnp.where(something, weights, 0))
    if traced:  # the patterns of an earlier conversion, if any
        return data
    of_columns = lambda mask: _patterns(mask) if mask.ndim > 1 + lanes else None  # else (B, N): rows are data sets
    return dataclasses.replace(data, patterns=jax.tree.map(of_columns, data.observed))


def _finite(values: Array, observed: Array) -> Array:
    """The values with a finite number in each missing cell."""
    if not jnp.issubdtype(values.dtype, jnp.floating):
        return values
    cells, seen = trees.at_hand((values, observed))
    harmless: Any = seen | cells.__array_namespace__().isfinite(cells)
    if not isinstance(harmless, Tracer) and bool(harmless.all()):
        return values
    return jnp.asarray(fill(cells, harmless, "the data"))


_FEWEST_ROWS = 4  # per pattern, on average, for patterns to be worth sharing


def _patterns(observed: Array) -> Patterns | None:
    """The patterns of the rows of a mask (..., D); ``None`` for single columns, or where hardly two rows share one."""
    if observed.ndim < 2 or observed.shape[-1] < 2:
        return None
    rows = np.packbits(np.asarray(observed).reshape(-1, observed.shape[-1]), axis=1)
    found, index = np.unique(rows.view(f"V{rows.shape[1]}"), return_inverse=True)
    if len(found) * _FEWEST_ROWS > len(rows) + 4 * _FEWEST_ROWS:
        return None
    return Patterns(jnp.asarray(index.reshape(observed.shape[:-1]), jnp.int32), _rounded_up(len(found)))


def table(observed: Array, patterns: Patterns) -> Array:
    """The mask of each pattern, (count, D); unused ones are all True."""
    d = observed.shape[-1]
    unused = jnp.ones((patterns.count, d), bool)
    return unused.at[patterns.index.reshape(-1)].set(observed.reshape(-1, d))


_LONGEST_TILE = 256  # rows
_MOST_WORK = 4  # times that of complete rows, beyond which tiles are hardly faster than rows one by one


def in_tiles(data: Data) -> Data:
    """The same observations ordered by pattern, in tiles of rows that miss the same cells, for sums over observations.

    Rows of weight 0 are left out. Copies of a row, of weight 0, fill the last tile of each pattern. The data are
    returned as they are where their patterns are unknown, or shared by too few rows.
    """
    patterns = data.patterns if isinstance(data, Dataset) else None
    if not isinstance(patterns, Patterns) or patterns.index.ndim != 1 or trees.holds_tracers(data):
        return data
    weights = np.ones(count(data), trees.float_dtype(data.values)) if data.weights is None else np.asarray(data.weights)
    counting = np.flatnonzero(weights)
    index = np.asarray(patterns.index)[counting]
    order = counting[np.argsort(index, kind="stable")]
    sizes = np.bincount(index, minlength=patterns.count)
    # A tile takes about as long as its rows and one more for each column.
    columns = jax.tree.leaves(data.values)[0].shape[-1]
    work = {tile: (tile + columns) * (-(-sizes // tile)).sum() for tile in range(8, _LONGEST_TILE + 1, 8)}
    tile = min(work, key=work.__getitem__)
    if work[tile] > _MOST_WORK * len(order):
        return data
    tiles = -(-sizes // tile)  # of each pattern
    begins = tile * (np.cumsum(tiles) - tiles) - (np.cumsum(sizes) - sizes)
    places = np.arange(len(order)) + np.repeat(begins, sizes)
    source = np.full((_rounded_up(int(tiles.sum())), tile), -1)
    source.reshape(-1)[places] = order
    source[:, 0] = np.where(source[:, 0] < 0, order[0], source[:, 0])  # tiles beyond the last pattern
    copies = (source < 0).reshape(-1)
    source = np.where(source < 0, source[:, :1], source).reshape(-1)
    copies[tile * tiles.sum() :] = True
    moved = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[source]), dataclasses.replace(data, weights=None))
    patterns = dataclasses.replace(moved.patterns, tile=tile)
    return dataclasses.replace(moved, weights=jnp.asarray(np.where(copies, 0, weights[source])), patterns=patterns)


def _rounded_up(number: int) -> int:
    """At least 8 and up to an eighth more than ``number``, so that nearly equal data share programs."""
    unit = 1 << max(number.bit_length() - 4, 0)
    return max(-(-number // unit) * unit, 8)


def refuse(name: str, tree: Any, lengths: Array | None, weights: Array | None) -> None:
    """Raise ``ValueError`` for a NaN in a row whose weight is not zero and before the end of its sequence."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, Tracer) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        cells = trees.at_hand(leaf)
        bad = np.asarray(cells.__array_namespace__().isnan(cells))
        if not bad.any():
            continue
        if lengths is not None and leaf.ndim > 1 and not isinstance(lengths, Tracer):
            bad = inside(bad, np.asarray(lengths))
        if weights is not None and not isinstance(weights, Tracer):
            bad = bad & (np.asarray(weights) != 0).reshape(-1, *(1,) * (bad.ndim - 1))
        if bad.any():
            rows = np.flatnonzero(bad.reshape(bad.shape[0], -1).any(axis=1))
            how = "covariates must be known" if name == "given" else 'if cells are missing: missing="nan"'
            raise ValueError(f"{name}: {bad.sum()} entries are NaN, the first in row {rows[0]}; {how}")
