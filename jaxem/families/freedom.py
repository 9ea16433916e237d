"""The degrees of freedom of t distributions: one for each class, one for all classes, or a given number.

The parameter is tau = 1 / nu, so that the normal distribution is the point 0, where the space of positive numbers has
its edge, and not a point at infinity.
"""

import math
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxem.core.checks import brief
from jaxem.core.parameters import Param
from jaxem.core.spaces import Positive
from jaxem.families import gamma_scale

Freedom = str | float
# The first sums, those of a start, have no parameters: u = 1, and these degrees of freedom.
_AT_FIRST = 10.0


def check(family: Any) -> None:
    """Raise ``ValueError`` where ``freedom`` is neither ``"free"`` nor ``"tied"`` nor a positive number; a number
    becomes a float."""
    name, given = type(family).__name__, family.freedom
    if isinstance(given, str) and given in ("free", "tied"):
        return
    if isinstance(given, str | bool) or not isinstance(given, int | float) or not given > 0:
        raise ValueError(f"{name}: freedom must be 'free', 'tied' or a number above 0; got {brief(given)}")
    object.__setattr__(family, "freedom", float(given))


def declared(freedom: Freedom) -> Param | None:
    """The declaration of ``tails``; ``None`` where the degrees of freedom are given."""
    axes = {"free": "K", "tied": ""}
    return Param.of(Positive(), axes[freedom]) if isinstance(freedom, str) else None


def of_classes(freedom: Freedom, tails: Array | None, like: Array) -> Array:
    """1 / nu of each class, (K,), in the dtype and of the length of ``like (K, ...)``."""
    value = (0.0 if math.isinf(freedom) else 1 / freedom) if not isinstance(freedom, str) else tails
    return jnp.broadcast_to(jnp.asarray(value, like.dtype), like.shape[:1])


def first(r: Array) -> Array:
    """The sum of E (u - 1 - log u) at a start, (K,)."""
    return r.sum(axis=0) * gamma_scale.gap(jnp.asarray(2 / _AT_FIRST, r.dtype))


def maximize(freedom: Freedom, n: Array, excess: Array) -> Array | None:
    """The maximiser of ``gamma_scale.expected_prior``: (K,), or () where tied; ``None`` where given."""
    if not isinstance(freedom, str):
        return None
    mean = excess / n if freedom == "free" else excess.sum() / n.sum()
    return gamma_scale.solve(mean)
