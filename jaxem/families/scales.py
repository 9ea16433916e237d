"""Functions of a scale whose derivatives neither overflow nor vanish where the scale is tiny or huge.

For a relative change du of the scale r, the tangent dr = r du is as small as r itself. The textbook derivative of
1 / r, -dr / r^2, squares r first and is 0 / 0 in 32 bits for r below 1e-19. The form -(dr / r) / r avoids that at every
order of derivative.
"""

import jax
import jax.numpy as jnp
from jax import Array


@jax.custom_jvp
def reciprocal(r: Array) -> Array:
    """1 / r."""
    return 1 / r


@reciprocal.defjvp
def _reciprocal_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    inverse = reciprocal(primals[0])
    return inverse, -(inverse * tangents[0]) * inverse


@jax.custom_jvp
def inverse_root(v: Array) -> Array:
    """v^(-1/2)."""
    return 1 / jnp.sqrt(v)


@inverse_root.defjvp
def _inverse_root_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    inverse = inverse_root(primals[0])
    return inverse, -0.5 * (reciprocal(primals[0]) * tangents[0]) * inverse


@jax.custom_jvp
def log(r: Array) -> Array:
    """log r."""
    return jnp.log(r)


@log.defjvp
def _log_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return log(primals[0]), reciprocal(primals[0]) * tangents[0]
