"""The conversion of data: every public function turns its data into one checked record here.

The results are JAX arrays: floats of at least 32 bits, signed whole numbers of at least 32 bits, or booleans. Input
that cannot be converted exactly, or to the precision that matters to a fit, raises a ``ValueError`` of one sentence.
Inside a trace only types are checked, because values are not known.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxem.core import frames, missing_cells, trees
from jaxem.core.arrays import as_array, to_numpy
from jaxem.core.data import Columns, Data, Dataset, Sharded, Streamed, check_counts, plain

Missing = Literal["refuse", "nan"]


def dataset(
    values: Any, *, given: Any = None, lengths: Any = None, weights: Any = None, missing: Missing = "refuse"
) -> Dataset:
    """One record of everything that describes N independent observations.

    A plain array is a data set too: ``fit(model, params, x)`` is ``fit(model, params, dataset(x))``.

    Arguments:
        values: the values that are modelled, (N, ...): an array, a data frame, which becomes (N, D) with categories as
            their codes, a column of one, which becomes (N,), or a tree (tuple, dict, ...) of these that share the
            leading axis. For sequences (N, T, ...), or a list of N arrays (T_n, ...) of unequal length, which are
            padded.
        given: covariates, (N, ...) or (N, T, ...), in any form that values may have. They are conditioned on, never
            modelled, and never counted as observed values. Default: none.
        lengths: (N,), the number of steps of each sequence that count, where values are padded already; whole numbers
            from 1 to T. Default: all steps count.
        weights: (N,), how many times each observation counts: finite, not negative, not all zero. Default: once each.
        missing: ``"refuse"`` (default): NaN, masked entries and nulls of a data frame are an error. ``"nan"``: they are
            missing cells. The mask ``observed`` is then False at these cells, and they are filled with an observed
            value of their column. An observation without any observed cell tells nothing: it gets weight 0.

    Returns:
        A ``Dataset`` of JAX arrays, with the names of the columns where a data frame was given.

    Raises:
        ValueError: shapes do not belong together; lengths or weights are outside their range; an entry is not a real
            number, is NaN where it counts, or does not fit the JAX dtype; a column has no observed value at all.
    """
    if missing not in ("refuse", "nan"):
        raise ValueError(f"dataset: missing must be 'refuse' or 'nan'; got {missing!r}")
    if isinstance(values, Dataset | Sharded):
        raise ValueError("dataset: the values are a data set already; change a part by dataclasses.replace(data, ...)")
    taken = _values(values, "the data", missing == "nan")
    covariates = None if given is None else _values(given, "given", False)
    if lengths is not None and taken.lengths is not None:
        raise ValueError("dataset: a list of sequences of unequal length has its own lengths; do not pass lengths")
    if covariates is not None and covariates.lengths is not None and not _same(covariates.lengths, taken.lengths):
        raise ValueError("dataset: each sequence of given must be as long as its sequence of values")
    named = [(f"values{path}", columns) for path, columns in taken.columns]
    named += [(f"given{path}", columns) for path, columns in (covariates.columns if covariates else ())]
    made = Dataset(
        taken.tree,
        None if covariates is None else covariates.tree,
        taken.observed,
        taken.lengths if lengths is None else _lengths(lengths),
        None if weights is None else _weights(weights, trees.float_dtype(taken.tree)),
        names=tuple(named) or None,
    )
    check_counts(made)
    made = missing_cells.arranged(made)
    for name, part in (("the data", made.values), ("given", made.given)):
        missing_cells.refuse(name, part, made.lengths, made.weights)
    return made


def _same(a: Array, b: Array | None) -> bool:
    return b is not None and np.array_equal(np.asarray(a), np.asarray(b))


def named(data: Data) -> Dataset:
    """Data as a record that keeps the names of columns, for printing."""
    if isinstance(data, Sharded):
        return data.data
    if isinstance(data, Dataset):
        return dataclasses.replace(_again(data), names=data.names)
    taken = _values(data, "the data", False)
    columns = tuple((f"values{path}", columns) for path, columns in taken.columns)
    return Dataset(taken.tree, lengths=taken.lengths, names=columns or None)


def columns_of(data: Data) -> dict[str, Columns]:
    """The columns of each part of the values that came as a data frame or series, by its path; ``""``: the whole."""
    data = data.data if isinstance(data, Sharded) else data
    if not isinstance(data, Dataset):
        tables = data[:1] if isinstance(data, list) else jax.tree.leaves(data, is_leaf=frames.is_table)
        if not any(frames.is_table(node) or frames.is_series(node) for node in tables):
            return {}
        data = named(data)
    whole = "values"
    found = ((path.removeprefix(whole), columns) for path, columns in data.names or () if path.startswith(whole))
    return {path.removeprefix("."): columns for path, columns in found}


def as_data(data: Data, lanes: bool = False) -> Data:
    """The data of a public function, converted: a ``Dataset``, or the tree of its values if there is nothing else.

    An array may be a NumPy or JAX array of any real dtype and byte order, a nested list, a data frame, or any object
    with ``to_numpy`` or ``__array__``. Tuples, dicts and registered containers are trees of arrays; a list is an array,
    or sequences of unequal length. Half-precision floats and short or unsigned whole numbers are widened. Weights get
    the floating dtype of the values; lengths become whole numbers. With ``lanes`` all arrays have a leading axis of
    data sets.

    Raises:
        ValueError: an entry is not a real number (text, a date, a complex number, a masked or missing entry); a whole
            number does not fit its dtype; or a narrower float dtype would lose digits that matter beside the spread of
            the values (see ``core/digits.py``).
    """
    if isinstance(data, Sharded | Streamed):  # converted where it was made
        return data
    return plain(_again(data, lanes) if isinstance(data, Dataset) else named(data))


def _again(data: Dataset, lanes: bool = False) -> Dataset:
    """Convert a record again, as its parts may have been replaced since it was made."""
    if isinstance(data.values, Dataset):
        raise ValueError("the values of a data set are a data set; give its parts to jaxem.dataset at once")
    taken = _values(data.values, "the data", False)
    given = None if data.given is None else _values(data.given, "given", False).tree
    observed = None if data.observed is None else jax.tree.map(lambda mask: jnp.asarray(mask, bool), data.observed)
    lengths = taken.lengths if data.lengths is None else _lengths(data.lengths)
    weights = None if data.weights is None else _weights(data.weights, trees.float_dtype(taken.tree))
    record = Dataset(taken.tree, given, observed, lengths, weights, data.patterns)
    if observed is not None and not lanes:
        check_counts(record)
    return missing_cells.arranged(record, lanes)


class Taken(NamedTuple):
    """A tree of converted arrays."""

    tree: Any
    observed: Any  # masks, shaped like the tree; None if nothing is missing
    lengths: Array | None
    columns: list[tuple[str, Columns]]  # by path, "" for the whole


def _values(tree: Any, name: str, may_miss: bool) -> Taken:
    """A tree of converted arrays; with ``may_miss`` also the masks of observed cells."""
    if isinstance(tree, list) and _is_ragged(tree):
        return _padded(tree, name, may_miss)
    nodes, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_one)
    arrays, masks, columns = [], [], []
    for path, node in nodes:
        where = jax.tree_util.keystr(path, simple=True, separator=".")
        what = f"{name} ({where})" if where else name
        array, mask, found = _one(node, what, may_miss)
        arrays.append(as_array(array, what))
        masks.append(mask)
        if found is not None and not all(found.names):  # a series without a name
            found = found._replace(names=(where or "x",))
        columns += [] if found is None else [(f".{where}" if where else "", found)]
    observed = None
    if any(mask is not None for mask in masks):
        whole = [
            jnp.ones(array.shape, bool) if mask is None else mask for array, mask in zip(arrays, masks, strict=True)
        ]
        observed = jax.tree.unflatten(structure, whole)
    return Taken(jax.tree.unflatten(structure, arrays), observed, None, columns)


def _is_one(node: Any) -> bool:
    """Whether a node of the data is converted as a whole: a list, a table, or what only looks like a container."""
    return isinstance(node, list | Dataset | Sharded | Iterator) or frames.is_table(node)


def _one(node: Any, what: str, may_miss: bool) -> tuple[Any, Array | None, Columns | None]:
    """A node not yet converted, the mask of its observed cells (``None``: all), and the names of its columns."""
    if isinstance(node, Dataset | Sharded):
        raise ValueError(f"{what} is a data set within the data: give all parts to jaxem.dataset at once")
    array, mask, columns = node, None, None
    read = frames.read(node, what) if frames.is_table(node) else frames.read_series(node, what)
    if read is not None:
        array, mask, columns = read
        if not may_miss:
            frames.refuse_missing(mask, columns, what)
    elif may_miss:
        array, mask = missing_cells.split(node, what)
    mask = None if mask is None or (isinstance(mask, np.ndarray) and mask.all()) else jnp.asarray(mask)
    return array, mask, columns


def _is_ragged(parts: list[Any]) -> bool:
    """Whether a list holds sequences of unequal length, or tables."""
    lengths = {_length(part) for part in parts}
    return None not in lengths and (len(lengths) > 1 or any(frames.is_table(part) for part in parts))


def _length(part: Any) -> int | None:
    shape = getattr(part, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else None
    return len(part) if isinstance(part, list | tuple) or frames.is_table(part) else None


def _padded(parts: list[Any], name: str, may_miss: bool) -> Taken:
    """Sequences of unequal length, each (T_n, ...), padded with zeros to (N, T, ...)."""
    arrays, masks, columns = [], [], []
    for n, part in enumerate(parts):
        array, mask, found = _one(part, f"{name}: sequence {n}", may_miss)
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
    return Taken(values, observed, jnp.asarray(lengths, jnp.int32), [("", columns[0])] if columns[0] else [])


def _weights(weights: Any, dtype: jnp.dtype) -> Array:
    return as_array(weights, "the weights", check_digits=False).astype(dtype)


def _lengths(lengths: Any) -> Array:
    found = as_array(lengths, "the lengths", check_digits=False)
    if jnp.issubdtype(found.dtype, jnp.integer):
        return found
    if not isinstance(found, Tracer) and not bool((found == jnp.round(found)).all()):
        raise ValueError("the lengths of sequences must be whole numbers; they are not")
    return found.astype(jnp.int32)
