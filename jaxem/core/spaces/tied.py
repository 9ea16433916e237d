"""A space in which some points are equal to each other, such as the variances of all classes.

The first point of a group, its leader, has the coordinates of all of them. Those of the others keep their places and
are dead: 0, without any effect. For probabilities and matrices whole rows and whole matrices are points.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices
from jaxem.core.spaces import answers
from jaxem.core.spaces.fixed import Fixed
from jaxem.core.spaces.protocol import Edge, Space, space
from jaxem.core.spaces.within import Within, edge_within


@space
class Tied(Within):
    """Points of ``space``, an array of them: x_i = x_j wherever both have the same leader."""

    space: Space
    leader: Fixed  # of each point, the number of its leader; shaped like the array of points

    @property
    def description(self) -> str:
        """What the space requires of the values, in words."""
        leader = self.leader.array
        return f"{self.space.description}, with {leader.size} parts tied to {np.unique(leader).size} values"

    @property
    def edge(self) -> Edge | None:
        """The edge of the underlying space, for the common value."""
        return None if answers.edge(self.space) is None else TiedEdge(self)

    def __repr__(self) -> str:
        return f"Tied({self.space!r}, {self.leader.array.tolist()})"

    @property
    def together(self) -> np.ndarray:
        """(points, points), whether two points are tied."""
        leader = self.leader.array.ravel()
        return leader[:, None] == leader[None, :]

    def spread(self, x: Any, event_ndim: int) -> Any:
        """``x`` with the values of leaders in the places of those that follow; points have ``event_ndim`` axes."""
        own, xp = self.leader.array, x.__array_namespace__()
        lead = x.ndim - event_ndim - own.ndim
        flat = x.reshape(*x.shape[:lead], own.size, *x.shape[x.ndim - event_ndim :])
        return xp.take(flat, xp.asarray(own.ravel()), axis=lead).reshape(x.shape)

    def summed(self, x: Array, event_ndim: int) -> Array:
        """``x`` with the sum over each group in the place of each of its points."""
        own = self.leader.array
        lead = x.ndim - event_ndim - own.ndim
        flat = x.reshape(*x.shape[:lead], own.size, -1)
        return matrices.product(jnp.asarray(self.together, x.dtype), flat).reshape(x.shape)

    def mean(self, x: Array, event_ndim: int) -> Array:
        """``x`` with the mean of each group in the place of each of its points."""
        size = self.together.sum(axis=1).reshape(self.leader.shape + (1,) * event_ndim).astype(x.dtype)
        size = size.reshape((1,) * (x.ndim - size.ndim) + size.shape)
        return self.spread(self.summed(x, event_ndim) / size, event_ndim)  # equal to the last bit

    def _leads(self, free: Any) -> np.ndarray:
        """Which coordinates belong to leaders."""
        own = self.leader.array
        leads = own == np.arange(own.size).reshape(own.shape)
        inner = self._inner_ndim
        return leads.reshape((1,) * (free.ndim - inner - leads.ndim) + leads.shape + (1,) * inner)

    @property
    def _inner_ndim(self) -> int:
        """The number of axes of the coordinates of one point."""
        shape = self.leader.shape + (2,) * self.event_ndim
        own = getattr(self.space, "mask", None)  # a held space knows its shape
        shape = shape if own is None else own.shape
        return len(answers.coordinates_shape(self.space, shape)) - len(self.leader.shape)

    def forward(self, free: Array, like: Array | None = None) -> Array:
        return self.spread(self.space.forward(jnp.where(self._leads(free), free, 0), like), self.event_ndim)

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        free = self.space.inverse(value, like)
        return jnp.where(self._leads(free), free, 0)

    def free(self, value: Array) -> Array:
        free = self.space.free(value)
        return free & self._leads(free)

    def live(self, shape: answers.Shape) -> np.ndarray:
        """Which coordinates are not dead."""
        inner = answers.live(self.space, shape)
        return inner & self._leads(inner)

    def _near(self, value: Any, eps: float) -> Any:
        """Which elements equal those of their leader to the relative precision sqrt(eps)."""
        led = self.spread(value, self.event_ndim)
        return abs(value - led) <= eps**0.5 * abs(led)

    def contains(self, value: Any) -> Any:
        return self.space.contains(value) & self._near(value, float(jnp.finfo(value.dtype).eps)).all()

    def settle(self, value: Any, eps: float) -> Any:
        xp, settled = value.__array_namespace__(), answers.settle(self.space, value, eps)
        return xp.where(self._near(settled, eps), self.spread(settled, self.event_ndim), settled)

    def project(self, value: Array) -> Array:
        """The mean of each group."""
        return self.mean(answers.project(self.space, value), self.event_ndim)

    def needs(self, shape: answers.Shape) -> str | None:
        own, rest = self.leader.shape, self.event_ndim
        fits = shape[len(shape) - rest - len(own) : len(shape) - rest] == own
        return answers.needs(self.space, shape) if fits else f"axes of lengths {own}, which are tied"

    def interval(self, value: Array, half: Array, free: Array, free_half: Array) -> tuple[Array, Array]:
        free, free_half = (self.spread(part, self._inner_ndim) for part in (free, free_half))
        return answers.interval(self.space, value, half, free, free_half)

    def constant(self, shape: answers.Shape) -> np.ndarray:
        return answers.constant(self.space, shape)

    def tangential(self, value: Array, slope: Array) -> Array:
        return self.mean(answers.tangential(self.space, value, slope), self.event_ndim)


@space
class TiedEdge:
    """The edge of a tied space: the common value moves to the edge, and with it all that are tied."""

    tied: Tied

    @property
    def _edge(self) -> Edge:
        return edge_within(self.tied)

    def strays(self, value: Array, rounding: float) -> Array:
        return self._edge.strays(value, rounding)

    def inward(self, value: Array, slope: Array) -> Array:
        return self._edge.inward(value, self.tied.summed(slope, self.tied.event_ndim))

    def place(self, value: Array, out: Array) -> tuple[Array, Array]:
        whole = self.tied.summed(out.astype(value.dtype), self.tied.event_ndim) > 0
        return self._edge.place(value, whole)

    def runs_off(self, value: Array, step: Array, unknown: Array, share: float) -> Array:
        unknown = self.tied.spread(unknown, self.tied._inner_ndim)
        return self._edge.runs_off(value, step, unknown, share)
