"""What mixtures and hidden Markov models ask of their data and parameters: shapes at any time, values where they can be
looked at."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import trees
from jaxem.core.checks import instance, whole_number
from jaxem.core.compilation import program
from jaxem.core.conversion import check_precision
from jaxem.core.data import Data, split_lengths, split_weights
from jaxem.core.keeping import Kept

_FOUND = Kept(256)  # shapes of parameters, by family, classes and columns


def check_definition(model: Any) -> None:
    """Raise ``ValueError`` for a family that is none, or a number of classes that is none; ``k`` becomes an int."""
    name = type(model).__name__
    instance(f"{name}: family", model.family, "a family, such as Normal()", "log_density", "statistics", "maximize")
    object.__setattr__(model, "k", whole_number(f"{name}: k", model.k, 1))


def values_of(model: Any, data: Data) -> Any:
    """The array of observations in ``data``; ``ValueError`` where it is no array."""
    values = split_lengths(split_weights(data)[0])[0]
    if not hasattr(values, "ndim"):
        what = "nothing" if not jax.tree.leaves(values) else f"a {type(values).__name__}"
        raise ValueError(f"{type(model).__name__} needs one array of data (or Weighted, Sequences); got {what}")
    return values


def check_shape(model: Any, x: Array, leading: tuple[str, ...]) -> None:
    """Raise ``ValueError`` where ``x`` is not (leading axes) + one event of the family."""
    events = ("D",) * model.family.event_ndim
    family, wanted = type(model.family).__name__, ", ".join(leading + events)
    needs = f"{type(model).__name__} of {family} needs data of shape ({wanted})"
    if x.ndim != len(leading) + len(events):
        hint = " For one sequence x, pass x[None]." if "T" in leading and x.ndim == 1 + len(events) else ""
        raise ValueError(f"{needs}; got shape {tuple(x.shape)}.{hint}")
    if 0 in x.shape:
        raise ValueError(f"{needs}; got shape {tuple(x.shape)}, which holds nothing")
    columns = getattr(model.family, "dimensions", None)
    if columns is not None and x.shape[-1] != columns:
        raise ValueError(f"{needs} with D = {columns}, one column for each of its levels; got shape {tuple(x.shape)}")


def check_classes(model: Any, name: str, classes: Any, x: Array | None, leading: int) -> None:
    """Raise ``ValueError`` where the class parameters are not shaped as the family's own maximiser has them, for ``k``
    classes and the columns of ``x`` (without: those of the parameters themselves)."""
    family, leaves = model.family, jax.tree.leaves(classes)
    own = next((leaf for leaf in leaves if leaf.ndim > family.event_ndim), leaves[0])  # not one that classes share
    event = own.shape[1 : 1 + family.event_ndim] if x is None else x.shape[leading:]
    if x is None and hasattr(family, "dimensions"):
        event = (family.dimensions,)
    on = "" if not event else f" on {event[0]} column{'s' * (event[0] != 1)}"
    title = f"{type(model).__name__} of {type(family).__name__} with k = {model.k}{on}"
    wanted = _shapes(title, family, model.k, event)
    if jax.tree.structure(wanted) != jax.tree.structure(classes):
        raise ValueError(f"{title} needs {name} like {type(wanted).__name__}; got {type(classes).__name__}")
    names = [f"{name}.{leaf}" for leaf in trees.leaf_names(classes)]
    for leaf, like, given in zip(names, jax.tree.leaves(wanted), jax.tree.leaves(classes), strict=True):
        check_leaf(title, leaf, given, like.shape)


def check_leaf(title: str, name: str, given: Array, shape: tuple[int, ...]) -> None:
    """Raise ``ValueError`` where an array of parameters is not of this shape."""
    if given.shape != tuple(shape):
        raise ValueError(f"{title} needs {name} of shape {tuple(shape)}; got {tuple(given.shape)}")


def _shapes(title: str, family: Any, k: int, event: tuple[int, ...]) -> Any:
    """The shapes of the family's parameters: those of what its maximiser returns for one observation."""
    leaves, structure = jax.tree.flatten(family)
    key = structure, tuple((jnp.shape(leaf), str(jnp.result_type(leaf))) for leaf in leaves), k, event
    known = _FOUND.get(key)
    if known is None:
        known = _shapes_anew(title, family, k, event)
        _FOUND.put(key, known)
    return known


def _shapes_anew(title: str, family: Any, k: int, event: tuple[int, ...]) -> Any:
    dtype = trees.float_dtype(family)
    weights, x = jax.ShapeDtypeStruct((1, k), dtype), jax.ShapeDtypeStruct((1, *event), dtype)
    try:
        return jax.eval_shape(_maximized, family, weights, x)
    except (TypeError, ValueError, IndexError) as error:
        first = str(error).splitlines()[0][:120]
        raise ValueError(f"{title}: the family (its prior?) does not fit data of this shape: {first}") from error


@program
def _maximized(family: Any, weights: Array, x: Array) -> Any:
    return family.maximize(family.statistics(weights, x))


def check_enough(model: Any, n: int) -> None:
    """Raise ``ValueError`` where there are fewer observations than classes."""
    if n < model.k:
        raise ValueError(f"{n} observations cannot tell {model.k} classes apart; use k <= {n}")


def check_support(family: Any, x: Array, observed: Array | None) -> None:
    """Raise ``ValueError`` naming the first observation that the family does not allow, and for whole numbers that
    floats cannot tell apart."""
    possible = np.asarray(_possible(family, x, observed))
    if not possible.all():
        index = int(np.flatnonzero(~possible)[0])
        raise ValueError(
            f"{type(family).__name__} needs {family.support} in every observation; {int((~possible).sum())} of "
            f"{len(possible)} are not, the first is number {index}: {np.asarray(x[index])}"
        )
    if jnp.issubdtype(x.dtype, jnp.integer):
        check_precision(x, jnp.result_type(float), "the data")


@program(quick="few numbers")
def _possible(family: Any, x: Array, observed: Array | None) -> Array:
    return supported(family, x, observed)


def supported(family: Any, x: Array, observed: Array | None) -> Array:
    """(N,), whether the family allows each observation, or it does not count."""
    possible = family.supports(real(x, jnp.result_type(float)))
    return possible if observed is None else possible | ~observed


def real(x: Array, dtype: Any) -> Array:
    """Whole numbers and booleans as floats; floats as they are.

    Nothing that is computed from data may have the data's own dtype, but for floats.
    """
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(dtype)
