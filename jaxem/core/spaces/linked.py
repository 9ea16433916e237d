"""A space in which some elements equal elements of another array of the parameters.

Such elements have no coordinates of their own: the others are known first, and ``constraints.forward`` copies them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.spaces import answers
from jaxem.core.spaces.fixed import Fixed
from jaxem.core.spaces.held import Held
from jaxem.core.spaces.protocol import Space, space
from jaxem.core.spaces.within import Within


@space
class Linked(Within):
    """Points of ``space`` of which the elements under ``mask`` follow elements of another array."""

    space: Space  # the elements under ``mask`` are held in it, at harmless values
    mask: Fixed  # which elements follow
    away: Fixed  # of each of these, how many leaves further their source is, in the order of the parameters
    source: Fixed  # and the number of the element there

    @property
    def description(self) -> str:
        """What the space requires of the values, in words."""
        count = int(self.mask.array.sum())
        return f"{self._bare.description}, {count} of {self.mask.array.size} elements tied to another array"

    @property
    def _bare(self) -> Space:
        return self.space.space if isinstance(self.space, Held) else self.space

    def follow(self, value: Any, leaf: Callable[[int], Any]) -> Any:
        """``value`` with the elements that follow; ``leaf(away)`` is another array of the parameters."""
        xp, own = value.__array_namespace__(), self.mask.array
        lead = value.shape[: value.ndim - own.ndim]
        for away in np.unique(self.away.array[own]):
            here = own & (self.away.array == away)
            other = leaf(int(away)).reshape(*lead, -1)
            copied = xp.take(other, xp.asarray(np.where(here, self.source.array, 0).ravel()), axis=-1)
            value = xp.where(Fixed.of(here).beside(value), copied.reshape(value.shape), value)
        return value

    def _harmless(self, value: Any) -> Any:
        held = self.space
        assert isinstance(held, Held)
        return value.__array_namespace__().where(self.mask.beside(value), held.value.beside(value), value)

    def forward(self, free: Array, like: Array | None = None) -> Array:
        return self.space.forward(free, None if like is None else self._harmless(like))

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        return self.space.inverse(self._harmless(value), None if like is None else self._harmless(like))

    def free(self, value: Array) -> Array:
        return self.space.free(self._harmless(value))

    def live(self, shape: answers.Shape) -> np.ndarray:
        """Which coordinates are not dead."""
        return answers.live(self.space, shape)

    def contains(self, value: Any) -> Any:
        return self._bare.contains(value)

    def settle(self, value: Any, eps: float) -> Any:
        return answers.settle(self._bare, value, eps)

    def project(self, value: Array) -> Array:
        """The elements that follow as they are, and the others in their space."""
        return jnp.where(self.mask.beside(value), value, answers.project(self.space, self._harmless(value)))

    def needs(self, shape: answers.Shape) -> str | None:
        return answers.needs(self.space, shape)

    def interval(self, value: Array, half: Array, free: Array, free_half: Array) -> tuple[Array, Array]:
        """That of the underlying space, with the coordinates that the elements would have."""
        if self.event_ndim == 0:
            own, moved = jax.jvp(self._bare.inverse, (value,), (half,))
            mask = self.mask.beside(value)
            free, free_half = jnp.where(mask, own, free), jnp.where(mask, jnp.abs(moved), free_half)
        return answers.interval(self._bare, value, half, free, free_half)

    def constant(self, shape: answers.Shape) -> np.ndarray:
        return answers.constant(self._bare, shape)

    def tangential(self, value: Array, slope: Array) -> Array:
        return answers.tangential(self._bare, value, slope)


def links(space: Space, place: int) -> list[int]:
    """The places of the arrays that elements of the array at ``place`` follow, in the order of the parameters."""
    return (
        [place + int(away) for away in np.unique(space.away.array[space.mask.array])]
        if isinstance(space, Linked)
        else []
    )
