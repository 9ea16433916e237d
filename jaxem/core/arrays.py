"""Conversion of one array of real numbers: what is accepted, and what is refused. No value changes silently."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import trees
from jaxem.core.checks import brief
from jaxem.core.digits import loses_digits

X64 = 'enable 64 bits (jax.config.update("jax_enable_x64", True))'


def as_array(value: Any, name: str, check_digits: bool = True) -> Array:
    """``value`` as one array of real numbers (see ``as_data``). Messages call it ``name``."""
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
    return jnp.asarray(found, target)  # without a dtype, JAX compiles a program for each shape


def _check_narrowed(array: np.ndarray, found: np.ndarray, name: str, check_digits: bool) -> None:
    loses = check_digits and loses_digits(array, found.dtype) is not None
    overflows = not np.isfinite(found).all() and (np.isfinite(array) & ~np.isfinite(found)).any()
    if overflows or ((loses or not check_digits) and ((array != 0) & (found == 0)).any()):
        raise ValueError(f"{name}: {found.dtype} cannot hold values of this size; use other units, or {X64}")
    if loses:
        check_precision(array, found.dtype, name)


def check_precision(array: Any, dtype: Any, name: str) -> None:
    """Raise ``ValueError`` where rounding to ``dtype`` loses digits that matter to the spread of an array."""
    column = loses_digits(np.asarray(array), np.dtype(dtype))
    if column is not None:
        where = f"{name}: column {column} loses" if column >= 0 else f"{name}: the values lose"
        raise ValueError(
            f"{where} digits that matter when rounded to {np.dtype(dtype)}: the distance from zero is too large for "
            f"the spread. Subtract an offset (a typical value) first, or {X64}"
        )


def _widened(array: Array, name: str) -> Array:
    """A JAX array with short dtypes widened, which is exact."""
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
    """Whole numbers as signed integers of 32 bits, or of 64 where they have or need 64."""
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
    """``value`` as a NumPy array of real numbers; ``ValueError`` where it is anything else."""
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.getmaskarray(value).any():
            raise ValueError(
                f"{name}: some entries are masked; leave those rows out, or allow them: "
                'jaxem.dataset(..., missing="nan")'
            )
        value = value.data
    try:
        if hasattr(value, "to_numpy"):
            value = value.to_numpy()
        array = np.asarray(value)
    except Exception as error:  # whatever a container of another library raises
        if isinstance(value, list | tuple):
            raise ValueError(
                f"{name}: a list of parts of unequal shape is no array. Sequences may differ only in their first "
                "axis; put different variables into a tuple"
            ) from error
        raise ValueError(f"{name}: an array of numbers is needed; got {brief(value)}") from error
    array = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    return _numeric(array, name)


_KINDS = {"U": "texts", "S": "texts", "T": "texts", "M": "dates", "m": "spans of time", "V": "records"}


def _numeric(array: np.ndarray, name: str) -> np.ndarray:
    """The array, checked to hold real numbers; an array of objects is converted where all of them are numbers."""
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
    """An array of Python objects as an array of numbers; ``ValueError`` where one is not a number."""
    wrong = next((entry for entry in array.ravel() if not _is_number(entry)), array)
    if wrong is not array:
        absent = wrong is None or "NA" in type(wrong).__name__
        hint = ' Leave those rows out, or allow them: jaxem.dataset(..., missing="nan")' if absent else ""
        raise ValueError(f"{name} must be numbers; one entry is {brief(wrong)}.{hint}")
    plain = np.array(array.tolist())
    if plain.dtype.kind == "O" and all(isinstance(entry, int) for entry in array.ravel()):
        raise ValueError(f"{name}: whole numbers that do not fit 64 bits; use other units")
    return plain.astype(np.float64) if plain.dtype.kind == "O" else plain


def _is_number(entry: Any) -> bool:
    if isinstance(entry, bool | int | float | complex | np.number | np.bool_):
        return True
    return isinstance(entry, numbers.Number) or type(entry).__name__ == "Decimal"


def anywhere(condition: Array) -> Array:
    """``condition.any()`` for as many values as there are observations.

    XLA reduces booleans by way of windows, which take four times as long to compile and to run as a largest number.
    """
    return jnp.where(condition, 1.0, 0.0).max() > 0
