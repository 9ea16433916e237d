"""Model, parameters and data as they enter every public function together."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxem.core import constraints, trees
from jaxem.core.arrays import X64, as_array
from jaxem.core.checks import brief
from jaxem.core.data import Data, Sharded, check_counts, split_weights
from jaxem.core.dataset import as_data
from jaxem.core.model import Params, check_model, has, spaces_of


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
    return params, data


def check_shapes(model: Any, params: Params, data: Data) -> None:
    """Raise ``ValueError`` where the parts of the data do not belong together (see ``check_counts``), or the shapes of
    parameters and data do not fit the model, as far as it says."""
    if not isinstance(data, Sharded):
        check_counts(data)
    if has(model, "check_shapes"):
        if data is None:
            raise ValueError(f"{type(model).__name__} needs data; got nothing")
        model.check_shapes(params, data)


def float_dtype(data: Data) -> jnp.dtype:
    """The dtype in which ``data`` are computed with: that of the observations, whatever their weights have."""
    observations, _ = split_weights(data)
    return trees.float_dtype(observations)


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
