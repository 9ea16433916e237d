"""Patterns of matrices: which elements are fixed at numbers, which are equal to each other, which are free.

A pattern is written as the matrix itself: a number is fixed (0: a structural zero), ``None`` is free, and elements with
the same name (a text) share one free value, as in ``[[1.0, None], [0.0, "a"]]``.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.spaces import Space, answers
from jaxem.core.spaces.protocol import Edge, space

Spec = Any  # "free", or a nested tuple of numbers, None and names


def frozen(spec: Any) -> Spec:
    """A pattern as nested tuples, which can be hashed; words and ``None`` as they are."""
    if spec is None or isinstance(spec, str | bool):
        return spec
    if isinstance(spec, list | tuple):
        return tuple(frozen(part) for part in spec)
    if hasattr(spec, "tolist"):
        return frozen(spec.tolist())
    return float(spec)


def layout(spec: Spec, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The number of the free value at each place (-1 where it is fixed), and the fixed values (0 elsewhere)."""
    if isinstance(spec, str):
        return np.arange(int(np.prod(shape))).reshape(shape), np.zeros(shape)
    index, values, names = [], [], {}
    free = 0
    for entry in _entries(spec):
        if isinstance(entry, float):
            index.append(-1)
        elif entry is None or entry not in names:
            index.append(free)
            names.update({} if entry is None else {entry: free})
            free += 1
        else:
            index.append(names[entry])
        values.append(entry if isinstance(entry, float) else 0.0)
    return np.array(index).reshape(shape), np.array(values).reshape(shape)


def _entries(spec: Spec) -> list[Any]:
    return [entry for part in spec for entry in _entries(part)] if isinstance(spec, tuple) else [spec]


def shape_of(title: str, spec: Spec, wanted: tuple[int | None, ...]) -> tuple[int, ...]:
    """The shape of a pattern. Raises ``ValueError`` where it is not ``wanted`` (``None``: any length) or holds NaN."""
    shape, level = [], spec
    while isinstance(level, tuple):
        shape.append(len(level))
        level = level[0] if level else None
    found = tuple(shape)
    good = len(found) == len(wanted) and all(w is None or w == f for w, f in zip(wanted, found, strict=True))
    if not good or 0 in found or not _is_full(spec, found):
        asked = " x ".join("any" if w is None else str(w) for w in wanted)
        raise ValueError(f"{title} needs {asked} numbers, names or None, as nested lists; got shape {found}")
    if any(isinstance(entry, float) and not np.isfinite(entry) for entry in _entries(spec)):
        raise ValueError(f"{title}: numbers must be finite; None is an element that is free")
    if any(isinstance(entry, bool) for entry in _entries(spec)):
        raise ValueError(f"{title} needs numbers, names or None; got a truth value")
    return found


def _is_full(spec: Spec, shape: tuple[int, ...]) -> bool:
    if not shape:
        return not isinstance(spec, tuple)
    return isinstance(spec, tuple) and len(spec) == shape[0] and all(_is_full(part, shape[1:]) for part in spec)


def is_fixed(spec: Spec) -> bool:
    """Whether every element is a number."""
    return isinstance(spec, tuple) and all(isinstance(entry, float) for entry in _entries(spec))


