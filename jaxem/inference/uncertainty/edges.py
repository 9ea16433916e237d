"""Parameters at an edge of their space: find them, hold them there, and exclude them from the information.

At a probability that is zero, or converging to it (its logarithm diverges to minus infinity), a maximum obeys the
Karush-Kuhn-Tucker condition: the objective falls from the edge into the space, and the gradient need not vanish. The
estimate is not normal there, so it has no standard error, and the errors of the other parameters are conditional on it.
Entries of a simplex are set to exactly zero, and the chart then holds them. Positive scalars and numbers between 0 and
1 keep their value, and their coordinate is left out.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import bound, constraints
from jaxem.core.compilation import program
from jaxem.core.coordinates import chart, into
from jaxem.core.data import Data, size
from jaxem.core.model import Params, has, spaces_of
from jaxem.core.spaces import Space, answers
from jaxem.inference.coordinates import parameter_spaces
from jaxem.inference.regularity import LOG_STEP, Regularity, Verdict, rounding_of


def _leaves(model: Any, params: Params, *vectors: Array) -> list[tuple[Any, ...]]:
    """(space, leaf, the part of each vector (T,) that belongs to the leaf, in its shape) for each leaf."""
    leaves = jax.tree.leaves(params)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    parts = [jnp.split(vector, ends) for vector in vectors]
    shaped = [[part.reshape(leaf.shape) for part, leaf in zip(each, leaves, strict=True)] for each in parts]
    return list(zip(parameter_spaces(model, params), leaves, *shaped, strict=True))


@program(quick="few numbers")
def within_rounding(model: Any, params: Params) -> Array:
    """Which parameters (T,) equal zero or one up to rounding error, but not exactly.

    Exact values are structural zeros, which are held already.
    """
    total = sum(leaf.size for leaf in jax.tree.leaves(params))

    def of(space: Space, leaf: Array) -> Array:
        edge = answers.edge(space)
        return jnp.zeros(leaf.shape, bool) if edge is None else edge.strays(leaf, rounding_of(total, leaf.dtype))

    return jnp.concatenate([of(*leaf).ravel() for leaf in _leaves(model, params)])


@program(quick="few numbers")
def rising(model: Any, params: Params, data: Data, out: Array) -> Array:
    """Which of the parameters ``out (T,)`` lie at an edge from which the objective rises into the space."""
    q = model.e_step(params, data) if has(model, "q_function") else None

    def objective(params: Params) -> Array:
        value = model.log_likelihood(params, data) if q is None else model.q_function(params, q, data)
        return bound.penalized(model, value, params)

    gradient = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(jax.grad(objective)(params))])
    rounding = jnp.finfo(gradient.dtype).eps ** 0.5 * size(data, gradient.dtype)

    def of(space: Space, leaf: Array, slope: Array) -> Array:
        edge = answers.edge(space)
        if edge is None:
            return jnp.zeros(leaf.shape, bool)
        # A slope in the parameter's own units has no natural threshold.
        return edge.inward(leaf, slope) > (0 if answers.unit(space) is None else rounding)

    inward = jnp.concatenate([of(*leaf).ravel() for leaf in _leaves(model, params, gradient)])
    return out & (inward | ~jnp.isfinite(gradient))


@program
def hold(model: Any, params: Params, held: Array, out: Array) -> tuple[Params, Array]:
    """The parameters with those in ``out (T,)`` held at their edge, and which coordinates (P,) are then left out."""
    new, masks = [], []
    for (space, leaf, part), free in zip(
        _leaves(model, params, out), jax.tree.leaves(_shaped_coordinates(model, params)), strict=True
    ):
        edge = answers.edge(space)
        leaf, mask = (leaf, jnp.zeros(free.shape, bool)) if edge is None else edge.place(leaf, part)
        new.append(leaf)
        masks.append(mask.ravel())
    return jax.tree.unflatten(jax.tree.structure(params), new), held | jnp.concatenate(masks)


@program
def running_off(model: Any, params: Params, complete: Array, verdict: Verdict, data_size: Array) -> Array:
    """Which parameters (T,) a Newton step would move to an edge; all False unless the verdict is ``EDGE``.

    At an edge the Newton step of a logarithm is one, however near the edge is. Very near an edge even complete data
    give no information about the parameter, and that counts as well.
    """
    u, at = into(model, params), chart(model, params)
    moved = jax.jvp(at, (u,), (verdict.newton,))[1]
    moved = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(moved)])
    known = jnp.diagonal(complete) > rounding_of(u.shape[0], u.dtype) * data_size
    unknown = jax.tree.leaves(_shaped_coordinates(model, params, ~known))

    def of(space: Space, leaf: Array, step: Array, unknown: Array) -> Array:
        edge = answers.edge(space)
        return jnp.zeros(leaf.shape, bool) if edge is None else edge.runs_off(leaf, step, unknown, LOG_STEP)

    leaves = _leaves(model, params, moved)
    parts = [of(space, leaf, step, u) for (space, leaf, step), u in zip(leaves, unknown, strict=True)]
    return jnp.concatenate([part.ravel() for part in parts]) & (verdict.code == Regularity.EDGE)


def _shaped_coordinates(model: Any, params: Params, vector: Array | None = None) -> list[Array]:
    """The coordinates, or a vector (P,), split into one array for each leaf."""
    leaves = jax.tree.leaves(constraints.inverse(spaces_of(model), params))
    if vector is None:
        return leaves
    parts = jnp.split(vector, np.cumsum([leaf.size for leaf in leaves])[:-1])
    return [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
