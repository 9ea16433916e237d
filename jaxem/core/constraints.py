"""Parameter spaces: smooth maps between a space and the unconstrained coordinates of R^n.

Every chart has the dimension of its space (a simplex of K weights has K - 1 coordinates), so that a gradient
that vanishes in coordinates means stationarity *on the space*, and a Hessian in coordinates has no null
directions but the model's own. Charts of scales are logarithmic: a change of units is a shift.

A chart is made at a point. Entries of that point that lie exactly on the edge (a probability of 0 or 1, a rate of 0)
are held there by it: they are structure, such as a transition that is impossible, and EM never moves them. Their
coordinates are dead: 0, without any effect. So the number of coordinates does not depend on values, and ``vmap`` and
``jit`` work; ``free`` tells which coordinates live.
"""

import dataclasses
import math
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxem.core import matrices
from jaxem.core.checks import brief

Spaces = Any  # a tree of spaces, or a prefix of the parameters' tree


@runtime_checkable
class Space(Protocol):
    """What a parameter space is: a chart, its inverse, and a test of membership."""

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


def _space(cls: type) -> type:
    return jax.tree_util.register_static(dataclasses.dataclass(frozen=True)(cls))


def _tiny(value: Array) -> float:
    """The least positive number that survives a chart and back: clear of the subnormal numbers, which flush to 0."""
    return 1024 * float(jnp.finfo(value.dtype).tiny)


def _negligible(value: Array) -> float:
    """A probability that is as good as zero, and whose logarithm still has two finite derivatives: -1 / p^2."""
    return 2 * float(jnp.finfo(value.dtype).tiny) ** 0.5


@_space
class Real:
    """Any real number, element by element; ``inverse`` and ``forward`` are the identity."""

    description = "finite"

    def forward(self, free: Array, like: Array | None = None) -> Array:
        return free

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        return value

    def free(self, value: Array) -> Array:
        return jnp.ones(jnp.shape(value), bool)

    def contains(self, value: Array) -> Array:
        return jnp.isfinite(value).all()


@_space
class Positive:
    """Positive numbers, element by element: x = exp(u); zeros are held."""

    description = "positive"

    def forward(self, free: Array, like: Array | None = None) -> Array:
        limits = jnp.finfo(free.dtype)
        # exp of more than log(max) is inf with an infinite slope; kept inside the ends both stay finite, and not zero.
        x = jnp.exp(jnp.clip(free, math.log(float(limits.tiny)) + 1e-3, math.log(float(limits.max)) - 1e-3))
        return x if like is None else jnp.where(self.free(like), x, 0)

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        inside = jnp.maximum(value, _tiny(value))
        return jnp.log(jnp.where(self.free(value if like is None else like), inside, 1))

    def free(self, value: Array) -> Array:
        return value != 0  # NaN is free: it must not pass for an edge

    def contains(self, value: Array) -> Array:
        return (jnp.isfinite(value) & (value >= 0)).all()


@_space
class UnitInterval:
    """Numbers between 0 and 1, element by element: x = 1 / (1 + exp(-u)); zeros and ones are held."""

    description = "between 0 and 1"

    def forward(self, free: Array, like: Array | None = None) -> Array:
        x = jax.nn.sigmoid(free)
        return x if like is None else jnp.where(self.free(like), x, (like == 1).astype(x.dtype))

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        below_one = 1 - float(jnp.finfo(value.dtype).epsneg)
        inside = jnp.clip(value, _negligible(value), below_one)
        inside = jnp.where(self.free(value if like is None else like), inside, 0.5)
        return jnp.log(inside) - jnp.log1p(-inside)

    def free(self, value: Array) -> Array:
        return (value != 0) & (value != 1)

    def contains(self, value: Array) -> Array:
        return ((value >= 0) & (value <= 1)).all()


