"""Exact observations as intervals, for data and simulations of ``Censored``."""

import itertools
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxem.core.arrays import as_array
from jaxem.core.trees import float_dtype
from jaxem.families import arcs


def grouped(x: Any, edges: Any, whole: bool = False, turn: float | None = None) -> Array:
    """Each observation as the group that it lies in, with edges[i] <= x < edges[i + 1].

    Arguments:
        x: observations (N,).
        edges: increasing numbers (M,), the first at most the smallest observation, the last above the largest; they may
            be infinite.
        whole: whether x are counts; the upper end of a group is then edges[i + 1] - 1, the largest count in it.
        turn: 2 pi where x are angles in radians: they may then be of any number of turns, edges span at most one turn,
            and what these leave of the circle is a group too. Default ``None``: numbers.

    Returns:
        Intervals (N, 2), in units of x.

    Raises:
        ValueError: an observation lies in no group, or edges do not increase, or span more than a turn.
    """
    x, edges = as_array(x, "grouped: x", False), as_array(edges, "grouped: edges", False)
    dtype = float_dtype((x, edges))
    x, edges = x.astype(dtype), edges.astype(dtype)
    if edges.ndim != 1 or edges.shape[0] < 2 or not bool((edges[1:] > edges[:-1]).all()):
        raise ValueError("grouped: edges must be at least two increasing numbers")
    if turn is not None:
        arcs.check("grouped", float(edges[0]), float(edges[-1]), turn)
        return sectors(x, edges, turn)
    if not bool(((x >= edges[0]) & (x < edges[-1])).all()):
        raise ValueError(f"grouped: every observation must lie between {edges[0]} and {edges[-1]}")
    return groups(x, edges, whole)


def groups(x: Array, edges: Array, whole: bool) -> Array:
    """``grouped`` without checks, in a trace too."""
    index = jnp.searchsorted(edges, x, side="right")
    return jnp.stack([edges[index - 1], edges[index] - (1 if whole else 0)], axis=1)


def sectors(x: Array, edges: Array, turn: float) -> Array:
    """The arc between neighbouring ``edges`` in which each angle lies; from the last it goes on to the first."""
    first, last = edges[0], edges[-1]
    groups = edges.shape[0] - jnp.where(arcs.closes(first, last, turn), 1, 0)
    index = jnp.searchsorted(edges, x - turn * jnp.floor((x - first) / turn), side="right")
    index = jnp.clip(index, 1, groups)  # turned by rounding onto an edge
    edges = jnp.concatenate([edges, edges[:1] + turn])
    return jnp.stack([edges[index - 1], edges[index]], axis=1)


def limited(x: Any, low: float = -jnp.inf, high: float = jnp.inf, turn: float | None = None) -> Array:
    """Each observation as seen by an instrument that reads from ``low`` to ``high`` (censoring of type I).

    Arguments:
        x: observations (N,).
        low: what lies below is censored on the left: (-inf, low). For counts, pass the largest count that is not read.
        high: what lies above is censored on the right: (high, inf).
        turn: 2 pi where x are angles in radians, of any number of turns: those outside the arc from low to high are
            known to lie in its complement, (high, low + turn). Default ``None``: numbers.

    Returns:
        Intervals (N, 2), in units of x: (x, x) where low <= x <= high.

    Raises:
        ValueError: x are angles, and low and high are no arc.
    """
    x = as_array(x, "limited: x", False)
    x = x.astype(jnp.result_type(x, float))
    if turn is not None:
        arcs.check("limited", low, high, turn)
        return outside(x, low, high, turn)
    below, above = x < low, x > high
    return jnp.stack(
        [jnp.where(below, -jnp.inf, jnp.where(above, high, x)), jnp.where(above, jnp.inf, jnp.where(below, low, x))],
        axis=1,
    )


def outside(x: Array, low: Any, high: Any, turn: float) -> Array:
    """``limited`` of angles, without checks, in a trace too."""
    rest = jnp.stack([jnp.asarray(end, x.dtype) for end in (high, low + turn)])
    return jnp.where((arcs.turned(x, high, turn) < low)[:, None], rest[None, :], x[:, None])


def scheme(family: Any, edges: Any, limits: Any) -> dict[str, tuple[float, ...] | None]:
    """How observations of a family become intervals, as ``Censored`` is told: ``edges`` and ``limits`` as tuples.

    Raises:
        ValueError: both are given; or these do not increase, or are no arc.
    """
    given = {"edges": edges, "limits": limits}
    found = {name: None if ends is None else tuple(map(float, ends)) for name, ends in given.items()}
    for name, ends in found.items():
        if ends is not None and not (ends and all(a < b for a, b in itertools.pairwise(ends))):
            raise ValueError(f"Censored: {name} must increase; got {ends}")
    if limits is not None and (edges is not None or len(limits) != 2):
        raise ValueError("Censored: give edges, or two limits, not both")
    turn = getattr(family, "turn", None)
    for ends in found.values():
        if ends is not None and turn is not None:
            arcs.check("Censored", ends[0], ends[-1], turn)
    return found


def seen(family: Any, x: Array, edges: tuple[float, ...] | None, limits: tuple[float, float] | None) -> Array:
    """Exact observations as the intervals of a ``scheme``, in a trace too; (x, x) without one."""
    turn = getattr(family, "turn", None)
    if edges is None and limits is None:
        return twice(x)
    if limits is not None:
        return limited(x, *limits) if turn is None else outside(x, *limits, turn)
    at = jnp.asarray(edges, x.dtype)
    if turn is not None:
        return sectors(x, at, turn)
    first, last = (jnp.asarray(bound, x.dtype) for bound in family.bounds)
    at = jnp.where(at > last, jnp.inf, jnp.maximum(at, first))  # no value lies between equal edges
    everything = jnp.concatenate([first[None], at, jnp.full(1, jnp.inf, x.dtype)])
    return groups(x, everything, getattr(family, "whole", False))


def twice(x: Array) -> Array:
    """Exact observations as intervals (x, x)."""
    return jnp.stack([x, x], axis=1)
