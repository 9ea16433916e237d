"""The declaration of each array of the parameters: its space, its axes, and whether it locates the classes.

Constraints, coordinates, shape checks, names in tables and permutations of classes follow from the declarations, for
all models in the same way.

Axes are named by letters: ``K`` for classes, ``D`` for the columns of the data, and any other letter as the model
chooses; a whole number is an axis of that length. An array without the axis ``K`` is shared by all classes; ``"K K"``
has two such axes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import trees
from jaxem.core.constraints import Spaces, outline
from jaxem.core.data import Columns
from jaxem.core.model import of_fit
from jaxem.core.spaces import Simplex, Space, answers

Declared = Any  # a tree of Param, shaped like the parameters


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Param:
    """The declaration of one array of the parameters; ``Param.of`` makes it from axes written as text.

    Arguments:
        space: the space of the array, such as ``jaxem.Positive()``.
        axes: the axes of the array: ``"K"`` for classes, ``"D"`` for the columns of the data, any other letter as the
            model chooses, or a whole number for an axis of that length.
        location: whether the array says where each class lies, so that classes are sorted by it; default False.
        column: the index of the data column that the array describes, whose levels are the last axis; default None:
            the array does not describe a single column.
        part: the part of the values that the array describes, a name in a tree such as ``"items"``; default ``""``:
            the whole. Letters of axes other than ``"K"`` then begin with it, as in ``"items.D"``.
        improves: whether ``maximize`` only improves Q in this array, by one Newton step from the context's parameters,
            instead of maximising it; default False. Q from the sums is then the quadratic model of that step. An
            algorithm takes a smaller part of the step where the objective would fall.
    """

    space: Space
    axes: tuple[str | int, ...]
    location: bool = False
    column: int | None = None
    part: str = ""
    improves: bool = False

    @classmethod
    def of(cls, space: Space, axes: str, location: bool = False, improves: bool = False) -> "Param":
        """A ``Param`` whose axes are written with spaces between them.

        Arguments:
            space: the space of the array.
            axes: the axes, such as ``"K D"`` or ``"K 2"``; ``""`` for a single number.
            location: whether the array says where each class lies; default False.
            improves: whether ``maximize`` only improves Q in it; default False.

        Returns:
            The ``Param``, with no ``column``.
        """
        letters = tuple(int(axis) if axis.isdigit() else axis for axis in axes.split())
        return cls(space, letters, location, improves=improves)

    def within(self, name: str) -> "Param":
        """The same array as one of the part ``name`` of the values.

        Arguments:
            name: the key of the part.

        Returns:
            A ``Param`` whose axes of columns carry the name.
        """
        axes = tuple(f"{name}.{axis}" if isinstance(axis, str) and axis != "K" else axis for axis in self.axes)
        return dataclasses.replace(self, axes=axes, part=f"{name}.{self.part}" if self.part else name)

    def labels(
        self, shape: tuple[int, ...], columns: Columns | None, axes: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> answers.Labels:
        """The labels along each axis: the names of columns and levels where they are known, otherwise numbers.

        Arguments:
            shape: the shape of the array.
            columns: the columns of the part of the data that the array describes; ``None`` where they have no names.
            axes: the labels of other axes, by letter; default: none.

        Returns:
            For each axis the labels of the places along it.
        """
        of_columns = f"{self.part}.D" if self.part else "D"
        labels = answers.numbered(shape)
        for place, (axis, length) in enumerate(zip(self.axes, shape, strict=True)):
            names: Sequence[str] | None = axes.get(axis) if isinstance(axis, str) else None
            if columns is not None and axis == of_columns:
                names = columns.names
            elif columns is not None and self.column is not None and place == len(shape) - 1:
                names = columns.levels[self.column]
            labels[place] = list(names) if names and len(names) == length else labels[place]
        return labels


def _is_param(node: Any) -> bool:
    return isinstance(node, Param)


def check_levels(declared: Declared, params: Any, columns: Mapping[str, Columns]) -> None:
    """Raise ``ValueError`` where a column has levels, and the array that describes it as many others."""
    for param, leaf in zip(leaves(declared), jax.tree.leaves(params), strict=True):
        own = columns.get(param.part)
        if own is None or param.column is None or param.column >= len(own.names) or jnp.ndim(leaf) == 0:
            continue
        levels, there = own.levels[param.column], leaf.shape[-1]
        if levels is not None and len(levels) != there:
            raise ValueError(
                f"column {own.names[param.column]!r} has {len(levels)} levels ({', '.join(levels)}), and the model has "
                f"{there}: name them all by jaxem.dataset(frame, levels=...), or code new data by "
                "jaxem.dataset(frame, like=data)"
            )


class Labels(NamedTuple):
    """The names that the data bring along."""

    columns: Mapping[str, Columns] = MappingProxyType({})  # of the values, by part
    axes: Mapping[str, Sequence[str]] = MappingProxyType({})  # of axes of parameters, by letter: names of covariates
    library: str | None = None  # of the data frame


NO_LABELS = Labels()


def named(params: Any, declared: Declared = None, labels: Labels = NO_LABELS) -> list[tuple[str, answers.Labels]]:
    """The name of each array, and the labels along each of its axes.

    The labels are the names of the data's columns, those of each part, and their levels where ``declared`` says
    which axes those are, otherwise numbers.
    """
    arrays, found = jax.tree.leaves(params), []
    declarations = [None] * len(arrays) if declared is None else leaves(declared)
    for name, param, leaf in zip(trees.leaf_names(params), declarations, arrays, strict=True):
        shape = jnp.shape(leaf)
        if param is None or len(param.axes) != len(shape):
            found.append((name, answers.numbered(shape)))
            continue
        own = labels.columns.get(param.part)
        if own is not None and param.column is not None and param.column < len(own.names):
            name = f"{name.rpartition('.')[0]}.{own.names[param.column]}"
        found.append((name, param.labels(shape, own, labels.axes)))
    return found


def covariate_labels(
    given: Any, columns: Mapping[str, Columns], on: str | Sequence[str] | None, leading: int
) -> list[str] | None:
    """The name of each covariate column that is read from ``given``, in order; ``None`` where one array has no names.

    Arguments:
        given: the covariates, arrays or their shapes.
        columns: the names of the parts that came as data frames, by path.
        on: which parts are read; ``None``: ``given`` is one array.
        leading: the number of axes before that of the columns.
    """
    keys = [""] if on is None else [on] if isinstance(on, str) else list(on)
    found: list[list[str]] = []
    for key in keys:
        own, leaf = columns.get(key), given if on is None else given[key]
        shape = jnp.shape(leaf)[leading:]
        if own is not None and len(own.names) == (shape[0] if shape else 1):
            found.append(list(own.names))
        elif on is None:
            return None
        else:
            found.append([f"{key}[{place}]" for place in range(shape[0])] if shape else [key])
    names = [name for part in found for name in part]
    if len(set(names)) < len(names):
        names = [f"{key}.{name}" for key, part in zip(keys, found, strict=True) for name in part]
    return names


def spaces(declared: Declared) -> Spaces:
    """The space of each array."""
    return jax.tree.map(lambda param: param.space, declared, is_leaf=_is_param)


def leaves(declared: Declared) -> list[Param]:
    """The declarations one by one, in the order of the arrays."""
    return jax.tree.leaves(declared, is_leaf=_is_param)


def permuted(declared: Declared, params: Any, order: Array) -> Any:
    """The parameters in which class ``order[k]`` becomes class k: each axis ``K`` is taken in that order.

    Raises ``ValueError`` where a declaration belongs to one class alone (see ``of_class``).
    """
    if any(isinstance(axis, str) and axis.startswith(_ONE) for param in leaves(declared) for axis in param.axes):
        raise ValueError("classes cannot be renumbered where each has a family of its own")

    def each(param: Param, leaf: Array) -> Array:
        for place, axis in enumerate(param.axes):
            leaf = jnp.take(leaf, order, axis=place) if axis == "K" else leaf
        return leaf

    return jax.tree.map(each, declared, of_fit(params), is_leaf=_is_param)


def nested(declared: Declared) -> Declared:
    """The declarations of K copies of a model, side by side: a new first axis ``K``, and ``K'`` for its own classes."""

    def each(param: Param) -> Param:
        own = tuple(f"{axis}'" if isinstance(axis, str) and axis.startswith("K") else axis for axis in param.axes)
        return dataclasses.replace(param, axes=("K", *own))

    return jax.tree.map(each, declared, is_leaf=_is_param)


