"""Shapes without a size: positive numbers of product one, and positive-definite matrices of determinant one."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices
from jaxem.core.spaces import answers
from jaxem.core.spaces.edges import Singular
from jaxem.core.spaces.positive_definite import PositiveDefinite
from jaxem.core.spaces.protocol import space


def _basis(d: int, dtype: Any) -> Array:
    """Helmert's orthonormal basis (D, D - 1) of the vectors that sum to zero: column j compares entry j + 1 with the
    mean of those before it."""
    before = np.triu(np.ones((d, d)), 1) - np.diag(np.arange(d))
    return jnp.asarray(before[:, 1:] / np.sqrt(np.arange(1, d) * np.arange(2, d + 1)), dtype)


def _of_zero_sum(free: Array) -> Array:
    """The vector (..., D) of sum zero with these coordinates (..., D - 1)."""
    limit = math.log(float(jnp.finfo(free.dtype).max)) / 2 - 4  # the square of its exponential must not overflow
    return jnp.clip(matrices.product(free, _basis(free.shape[-1] + 1, free.dtype).T), -limit, limit)


def _to_zero_sum(value: Array) -> Array:
    return matrices.product(value, _basis(value.shape[-1], value.dtype))


@space
class UnitProduct:
    r"""Positive numbers with product one on the last axis: log x = V u, with V (D, D - 1) as for ``Simplex``.

    They are the relative lengths of axes. A change of the units of one of them, where another array takes up the common
    factor, is a shift of u.
    """

    description = "positive with product 1 on the last axis"
    event_ndim = 1
    edge = Singular(event_ndim=1, fixed=1)
    unit_free = True

    def forward(self, free: Array, like: Array | None = None) -> Array:
        return jnp.exp(_of_zero_sum(free))

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        return _to_zero_sum(jnp.log(value))

    def free(self, value: Array) -> Array:
        return jnp.ones((*value.shape[:-1], value.shape[-1] - 1), bool)

    def contains(self, value: Any) -> Any:
        xp, slack = value.__array_namespace__(), float(jnp.finfo(value.dtype).eps) ** 0.5
        return (value > 0).all() & (abs(xp.log(value).sum(axis=-1)) <= slack).all()

    def settle(self, value: Array, eps: float) -> Array:
        """The values divided by their geometric mean, where that is one to the precision ``eps`` of their source."""
        xp = value.__array_namespace__()
        inside = (value > 0).all(axis=-1, keepdims=True)
        off = xp.log(xp.where(inside, value, 1)).mean(axis=-1, keepdims=True)
        return xp.where(abs(off) <= eps**0.5, value / xp.exp(off), value)

    def names(self, name: str, labels: answers.Labels) -> list[str]:
        return answers.elements(f"ilr {name}", [*labels[:-1], [str(j) for j in range(len(labels[-1]) - 1)]])

    def interval(self, value: Array, half: Array, free: Array, free_half: Array) -> tuple[Array, Array]:
        """Intervals on the log scale of each entry."""
        factor = jnp.exp(half / value)
        return value / factor, value * factor

    def constant(self, shape: answers.Shape) -> np.ndarray:
        return np.full(shape, shape[-1] == 1)


@space
class UnitDeterminant:
    """Symmetric positive-definite matrices of determinant one on the last two axes, with D (D + 1) / 2 - 1 coordinates.

    x = L L', L = diag(exp s_i) (I + strictly lower triangle of u_ij), as for ``PositiveDefinite``, with s = V u of sum
    zero, as for ``UnitProduct``.
    """

    description = "symmetric and positive definite with determinant 1"
    event_ndim = 2
    edge = Singular(event_ndim=2, fixed=1)
    unit_free = True

    def forward(self, free: Array, like: Array | None = None) -> Array:
        d = round(((8 * free.shape[-1] + 9) ** 0.5 - 1) / 2)
        return PositiveDefinite().forward(jnp.concatenate([_of_zero_sum(free[..., : d - 1]), free[..., d - 1 :]], -1))

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        d, free = value.shape[-1], PositiveDefinite().inverse(value)
        return jnp.concatenate([_to_zero_sum(free[..., :d]), free[..., d:]], -1)

    def free(self, value: Array) -> Array:
        return PositiveDefinite().free(value)[..., 1:]

    def contains(self, value: Any) -> Any:
        slack = float(jnp.finfo(value.dtype).eps) ** 0.5
        size = abs(matrices.log_determinant(matrices.cholesky(value)))
        return PositiveDefinite().contains(value) & (size <= slack).all()

    def settle(self, value: Array, eps: float) -> Array:
        """The symmetric part divided by its size, for matrices in the space to the precision ``eps`` of a source."""
        xp, value = value.__array_namespace__(), PositiveDefinite().settle(value, eps)
        sign, log_determinant = xp.linalg.slogdet(value)
        near = (sign > 0) & (abs(log_determinant) <= eps**0.5)
        off = xp.where(near, log_determinant, 0) / value.shape[-1]
        return value / xp.exp(off)[..., None, None]

    def names(self, name: str, labels: answers.Labels) -> list[str]:
        variables, named = labels[-1], []
        for matrix in answers.elements(name, labels[:-2]):
            named += [f"ilr scale {matrix}[{j}]" for j in range(len(variables) - 1)]
            named += [
                f"ratio {matrix}[{variables[i]}, {variables[j]}]" for i in range(len(variables)) for j in range(i)
            ]
        return named

    def interval(self, value: Array, half: Array, free: Array, free_half: Array) -> tuple[Array, Array]:
        """As for ``PositiveDefinite``."""
        return PositiveDefinite().interval(value, half, free, free_half)

    def repeated(self, shape: answers.Shape) -> np.ndarray:
        return PositiveDefinite().repeated(shape)

    def constant(self, shape: answers.Shape) -> np.ndarray:
        return np.full(shape, shape[-1] == 1)
