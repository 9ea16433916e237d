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

from jaxem.core import matrices

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

    def forward(self, free: Array) -> Array:
        basis = jnp.asarray(_helmert(free.shape[-1] + 1), free.dtype)
        return jax.nn.softmax(free @ basis.T, axis=-1)

    def inverse(self, value: Array) -> Array:
        basis = jnp.asarray(_helmert(value.shape[-1]), value.dtype)
        return jnp.log(jnp.maximum(value, _negligible(value))) @ basis

    def contains(self, value: Array) -> Array:
        slack = float(jnp.finfo(value.dtype).eps) ** 0.5
        return (value >= 0).all() & (jnp.abs(value.sum(axis=-1) - 1) <= slack).all()


@_space
class PositiveDefinite:
    """Symmetric positive-definite matrices on the last two axes, D (D + 1) / 2 coordinates each.

    x = L L', L = diag(exp u_ii) (I + lower triangle of u_ij): a change of units of one variable shifts one
    diagonal coordinate and leaves every other one alone (log-Cholesky, Pinheiro & Bates 1996, with unit-free
    off-diagonals).
    """

    description = "symmetric and positive definite"

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


def _is_space(node: Any) -> bool:
    return isinstance(node, Space)


def _each(method: str, spaces: Spaces, tree: Any) -> Any:
    """Apply a method of each space to the leaves below it (``spaces`` may be a prefix of the tree)."""

    def apply(space: Space, part: Any) -> Any:
        return jax.tree.map(getattr(space, method), part)

    return jax.tree.map(apply, spaces, tree, is_leaf=_is_space)


def forward(spaces: Spaces, free: Any) -> Any:
    """A tree of coordinates -> the tree of parameters."""
    return _each("forward", spaces, free)


def inverse(spaces: Spaces, params: Any) -> Any:
    """A tree of parameters -> the tree of their coordinates."""
    return _each("inverse", spaces, params)


def check_structure(spaces: Spaces, params: Any) -> None:
    """Raise ``ValueError`` where the parameters are not a tree such as the spaces describe."""
    try:
        jax.tree.map(lambda space, part: None, spaces, params, is_leaf=_is_space)
    except ValueError as error:
        raise ValueError(
            f"the parameters do not have the structure of the model's constraints (of a fit, give fit.params): {error}"
        ) from error


def contains(spaces: Spaces, params: Any) -> Any:
    """For each leaf whether it lies in its space."""
    return _each("contains", spaces, params)


def describe(spaces: Spaces, params: Any) -> list[str]:
    """For each leaf of the parameters what its space asks of it."""
    parts = jax.tree.map(
        lambda space, part: jax.tree.map(lambda _: space.description, part), spaces, params, is_leaf=_is_space
    )
    return jax.tree.leaves(parts)
