"""Restrictions as users write them, read into a space for each array of the parameters.

Every element of every array gets a number. Elements that are tied form groups; a group is held where one of its
elements is. From groups and held values follow the restricted spaces.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxem.core import trees
from jaxem.core.checks import brief
from jaxem.core.parameters import Param
from jaxem.core.spaces import Affine, Space, answers
from jaxem.core.spaces.held import Fixed, Held
from jaxem.core.spaces.linked import Linked, links
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


def read(
    leaves: list[Leaf], fixed: Mapping[str, Any], tied: Sequence[str | Sequence[str]]
) -> tuple[tuple[Space, ...], tuple[int, ...], Restriction]:
    """The space of each array under a restriction, and which arrays it touches.

    Raises:
        ValueError: a name is unknown, a shape is not known or does not fit, or parts contradict each other.
    """
    if not isinstance(fixed, Mapping) or isinstance(tied, str) or not isinstance(tied, Sequence):
        raise ValueError(
            "restrict: fixed must be a dict from names to values and tied a list of names or of lists of names; got "
            f"fixed={brief(fixed)}, tied={brief(tied)}"
        )
    reader = _Reader(leaves)
    for name, value in fixed.items():
        reader.fix(name, value)
    for names in tied:
        reader.tie(names)
    found = reader.resolve()
    spaces = tuple(_space(found, i) for i in range(len(leaves)))
    touched = tuple(i for i, (leaf, space) in enumerate(zip(leaves, spaces, strict=True)) if space != leaf.space)
    sources = {source for i in touched for source in links(spaces[i], i)}
    return spaces, tuple(sorted({*touched, *sources})), found


class _Reader:
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
                    f"restrict: an affine map is of a whole array of real numbers; {reference!r} has shape {shape} and "
                    f"is {self.leaves[i].space.description}, the map has shape {value.shape}"
                )
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
            if _bare(self.leaves[i].space) != _bare(self.leaves[j].space):
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
        self._held_before()
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

    def _held_before(self) -> None:
        """What the model itself holds already, of the leaves that are touched."""
        for i, leaf in enumerate(self.leaves):
            if self.shapes[i] is not None and isinstance(leaf.space, Held):
                mask, value = leaf.space.mask.array, leaf.space.value.array
                for number in np.flatnonzero(mask).tolist():
                    self._set((i, number), float(value.ravel()[number]))


def _bare(space: Any) -> Any:
    return space.space if isinstance(space, Held) else space


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


def _space(found: Restriction, i: int) -> Any:
    """The restricted space of a leaf."""
    leaf, shape = found.leaves[i], found.shapes[i]
    if shape is None:
        return leaf.space
    if i in found.affine:
        return found.affine[i]
    held = np.isfinite(found.held[i])
    space = _bare(leaf.space)
    restricted: Any = answers.hold(space, held, np.where(held, found.held[i], 0)) if held.any() else space
    if isinstance(restricted, Held):
        held = restricted.mask.array  # rows of probabilities of which one entry is left are held whole
    sizes = [0 if each is None else math.prod(each) for each in found.shapes]
    first = sum(sizes[:i])
    numbers = found.group[i]
    points = shape[: len(shape) - answers.event_ndim(space)]
    flat, fixed = numbers.reshape(math.prod(points), -1), held.reshape(math.prod(points), -1)
    width = flat.shape[1]
    own = first + np.arange(flat.size).reshape(flat.shape)
    moved = (flat != own) & ~fixed
    if not moved.any():
        return restricted
    lead = flat[:, :1] + np.arange(width)[None, :]
    whole = (flat == lead) | fixed
    if (
        not whole.all()
        or ((flat[:, 0] - first) % width != 0)[~fixed.all(axis=1) & _inside(flat[:, 0], first, own)].any()
    ):
        raise ValueError(
            f"restrict: {leaf.name} is {space.description}; what is tied there must be whole "
            f"{'rows' if answers.event_ndim(space) == 1 else 'matrices'}, entry by entry"
        )
    local = _inside(flat[:, 0], first, own)
    constant = fixed.all(axis=1)
    at = np.arange(len(flat))
    leader = np.where(local & ~constant, (flat[:, 0] - first) // width, at)
    away = ~local & ~constant
    if away.any():
        return _linked(found, i, np.broadcast_to(away[:, None], flat.shape).reshape(shape), sizes)
    return Tied(restricted, Fixed.of(leader.reshape(points)))


def _inside(numbers: np.ndarray, first: int, own: np.ndarray) -> np.ndarray:
    return (numbers >= first) & (numbers < first + own.size)


def _linked(found: Restriction, i: int, mask: np.ndarray, sizes: list[int]) -> Any:
    """The space of a leaf of which elements follow those of another leaf; the others may not be tied among them."""
    ends = np.cumsum(sizes)
    source = found.group[i]
    leaf = np.searchsorted(ends, source, side="right")
    starts = ends - np.array(sizes)
    rest = ~mask & (found.group[i] != starts[i] + np.arange(mask.size).reshape(mask.shape))
    held = np.isfinite(found.held[i])
    if (rest & ~held).any():
        raise ValueError(
            f"restrict: some of {found.leaves[i].name} are tied among themselves and others to another array: tie all "
            "of them to the other array, or name it first"
        )
    space = _bare(found.leaves[i].space)
    harmless = _harmless(space, mask.shape)
    value = np.where(mask, harmless, np.where(held, found.held[i], 0))
    inner = answers.hold(space, mask | held, value)
    return Linked(inner, Fixed.of(mask), Fixed.of(leaf - i), Fixed.of(source - starts[leaf]))


def _harmless(space: Space, shape: Shape) -> np.ndarray:
    """A point of the space: where all coordinates are 0."""
    zeros = jax.numpy.zeros(answers.coordinates_shape(space, shape))
    return np.asarray(space.forward(zeros), np.float64)


def symmetric(found: Restriction, declared: list[Param]) -> bool:
    """Whether the restriction says the same of classes in any order."""
    touched = [i for i, shape in enumerate(found.shapes) if shape is not None]
    k = {found.shapes[i][p] for i in touched for p, axis in enumerate(declared[i].axes) if axis == "K"}  # pyright: ignore
    if not k:
        return True
    swaps = [np.r_[:j, j + 1, j, j + 2 : max(k)] for j in range(max(k) - 1)]
    return all(_same_under(order, found, declared, touched) for order in swaps)


def _same_under(order: np.ndarray, found: Restriction, declared: list[Param], touched: list[int]) -> bool:
    def turned(i: int, array: np.ndarray) -> np.ndarray:
        for place, axis in enumerate(declared[i].axes):
            array = np.take(array, order, axis=place) if axis == "K" else array
        return array

    for i in touched:
        if not np.array_equal(found.held[i], turned(i, found.held[i]), equal_nan=True):
            return False
        if i in found.affine:
            offset, design = found.affine[i].offset.array, found.affine[i].design.array
            d = design.reshape(-1, design.shape[-1])
            stay = np.eye(len(d)) - d @ np.linalg.pinv(d)
            moved = turned(i, design).reshape(d.shape)
            shift = (turned(i, offset) - offset).ravel()
            if not (np.allclose(stay @ moved, 0) and np.allclose(stay @ shift, 0)):
                return False
    old = np.concatenate([found.group[i].ravel() for i in touched])
    new = np.concatenate([turned(i, found.group[i]).ravel() for i in touched])
    pairs = len(set(zip(old.tolist(), new.tolist(), strict=True)))
    return pairs == len(set(old.tolist())) == len(set(new.tolist()))