_ONE = "class "


def of_class(declared: Declared, k: int) -> Declared:
    """The declarations of a family that describes class k alone: the axis ``K``, of length one, is named after it."""

    def each(param: Param) -> Param:
        own = tuple(f"{_ONE}{k}" if axis == "K" else axis for axis in param.axes)
        return dataclasses.replace(param, axes=own, location=False)

    return jax.tree.map(each, declared, is_leaf=_is_param)


def masked(declared: Declared, params: Any, active: Array, probability: float = 0) -> Any:
    """The parameters with only the ``active (K,)`` classes: each of the others has ``probability``, copies class 0."""

    def each(param: Param, leaf: Array) -> Array:
        last = leaf.ndim - 1
        for place, axis in enumerate(param.axes):
            if axis == "K":
                here = active.reshape(-1, *(1,) * (last - place))
                of_classes = isinstance(param.space, Simplex) and place == last
                leaf = jnp.where(here, leaf, probability if of_classes else jnp.take(leaf, jnp.array([0]), axis=place))
        return leaf

    return jax.tree.map(each, declared, params, is_leaf=_is_param)


def improving(declared: Declared) -> Any:
    """A tree of truth values: which arrays an M-step only improves."""
    return jax.tree.map(lambda param: param.improves, declared, is_leaf=_is_param)


