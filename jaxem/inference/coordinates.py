"""Unconstrained coordinates as one flat vector u (P,), and the names of parameters and of coordinates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxem.core import constraints, parameters, trees
from jaxem.core.compilation import program
from jaxem.core.coordinates import chart, into
from jaxem.core.data import Data, Dataset, given_of
from jaxem.core.labels import parts_of
from jaxem.core.model import Params, has, spaces_of
from jaxem.core.parameters import NO_LABELS, Labels
from jaxem.core.spaces import Space, answers

DENSE = 256  # with more coordinates a diagonal is estimated by random signs, else it is exact
_SIGNS = 64


def flat_chart(model: Any, params: Params) -> Callable[[Array], Array]:
    """The map from coordinates (P,) to all parameters as one vector (T,)."""
    at = chart(model, params)
    return lambda u: ravel_pytree(at(u))[0]


def along_all(linear: Callable[[Array], Any], like: Array) -> Any:
    """A linear function of the coordinates applied to each unit vector: row p belongs to coordinate p."""
    return jax.lax.map(linear, jnp.eye(like.shape[0], dtype=like.dtype))


def probes(like: Array) -> Array:
    """Directions v with sum (a'v)^2 = a'a: the unit vectors, or beyond ``DENSE`` random signs (on average)."""
    p = like.shape[0]
    if p <= DENSE:
        return jnp.eye(p, dtype=like.dtype)
    signs = jax.random.rademacher(jax.random.key(0), (_SIGNS, p), like.dtype)
    return signs / np.sqrt(_SIGNS).astype(like.dtype)


def parameter_spaces(model: Any, params: Params) -> list[Space]:
    """The space of each leaf of the parameters."""
    return constraints.leaves(spaces_of(model), params)


def labels_of(model: Any, data: Data, names: Dataset) -> Labels:
    """The names in the converted ``data``, of which ``names`` has those of columns (see ``convert_named``)."""
    given, axes = given_of(data), {}
    if given is not None and has(model, "axis_labels"):
        axes = model.axis_labels(given, parts_of(names, "given"))
    return Labels(parts_of(names, "values"), axes, None if names.origin is None else names.origin.library or None)


def _named(model: Any, params: Params, labels: Labels) -> list[tuple[str, answers.Labels]]:
    return parameters.named(params, model.declare() if has(model, "declare") else None, labels)


def parameter_names(model: Any, params: Params, labels: Labels = NO_LABELS) -> tuple[str, ...]:
    """The name of every parameter (T,), in the order of ``ravel_pytree``.

    E.g. ``components.means[0, 1]``, or ``components.means[0, waiting]`` where the columns of the data have names.
    """
    named = _named(model, params, labels)
    return tuple(element for name, labels in named for element in answers.elements(name, labels))


def _of_elements(question: Callable[[Space, tuple[int, ...]], np.ndarray], model: Any, params: Params) -> np.ndarray:
    """The answer of each leaf's space about the elements of an array of its shape, (T,)."""
    leaves = zip(parameter_spaces(model, params), jax.tree.leaves(params), strict=True)
    return np.concatenate([question(space, jnp.shape(leaf)).ravel() for space, leaf in leaves])


def repeated(model: Any, params: Params) -> np.ndarray:
    """Which parameters (T,) duplicate another one: a symmetric matrix below its diagonal."""
    return _of_elements(answers.repeated, model, params)


def constant(model: Any, params: Params) -> np.ndarray:
    """Which parameters (T,) are constants: the weight of a single class, elements held by their space."""
    return _of_elements(answers.constant, model, params)


def coordinate_names(model: Any, params: Params, labels: Labels = NO_LABELS) -> tuple[str, ...]:
    """The name of every coordinate (P,): the parameter, and the function of it that the chart uses.

    ``log x[i]`` and ``logit x[i]`` are as named. ``ilr x[j]`` is the j-th log-ratio of a simplex. For a matrix,
    ``log scale x[i]`` is the log of the i-th diagonal entry of the Cholesky factor, and ``ratio x[i, j]`` an entry
    below the diagonal in units of its row's scale.
    """
    leaves = zip(parameter_spaces(model, params), _named(model, params, labels), strict=True)
    return tuple(each for space, (name, labels) in leaves for each in answers.names(space, name, labels))


def coordinates_like(model: Any, params: Params) -> jax.ShapeDtypeStruct:
    """The shape (P,) and the dtype of the coordinates."""
    return jax.ShapeDtypeStruct(edged(model, params).shape, trees.float_dtype(params))


def edged(model: Any, params: Params) -> np.ndarray:
    """Which coordinates (P,) are logs or ratios: dimensionless, and divergent at the edge of the space."""
    free = jax.eval_shape(constraints.inverse, spaces_of(model), params)
    leaves = zip(parameter_spaces(model, params), jax.tree.leaves(free), strict=True)
    return np.concatenate([np.full(leaf.size, answers.edge(space) is not None) for space, leaf in leaves])


def improving(model: Any, params: Params) -> np.ndarray:
    """Which coordinates (P,) belong to arrays that an M-step only improves."""
    flags = parameters.improving_of(model)
    if flags is None:
        return np.zeros(edged(model, params).shape, bool)
    free = jax.eval_shape(constraints.inverse, spaces_of(model), params)
    leaves = zip(jax.tree.leaves(flags), jax.tree.leaves(free), strict=True)
    return np.concatenate([np.full(leaf.size, flag) for flag, leaf in leaves])


@program(quick="few numbers")
def _shares(model: Any, params: Params, direction: Array, diagonal: Array) -> Array:
    u = into(model, params)
    _, push = jax.linearize(flat_chart(model, params), u)
    scale = 1 / jnp.sqrt(jnp.maximum(diagonal, jnp.finfo(u.dtype).tiny))
    rows = jax.lax.map(lambda probe: push(scale * probe), probes(u))  # (probes, T)
    largest = jnp.abs(rows).max(axis=0)
    largest = jnp.where(largest > 0, largest, 1)
    norm = jnp.sqrt(((rows / largest[None, :]) ** 2).sum(axis=0))
    return jnp.abs(push(direction) / largest) / jnp.where(norm > 0, norm, 1)


def name_direction(model: Any, params: Params, direction: Array, diagonal: Any, most: int = 4) -> tuple[str, ...]:
    """The parameters that move most along a direction of the coordinates, each in units of its own error bar.

    At most ``most`` names, of parameters within a factor of 2 of the largest move. ``diagonal (P,)`` of the complete
    information gives the error bars.
    """
    shares = np.asarray(_shares(model, params, direction, diagonal), np.float64)
    shares = np.where(np.isfinite(shares) & ~repeated(model, params), shares, 0)
    order = np.argsort(-shares, kind="stable")
    names = parameter_names(model, params)
    return tuple(names[i] for i in order[:most] if shares[i] >= shares[order[0]] / 2)
