"""What a parameter space is: a chart of a set, and the edge of that set.

Every chart has the dimension of its space (a simplex of K weights has K - 1 coordinates), so that a gradient
that vanishes in coordinates means stationarity *on the space*, and a Hessian in coordinates has no null
directions but the model's own. Charts of scales are logarithmic: a change of units is a shift.

A chart is made at a point. Entries of that point that lie exactly on the edge (a probability of 0 or 1, a rate of 0)
are held there by it: they are structure, such as a transition that is impossible, and EM never moves them. Their
coordinates are dead: 0, without any effect. So the number of coordinates does not depend on values, and ``vmap`` and
``jit`` work; ``free`` tells which coordinates live.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
from jax import Array


@runtime_checkable
class Space(Protocol):
    """What every space must have. ``answers.py`` lists what else it may say of itself, and what holds where it does
    not."""

    description: str

    def forward(self, free: Array, like: Array | None = None) -> Array:
        """Coordinates -> a point of the space, by the chart made at ``like``; ``None``: one that holds nothing."""
        ...

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        """A point of the space -> its coordinates in the chart made at ``like``, or at the point itself.

        What the chart holds has coordinate 0. What lies on the edge and is not held is moved inside by rounding error.
        """
        ...

    def free(self, value: Array) -> Array:
        """Which coordinates of the chart made at ``value`` live, bool, shaped like the coordinates."""
        ...

    def contains(self, value: Array) -> Array:
        """Whether the point lies in the space, its edge included, to rounding error."""
        ...


class Edge(Protocol):
    """The edge of a space, where coordinates run off to infinity.

    ``value``, ``slope``, ``step`` and ``out`` are shaped like the point; what is returned is too, if nothing else is
    said.
    """

    def strays(self, value: Array, rounding: float) -> Array:
        """Which elements lie on the edge but for ``rounding``, and not exactly: those that do are structure."""
        ...

    def inward(self, value: Array, slope: Array) -> Array:
        """How fast the objective rises where an element moves from the edge into the space, by its gradient."""
        ...

    def place(self, value: Array, out: Array) -> tuple[Array, Array]:
        """The point with the elements ``out`` held at the edge, and which coordinates are left out there.

        Elements that are set to the edge exactly are held by the chart itself; of others the coordinate is left out.
        """
        ...

    def runs_off(self, value: Array, step: Array, unknown: Array, share: float) -> Array:
        """Which elements ``step`` takes to the edge: by more than ``share`` of the way that is left.

        ``unknown``, shaped like the coordinates: those of which even complete data tell nothing.
        """
        ...


def space(cls: type) -> type:
    """A class of spaces: frozen, compared by value, and static to JAX."""
    return jax.tree_util.register_static(dataclasses.dataclass(frozen=True)(cls))
