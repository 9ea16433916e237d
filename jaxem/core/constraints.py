"""Trees of parameters and the spaces of their leaves: charts, and checks of each leaf.

A tree of spaces may be a prefix of the tree of parameters: one space then serves all leaves below it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxem.core.checks import brief
from jaxem.core.spaces import Positive as Positive
from jaxem.core.spaces import PositiveDefinite as PositiveDefinite
from jaxem.core.spaces import Real as Real
from jaxem.core.spaces import Simplex as Simplex
from jaxem.core.spaces import Space as Space
from jaxem.core.spaces import UnitInterval as UnitInterval
from jaxem.core.spaces import answers

Spaces = Any  # a tree of spaces, or a prefix of the tree of parameters

_OF_A_SPACE = ("forward", "inverse", "free", "contains", "description")


def is_space(node: Any) -> bool:
    """Whether this node of a tree is a space, not a tree of spaces."""
    return not isinstance(node, tuple | list | dict) and all(hasattr(node, name) for name in _OF_A_SPACE)


def each(function: Callable[..., Any], spaces: Spaces, *trees: Any) -> Any:
    """The tree of ``function(space, leaf, ...)``, for each leaf of the trees and its space."""

    def apply(space: Space, *parts: Any) -> Any:
        return jax.tree.map(lambda *leaves: function(space, *leaves), *parts)

    return jax.tree.map(apply, spaces, *trees, is_leaf=is_space)


def leaves(spaces: Spaces, params: Any) -> list[Space]:
    """The space of each leaf of the parameters."""
    return jax.tree.leaves(each(lambda space, _: space, spaces, params), is_leaf=is_space)


def forward(spaces: Spaces, free: Any, like: Any = None) -> Any:
    """The parameters of a tree of coordinates, by the charts made at ``like``; ``None``: nothing is held."""
    return linked(
        spaces, each(lambda space, *parts: space.forward(*parts), spaces, free, *(() if like is None else (like,)))
    )


def linked(spaces: Spaces, params: Any) -> Any:
    """The parameters with those elements copied that follow elements of another array (see ``spaces/linked.py``)."""
    own = leaves(spaces, params)
    if not any(hasattr(space, "follow") for space in own):
        return params
    arrays, structure = jax.tree.flatten(params)
    follow = lambda i: own[i].follow(arrays[i], lambda away: arrays[i + away])  # pyright: ignore
    new = [follow(i) if hasattr(space, "follow") else arrays[i] for i, space in enumerate(own)]
    return jax.tree.unflatten(structure, new)


def project(spaces: Spaces, params: Any) -> Any:
    """Parameters in restricted spaces near ``params``, which need only lie in the spaces without the restriction."""
    return linked(spaces, each(answers.project, spaces, params))


def inverse(spaces: Spaces, params: Any, like: Any = None) -> Any:
    """The coordinates of a tree of parameters, in the charts made at ``like`` (default: at ``params``)."""
    return each(lambda space, *parts: space.inverse(*parts), spaces, params, *(() if like is None else (like,)))


def free(spaces: Spaces, params: Any) -> Any:
    """For each coordinate of the charts made at ``params``, whether it is live: whether it moves any parameter."""
    return each(lambda space, leaf: space.free(leaf), spaces, params)


def check_structure(spaces: Spaces, params: Any) -> None:
    """Raise ``ValueError`` where the tree of parameters does not match the tree of spaces."""
    try:
        jax.tree.map(lambda space, part: None, spaces, params, is_leaf=is_space)
    except ValueError as error:
        where, expected, found = _first_difference(spaces, params, "")
        raise ValueError(
            f"the parameters{where} must be {outline(expected)}, as the model's constraints are; got "
            f"{outline(found)}. Arguments are always (model, params, data)"
        ) from error


def check_spaces(owner: str, spaces: Any) -> None:
    """Raise ``ValueError`` where ``spaces`` is not a tree of spaces."""
    for leaf in jax.tree.leaves(spaces, is_leaf=is_space):
        if isinstance(leaf, type) or not is_space(leaf):
            hint = f": write {leaf.__name__}()" if isinstance(leaf, type) else ""
            raise ValueError(f"{owner}: constraints must be spaces, such as jaxem.Positive(); got {brief(leaf)}{hint}")


def check_axes(spaces: Spaces, params: Any) -> None:
    """Raise ``ValueError`` where a leaf lacks the axes that its space needs."""

    def check(space: Space, leaf: Any) -> None:
        shape = np.shape(leaf)
        what = answers.needs(space, shape)
        if what is not None:
            raise ValueError(f"parameters that are {space.description} need {what}; one has shape {shape}")

    each(check, spaces, params)


def _first_difference(expected: Any, found: Any, where: str) -> tuple[str, Any, Any]:
    """Where two trees first differ, and the node of each there."""
    alike = type(expected) is type(found) and isinstance(expected, tuple | list | dict)
    if alike and len(expected) == len(found) and not (isinstance(expected, dict) and expected.keys() != found.keys()):
        names = list(expected) if isinstance(expected, dict) else getattr(expected, "_fields", range(len(expected)))
        for index, name in enumerate(names):
            key = name if isinstance(expected, dict) else index
            if is_space(expected[key]):
                continue
            if jax.tree.structure(expected[key], is_leaf=is_space) != jax.tree.structure(found[key]):
                return _first_difference(expected[key], found[key], f"{where}.{name}" if where else f" at {name}")
    return where, expected, found


def outline(tree: Any) -> str:
    """A node of a tree in a few words."""
    kind = type(tree).__name__
    if hasattr(tree, "_fields"):
        return f"{kind}({', '.join(tree._fields)})"
    if isinstance(tree, dict):
        return f"a dict of {', '.join(map(str, tree))}"
    if isinstance(tree, tuple | list):
        return f"a {kind} of {len(tree)}"
    return f"an array of shape {np.shape(tree)}" if hasattr(tree, "shape") else f"{brief(tree)}"


def settle(spaces: Spaces, params: Any, eps: Any) -> Any:
    """``params`` with each leaf moved into its space where it misses that by no more than the precision ``eps`` of
    its source."""
    return each(_settled, spaces, params, eps)


def _settled(space: Space, leaf: Array, eps: float) -> Array:
    if not hasattr(space, "settle"):  # no need to look at values
        return leaf
    if isinstance(leaf, Tracer):  # where no leaf was widened a derivative must not be projected onto the space
        return answers.settle(space, leaf, eps) if eps > float(jnp.finfo(leaf.dtype).eps) else leaf
    values = np.asarray(leaf)
    settled = answers.settle(space, values, eps)
    return leaf if np.array_equal(values, settled, equal_nan=True) else jnp.asarray(settled)


def contains(spaces: Spaces, params: Any) -> Any:
    """For each leaf, whether it lies in its space, and equals the elements of other arrays that it follows."""

    def own(space: Space, leaf: Any, followed: Any) -> Any:
        inside = space.contains(leaf)
        if not hasattr(space, "follow"):
            return inside
        return inside & (abs(leaf - followed) <= float(jnp.finfo(leaf.dtype).eps) ** 0.5 * abs(followed)).all()

    return each(own, spaces, params, linked(spaces, params))


def describe(spaces: Spaces, params: Any) -> list[str]:
    """For each leaf of the parameters, what its space requires, in words."""
    return [space.description for space in leaves(spaces, params)]
