"""Schedules of step sizes and temperatures, count -> number, as in optax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.checks import brief

Schedule = Callable[[Any], Any]  # count (0, 1, ...) -> a number


def check(schedule: Any, owner: str) -> None:
    """Raise ``ValueError`` where ``schedule`` is not a function."""
    if not callable(schedule) or isinstance(schedule, type):
        raise ValueError(
            f"{owner}: schedule must be a function count -> number, e.g. optax.constant_schedule(0.5); "
            f"got {brief(schedule)}"
        )


def value(schedule: Schedule, count: Array, dtype: jnp.dtype) -> Array:
    """The value of ``schedule`` at ``count``, in ``dtype``."""
    # Schedules mix integers and floats freely; the caller's own strictness does not apply to them.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return jnp.asarray(schedule(count.astype(int))).astype(dtype)  # an int32 count would always give a float32


def heating(count: Any) -> Any:
    """Inverse temperatures min(0.7 + 0.015 count, 1)."""
    return jnp.minimum(0.7 + 0.015 * count, 1.0)


def decaying(count: Any) -> Any:
    """Step sizes (count + 2)^-0.6. Convergence asks for an exponent in (1/2, 1] (Robbins & Monro 1951)."""
    return (count + 2) ** -0.6


def averaging(count: Any) -> Any:
    """Step sizes 1 for the first 50 counts, to forget the start, then 1, 1/2, 1/3, ..., which average the rest."""
    return 1 / jnp.maximum(count - 49, 1)


def blend(old: Any, new: Any, share: Array) -> Any:
    """(1 - share) old + share new, leaf by leaf."""
    return jax.tree.map(lambda a, b: (1 - share) * a + share * b, old, new)
