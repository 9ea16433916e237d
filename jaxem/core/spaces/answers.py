"""Optional properties of a space, with a default for each.

A space must have the five attributes of ``Space``. Each function here reads one optional attribute of the same name; a
space without it is treated like real numbers, unless stated otherwise.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.keeping import Kept
from jaxem.core.spaces.protocol import Edge, Space

Shape = tuple[int, ...]
Labels = Sequence[Sequence[str]]  # for each axis, the names of the places along it


def event_ndim(space: Space) -> int:
    """The number of last axes that hold one point: 0 for numbers, 1 for vectors, 2 for matrices."""
    return getattr(space, "event_ndim", 0)


def edge(space: Space) -> Edge | None:
    """The edge of the space, where coordinates such as logs run off to infinity; ``None`` where there is none."""
    return getattr(space, "edge", None)


def unit(space: Space) -> float | None:
    """The scale against which a change is measured, such as 1 for probabilities; ``None``: the parameter's own size."""
    return getattr(space, "unit", None)


def unit_free(space: Space) -> bool:
    """Whether a change of the units of the data leaves the coordinates unchanged, or only shifts them.

    The default is True, unlike for real numbers, because most other charts consist of logs and ratios.
    """
    return getattr(space, "unit_free", True)


_shapes = Kept(256)  # to ask JAX takes half a millisecond, and tables of models ask for each leaf of each model


def coordinates_shape(space: Space, shape: Shape) -> Shape:
    """The shape of the coordinates of a leaf of this shape."""
    ask = lambda: jax.eval_shape(space.inverse, jax.ShapeDtypeStruct(shape, jnp.float32)).shape
    if type(space).__hash__ is None:
        return ask()
    found = _shapes.get((space, shape))
    if found is None:
        found = ask()
        _shapes.put((space, shape), found)
    return found


def live(space: Space, shape: Shape) -> np.ndarray:
    """Which coordinates of a leaf of this shape are live off the edges: booleans shaped like the coordinates."""
    own = getattr(space, "live", None)
    return np.ones(coordinates_shape(space, shape), bool) if own is None else own(shape)


def dimension(space: Space, shape: Shape) -> int:
    """The degrees of freedom of a leaf of this shape off the edges: the number of live coordinates."""
    own = getattr(space, "dimension", None)
    return int(live(space, shape).sum()) if own is None else own(shape)


def project(space: Space, value: Array) -> Array:
    """A point of a restricted space near ``value``, a point of the space without the restriction."""
    own = getattr(space, "project", None)
    return value if own is None else own(value)


def names(space: Space, name: str, labels: Labels) -> list[str]:
    """The name of each coordinate of the leaf ``name``: a transformation and an element, such as ``log x[0]``.

    ``labels``: for each axis of the leaf, the names of the places along it.
    """
    own = getattr(space, "names", None)
    if own is not None:
        return own(name, labels)
    shape = tuple(map(len, labels))
    coordinates = coordinates_shape(space, shape)
    return elements(name, labels if coordinates == shape else numbered(coordinates))


def interval(space: Space, value: Array, half: Array, free: Array, free_half: Array) -> tuple[Array, Array]:
    """The ends of a confidence interval of each element, computed on a scale without an edge and mapped back.

    Arguments:
        space: the space of the leaf.
        value: the estimate.
        half: half the width of the interval of each element, from its own standard error.
        free: the coordinates of the estimate.
        free_half: half the width of the interval of each coordinate.

    Returns:
        The lower and the upper ends, each shaped like ``value``.
    """
    own = getattr(space, "interval", None)
    return (value - half, value + half) if own is None else own(value, half, free, free_half)


def repeated(space: Space, shape: Shape) -> np.ndarray:
    """Which elements repeat another one, such as those of a symmetric matrix below its diagonal."""
    own = getattr(space, "repeated", None)
    return np.zeros(shape, bool) if own is None else own(shape)


def constant(space: Space, shape: Shape) -> np.ndarray:
    """Which elements are the same at every point of the space, such as the weight of a single class."""
    own = getattr(space, "constant", None)
    return np.zeros(shape, bool) if own is None else own(shape)


def tangential(space: Space, value: Array, slope: Array) -> Array:
    """The part of a gradient along directions that stay in the space."""
    own = getattr(space, "tangential", None)
    return slope if own is None else own(value, slope)


def settle(space: Space, value: Any, eps: float) -> Any:
    """The point moved into the space, where it misses that by no more than the precision ``eps`` of its source.

    ``value`` is a NumPy or a JAX array, and so is the result.
    """
    own = getattr(space, "settle", None)
    return value if own is None else own(value, eps)


def needs(space: Space, shape: Shape) -> str | None:
    """The axes that the space needs and ``shape`` lacks, in words; ``None`` where it lacks none."""
    own = getattr(space, "needs", None)
    if own is not None:
        return own(shape)
    needed = event_ndim(space)
    if len(shape) >= needed and (needed < 2 or shape[-1] == shape[-2]):
        return None
    return "a last axis" if needed == 1 else "two last axes of equal length"


def hold(space: Space, mask: Any, value: Any) -> Space:
    """The space of the same arrays with the elements under ``mask`` held at ``value``.

    Raises ``ValueError`` where the space has no ``hold``.
    """
    own = getattr(space, "hold", None)
    if own is None:
        raise ValueError(
            f"elements of parameters that are {space.description} cannot be held: {type(space).__name__} has no "
            "hold(mask, value) -> Space. Write it: it returns the space in which those elements are constants"
        )
    return own(mask, value)


def elements(name: str, labels: Labels) -> list[str]:
    """The name of each element of an array, such as ``x[0, 1]``; for a scalar, ``name`` alone."""
    return [f"{name}[{', '.join(index)}]" if index else name for index in itertools.product(*labels)]


def numbered(shape: Shape) -> list[list[str]]:
    """The places along each axis, named by number."""
    return [[str(place) for place in range(length)] for length in shape]