@_space
class Simplex:
    r"""Probabilities on the last axis: x = softmax(V u), u = V' log x; zeros are held.

    V (K, K - 1) is an orthonormal basis of the vectors that sum to zero (Helmert's): the isometric log-ratio
    coordinates of Egozcue et al. (2003), in which no component is singled out. Column j compares entry j with the mean
    of those before it,

    .. math:: u_j = \Big(\sum_{i < j} \log x_i - c_j \log x_j\Big) \Big/ \sqrt{c_j (c_j + 1)}, \qquad j = 1 \dots K - 1,

    where zeros of the point at which the chart is made are left out: c_j counts the positive entries before j, and the
    column of an entry that is zero, or that has no positive one before it, is dead.
    """

    description = "non-negative with sum 1 on the last axis"
    event_ndim = 1

    def forward(self, free: Array, like: Array | None = None) -> Array:
        k = free.shape[-1] + 1
        like = jnp.ones((*free.shape[:-1], k), free.dtype) if like is None else like
        positive, count, weight = self._basis(like, free.dtype)
        part = weight * jnp.concatenate([jnp.zeros((*free.shape[:-1], 1), free.dtype), free], axis=-1)
        log_x = jnp.matmul(part, self._before(k, part.dtype).T, precision="highest") - count * part
        return jax.nn.softmax(log_x, axis=-1, where=positive)

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        positive, count, weight = self._basis(value if like is None else like, value.dtype)
        log_x = jnp.log(jnp.where(positive, jnp.maximum(value, _negligible(value)), 1))
        before = self._before(value.shape[-1], value.dtype)
        return (weight * (jnp.matmul(log_x, before, precision="highest") - count * log_x))[..., 1:]

    def free(self, value: Array) -> Array:
        return self._basis(value, value.dtype)[2][..., 1:] > 0

    @staticmethod
    def _before(k: int, dtype: Any) -> Array:
        """(K, K), one where the row's entry comes before the column's: x @ this sums what comes before each entry."""
        return jnp.asarray(np.triu(np.ones((k, k)), 1), dtype)

    def _basis(self, like: Array, dtype: Any) -> tuple[Array, Array, Array]:
        """Which entries are positive, how many of them come before each, and 1 / sqrt(c (c + 1)), 0 where dead."""
        positive = like != 0  # NaN is free: it must not pass for an edge
        ones = positive.astype(dtype)
        count = jnp.matmul(ones, self._before(like.shape[-1], dtype), precision="highest")
        live = positive & (count > 0)
        return positive, count, jnp.where(live, jax.lax.rsqrt(jnp.where(live, count * (count + 1), 1)), 0)

    def contains(self, value: Array) -> Array:
        slack = float(jnp.finfo(value.dtype).eps) ** 0.5
        return (value >= 0).all() & (jnp.abs(value.sum(axis=-1) - 1) <= slack).all()

    def settle(self, value: Array, eps: float) -> Array:
        """Divided by the sum, where that is one to the precision ``eps`` of where the values come from, and no more."""
        xp, total = value.__array_namespace__(), value.sum(axis=-1, keepdims=True)
        off = abs(total - 1)
        rounding = 4 * value.shape[-1] * float(jnp.finfo(value.dtype).eps)
        return xp.where((off > rounding) & (off <= eps**0.5), value / xp.where(total > 0, total, 1), value)


