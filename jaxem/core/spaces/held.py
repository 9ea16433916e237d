"""A space in which some elements are held at values, as constants.

Held elements keep their places in the coordinates. These coordinates are dead: 0, without any effect. A held space
answers each question as its underlying space does, at a point with harmless values in place of the held elements.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import trees
from jaxem.core.spaces import answers
from jaxem.core.spaces.fixed import Fixed
from jaxem.core.spaces.protocol import Edge, Space, space
from jaxem.core.spaces.within import Within, edge_within


@space
class Held(Within):
    """Points x of ``space`` with held elements: x = value where held, else x = scale * y with y in ``space``.

    y has ``point`` in place of the held elements, so that what depends only on y does not depend on them.
    """

    space: Space
    mask: Fixed  # which elements are held
    value: Fixed  # the values of held elements; 0 elsewhere
    point: Fixed  # a point of ``space`` whose elements replace the held ones in y
    dead: Fixed  # which coordinates have no effect, shaped like the coordinates
    scale: Fixed  # shaped like the mask: the sum of the entries of a simplex that are not held; 1 for other spaces

    @property
    def description(self) -> str:
        """What the space requires of the values, in words."""
        mask = self.mask.array
        return f"{self.space.description}, {int(mask.sum())} of {mask.size} elements held at their values"

    @property
    def edge(self) -> Edge | None:
        """The edge of the elements that are not held."""
        return None if answers.edge(self.space) is None else HeldEdge(self)

    def __repr__(self) -> str:
        mask = self.mask.array
        return f"{self.space!r}.hold({int(mask.sum())} of {mask.size} elements)"

    def inside(self, value: Any) -> Any:
        """The point y of the underlying space, from x."""
        xp = value.__array_namespace__()
        mask, scale, point = (part.beside(value) for part in (self.mask, self.scale, self.point))
        return xp.where(mask, point, value / scale)

    def outside(self, y: Any) -> Any:
        """The point x, from y."""
        xp = y.__array_namespace__()
        mask, scale, value = (part.beside(y) for part in (self.mask, self.scale, self.value))
        return xp.where(mask, value, scale * y)

    def moving(self, step: Array) -> Array:
        """A step of x as a step of y; held elements do not move."""
        return jnp.where(self.mask.beside(step), 0, step / self.scale.beside(step))

    def forward(self, free: Array, like: Array | None = None) -> Array:
        if like is None:  # copies may have an axis before those of the point
            point = self.point.array
            y = jnp.asarray(point.reshape((1,) * (free.ndim - len(self.dead.shape)) + point.shape), free.dtype)
        else:
            y = self.inside(like)
        return self.outside(self.space.forward(jnp.where(self.dead.beside(free), 0, free), y))

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        # Dead coordinates are 0, because those of ``point`` are and nothing else affects them.
        return self.space.inverse(self.inside(value), self.inside(value if like is None else like))

    def free(self, value: Array) -> Array:
        free = self.space.free(self.inside(value))
        return free & ~self.dead.beside(free)

    def contains(self, value: Any) -> Any:
        return self.space.contains(self.inside(value)) & self._near(value, float(jnp.finfo(value.dtype).eps)).all()

    def _near(self, value: Any, eps: float) -> Any:
        """Which elements equal their held value to the relative precision sqrt(eps); True where nothing is held."""
        wanted = self.value.beside(value)
        return ~self.mask.beside(value) | (abs(value - wanted) <= eps**0.5 * abs(wanted))

    def settle(self, value: Any, eps: float) -> Any:
        xp, y = value.__array_namespace__(), self.inside(value)
        settled = answers.settle(self.space, y, eps)
        moved = xp.where(self.mask.beside(value) | (settled != y), self.outside(settled), value)
        return xp.where(self._near(value, eps), moved, value)

    def live(self, shape: answers.Shape) -> np.ndarray:
        """Which coordinates are not dead."""
        inner = answers.live(self.space, shape)
        return inner & ~self.dead.array

    def needs(self, shape: answers.Shape) -> str | None:
        own = self.mask.shape
        return None if shape[len(shape) - len(own) :] == own else f"the shape {own}"

    def interval(self, value: Array, half: Array, free: Array, free_half: Array) -> tuple[Array, Array]:
        lower, upper = answers.interval(self.space, self.inside(value), self.moving(half), free, free_half)
        return self.outside(lower), self.outside(upper)

    def constant(self, shape: answers.Shape) -> np.ndarray:
        return self.mask.array | answers.constant(self.space, shape)

    def project(self, value: Array) -> Array:
        """The held elements at their values, and the others as they are, or as shares of what is left."""
        y = self.inside(value)
        if answers.event_ndim(self.space) == 1:  # of a simplex
            point = self.point.beside(y)
            even = point / point.sum(axis=-1, keepdims=True)
            own = jnp.where(self.mask.beside(value), 0, value)
            total = own.sum(axis=-1, keepdims=True)
            y = jnp.where(total > 0, own / jnp.where(total > 0, total, 1), even)
        return self.outside(y)

    def tangential(self, value: Array, slope: Array) -> Array:
        return jnp.where(self.mask.beside(slope), 0, answers.tangential(self.space, self.inside(value), slope))

    def hold(self, mask: Any, value: Any) -> Space:
        """The space with more elements held. Arguments are those of the underlying space's ``hold``.

        Raises:
            ValueError: an element is held already at another value, or the underlying space refuses mask or value.
        """
        mask, value = checked(self.space, mask, value)
        own, held = self.mask.array, self.value.array
        if mask.shape != own.shape:
            raise ValueError(f"{self.space!r}.hold: masks of shapes {own.shape} and {mask.shape} differ")
        twice = mask & own & (value != held)
        if twice.any():
            where = ", ".join(map(str, np.argwhere(twice)[0]))
            raise ValueError(f"{self.space!r}.hold: the element at [{where}] is held already, at another value")
        return answers.hold(self.space, mask | own, np.where(own, held, value))


@space
class HeldEdge:
    """The edge of a held space: the edge of the underlying space at y. Held elements are never on it."""

    held: Held

    @property
    def _edge(self) -> Edge:
        return edge_within(self.held)

    def strays(self, value: Array, rounding: float) -> Array:
        return self._edge.strays(self.held.inside(value), rounding) & ~self.held.mask.beside(value)

    def inward(self, value: Array, slope: Array) -> Array:
        mask, scale = self.held.mask.beside(slope), self.held.scale.beside(slope)  # dx = scale dy
        return self._edge.inward(self.held.inside(value), jnp.where(mask, 0, scale * slope))

    def place(self, value: Array, out: Array) -> tuple[Array, Array]:
        y, left_out = self._edge.place(self.held.inside(value), out & ~self.held.mask.beside(out))
        return self.held.outside(y), left_out

    def runs_off(self, value: Array, step: Array, unknown: Array, share: float) -> Array:
        found = self._edge.runs_off(self.held.inside(value), self.held.moving(step), unknown, share)
        return found & ~self.held.mask.beside(found)


def of(space: Space, mask: np.ndarray, value: np.ndarray, point: np.ndarray, dead: np.ndarray, scale: Any = 1.0) -> Any:
    """The held space, or ``space`` itself where nothing is held."""
    if not mask.any():
        return space
    scale = np.broadcast_to(np.asarray(scale, float), mask.shape)
    value = np.where(mask, value, 0.0)
    return Held(space, *(Fixed.of(part) for part in (mask, value, point.astype(float), dead, scale)))


def checked(space: Space, mask: Any, value: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mask and value as NumPy arrays of one shape; the value has 64 bits and is 0 where nothing is held.

    Raises ``ValueError`` for a mask that is not booleans, values of another shape or not finite, and traced arrays.
    """
    title = f"{type(space).__name__}.hold"
    if trees.holds_tracers((mask, value)):
        raise ValueError(f"{title}: mask and value must be known numbers; got traced arrays")
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise ValueError(f"{title}: the mask must be booleans, True where an element is held; got {mask.dtype}")
    if mask.ndim < answers.event_ndim(space):
        raise ValueError(f"{title}: the mask must have the shape of the parameter; it has {mask.shape}")
    try:
        value = np.broadcast_to(np.asarray(value, np.float64), mask.shape)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{title}: the value must be a number, or numbers of the mask's shape {mask.shape}") from error
    value = np.where(mask, value, 0.0)
    check_each(space, np.isfinite(value), value, "finite")
    return mask, value


def check_each(space: Space, good: np.ndarray, value: np.ndarray, what: str) -> None:
    """Raise ``ValueError`` where a value to be held is not ``good``; ``what`` says what it must be."""
    if not good.all():
        index = tuple(map(int, np.argwhere(~good)[0]))
        where = f" at {list(index)}" if index else ""
        got = np.array2string(np.asarray(value[index]), precision=6)
        raise ValueError(f"{type(space).__name__}.hold: values that are held must be {what}; got {got}{where}")


def precision(value: Any) -> float:
    """The relative rounding error of given values; whole numbers and Python floats count as 64 bits."""
    dtype = np.asarray(value).dtype
    return float(jnp.finfo(dtype if jnp.issubdtype(dtype, jnp.floating) else np.float64).eps)
