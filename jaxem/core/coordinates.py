"""Parameters as one vector of unconstrained coordinates, and back.

A chart is made at a point and holds what lies exactly on the edge there (see ``spaces``). Only coordinates of the same
chart can be compared.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxem.core import constraints
from jaxem.core.compilation import program
from jaxem.core.model import Params, spaces_of


def into(model: Any, params: Params, like: Params | None = None) -> Array:
    """The coordinates (P,) of the parameters, in the chart made at ``like`` (default: at ``params``)."""
    return ravel_pytree(constraints.inverse(spaces_of(model), params, like))[0]


def all_into(model: Any, points: tuple[Params, ...], like: Params) -> Array:
    """The coordinates (n, P) of n points, in the chart made at ``like``; traced and compiled once for all."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *points)
    return jax.vmap(lambda params: into(model, params, like))(stacked)


def chart(model: Any, like: Params) -> Callable[[Array], Params]:
    """The map from coordinates (P,) to parameters, by the chart made at ``like``."""
    spaces = spaces_of(model)
    free = jax.eval_shape(lambda params: constraints.inverse(spaces, params), like)
    _, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), free))
    return lambda u: constraints.forward(spaces, unravel(u), like)


@program(quick="always")
def living(model: Any, params: Params) -> Array:
    """Which coordinates (P,) of the chart made at ``params`` are live: the others move no parameter."""
    return ravel_pytree(constraints.free(spaces_of(model), params))[0]
