"""Conversion of parameters and data, and checks against the model: the first step of every public function."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxem.core import constraints, parameters, trees
from jaxem.core.arrays import X64, as_array
from jaxem.core.checks import brief
from jaxem.core.data import Data, Dataset, Named, Origin, Sharded, Streamed, check_counts, plain, split_weights
from jaxem.core.dataset import as_data, named
from jaxem.core.frames import Trust
from jaxem.core.labels import labelled, parts_of
from jaxem.core.model import Params, check_model, has, spaces_of
from jaxem.core.model import of_fit as of_fit


def convert(
    model: Any, params: Params, data: Data, lanes: bool = False, trust: Trust = "nothing"
) -> tuple[Params, Data]:
    """The parameters by ``as_params``, in the floating dtype of the data, and the data by ``as_data``.

    A ``Fit`` knows the columns that it was fitted to: those of a data frame are found by name and get the same codes.
    Without a ``Fit`` categories are refused, unless ``trust`` says that their codes may be those of these rows.
    """
    check_model(model)
    if lanes or isinstance(data, Sharded | Streamed):
        data = as_data(data, lanes, names_of(params))
        return as_params(model, params, float_dtype(data)), data
    record = named(data, names_of(params), trust)
    params = as_params(model, params, float_dtype(record))
    if record.names is not None and has(model, "declare"):
        parameters.check_levels(model.declare(), params, parts_of(record, "values"))
    return params, plain(record)


def convert_named(model: Any, params: Params, data: Data) -> tuple[Params, Data, Dataset]:
    """``convert``, and a record of the names of the data, or else of the fit."""
    names = labelled(data, names_of(params))
    if names.origin is None and names_of(params):
        names = dataclasses.replace(names, origin=Origin(params.library or "", None))
    return *convert(model, params, data), names


def names_of(params: Params) -> Named | None:
    """The columns of the data that a ``Fit`` is of; ``None`` where they have no names, and for parameters."""
    return getattr(params, "names", None) if hasattr(params, "status") else None


def admit(model: Any, params: Params, data: Data) -> tuple[Params, Data]:
    """``convert``, with a check that shapes, weights and lengths fit each other and the model.

    Values outside the support of the model pass: the callers have an answer for each observation.
    """
    params, data = convert(model, params, data)
    check_shapes(model, params, data)
    return params, data


def check_shapes(model: Any, params: Params, data: Data) -> None:
    """Raise ``ValueError`` where the parts of the data do not belong together (see ``check_counts``), or where shapes
    do not fit the model, if it has ``check_shapes``."""
    if not isinstance(data, Sharded):
        check_counts(data)
    if has(model, "check_shapes"):
        if data is None:
            raise ValueError(f"{type(model).__name__} needs data; got nothing")
        model.check_shapes(params, data)


def float_dtype(data: Data) -> jnp.dtype:
    """The dtype of computations with ``data``: that of the observations, whatever the dtype of their weights."""
    observations, _ = split_weights(data)
    return trees.float_dtype(observations)


def as_params(model: Any, params: Params, dtype: jnp.dtype | None = None) -> Params:
    """Parameters of ``model`` as arrays of ``dtype`` (default: the widest among them), with the structure of its
    constraints.

    A ``Fit`` is replaced by its ``params``. A list is an array where it stands at a leaf of a tree of constraints, or
    where the constraints are one space of vectors or matrices; where they are one space of numbers, a list is a tree.
    Values of lower precision than ``dtype`` lie in their space only to that precision; they are moved into it
    (probabilities sum to one again).

    Raises ``ValueError`` for another structure, for values that are not real numbers, and for numbers that overflow or
    underflow in ``dtype``.
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
    """The relative precision of a leaf as it was given, at best that of ``dtype``."""
    own = float(jnp.finfo(dtype).eps)
    floating = hasattr(given, "dtype") and jnp.issubdtype(given.dtype, jnp.floating)
    return max(own, float(jnp.finfo(given.dtype).eps)) if floating else own
