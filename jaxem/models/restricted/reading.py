"""Restrictions as users write them, read into a space for each array of the parameters.

Every element of every array gets a number. Elements that are tied form groups; a group is held where one of its
elements is. From groups and held values follow the restricted spaces.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxem.core import trees
from jaxem.core.checks import brief
from jaxem.core.spaces import Affine, answers
from jaxem.core.spaces.held import Held
from jaxem.core.spaces.linked import Linked
from jaxem.core.spaces.tied import Tied

Shape = tuple[int, ...]


class Leaf(NamedTuple):
    """One array of the parameters, as it is before the restriction."""

    name: str
    space: Any  # a ``Space``
    axes: tuple[str | int, ...] | None  # None where the model does not declare them
    value: np.ndarray | None  # None where no parameters are given
    sizes: dict[str, int]  # the lengths of axes that are known


class Restriction(NamedTuple):
    """What a restriction says of each element."""

    leaves: list[Leaf]
    shapes: list[Shape | None]  # None where nothing is said of the leaf
    held: list[np.ndarray]  # the value of each element that is held, NaN elsewhere
    group: list[np.ndarray]  # the number of the first element that each element is tied to
    affine: dict[int, Affine]


class Reader:
    """Collects what is said, element by element."""

    def __init__(self, leaves: list[Leaf]) -> None:
        self.leaves = leaves
        self.names = [leaf.name for leaf in leaves]
        self.shapes: list[Shape | None] = [None] * len(leaves)
        self.values: dict[tuple[int, int], float] = {}  # (leaf, element) -> value
        self.parent: dict[tuple[int, int], tuple[int, int]] = {}
        self.affine: dict[int, Affine] = {}

    def shape(self, i: int, hint: Shape | None = None) -> Shape:
        """The shape of a leaf: that of the parameters, or of its declared axes, or ``hint``."""
        if self.shapes[i] is None:
            leaf = self.leaves[i]
            if leaf.value is not None:
                self.shapes[i] = leaf.value.shape
            elif leaf.axes is not None:
                lengths = [axis if isinstance(axis, int) else leaf.sizes.get(axis) for axis in leaf.axes]
                known = [n for n in lengths if n is not None]
                if len(known) == len(lengths):
                    self.shapes[i] = tuple(known)
                elif hint is not None and len(hint) == len(lengths):
                    self.shapes[i] = tuple(h if n is None else n for n, h in zip(lengths, hint, strict=True))
        shape = self.shapes[i]
        if shape is None:
            raise ValueError(
                f"restrict: the shape of {self.names[i]} depends on the data; give parameters of the right shapes, "
                "e.g. params=model.init(key, data)"
            )
        return shape

    def find(self, name: str) -> int:
        if name not in self.names:
            raise ValueError(f"restrict: the model has no parameter {name!r}; it has {', '.join(self.names)}")
        return self.names.index(name)

    def select(self, reference: str, hint: Shape | None = None) -> tuple[int, np.ndarray, tuple[Any, ...]]:
        """The leaf, the numbers of the elements that ``reference`` names, and its index."""
        name, index = _parse(reference)
        i = self.find(name)
        shape = self.shape(i, hint if index == () else None)
        numbers = np.arange(math.prod(shape)).reshape(shape)
        try:
            return i, np.asarray(numbers[index]), index
        except IndexError as error:
            raise ValueError(f"restrict: {reference!r} does not fit {name}, whose shape is {shape}") from error

    def fix(self, reference: str, value: Any) -> None:
        name, index = _parse(reference)
        if value is None and index == () and name not in self.names:
            below = [own for own in self.names if own.startswith(f"{name}.")]  # a whole part of the parameters
            if below:
                for own in below:
                    self.fix(own, None)
                return
        if isinstance(value, Affine):
            i = self.find(name)
            shape = self.shape(i, value.shape)
            if index != () or shape != value.shape or answers.unit_free(self.leaves[i].space):
                raise ValueError(
                    f"restrict: an affine map needs a whole array of real numbers; {reference!r} has shape {shape} and "
                    f"is {self.leaves[i].space.description}, the map has shape {value.shape}"
                )
            base, f, d = self.leaves[i].space, value.offset.array, value.design.array
            if not all(bool(base.contains(jax.numpy.asarray(f + each))) for each in [0 * f, *np.moveaxis(d, -1, 0)]):
                raise ValueError(f"restrict: {name} must be {base.description}, and this affine map has other values")
            self.affine[i] = value
            return
        mask = None
        if isinstance(value, tuple) and len(value) == 2 and np.asarray(value[0]).dtype == bool:
            mask, value = np.asarray(value[0]), value[1]
        if trees.holds_tracers(value):
            raise ValueError(f"restrict: the values of {reference!r} must be known numbers; they are traced")
        hint = mask.shape if mask is not None else np.shape(value) if value is not None else None
        i, numbers, index = self.select(reference, hint)
        if value is None:
            own = self.leaves[i].value
            if own is None:
                raise ValueError(f"restrict: {reference!r} is fixed at its value in params; give params")
            value = own[index]
        try:
            values = np.broadcast_to(np.asarray(value, np.float64), numbers.shape)
            mask = np.ones(numbers.shape, bool) if mask is None else np.broadcast_to(mask, numbers.shape)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"restrict: {reference!r} has shape {numbers.shape}; its value must be a number, numbers of that "
                f"shape, None, or a pair (mask, numbers); got {brief(value)}"
            ) from error
        if not np.isfinite(values[mask]).all():
            raise ValueError(f"restrict: {reference!r} must be fixed at finite numbers; got {brief(value)}")
        for number, own in zip(numbers[mask].tolist(), values[mask].tolist(), strict=True):
            self._set((i, number), own)

    def tie(self, names: str | Sequence[str]) -> None:
        references = names.split("=") if isinstance(names, str) else list(names)
        references = [reference.strip() for reference in references]
        if len(references) == 1:
            return self._tie_classes(references[0])
        found = [self.select(reference) for reference in references]
        shapes = [numbers.shape for _, numbers, _ in found]
        if len(set(shapes)) > 1:
            listed = ", ".join(f"{name!r} {shape}" for name, shape in zip(references, shapes, strict=True))
            raise ValueError(f"restrict: what is tied must have one shape; got {listed}")
        (i, first, _), *others = found
        for j, numbers, _ in others:
            if bare(self.leaves[i].space) != bare(self.leaves[j].space):
                kinds = f"{self.leaves[i].space.description} and {self.leaves[j].space.description}"
                raise ValueError(f"restrict: what is tied must be of one kind; {' = '.join(references)} are {kinds}")
            for a, b in zip(first.ravel().tolist(), numbers.ravel().tolist(), strict=True):
                self._join((i, a), (j, b))

    def _tie_classes(self, reference: str) -> None:
        i, numbers, index = self.select(reference)
        axes = self.leaves[i].axes
        place = None if axes is None or "K" not in axes else axes.index("K")
        if place is not None:  # among the axes that the index leaves
            taken = index[: place + 1]
            ints = [isinstance(part, int) for part in taken]
            place = None if place < len(index) and ints[place] else place - sum(ints)
        if place is None:
            raise ValueError(
                f"restrict: {reference!r} is tied across classes, but has no axis of classes. To tie it to something "
                'else, write "a = b"'
            )
        rows = np.moveaxis(numbers, place, 0)
        for row in rows[1:]:
            for a, b in zip(rows[0].ravel().tolist(), row.ravel().tolist(), strict=True):
                self._join((i, a), (i, b))

    def _root(self, element: tuple[int, int]) -> tuple[int, int]:
        while element in self.parent:
            element = self.parent[element]
        return element

    def _join(self, a: tuple[int, int], b: tuple[int, int]) -> None:
        a, b = sorted((self._root(a), self._root(b)))
        if a != b:
            self.parent[b] = a

    def _set(self, element: tuple[int, int], value: float) -> None:
        if self.values.setdefault(element, value) != value:
            raise ValueError(f"restrict: {self._name(element)} is fixed at {self.values[element]:g} and at {value:g}")

    def _name(self, element: tuple[int, int]) -> str:
        i, number = element
        where = ", ".join(map(str, np.unravel_index(number, self.shape(i)))) if self.shape(i) else ""
        return f"{self.names[i]}[{where}]" if where else self.names[i]

    def resolve(self) -> Restriction:
        self._before()
        common: dict[tuple[int, int], float] = {}
        for element, value in self.values.items():
            root = self._root(element)
            if common.setdefault(root, value) != value:
                raise ValueError(
                    f"restrict: {self._name(element)} is fixed at {value:g}, and what it is tied to at {common[root]:g}"
                )
        held, group, start = [], [], 0
        starts = np.cumsum([0, *(math.prod(shape) if shape is not None else 0 for shape in self.shapes)]).tolist()
        for i, shape in enumerate(self.shapes):
            n = math.prod(shape) if shape is not None else 0
            roots = [self._root((i, number)) for number in range(n)]
            like = (0,) if shape is None else shape
            held.append(np.array([common.get(root, np.nan) for root in roots], float).reshape(like))
            group.append(np.array([starts[root[0]] + root[1] for root in roots], int).reshape(like))
            start += n
        for i in self.affine:
            if np.isfinite(held[i]).any() or (group[i].ravel() != starts[i] + np.arange(group[i].size)).any():
                raise ValueError(
                    f"restrict: {self.names[i]} has an affine map, so no element of it can be held or tied"
                )
        return Restriction(self.leaves, self.shapes, held, group, self.affine)

    def _before(self) -> None:
        """What restricts the leaves already that are touched."""
        for i, leaf in enumerate(self.leaves):
            space, shape = leaf.space, self.shapes[i]
            if shape is None:
                continue
            if isinstance(space, Linked | Affine):
                raise ValueError(f"restrict: {leaf.name} is restricted already; say all of it in one call of restrict")
            if isinstance(space, Tied):
                numbers = np.arange(math.prod(shape)).reshape(space.leader.array.size, -1)
                for point, leader in zip(numbers, space.leader.array.ravel().tolist(), strict=True):
                    for a, b in zip(point.tolist(), numbers[leader].tolist(), strict=True):
                        self._join((i, a), (i, b))
                space = space.space
            if isinstance(space, Held):
                mask, value = space.mask.array, space.value.array
                for number in np.flatnonzero(mask).tolist():
                    self._set((i, number), float(value.ravel()[number]))


def _parse(reference: str) -> tuple[str, tuple[Any, ...]]:
    """``"a.b[0, :]"`` as its name and index."""
    match = re.fullmatch(r"\s*([^\[\]=]+?)\s*(?:\[([^\[\]]*)\])?\s*", reference) if isinstance(reference, str) else None
    if match is None:
        raise ValueError(
            f'restrict: {brief(reference)} is not a parameter, such as "components.means" or "transition[0, 2]"'
        )
    name, inside = match.groups()
    if inside is None:
        return name, ()
    try:
        return name, tuple(_index(part.strip()) for part in inside.split(","))
    except ValueError as error:
        raise ValueError(f"restrict: the index of {reference!r} must be whole numbers and slices") from error


def _index(part: str) -> Any:
    if part == "...":
        return Ellipsis
    if ":" not in part:
        return int(part)
    return slice(*(int(end) if end.strip() else None for end in part.split(":")))


def bare(space: Any) -> Any:
    """The space without what restricts it."""
    return bare(space.space) if isinstance(space, Held | Tied | Linked) else space