def improving_of(model: Any) -> Any:
    """Which arrays of the parameters an M-step only improves: a tree of truth values, ``None`` where there is none."""
    found = improving(model.declare()) if hasattr(model, "declare") else ()
    return found if any(jax.tree.leaves(found)) else None


def all_of_classes(declared: Declared) -> bool:
    """Whether no parameter is shared by the classes."""
    return all("K" in param.axes for param in leaves(declared))


def first_classes(declared: Declared, params: Any, k: int) -> Any:
    """The parameters of the first ``k`` classes."""

    def each(param: Param, leaf: Any) -> Any:
        return leaf[tuple(slice(k) if axis == "K" else slice(None) for axis in param.axes)]

    return jax.tree.map(each, declared, params, is_leaf=_is_param)


def locations(declared: Declared, params: Any) -> Array:
    """The locations of the classes, (K, F): the arrays declared with ``location``, one row for each class."""
    own = [
        jnp.moveaxis(leaf, param.axes.index("K"), 0)
        for param, leaf in zip(leaves(declared), jax.tree.leaves(of_fit(params)), strict=True)
        if param.location
    ]
    return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in own], axis=1)


def check_shapes(title: str, declared: Declared, params: Any, sizes: dict[str, int]) -> None:
    """Raise ``ValueError`` where parameters are not shaped as declared.

    Arguments:
        title: the name of what needs the parameters: the first words of the message.
        declared: a ``Param`` for each array.
        params: the parameters.
        sizes: the known lengths of axes. Any other axis has the length of its first occurrence in the parameters.

    Raises:
        ValueError: the tree has another structure than declared, or an array another shape.
    """
    like = jax.tree.map(lambda _: 0, declared, is_leaf=_is_param)
    if jax.tree.structure(params) != jax.tree.structure(like):
        raise ValueError(f"{title} needs parameters like {outline(like)}; got {outline(params)}")
    sizes = dict(sizes)
    for name, param, leaf in zip(trees.leaf_names(params), leaves(declared), jax.tree.leaves(params), strict=True):
        if leaf.ndim == len(param.axes):
            for axis, length in zip(param.axes, leaf.shape, strict=True):
                if isinstance(axis, str):
                    sizes.setdefault(axis, length)
        wanted = tuple(axis if isinstance(axis, int) else sizes.get(axis, axis) for axis in param.axes)
        if leaf.shape != wanted:
            shape = f"({', '.join(map(str, wanted))}{',' * (len(wanted) == 1)})"
            raise ValueError(f"{title} needs {name} of shape {shape}; got {tuple(leaf.shape)}")
