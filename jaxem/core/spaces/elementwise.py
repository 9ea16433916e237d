"""Spaces of single numbers: real, positive, and between 0 and 1."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.spaces import answers, held
from jaxem.core.spaces.edges import Zero, ZeroOrOne
from jaxem.core.spaces.protocol import Space, space


def _tiny(value: Array) -> float:
    """The least positive number that a chart and its inverse keep: above the subnormal numbers, which flush to 0."""
    return 1024 * float(jnp.finfo(value.dtype).tiny)


def negligible(value: Array) -> float:
    """A negligible probability p whose logarithm still has a finite second derivative, -1 / p^2."""
    return 2 * float(jnp.finfo(value.dtype).tiny) ** 0.5


def _hold(
    space: Space, mask: Any, value: Any, inside: float, least: float = -math.inf, most: float = math.inf
) -> Space:
    """The space with elements held at values from ``least`` to ``most``; their coordinates are dead."""
    mask, value = held.checked(space, mask, value)
    held.check_each(space, ~mask | ((value >= least) & (value <= most)), value, space.description)
    return held.of(space, mask, value, point=np.full(mask.shape, inside), dead=mask)


@space
class Real:
    """Real numbers, element by element. The coordinates are the numbers themselves."""

    description = "finite"
    unit_free = False

    def forward(self, free: Array, like: Array | None = None) -> Array:
        return free

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        return value

    def free(self, value: Array) -> Array:
        return jnp.ones(jnp.shape(value), bool)

    def contains(self, value: Any) -> Any:
        return value.__array_namespace__().isfinite(value).all()

    def hold(self, mask: Any, value: Any) -> Space:
        """The space with some elements held at finite numbers.

        Arguments:
            mask: booleans of the shape of the parameter, True where an element is held.
            value: a number, or numbers of that shape; used only where an element is held.

        Returns:
            A space in which these elements are constants and the others are as before.

        Raises:
            ValueError: the mask is not an array of booleans, the value is not finite numbers of the mask's shape, or
                one of them is traced.
        """
        return _hold(self, mask, value, 0.0)


@space
class Positive:
    """Positive numbers, element by element: x = exp(u). A chart made at a zero holds it there."""

    description = "positive"
    edge = Zero()
    unit_free = True

    def forward(self, free: Array, like: Array | None = None) -> Array:
        limits = jnp.finfo(free.dtype)
        # exp and its slope are infinite beyond log(max), and exp is zero far below log(tiny). Clipped, x is neither.
        x = jnp.exp(jnp.clip(free, math.log(float(limits.tiny)) + 1e-3, math.log(float(limits.max)) - 1e-3))
        return x if like is None else jnp.where(self.free(like), x, 0)

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        inside = jnp.maximum(value, _tiny(value))
        return jnp.log(jnp.where(self.free(value if like is None else like), inside, 1))

    def free(self, value: Array) -> Array:
        return value != 0  # NaN is free: it must not look like an edge

    def contains(self, value: Any) -> Any:
        return (value.__array_namespace__().isfinite(value) & (value >= 0)).all()

    def names(self, name: str, labels: answers.Labels) -> list[str]:
        return answers.elements(f"log {name}", labels)

    def interval(self, value: Array, half: Array, free: Array, free_half: Array) -> tuple[Array, Array]:
        return self.forward(free - free_half, value), self.forward(free + free_half, value)

    def hold(self, mask: Any, value: Any) -> Space:
        """The space with some elements held at positive numbers or zeros.

        Arguments:
            mask: booleans of the shape of the parameter, True where an element is held.
            value: a number, or numbers of that shape; used only where an element is held.

        Returns:
            A space in which these elements are constants and the others are as before.

        Raises:
            ValueError: as ``Real.hold``, and for a negative value.
        """
        return _hold(self, mask, value, 1.0, least=0)


@space
class UnitInterval:
    """Numbers between 0 and 1, element by element: x = 1 / (1 + exp(-u)). A chart made at a 0 or 1 holds it there."""

    description = "between 0 and 1"
    edge = ZeroOrOne()
    unit = 1.0
    unit_free = True

    def forward(self, free: Array, like: Array | None = None) -> Array:
        x = jax.nn.sigmoid(free)
        return x if like is None else jnp.where(self.free(like), x, (like == 1).astype(x.dtype))

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        below_one = 1 - float(jnp.finfo(value.dtype).epsneg)
        inside = jnp.clip(value, negligible(value), below_one)
        inside = jnp.where(self.free(value if like is None else like), inside, 0.5)
        return jnp.log(inside) - jnp.log1p(-inside)

    def free(self, value: Array) -> Array:
        return (value != 0) & (value != 1)

    def contains(self, value: Any) -> Any:
        return ((value >= 0) & (value <= 1)).all()

    def names(self, name: str, labels: answers.Labels) -> list[str]:
        return answers.elements(f"logit {name}", labels)

    def interval(self, value: Array, half: Array, free: Array, free_half: Array) -> tuple[Array, Array]:
        return self.forward(free - free_half, value), self.forward(free + free_half, value)

    def hold(self, mask: Any, value: Any) -> Space:
        """The space with some elements held at numbers from 0 to 1.

        Arguments:
            mask: booleans of the shape of the parameter, True where an element is held.
            value: a number, or numbers of that shape; used only where an element is held.

        Returns:
            A space in which these elements are constants and the others are as before.

        Raises:
            ValueError: as ``Real.hold``, and for a value below 0 or above 1.
        """
        return _hold(self, mask, value, 0.5, least=0, most=1)
