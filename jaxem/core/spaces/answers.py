"""What may be asked of a space, and what holds where it does not say.

A space needs the five names of ``Space``. Each function here asks one question more, by an attribute of its own name;
a space without that attribute is taken for real numbers.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.spaces.protocol import Edge, Space

Shape = tuple[int, ...]
Labels = Sequence[Sequence[str]]  # what the places along each axis are called


def event_ndim(space: Space) -> int:
    """How many last axes hold one point: 0 for numbers, 1 for vectors, 2 for matrices."""
    return getattr(space, "event_ndim", 0)


def edge(space: Space) -> Edge | None:
    """The edge at which the coordinates, logs or ratios, run off to infinity; ``None`` where there is none."""
    return getattr(space, "edge", None)


def unit(space: Space) -> float | None:
    """What a change is measured by, such as 1 for probabilities; ``None``: by the parameter's own size."""
    return getattr(space, "unit", None)


def unit_free(space: Space) -> bool:
    """Whether the coordinates are pure numbers, so that the data's units do not change them, or only shift them.

    The one question in which a space that does not say is not taken for real numbers: a chart of anything else
    mostly is of logs and ratios.
    """
    return getattr(space, "unit_free", True)


def coordinates_shape(space: Space, shape: Shape) -> Shape:
    """The shape of the coordinates of a leaf of this shape."""
    return jax.eval_shape(space.inverse, jax.ShapeDtypeStruct(shape, jnp.float32)).shape


def dimension(space: Space, shape: Shape) -> int:
    """Degrees of freedom of a leaf of this shape, where nothing lies on an edge: the number of coordinates."""
    own = getattr(space, "dimension", None)
    return math.prod(coordinates_shape(space, shape)) if own is None else own(shape)


def names(space: Space, name: str, labels: Labels) -> list[str]:
    """The name of each coordinate of the leaf ``name``: what the chart takes of which element, such as ``log x[0]``.

    ``labels``: what the places along each axis of the leaf are called.
    """
    own = getattr(space, "names", None)
    if own is not None:
        return own(name, labels)
    shape = tuple(map(len, labels))
    coordinates = coordinates_shape(space, shape)
    return elements(name, labels if coordinates == shape else numbered(coordinates))


def interval(space: Space, value: Array, half: Array, free: Array, free_half: Array) -> tuple[Array, Array]:
    """The ends of a confidence interval of each element, on a scale on which it knows no edge, mapped back.

    Arguments:
        space: of the leaf.
        value: the estimate.
        half: half the width of the interval of each element, by its own standard error.
        free: the coordinates of the estimate.
        free_half: half the width of the interval of each coordinate.

    Returns the lower and the upper ends, each shaped like ``value``.
    """
    own = getattr(space, "interval", None)
    return (value - half, value + half) if own is None else own(value, half, free, free_half)


def repeated(space: Space, shape: Shape) -> np.ndarray:
    """Which elements say again what another one says, such as a symmetric matrix below its diagonal."""
    own = getattr(space, "repeated", None)
    return np.zeros(shape, bool) if own is None else own(shape)


def constant(space: Space, shape: Shape) -> np.ndarray:
    """Which elements are the same at every point of the space, such as the share of a single class."""
    own = getattr(space, "constant", None)
    return np.zeros(shape, bool) if own is None else own(shape)


def tangential(space: Space, value: Array, slope: Array) -> Array:
    """A gradient without that part of it which no motion inside the space can follow."""
    own = getattr(space, "tangential", None)
    return slope if own is None else own(value, slope)


def settle(space: Space, value: Any, eps: float) -> Any:
    """The point moved into the space, where it misses that by no more than the precision ``eps`` it came in with.

    ``value`` is an array of NumPy or of JAX, and so is what is returned.
    """
    own = getattr(space, "settle", None)
    return value if own is None else own(value, eps)


def needs(space: Space, shape: Shape) -> str | None:
    """What axes the space needs, in words, where ``shape`` lacks them; ``None`` where it does not."""
    own = getattr(space, "needs", None)
    if own is not None:
        return own(shape)
    needed = event_ndim(space)
    if len(shape) >= needed and (needed < 2 or shape[-1] == shape[-2]):
        return None
    return "a last axis" if needed == 1 else "two last axes of equal length"


def hold(space: Space, mask: Any, value: Any) -> Space:
    """The space of the same arrays whose elements under ``mask`` are held at ``value``.

    Raises ``ValueError`` where the space does not say how.
    """
    own = getattr(space, "hold", None)
    if own is None:
        raise ValueError(
            f"elements of parameters that are {space.description} cannot be held: {type(space).__name__} has no "
            "hold(mask, value) -> Space. Write: one that returns the space in which they are constants"
        )
    return own(mask, value)


def elements(name: str, labels: Labels) -> list[str]:
    """The name of each element of an array, such as ``x[0, 1]``; of a scalar, its own."""
    return [f"{name}[{', '.join(index)}]" if index else name for index in itertools.product(*labels)]


def numbered(shape: Shape) -> list[list[str]]:
    """The places along each axis, by number."""
    return [[str(place) for place in range(length)] for length in shape]
