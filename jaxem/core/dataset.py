"""The conversion of data: every public function turns its data into one checked record here.

The results are JAX arrays: floats of at least 32 bits, signed whole numbers of at least 32 bits, or booleans. Input
that cannot be converted exactly, or to the precision that matters to a fit, raises a ``ValueError`` of one sentence.
Inside a trace only types are checked, because values are not known.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxem.core import frames, missing_cells, trees
from jaxem.core.arrays import as_array
from jaxem.core.coding import Coding, as_before
from jaxem.core.data import Data, Dataset, Named, Sharded, Streamed, check_counts, plain
from jaxem.core.frames import Levels, Trust
from jaxem.core.taking import names_in, take

Missing = Literal["refuse", "nan"]


def dataset(
    values: Any,
    *,
    given: Any = None,
    lengths: Any = None,
    weights: Any = None,
    missing: Missing = "refuse",
    levels: Levels | None = None,
    like: Any = None,
) -> Dataset:
    """One record of everything that describes N independent observations.

    A plain array is a data set too: ``fit(model, params, x)`` is ``fit(model, params, dataset(x))``.

    Arguments:
        values: the values that are modelled, (N, ...): an array, a data frame, which becomes (N, D) with categories and
            text as their codes, a column of one, which becomes (N,), or a tree (tuple, dict, ...) of these that share
            the leading axis. For sequences (N, T, ...), or a list of N arrays (T_n, ...) of unequal length, which are
            padded.
        given: covariates, (N, ...) or (N, T, ...), in any form that values may have. They are conditioned on, never
            modelled, and never counted as observed values. Default: none.
        lengths: (N,), the number of steps of each sequence that count, where values are padded already; whole numbers
            from 1 to T. Default: all steps count.
        weights: (N,), how many times each observation counts: finite, not negative, not all zero. Default: once each.
        missing: ``"refuse"`` (default): NaN, masked entries and nulls of a data frame are an error. ``"nan"``: they are
            missing cells. The mask ``observed`` is then False at these cells, and they are filled with an observed
            value of their column. An observation without any observed cell tells nothing: it gets weight 0.
        levels: for columns of data frames, by name, the categories in the order of their codes 0, 1, ...; columns of
            numbers may have them too. Default: as the dtype declares them (pandas: category, polars: Enum), or the
            entries of a column of text, sorted.
        like: an earlier ``Dataset``, or the ``Fit`` to one: columns are found by their names, in any order, and get the
            codes that they had; further columns are left out. New data are coded in this way. Default: none.

    Returns:
        A ``Dataset`` of JAX arrays, with the names of the columns where a data frame was given.

    Raises:
        ValueError: shapes do not belong together; lengths or weights are outside their range; an entry is not a real
            number, is NaN where it counts, or does not fit the JAX dtype; a column has no observed value at all; a
            category is not among the levels; or a column of ``like`` is missing.
    """
    if missing not in ("refuse", "nan"):
        raise ValueError(f"dataset: missing must be 'refuse' or 'nan'; got {missing!r}")
    if isinstance(values, Dataset | Sharded):
        raise ValueError("dataset: the values are a data set already; change a part by dataclasses.replace(data, ...)")
    coding = Coding.of(like, levels)
    taken = take(values, "the data", missing == "nan", coding.within("values"))
    covariates = None if given is None else take(given, "given", False, coding.within("given"))
    names = names_in(taken, covariates)
    coding.check(names)
    if lengths is not None and taken.lengths is not None:
        raise ValueError("dataset: a list of sequences of unequal length has its own lengths; do not pass lengths")
    if covariates is not None and covariates.lengths is not None and not _same(covariates.lengths, taken.lengths):
        raise ValueError("dataset: each sequence of given must be as long as its sequence of values")
    made = Dataset(
        taken.tree,
        None if covariates is None else covariates.tree,
        taken.observed,
        taken.lengths if lengths is None else _lengths(lengths),
        None if weights is None else _weights(weights, trees.float_dtype(taken.tree)),
        names=names,
        origin=taken.origin or (None if covariates is None else covariates.origin),
    )
    check_counts(made)
    made = missing_cells.arranged(made)
    for name, part in (("the data", made.values), ("given", made.given)):
        missing_cells.refuse(name, part, made.lengths, made.weights)
    return made


def _same(a: Array, b: Array | None) -> bool:
    return b is not None and np.array_equal(np.asarray(a), np.asarray(b))


def named(data: Data, like: Named | None = None, trust: Trust = "entries") -> Dataset:
    """Data as a record that keeps the names of columns, for printing; ``like`` and ``trust`` as for ``as_data``."""
    if isinstance(data, Sharded):
        return as_before(data.data, like, spread=True)
    if isinstance(data, Dataset):
        return as_before(dataclasses.replace(_again(data), names=data.names, origin=data.origin), like)
    taken = take(data, "the data", False, Coding(dict(like or ()), {}, trust).within("values"))
    return Dataset(taken.tree, lengths=taken.lengths, names=names_in(taken, None), origin=taken.origin)


def arrays_of(data: Any, like: Named | None = None) -> Any:
    """Data frames and lists as arrays, all else unchanged: for functions that also run in traces."""
    if isinstance(data, list) or frames.is_table(data) or frames.is_series(data):
        return as_data(data, like=like, trust="nothing")
    return data


def as_given(given: Any, like: Named | None) -> Any:
    """Covariates without values, such as those of later steps, converted like ``given`` of earlier data."""
    return None if given is None else take(given, "given", False, Coding(dict(like or ()), {}, "nothing", "given")).tree


def as_data(data: Data, lanes: bool = False, like: Named | None = None, trust: Trust = "entries") -> Data:
    """The data of a public function, converted: a ``Dataset``, or the tree of its values if there is nothing else.

    An array may be a NumPy or JAX array of any real dtype and byte order, a nested list, a data frame, or any object
    with ``to_numpy`` or ``__array__``. Tuples, dicts and registered containers are trees of arrays; a list is an array,
    or sequences of unequal length. Half-precision floats and short or unsigned whole numbers are widened. Weights get
    the floating dtype of the values; lengths become whole numbers. With ``lanes`` all arrays have a leading axis of
    data sets. Columns that have names get the order and the levels of those in ``like``, the names of earlier data.
    ``trust`` says where the levels of other columns come from: their entries, their dtype, or nowhere.

    Raises:
        ValueError: an entry is not a real number (text, a date, a complex number, a masked or missing entry); a whole
            number does not fit its dtype; or a narrower float dtype would lose digits that matter beside the spread of
            the values (see ``core/digits.py``).
    """
    if isinstance(data, Sharded | Streamed):  # converted where it was made
        if isinstance(data, Sharded):
            as_before(data.data, like, spread=True)
        return data
    if lanes and isinstance(data, Dataset):
        return plain(_again(data, lanes))
    return plain(named(data, like, trust))


def _again(data: Dataset, lanes: bool = False) -> Dataset:
    """Convert a record again, as its parts may have been replaced since it was made."""
    if isinstance(data.values, Dataset):
        raise ValueError("the values of a data set are a data set; give its parts to jaxem.dataset at once")
    taken = take(data.values, "the data", False)
    given = None if data.given is None else take(data.given, "given", False).tree
    observed = None if data.observed is None else jax.tree.map(lambda mask: jnp.asarray(mask, bool), data.observed)
    lengths = taken.lengths if data.lengths is None else _lengths(data.lengths)
    weights = None if data.weights is None else _weights(data.weights, trees.float_dtype(taken.tree))
    record = Dataset(taken.tree, given, observed, lengths, weights, data.patterns)
    if observed is not None and not lanes:
        check_counts(record)
    return missing_cells.arranged(record, lanes)


def _weights(weights: Any, dtype: jnp.dtype) -> Array:
    return as_array(weights, "the weights", check_digits=False).astype(dtype)


def _lengths(lengths: Any) -> Array:
    found = as_array(lengths, "the lengths", check_digits=False)
    if jnp.issubdtype(found.dtype, jnp.integer):
        return found
    if not isinstance(found, Tracer) and not bool((found == jnp.round(found)).all()):
        raise ValueError("the lengths of sequences must be whole numbers; they are not")
    return found.astype(jnp.int32)
