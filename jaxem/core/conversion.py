"""Data and parameters as they enter: one conversion for every public function, which changes no value silently.

What comes out are JAX arrays: floats of 32 bits or more, signed whole numbers of 32 bits or more, booleans. What cannot
become one exactly, or to within what matters to a fit, is a ``ValueError`` of one sentence. In a trace values cannot be
looked at; types still are.
"""

import numbers
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxem.core import constraints, trees
from jaxem.core.checks import brief
from jaxem.core.data import Data, Sequences, Sharded, Weighted, check_counts, split_weights
from jaxem.core.digits import loses_digits
from jaxem.core.model import Params, check_model, has, spaces_of

X64 = 'enable 64 bits (jax.config.update("jax_enable_x64", True))'


def convert(model: Any, params: Params, data: Data) -> tuple[Params, Data]:
    """``as_data(data)``, and ``as_params`` in its floating dtype."""
    check_model(model)
    data = as_data(data)
    return as_params(model, params, float_dtype(data)), data


def admit(model: Any, params: Params, data: Data) -> tuple[Params, Data]:
    """``convert``, and what can be said at once of whether the two fit each other and the model: shapes, weights,
    lengths. Values outside what the model allows pass: what is asked of them has an answer for each observation."""
    params, data = convert(model, params, data)
    check_shapes(model, params, data)
    if not isinstance(data, Sharded):
        check_counts(data)
    return params, data


def check_shapes(model: Any, params: Params, data: Data) -> None:
    """Raise ``ValueError`` where the shapes of parameters and data do not fit the model, as far as it says."""
    if has(model, "check_shapes"):
        if data is None:
            raise ValueError(f"{type(model).__name__} needs one array of data (or Weighted, Sequences); got nothing")
        model.check_shapes(params, data)


def float_dtype(data: Data) -> jnp.dtype:
    """The dtype in which ``data`` are computed with: that of the observations, whatever their weights have."""
    observations, _ = split_weights(data)
    return trees.float_dtype(observations)


def as_data(data: Data) -> Data:
    """Data as a tree of JAX arrays.

    Accepted for an array: NumPy and JAX arrays of any real dtype and byte order, nested lists, data frames and whatever
    else has ``to_numpy`` or ``__array__``. Tuples, dicts and registered containers are trees of such; a list is an
    array. Half-precision floats and short or unsigned whole numbers are widened; the weights of ``Weighted`` get the
    floating dtype of the observations, the lengths of ``Sequences`` are whole numbers.

    Raises ``ValueError`` for what is not real numbers (texts, dates, complex numbers, ragged lists, masked or missing
    entries), for whole numbers that do not fit, and for floats of which a narrower dtype would lose what is small
    beside their spread (see ``core/digits.py``).
    """
    if isinstance(data, Sharded):  # converted where it was made
        return data
    if isinstance(data, Weighted):
        if isinstance(data.data, Weighted):
            raise ValueError("the data are Weighted twice; multiply the weights and wrap the observations once")
        observations = as_data(data.data)
        return Weighted(observations, _weights(data.weights, trees.float_dtype(observations)))
    if isinstance(data, Sequences):
        return Sequences(as_data(data.values), _lengths(data.lengths))

    def leaf(path: Any, node: Any) -> Any:
        if isinstance(node, Weighted):
            raise ValueError("Weighted must be the outermost part of the data: Weighted((x, y), weights)")
        if isinstance(node, Sequences):
            return as_data(node)
        name = "the data" if not path else f"the data ({jax.tree_util.keystr(path, simple=True, separator='.')})"
        return as_array(node, name)

    return jax.tree_util.tree_map_with_path(leaf, data, is_leaf=_is_one)


def _is_one(node: Any) -> bool:
    """Whether a node of the data is converted as one: a record, a list, or what only looks like a container."""
    return isinstance(node, list | Weighted | Sequences | Iterator)


def _weights(weights: Any, dtype: jnp.dtype) -> Array:
    return as_array(weights, "the weights", check_digits=False).astype(dtype)


def _lengths(lengths: Any) -> Array:
    found = as_array(lengths, "the lengths", check_digits=False)
    if jnp.issubdtype(found.dtype, jnp.integer):
        return found
    if not isinstance(found, Tracer) and not bool((found == jnp.round(found)).all()):
        raise ValueError("the lengths of sequences must be whole numbers; they are not")
    return found.astype(jnp.int32)


