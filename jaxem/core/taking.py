"""Trees of arrays, data frames and lists of sequences become trees of JAX arrays, with masks and names."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import frames, missing_cells, trees
from jaxem.core.arrays import as_array, to_numpy
from jaxem.core.coding import PLAIN, Coding, dotted
from jaxem.core.data import Columns, Dataset, Named, Origin, Sharded
from jaxem.core.frames import Wanted


class Taken(NamedTuple):
    """A tree of converted arrays."""

    tree: Any
    observed: Any  # masks, shaped like the tree; None if nothing is missing
    lengths: Array | None
    columns: list[tuple[str, Columns]]  # by path, "" for the whole
    origin: Origin | None  # of the first data frame


def names_in(values: Taken, given: Taken | None) -> Named | None:
    """The columns of the values and of the covariates, by path."""
    named = [(f"values{path}", columns) for path, columns in values.columns]
    named += [(f"given{path}", columns) for path, columns in (given.columns if given else ())]
    return tuple(named) or None


def take(tree: Any, name: str, may_miss: bool, coding: Coding = PLAIN) -> Taken:
    """A tree of converted arrays; with ``may_miss`` also the masks of observed cells."""
    if isinstance(tree, list) and _is_ragged(tree):
        return _padded(tree, name, may_miss, coding)
    nodes, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_one)
    arrays, masks, columns, origin = [], [], [], None
    for path, node in nodes:
        where = dotted(path)
        what = f"{name} ({where[1:]})" if where else name
        array, mask, found = _one(node, what, may_miss, coding.at(where))
        arrays.append(as_array(array, what))
        masks.append(mask)
        if found is not None and not all(found.names):  # a series without a name
            found = found._replace(names=(where[1:] or "x",))
        columns += [] if found is None else [(where, found)]
        origin = origin or frames.origin(node)
    observed = None
    if any(mask is not None for mask in masks):
        whole = [
            jnp.ones(array.shape, bool) if mask is None else mask for array, mask in zip(arrays, masks, strict=True)
        ]
        observed = jax.tree.unflatten(structure, whole)
    return Taken(jax.tree.unflatten(structure, arrays), observed, None, columns, origin)


def _is_one(node: Any) -> bool:
    """Whether a node of the data is converted as a whole: a list, a table, or what only looks like a container."""
    return isinstance(node, list | Dataset | Sharded | Iterator) or frames.is_table(node)


def _one(node: Any, what: str, may_miss: bool, wanted: Wanted) -> tuple[Any, Array | None, Columns | None]:
    """A node not yet converted, the mask of its observed cells (``None``: all), and the names of its columns."""
    if isinstance(node, Dataset | Sharded):
        raise ValueError(f"{what} is a data set within the data: give all parts to jaxem.dataset at once")
    array, mask, columns = node, None, None
    read = frames.read(node, what, wanted) if frames.is_table(node) else frames.read_series(node, what, wanted)
    if read is not None:
        array, mask, columns = read
        if not may_miss:
            frames.refuse_missing(mask, columns, what)
    elif may_miss:
        array, mask = missing_cells.split(node, what)
    mask = None if mask is None or (isinstance(mask, np.ndarray) and mask.all()) else jnp.asarray(mask)
    return array, mask, columns


def _is_ragged(parts: list[Any]) -> bool:
    """Whether a list holds sequences of unequal length, or tables and columns of tables."""
    lengths = {_length(part) for part in parts}
    named = any(frames.is_table(part) or frames.is_series(part) for part in parts)
    return None not in lengths and (len(lengths) > 1 or named)


def _length(part: Any) -> int | None:
    shape = getattr(part, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else None
    return len(part) if isinstance(part, list | tuple) or frames.is_table(part) else None


def _padded(parts: list[Any], name: str, may_miss: bool, coding: Coding) -> Taken:
    """Sequences of unequal length, each (T_n, ...), padded with zeros to (N, T, ...)."""
    arrays, masks, columns = [], [], []
    wanted = coding.at("")
    if wanted.columns is None and wanted.trust == "entries":  # the levels of text are those in all sequences
        wanted = wanted._replace(levels={**frames.texts_of(parts), **wanted.levels})
    for n, part in enumerate(parts):
        array, mask, found = _one(part, f"{name}: sequence {n}", may_miss, wanted)
        if n == 0 and found is not None and wanted.columns is None and _same_columns(parts):
            wanted = wanted._replace(columns=found)
        arrays.append(array if isinstance(array, Array) else to_numpy(array, f"{name}: sequence {n}"))
        masks.append(jnp.ones(arrays[n].shape, bool) if mask is None else mask)
        columns.append(found)
        if arrays[n].shape[0] == 0:
            raise ValueError(f"{name}: sequence {n} is empty (shape {arrays[n].shape})")
        if arrays[n].shape[1:] != arrays[0].shape[1:]:
            shapes = f"{arrays[n].shape[1:]}, the first has {arrays[0].shape[1:]}"
            raise ValueError(f"{name}: sequence {n} has observations of shape {shapes}")
        if columns[n] != columns[0]:
            raise ValueError(f"{name}: sequence {n} has other columns than the first")
    lengths = np.array([array.shape[0] for array in arrays])
    xp = jnp if trees.holds_tracers(arrays) else np
    rows, steps = np.repeat(np.arange(lengths.size), lengths), np.concatenate([np.arange(t) for t in lengths])

    def pad(joined: Array) -> Array:
        return jnp.zeros((lengths.size, lengths.max(), *joined.shape[1:]), joined.dtype).at[rows, steps].set(joined)

    values = pad(as_array(xp.concatenate(arrays), name))
    observed = None if all(bool(mask.all()) for mask in masks) else pad(jnp.concatenate(masks))
    origins = [frames.origin(part) for part in parts]
    origin = None
    if origins[0] is not None:
        indices = [None if one is None else one.index for one in origins]
        origin = origins[0]._replace(index=None if any(one is None for one in indices) else indices)
    named = [("", columns[0])] if columns[0] else []
    return Taken(values, observed, jnp.asarray(lengths, jnp.int32), named, origin)


def _same_columns(parts: list[Any]) -> bool:
    """Whether all parts are tables with the columns of the first one, in any order."""
    names = [sorted(map(str, getattr(part, "column_names", getattr(part, "columns", ())))) for part in parts]
    return all(names) and all(one == names[0] for one in names)
