"""Parameter spaces: smooth maps between a space and the unconstrained coordinates of R^n.

Every chart has the dimension of its space (a simplex of K weights has K - 1 coordinates), so that a gradient
that vanishes in coordinates means stationarity *on the space*, and a Hessian in coordinates has no null
directions but the model's own. Charts of scales are logarithmic: a change of units is a shift.
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

    def forward(self, free: Array) -> Array:
        """Coordinates -> a point of the space."""
        ...

    def inverse(self, value: Array) -> Array:
        """A point of the space -> its coordinates; a point on the edge is moved inside by rounding error."""
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

    def forward(self, free: Array) -> Array:
        return free

    def inverse(self, value: Array) -> Array:
        return value

    def contains(self, value: Array) -> Array:
        return jnp.isfinite(value).all()


@_space
class Positive:
    """Positive numbers, element by element: x = exp(u)."""

    description = "positive"

    def forward(self, free: Array) -> Array:
        limits = jnp.finfo(free.dtype)
        # exp of more than log(max) is inf with an infinite slope; held inside the ends both stay finite, and not zero.
        return jnp.exp(jnp.clip(free, math.log(float(limits.tiny)) + 1e-3, math.log(float(limits.max)) - 1e-3))

    def inverse(self, value: Array) -> Array:
        return jnp.log(jnp.maximum(value, _tiny(value)))

    def contains(self, value: Array) -> Array:
        return (jnp.isfinite(value) & (value >= 0)).all()


@_space
class UnitInterval:
    """Numbers between 0 and 1, element by element: x = 1 / (1 + exp(-u))."""

    description = "between 0 and 1"

    def forward(self, free: Array) -> Array:
        return jax.nn.sigmoid(free)

    def inverse(self, value: Array) -> Array:
        below_one = 1 - float(jnp.finfo(value.dtype).epsneg)
        inside = jnp.clip(value, _negligible(value), below_one)
        return jnp.log(inside) - jnp.log1p(-inside)

    def contains(self, value: Array) -> Array:
        return ((value >= 0) & (value <= 1)).all()


def _helmert(k: int) -> np.ndarray:
    """An orthonormal basis (K, K - 1) of the vectors that sum to zero."""
    basis = np.zeros((k, k - 1))
    for j in range(1, k):
        basis[:j, j - 1] = 1.0
        basis[j, j - 1] = -j
        basis[:, j - 1] /= np.sqrt(j * (j + 1))
    return basis


@_space
class Simplex:
    """Probabilities on the last axis: x = softmax(V u), u = V' log x.

    V is an orthonormal basis of the vectors that sum to zero: the isometric log-ratio coordinates of Egozcue
    et al. (2003), in which no component is singled out.
    """

    description = "non-negative with sum 1 on the last axis"
    event_ndim = 1

    def forward(self, free: Array) -> Array:
        basis = jnp.asarray(_helmert(free.shape[-1] + 1), free.dtype)
        return jax.nn.softmax(free @ basis.T, axis=-1)

    def inverse(self, value: Array) -> Array:
        basis = jnp.asarray(_helmert(value.shape[-1]), value.dtype)
        return jnp.log(jnp.maximum(value, _negligible(value))) @ basis

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

    def forward(self, free: Array) -> Array:
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

    def inverse(self, value: Array) -> Array:
        d = value.shape[-1]
        lower = matrices.cholesky(value)
        scale = jnp.diagonal(lower, axis1=-2, axis2=-1)
        rows, columns = np.tril_indices(d, -1)
        return jnp.concatenate([jnp.log(scale), (lower / scale[..., None])[..., rows, columns]], axis=-1)

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
    return isinstance(node, Space)


def _each(method: str, spaces: Spaces, tree: Any) -> Any:
    """Apply a method of each space to the leaves below it (``spaces`` may be a prefix of the tree)."""

    def apply(space: Space, part: Any) -> Any:
        return jax.tree.map(getattr(space, method), part)

    return jax.tree.map(apply, spaces, tree, is_leaf=is_space)


def forward(spaces: Spaces, free: Any) -> Any:
    """A tree of coordinates -> the tree of parameters."""
    return _each("forward", spaces, free)


def inverse(spaces: Spaces, params: Any) -> Any:
    """A tree of parameters -> the tree of their coordinates."""
    return _each("inverse", spaces, params)


def check_structure(spaces: Spaces, params: Any) -> None:
    """Raise ``ValueError`` where the parameters are not a tree such as the spaces describe."""
    try:
        jax.tree.map(lambda space, part: None, spaces, params, is_leaf=is_space)
    except ValueError as error:
        where, expected, found = _first_difference(spaces, params, "")
        raise ValueError(
            f"the parameters{where} must be {_outline(expected)}, as the model's constraints are; got "
            f"{_outline(found)}. Arguments are always (model, params, data)"
        ) from error


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


def _outline(tree: Any) -> str:
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
    if isinstance(leaf, Tracer):
        return space.settle(leaf, eps)
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
