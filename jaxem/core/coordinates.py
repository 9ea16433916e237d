"""Parameters as one vector of unconstrained coordinates, and back."""

from collections.abc import Callable
from typing import Any

from jax import Array
from jax.flatten_util import ravel_pytree

from jaxem.core import constraints
from jaxem.core.model import Params, spaces_of


def into(model: Any, params: Params) -> Array:
    """Parameters -> coordinates (P,)."""
    return ravel_pytree(constraints.inverse(spaces_of(model), params))[0]


def chart(model: Any, params: Params) -> Callable[[Array], Params]:
    """The map from coordinates (P,) to parameters shaped like ``params``."""
    spaces = spaces_of(model)
    _, unravel = ravel_pytree(constraints.inverse(spaces, params))
    return lambda u: constraints.forward(spaces, unravel(u))
