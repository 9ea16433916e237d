"""The protocol of a parameter space: a set, its charts (unconstrained coordinates), and its edge.

A chart has the dimension of its space (a simplex of K weights has K - 1 coordinates). So a zero gradient in coordinates
means a stationary point *on the space*, and a Hessian in coordinates has only the null directions of the model. Charts
of scale parameters are logarithmic, so that a change of units is a shift.

A chart is made at a point. It holds the entries of that point that lie exactly on the edge (a probability of 0 or 1, a
rate of 0): they are structure, such as an impossible transition, and EM never moves them. Their coordinates are dead:
0, without any effect. So the number of coordinates does not depend on values, and ``vmap`` and ``jit`` work. ``free``
says which coordinates are live.
"""

import dataclasses
from typing import Any, Protocol, TypeVar, dataclass_transform, runtime_checkable

import jax
from jax import Array

T = TypeVar("T")


@runtime_checkable
class Space(Protocol):
    """The set in which an array of parameters lies, with a map to unconstrained coordinates and back.

    Every space has the attributes below. ``answers.py`` lists the optional ones and their defaults.
    """

    description: str  # what the space requires, in words that follow "must be"

    def forward(self, free: Array, like: Array | None = None) -> Array:
        """The point of the space with these coordinates.

        Arguments:
            free: the coordinates.
            like: the point at which the chart is made; ``None`` (default): a chart that holds nothing.

        Returns:
            A point of the space.
        """
        ...

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        """The coordinates of a point of the space.

        Arguments:
            value: the point. An entry on the edge that the chart does not hold is moved inside by rounding error.
            like: the point at which the chart is made; ``None`` (default): ``value`` itself.

        Returns:
            The coordinates; 0 for what the chart holds.
        """
        ...

    def free(self, value: Array) -> Array:
        """Which coordinates of the chart made at ``value`` are live: booleans shaped like the coordinates."""
        ...

    def contains(self, value: Any) -> Any:
        """Whether the point lies in the space or on its edge, to rounding error; a scalar.

        The point is an array of JAX, or of NumPy where nothing is to be compiled.
        """
        ...


class Edge(Protocol):
    """The edge of a space, where coordinates run off to infinity.

    ``value``, ``slope``, ``step``, ``out`` and results are shaped like the point, unless stated otherwise.
    """

    def strays(self, value: Array, rounding: float) -> Array:
        """Which elements lie within ``rounding`` of the edge, but not exactly on it: those on it are structure."""
        ...

    def inward(self, value: Array, slope: Array) -> Array:
        """The slope of the objective as an element moves from the edge into the space, from the gradient ``slope``."""
        ...

    def place(self, value: Array, out: Array) -> tuple[Array, Array]:
        """The point with the elements ``out`` held at the edge, and a mask of the coordinates that are left out.

        Elements set exactly to the edge are held by the chart itself; for the others the coordinate is left out.
        """
        ...

    def runs_off(self, value: Array, step: Array, unknown: Array, share: float) -> Array:
        """Which elements ``step`` moves towards the edge by more than ``share`` of the distance that is left.

        ``unknown``, shaped like the coordinates: those about which even complete data hold no information.
        """
        ...


@dataclass_transform(frozen_default=True)
def space(cls: type[T]) -> type[T]:
    """Decorator of a space's class: instances are frozen, compared by value, and static to JAX."""
    return jax.tree_util.register_static(dataclasses.dataclass(frozen=True)(cls))
