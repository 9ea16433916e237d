"""The space of each array under a restriction that has been read, and whether classes may still be renumbered."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxem.core.checks import brief
from jaxem.core.parameters import Param
from jaxem.core.spaces import Affine, Space, ZeroSum, ZeroSumWhere, answers
from jaxem.core.spaces.fixed import Fixed
from jaxem.core.spaces.held import Held
from jaxem.core.spaces.linked import Linked, links
from jaxem.core.spaces.tied import Tied
from jaxem.models.restricted.reading import Leaf, Reader, Restriction, Shape, bare


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
    reader = Reader(leaves)
    for name, value in fixed.items():
        reader.fix(name, value)
    for names in tied:
        reader.tie(names)
    found = reader.resolve()
    spaces = tuple(_space(found, i) for i in range(len(leaves)))
    touched = tuple(i for i, (leaf, space) in enumerate(zip(leaves, spaces, strict=True)) if space != leaf.space)
    sources = {source for i in touched for source in links(spaces[i], i)}
    return spaces, tuple(sorted({*touched, *sources})), found


def _space(found: Restriction, i: int) -> Any:
    """The restricted space of a leaf."""
    leaf, shape = found.leaves[i], found.shapes[i]
    if shape is None:
        return leaf.space
    if i in found.affine:
        return found.affine[i]
    sizes = [0 if each is None else math.prod(each) for each in found.shapes]
    first = sum(sizes[:i])
    held = np.isfinite(found.held[i])
    space = bare(leaf.space)
    if isinstance(space, ZeroSum | ZeroSumWhere):
        return _within(space, leaf, found, i, shape, first)
    restricted: Any = answers.hold(space, held, np.where(held, found.held[i], 0)) if held.any() else space
    if isinstance(restricted, Held):
        held = restricted.mask.array  # rows of probabilities of which one entry is left are held whole
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
    inner: Any = restricted
    return Tied(inner, Fixed.of(leader.reshape(points)))


def _within(space: Any, leaf: Leaf, found: Restriction, i: int, shape: Shape, first: int) -> Any:
    """The part of a linear space in which elements are held or tied: an affine map of fewer coordinates."""
    n = math.prod(answers.coordinates_shape(space, shape))
    unit = np.eye(n).reshape(n, *answers.coordinates_shape(space, shape))
    basis = np.stack([np.asarray(space.forward(jax.numpy.asarray(each)), np.float64).ravel() for each in unit], axis=1)
    held, leader = found.held[i].ravel(), found.group[i].ravel() - first
    fixed, tied = np.isfinite(held), leader != np.arange(len(held))
    if ((leader < 0) | (leader >= len(held))).any():
        raise ValueError(f"restrict: {leaf.name} is {space.description}, and cannot be tied to another array")
    rows = np.concatenate([basis[fixed], basis[tied] - basis[leader[tied]]])
    right = np.concatenate([held[fixed], np.zeros(tied.sum())])
    if not len(rows):
        return space
    u = np.linalg.lstsq(rows, right)[0]
    if np.abs(rows @ u - right).max() > np.finfo(np.float32).eps * (1 + np.abs(right).max()):
        raise ValueError(f"restrict: {leaf.name} is {space.description}, and cannot have all these values")
    _, sizes, turned = np.linalg.svd(rows, full_matrices=True)
    rank = int((sizes > 1e-10 * sizes.max()).sum())
    return Affine((basis @ u).reshape(shape), (basis @ turned[rank:].T).reshape(*shape, n - rank))


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
    space = bare(found.leaves[i].space)
    harmless = _harmless(space, mask.shape)
    value = np.where(mask, harmless, np.where(held, found.held[i], 0))
    inner: Any = answers.hold(space, mask | held, value)
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
