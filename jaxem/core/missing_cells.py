"""Missing cells of the data: each becomes a finite value, and a mask records which cells were observed.

So no NaN enters a derivative: the derivative of ``where(mask, x, 0)`` is NaN where x is NaN.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxem.core import trees
from jaxem.core.arrays import as_array
from jaxem.core.data import inside


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
        observed = ~jnp.isnan(array)
        if isinstance(array, Tracer):
            return fill(array, observed, name), observed
        return fill(np.asarray(array), np.asarray(observed), name), np.asarray(observed)
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


def refuse(name: str, tree: Any, lengths: Array | None, weights: Array | None) -> None:
    """Raise ``ValueError`` for a NaN in a row whose weight is not zero and before the end of its sequence."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, Tracer) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        bad = np.asarray(jnp.isnan(leaf))
        if not bad.any():
            continue
        if lengths is not None and leaf.ndim > 1 and not isinstance(lengths, Tracer):
            bad = np.asarray(inside(jnp.asarray(bad), lengths))
        if weights is not None and not isinstance(weights, Tracer):
            bad = bad & (np.asarray(weights) != 0).reshape(-1, *(1,) * (bad.ndim - 1))
        if bad.any():
            rows = np.flatnonzero(bad.reshape(bad.shape[0], -1).any(axis=1))
            how = "covariates must be known" if name == "given" else 'if cells are missing: missing="nan"'
            raise ValueError(f"{name}: {bad.sum()} entries are NaN, the first in row {rows[0]}; {how}")