@_space
class PositiveDefinite:
    """Symmetric positive-definite matrices on the last two axes, D (D + 1) / 2 coordinates each.

    x = L L', L = diag(exp u_ii) (I + lower triangle of u_ij): a change of units of one variable shifts one
    diagonal coordinate and leaves every other one alone (log-Cholesky, Pinheiro & Bates 1996, with unit-free
    off-diagonals).
    """

    description = "symmetric and positive definite"
    event_ndim = 2

    def forward(self, free: Array, like: Array | None = None) -> Array:
        d = round(((8 * free.shape[-1] + 1) ** 0.5 - 1) / 2)
        limits = jnp.finfo(free.dtype)
        low, high = math.log(float(limits.tiny)) / 2 + 1e-3, math.log(float(limits.max)) / 2 - 4
        rows, columns = np.tril_indices(d, -1)
        unit = jnp.broadcast_to(jnp.eye(d, dtype=free.dtype), (*free.shape[:-1], d, d))
        unit = unit.at[..., rows, columns].set(free[..., d:])
        length = jnp.log((unit**2).sum(axis=-1)) / 2
        scale = jnp.exp(jnp.clip(free[..., :d], low, high - length))  # the square of a row must not overflow
        lower = scale[..., :, None] * unit
        return lower @ jnp.swapaxes(lower, -1, -2)

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        d = value.shape[-1]
        lower = matrices.cholesky(value)
        scale = jnp.diagonal(lower, axis1=-2, axis2=-1)
        rows, columns = np.tril_indices(d, -1)
        return jnp.concatenate([jnp.log(scale), (lower / scale[..., None])[..., rows, columns]], axis=-1)

    def free(self, value: Array) -> Array:
        d = value.shape[-1]
        return jnp.ones((*value.shape[:-2], d * (d + 1) // 2), bool)

    def contains(self, value: Array) -> Array:
        slack = float(jnp.finfo(value.dtype).eps) ** 0.5
        scale = jnp.sqrt(jnp.diagonal(value, axis1=-2, axis2=-1))
        gap = jnp.abs(value - jnp.swapaxes(value, -1, -2))
        symmetric = (gap <= slack * scale[..., :, None] * scale[..., None, :]).all()
        return symmetric & jnp.isfinite(matrices.cholesky(value)).all()

    def settle(self, value: Array, eps: float) -> Array:
        """The symmetric part, where the values are symmetric to the precision ``eps`` of where they come from."""
        xp, turned = value.__array_namespace__(), value.swapaxes(-1, -2)
        diagonal = xp.sqrt(abs(xp.linalg.diagonal(value)))
        scale = diagonal[..., :, None] * diagonal[..., None, :]
        near = (abs(value - turned) <= eps**0.5 * scale).all(axis=(-2, -1), keepdims=True)
        return xp.where(near, (value + turned) / 2, value)


def is_space(node: Any) -> bool:
    """Whether this node of a tree is a space (and not a tree of spaces)."""
    if isinstance(node, _OURS):
        return True
    return not isinstance(node, tuple | list | dict | np.ndarray | jax.Array) and isinstance(node, Space)  # slow


_OURS = (Real, Positive, UnitInterval, Simplex, PositiveDefinite)


def _each(method: str, spaces: Spaces, *trees: Any) -> Any:
    """Apply a method of each space to the leaves below it (``spaces`` may be a prefix of the trees)."""

    def apply(space: Space, *parts: Any) -> Any:
        return jax.tree.map(getattr(space, method), *parts)

    return jax.tree.map(apply, spaces, *trees, is_leaf=is_space)


def forward(spaces: Spaces, free: Any, like: Any = None) -> Any:
    """A tree of coordinates -> the tree of parameters, by the charts made at ``like``; ``None``: nothing is held."""
    return _each("forward", spaces, free) if like is None else _each("forward", spaces, free, like)


def inverse(spaces: Spaces, params: Any, like: Any = None) -> Any:
    """A tree of parameters -> the tree of their coordinates, in the charts made at ``like``, or at ``params``."""
    return _each("inverse", spaces, params) if like is None else _each("inverse", spaces, params, like)


def free(spaces: Spaces, params: Any) -> Any:
    """For each coordinate of the charts made at ``params`` whether it lives: whether it moves any parameter."""
    return _each("free", spaces, params)


def check_structure(spaces: Spaces, params: Any) -> None:
    """Raise ``ValueError`` where the parameters are not a tree such as the spaces describe."""
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

    def check(space: Space, part: Any) -> None:
        needed = getattr(space, "event_ndim", 0)
        for leaf in jax.tree.leaves(part) if needed else ():
            shape = np.shape(leaf)
            if len(shape) < needed or (needed == 2 and shape[-1] != shape[-2]):
                what = "a last axis" if needed == 1 else "two last axes of equal length"
                raise ValueError(f"parameters that are {space.description} need {what}; one has shape {shape}")

    jax.tree.map(check, spaces, params, is_leaf=is_space)


def _first_difference(expected: Any, found: Any, where: str) -> tuple[str, Any, Any]:
    """Where two trees part, and what stands there in either."""
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
    """What a node of a tree is, in a few words."""
    kind = type(tree).__name__
    if hasattr(tree, "_fields"):
        return f"{kind}({', '.join(tree._fields)})"
    if isinstance(tree, dict):
        return f"a dict of {', '.join(map(str, tree))}"
    if isinstance(tree, tuple | list):
        return f"a {kind} of {len(tree)}"
    return f"an array of shape {np.shape(tree)}" if hasattr(tree, "shape") else f"{brief(tree)}"


def settle(spaces: Spaces, params: Any, eps: Any) -> Any:
    """``params`` moved into their spaces, which each leaf misses by no more than the precision that it came in with,
    ``eps``."""

    def each(space: Space, part: Any, eps: Any) -> Any:
        if not hasattr(space, "settle"):
            return part
        return jax.tree.map(lambda leaf, eps: _settled(space, leaf, eps), part, eps)

    return jax.tree.map(each, spaces, params, eps, is_leaf=is_space)


def _settled(space: Any, leaf: Array, eps: float) -> Array:
    if isinstance(leaf, Tracer):  # a derivative must not be led along the space where nothing was widened
        return space.settle(leaf, eps) if eps > float(jnp.finfo(leaf.dtype).eps) else leaf
    values = np.asarray(leaf)
    settled = space.settle(values, eps)
    return leaf if np.array_equal(values, settled, equal_nan=True) else jnp.asarray(settled)


def contains(spaces: Spaces, params: Any) -> Any:
    """For each leaf whether it lies in its space."""
    return _each("contains", spaces, params)


def describe(spaces: Spaces, params: Any) -> list[str]:
    """For each leaf of the parameters what its space asks of it."""
    parts = jax.tree.map(
        lambda space, part: jax.tree.map(lambda _: space.description, part), spaces, params, is_leaf=is_space
    )
    return jax.tree.leaves(parts)
