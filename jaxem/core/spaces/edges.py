"""The edges of the spaces: which elements lie on the edge, and which move towards it."""

import jax.numpy as jnp
from jax import Array

from jaxem.core.spaces.protocol import space


def _next_to_an_end(value: Array, rounding: float) -> Array:
    return (value * (1 - value) <= rounding) & (value != 0)  # False for NaN


@space
class Zero:
    """The edge of positive numbers. They have no scale on which to call one near zero, so no element strays.

    ``place`` moves no element, because the likelihood may be infinite at zero; its coordinate is left out.
    """

    def strays(self, value: Array, rounding: float) -> Array:
        return jnp.zeros(value.shape, bool)

    def inward(self, value: Array, slope: Array) -> Array:
        return slope

    def place(self, value: Array, out: Array) -> tuple[Array, Array]:
        return value, out

    def runs_off(self, value: Array, step: Array, unknown: Array, share: float) -> Array:
        return ((-step > share * value) | unknown) & (value > 0)


@space
class ZeroOrOne:
    """The edges of numbers between 0 and 1. ``place`` moves no element; its coordinate is left out."""

    def strays(self, value: Array, rounding: float) -> Array:
        return _next_to_an_end(value, rounding) & (value != 1)

    def inward(self, value: Array, slope: Array) -> Array:
        return jnp.where(value < 0.5, slope, -slope)

    def place(self, value: Array, out: Array) -> tuple[Array, Array]:
        return value, out

    def runs_off(self, value: Array, step: Array, unknown: Array, share: float) -> Array:
        nearer, left = jnp.where(value < 0.5, -step, step), jnp.minimum(value, 1 - value)
        return ((nearer > share * left) | unknown) & (left > 0)


@space
class Face:
    """The edge of a simplex. ``place`` sets elements to exactly zero and divides the others by their sum.

    An element near one is not on the edge itself: the others are, near zero.
    """

    def strays(self, value: Array, rounding: float) -> Array:
        return _next_to_an_end(value, rounding) & ~(value > 0.5)

    def inward(self, value: Array, slope: Array) -> Array:
        return slope - (value * slope).sum(axis=-1, keepdims=True)

    def place(self, value: Array, out: Array) -> tuple[Array, Array]:
        kept = jnp.where(out, 0, value)
        shared = jnp.where(out.any(axis=-1, keepdims=True), kept / kept.sum(axis=-1, keepdims=True), value)
        return shared, jnp.zeros((*value.shape[:-1], value.shape[-1] - 1), bool)

    def runs_off(self, value: Array, step: Array, unknown: Array, share: float) -> Array:
        return (-step > share * value) & (value > 0) & (value < 0.5)


@space
class Singular:
    """The edge of positive-definite matrices and of the relative lengths of axes. No single element lies on it.

    ``event_ndim``: 2 for matrices, 1 for lengths; ``fixed``: how many coordinates a condition, such as a determinant of
    one, takes away.
    """

    event_ndim: int = 2
    fixed: int = 0

    def strays(self, value: Array, rounding: float) -> Array:
        return jnp.zeros(value.shape, bool)

    def inward(self, value: Array, slope: Array) -> Array:
        return slope

    def place(self, value: Array, out: Array) -> tuple[Array, Array]:
        d = value.shape[-1]
        coordinates = (d if self.event_ndim == 1 else d * (d + 1) // 2) - self.fixed
        return value, jnp.zeros((*value.shape[: -self.event_ndim], coordinates), bool)

    def runs_off(self, value: Array, step: Array, unknown: Array, share: float) -> Array:
        return jnp.zeros(value.shape, bool)