def as_params(model: Any, params: Params, dtype: jnp.dtype | None = None) -> Params:
    """Parameters of ``model`` as arrays of ``dtype`` (default: their own widest), shaped like its constraints.

    A ``Fit`` stands for its ``params``. Where the constraints of the model are a tree, a list at one of its leaves is
    an array; where they are one space for all, a list is a tree. Values that came in at a lower precision than
    ``dtype`` lie in their space to that precision only; they are moved into it (probabilities sum to one again).

    Raises ``ValueError`` for another structure, for what is not real numbers, and for numbers that overflow ``dtype``
    or vanish in it.
    """
    params = of_fit(params)
    spaces = spaces_of(model)
    constraints.check_structure(spaces, params)
    lists = any(isinstance(node, list) for node in jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, list)))
    if lists and (not constraints.is_space(spaces) or getattr(spaces, "event_ndim", 0)):

        def array(path: Any, _: Any, part: Any) -> Any:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            return as_array(part, f"the parameter {name}", False) if isinstance(part, list) else part

        params = jax.tree_util.tree_map_with_path(array, spaces, params, is_leaf=constraints.is_space)
    names = trees.leaf_names(params)
    given, structure = jax.tree.flatten(params)
    if not given:
        raise ValueError(f"the parameters hold no numbers; they are {brief(params)}")
    leaves = [as_array(leaf, f"the parameter {name}", False) for name, leaf in zip(names, given, strict=True)]
    constraints.check_axes(spaces, jax.tree.unflatten(structure, leaves))
    dtype = trees.float_dtype(leaves) if dtype is None else dtype
    cast = [_cast(leaf, dtype, name) for name, leaf in zip(names, leaves, strict=True)]
    eps = [_eps(leaf, dtype) for leaf in given]
    return constraints.settle(spaces, jax.tree.unflatten(structure, cast), jax.tree.unflatten(structure, eps))


def _cast(leaf: Array, dtype: jnp.dtype, name: str) -> Array:
    if leaf.dtype == dtype:
        return leaf
    new = leaf.astype(dtype)
    if isinstance(new, Tracer):
        return new
    before, after = np.asarray(leaf), np.asarray(new)
    if (np.isfinite(before) & ~np.isfinite(after)).any() or ((before != 0) & (after == 0)).any():
        raise ValueError(f"the parameter {name} has values that {after.dtype} cannot hold: use other units, or {X64}")
    return new


def _eps(given: Any, dtype: jnp.dtype) -> float:
    """The precision that a leaf came in with, where that is lower than ``dtype``."""
    own = float(jnp.finfo(dtype).eps)
    floating = hasattr(given, "dtype") and jnp.issubdtype(given.dtype, jnp.floating)
    return max(own, float(jnp.finfo(given.dtype).eps)) if floating else own


def of_fit(params: Params) -> Params:
    """The parameters of a ``Fit``; anything else as it is."""
    if hasattr(params, "params") and hasattr(params, "status"):
        return params.params
    if hasattr(params, "best") and hasattr(params, "times_best_found"):
        raise ValueError("the parameters are the result of many starts; give its .best")
    return params


def as_array(value: Any, name: str, check_digits: bool = True) -> Array:
    """One array of real numbers; see ``as_data``. ``name`` says in a message what it is."""
    if isinstance(value, jax.Array) or (isinstance(value, list) and trees.holds_tracers(value)):
        return _widened(jnp.asarray(value), name)
    array = to_numpy(value, name)
    if jnp.issubdtype(array.dtype, jnp.integer):
        return jnp.asarray(_fitting(array, name))
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return jnp.asarray(array)
    wide = np.float32 if jnp.finfo(array.dtype).bits < 32 else array.dtype
    target = jax.dtypes.canonicalize_dtype(wide if np.dtype(wide).itemsize <= 8 else np.float64)
    with np.errstate(over="ignore", under="ignore"):
        found = array.astype(target)
    if found.dtype.itemsize < array.dtype.itemsize:
        _check_narrowed(array, found, name, check_digits)
    return jnp.asarray(found)


def _check_narrowed(array: np.ndarray, found: np.ndarray, name: str, check_digits: bool) -> None:
    loses = check_digits and loses_digits(array, found.dtype) is not None
    overflows = not np.isfinite(found).all() and (np.isfinite(array) & ~np.isfinite(found)).any()
    if overflows or ((loses or not check_digits) and ((array != 0) & (found == 0)).any()):
        raise ValueError(f"{name}: {found.dtype} cannot hold values of this size; use other units, or {X64}")
    if loses:
        check_precision(array, found.dtype, name)


def check_precision(array: Any, dtype: Any, name: str) -> None:
    """Raise ``ValueError`` where ``dtype`` would lose what is small beside the spread of an array of numbers."""
    column = loses_digits(np.asarray(array), np.dtype(dtype))
    if column is not None:
        where = f"{name}: column {column} loses" if column >= 0 else f"{name}: the values lose"
        raise ValueError(
            f"{where} digits that matter when rounded to {np.dtype(dtype)}, for they lie far from zero for their "
            f"spread. Subtract an offset (a typical value) first, or {X64}"
        )