@space
class Pattern:
    """Arrays with a pattern whose free values lie in ``base``, a space of single numbers."""

    base: Space
    spec: Spec

    @property
    def _layout(self) -> tuple[np.ndarray, np.ndarray]:
        return layout(self.spec, shape_of("a pattern", self.spec, (None,) * self.event_ndim))

    @property
    def event_ndim(self) -> int:
        """The number of axes of the array."""
        level, found = self.spec, 0
        while isinstance(level, tuple):
            level, found = level[0], found + 1
        return found

    @property
    def description(self) -> str:
        """What the space requires of the values, in words."""
        return f"{self.base.description}, with the fixed numbers and the equal elements of its pattern"

    @property
    def edge(self) -> Edge | None:
        """The edge of the free values."""
        return None if answers.edge(self.base) is None else PatternEdge(self)

    @property
    def unit_free(self) -> bool:
        """The same as for the underlying space."""
        return answers.unit_free(self.base)

    @property
    def first(self) -> np.ndarray:
        """The place at which each free value stands first, in the array as one row."""
        index = self._layout[0].ravel()
        return np.array([int(np.argmax(index == g)) for g in range(index.max(initial=-1) + 1)], int)

    def reduce(self, value: Any) -> Any:
        """The free values (G,)."""
        return value.reshape(-1)[self.first]

    def expand(self, values: Any, fixed: bool = True) -> Any:
        """The array with these free values; fixed elements are zero without ``fixed``."""
        xp, (index, numbers) = values.__array_namespace__(), self._layout
        numbers = xp.asarray(numbers if fixed else np.zeros_like(numbers), dtype=values.dtype)
        return xp.where(index < 0, numbers, values[np.maximum(index, 0)]) if values.size else numbers

    def forward(self, free: Array, like: Array | None = None) -> Array:
        return self.expand(self.base.forward(free, None if like is None else self.reduce(like)))

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        return self.base.inverse(self.reduce(value), None if like is None else self.reduce(like))

    def free(self, value: Array) -> Array:
        return self.base.free(self.reduce(value))

    def contains(self, value: Any) -> Any:
        eps = float(jnp.finfo(value.dtype).eps)
        return self.base.contains(self.reduce(value)) & self._near(value, eps).all()

    def _near(self, value: Any, eps: float) -> Any:
        wanted = self.expand(self.reduce(value))
        return abs(value - wanted) <= eps**0.5 * abs(wanted)

    def settle(self, value: Any, eps: float) -> Any:
        xp = value.__array_namespace__()
        return xp.where(self._near(value, eps), self.expand(self.reduce(value)), value)

    def dimension(self, shape: answers.Shape) -> int:
        return len(self.first)

    def needs(self, shape: answers.Shape) -> str | None:
        own = self._layout[0].shape
        return None if tuple(shape) == own else f"the shape {own}"

    def names(self, name: str, labels: answers.Labels) -> list[str]:
        every = answers.names(self.base, name, labels)
        return [every[place] for place in self.first]

    def interval(self, value: Array, half: Array, free: Array, free_half: Array) -> tuple[Array, Array]:
        ends = answers.interval(self.base, self.reduce(value), self.reduce(half), free, free_half)
        return self.expand(ends[0]), self.expand(ends[1])

    def repeated(self, shape: answers.Shape) -> np.ndarray:
        again = np.ones(int(np.prod(shape)), bool)
        again[self.first] = False
        return again.reshape(shape) & ~self.constant(shape)

    def constant(self, shape: answers.Shape) -> np.ndarray:
        return self._layout[0] < 0

    def tangential(self, value: Array, slope: Array) -> Array:
        index = self._layout[0]
        one_hot = (index[None] == np.arange(len(self.first)).reshape(-1, *(1,) * index.ndim)).reshape(-1, index.size)
        counts = one_hot.sum(axis=1)
        means = jnp.asarray(one_hot / np.maximum(counts, 1)[:, None], slope.dtype) @ slope.reshape(-1)
        return self.expand(means, fixed=False)


@space
class PatternEdge:
    """The edge of a pattern: that of its free values. Fixed elements are never on it."""

    pattern: Pattern

    @property
    def _edge(self) -> Edge:
        edge = answers.edge(self.pattern.base)
        assert edge is not None
        return edge

    def _each(self, found: Array) -> Array:
        return self.pattern.expand(found.astype(jnp.int32), fixed=False).astype(bool)

    def strays(self, value: Array, rounding: float) -> Array:
        return self._each(self._edge.strays(self.pattern.reduce(value), rounding))

    def inward(self, value: Array, slope: Array) -> Array:
        return self._edge.inward(value, slope)

    def place(self, value: Array, out: Array) -> tuple[Array, Array]:
        y, left_out = self._edge.place(self.pattern.reduce(value), self.pattern.reduce(out))
        return self.pattern.expand(y), left_out

    def runs_off(self, value: Array, step: Array, unknown: Array, share: float) -> Array:
        reduce = self.pattern.reduce
        return self._each(self._edge.runs_off(reduce(value), reduce(step), unknown, share))