def _widened(array: Array, name: str) -> Array:
    """An array of JAX's own, its short types made wider, which is exact."""
    dtype = array.dtype
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"{name} must be real numbers; they are complex ({dtype})")
    if jnp.issubdtype(dtype, jnp.floating):
        return array.astype(jnp.float32) if jnp.finfo(dtype).bits < 32 else _strong(array)
    if jnp.issubdtype(dtype, jnp.integer):
        return array.astype(jnp.int32) if jnp.iinfo(dtype).bits < 32 else _strong(array)
    return array


def _strong(array: Array) -> Array:
    return array.astype(array.dtype) if getattr(array, "weak_type", False) else array


def _fitting(array: np.ndarray, name: str) -> np.ndarray:
    """Whole numbers as signed ones of 32 bits, or of 64 where they need or have them."""
    limits = np.iinfo(jax.dtypes.canonicalize_dtype(np.int64))
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low < limits.min or high > limits.max:
        raise ValueError(
            f"{name}: whole numbers from {low} to {high} do not fit {limits.bits} bits: "
            + ("use other units" if limits.bits == 64 else f"{X64}, or subtract an offset")
        )
    keeps = array.dtype.kind == "i" and array.dtype.itemsize in (4, 8)
    narrow = array.dtype.itemsize < 4 or (array.dtype.itemsize == 4 and high <= np.iinfo(np.int32).max)
    dtype = array.dtype if keeps else np.dtype(np.int32 if narrow else np.int64)
    return array.astype(jax.dtypes.canonicalize_dtype(dtype))


def to_numpy(value: Any, name: str) -> np.ndarray:
    """An array of real numbers in a dtype of their own; ``ValueError`` where they are none."""
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.getmaskarray(value).any():
            raise ValueError(
                f"{name}: some entries are masked; leave those rows out (or give them weight 0, and any value)"
            )
        value = value.data
    try:
        if hasattr(value, "to_numpy"):
            value = value.to_numpy()
        array = np.asarray(value)
    except Exception as error:  # whatever a container of another library raises
        if isinstance(value, list | tuple):
            raise ValueError(
                f"{name}: a list of parts of unequal shape is no array; of sequences of unequal length make one record "
                "by jaxem.pad_sequences, of different variables a tuple"
            ) from error
        raise ValueError(f"{name}: an array of numbers is needed; got {brief(value)}") from error
    array = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    return _numeric(array, name)


_KINDS = {"U": "texts", "S": "texts", "T": "texts", "M": "dates", "m": "spans of time", "V": "records"}


def _numeric(array: np.ndarray, name: str) -> np.ndarray:
    """An array of real numbers; one of objects where all of them are."""
    if array.dtype.kind == "O":
        array = _from_objects(array, name)
    if array.dtype.kind == "c":
        raise ValueError(f"{name} must be real numbers; they are complex ({array.dtype})")
    real = (np.bool_, jnp.integer, jnp.floating)
    if array.dtype.kind == "m" or not any(jnp.issubdtype(array.dtype, kind) for kind in real):
        what = _KINDS.get(array.dtype.kind, str(array.dtype))
        how = " Count from an origin: (t - t[0]) / np.timedelta64(1, 'D')" if what == "dates" else ""
        how = " Divide by a unit: t / np.timedelta64(1, 'D')" if what == "spans of time" else how
        raise ValueError(f"{name} must be numbers; got {what}.{how}")
    return array


def _from_objects(array: np.ndarray, name: str) -> np.ndarray:
    """Objects that are numbers, as NumPy would have them without the detour."""
    wrong = next((entry for entry in array.ravel() if not _is_number(entry)), array)
    if wrong is not array:
        hint = " Leave rows with missing values out" if wrong is None or "NA" in type(wrong).__name__ else ""
        raise ValueError(f"{name} must be numbers; one entry is {brief(wrong)}.{hint}")
    plain = np.array(array.tolist())
    if plain.dtype.kind == "O" and all(isinstance(entry, int) for entry in array.ravel()):
        raise ValueError(f"{name}: whole numbers that do not fit 64 bits; use other units")
    return plain.astype(np.float64) if plain.dtype.kind == "O" else plain


def _is_number(entry: Any) -> bool:
    if isinstance(entry, bool | int | float | complex | np.number | np.bool_):
        return True
    return isinstance(entry, numbers.Number) or type(entry).__name__ == "Decimal"
