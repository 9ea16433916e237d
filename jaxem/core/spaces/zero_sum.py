"""Arrays whose rows sum to zero, such as the coefficients of classes relative to their mean."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.spaces import answers
from jaxem.core.spaces.protocol import space


def contrasts(k: int) -> np.ndarray:
    """Helmert's orthonormal basis (K, K - 1) of the vectors that sum to zero."""
    j = np.arange(1, k)
    before = np.triu(np.ones((k, k - 1))) - np.eye(k, k - 1, -1) * j[None, :]
    return before / np.sqrt(j * (j + 1.0))[None, :]


@space
class ZeroSum:
    r"""Arrays (..., K, P) that sum to zero over K: x = V u with u = V' x (..., K - 1, P) and Helmert's basis V.

    V is orthonormal, so that no class is singled out.
    """

    description = "finite with sum 0 over the second axis from the end"
    event_ndim = 2
    unit_free = False

    def forward(self, free: Array, like: Array | None = None) -> Array:
        v = jnp.asarray(contrasts(free.shape[-2] + 1), free.dtype)
        return jnp.matmul(v, free, precision="highest")

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        v = jnp.asarray(contrasts(value.shape[-2]), value.dtype)
        return jnp.matmul(v.T, value, precision="highest")

    def dimension(self, shape: answers.Shape) -> int:
        return math.prod(shape[:-2]) * (shape[-2] - 1) * shape[-1]

    def free(self, value: Array) -> Array:
        *leading, k, p = jnp.shape(value)
        return jnp.ones((*leading, k - 1, p), bool)

    def contains(self, value: Any) -> Any:
        slack = float(jnp.finfo(value.dtype).eps) ** 0.5
        total, size = abs(value.sum(axis=-2)), abs(value).sum(axis=-2)
        return value.__array_namespace__().isfinite(value).all() & (total <= slack * size).all()

    def names(self, name: str, labels: answers.Labels) -> list[str]:
        contrast = [str(j) for j in range(len(labels[-2]) - 1)]  # each compares a class with those before it
        return answers.elements(f"contrast {name}", [*labels[:-2], contrast, labels[-1]])

    def constant(self, shape: answers.Shape) -> np.ndarray:
        return np.full(shape, shape[-2] == 1)  # the coefficients of a single class are zero

    def tangential(self, value: Array, slope: Array) -> Array:
        return slope - slope.mean(axis=-2, keepdims=True)

    def needs(self, shape: answers.Shape) -> str | None:
        return None if len(shape) >= 2 else "two last axes, classes and covariates"


@space
class ZeroSumWhere:
    r"""Arrays (K, K, P) whose row i sums to zero over the places that ``allowed[i]`` names, and is zero elsewhere.

    The coordinates of a row with m places are m - 1 contrasts of these, one row after the other: (F, P) in all.

    Arguments:
        allowed: (K, K), as tuples of truth values; at least one in each row is true.
    """

    allowed: tuple[tuple[bool, ...], ...]

    event_ndim = 3
    unit_free = False

    @property
    def description(self) -> str:
        """What the space requires of the values, in words."""
        return "finite, zero for moves that are not allowed, with sum 0 over those that are"

    @property
    def _basis(self) -> np.ndarray:
        """(K, K, F), orthonormal."""
        within = basis_where(np.array(self.allowed))
        used = [(i, j) for i, row in enumerate(self.allowed) for j in range(sum(row) - 1)]
        found = np.zeros((*within.shape[:2], len(used)))
        for place, (i, j) in enumerate(used):
            found[i, :, place] = within[i, :, j]
        return found

    def forward(self, free: Array, like: Array | None = None) -> Array:
        return jnp.tensordot(jnp.asarray(self._basis, free.dtype), free, axes=1, precision="highest")

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        v = jnp.asarray(self._basis, value.dtype)
        return jnp.tensordot(v, value, axes=((0, 1), (0, 1)), precision="highest")

    def dimension(self, shape: answers.Shape) -> int:
        return (int(np.sum(self.allowed)) - shape[0]) * shape[-1]

    def free(self, value: Array) -> Array:
        return jnp.ones((int(np.sum(self.allowed)) - len(self.allowed), jnp.shape(value)[-1]), bool)

    def contains(self, value: Any) -> Any:
        xp, slack = value.__array_namespace__(), float(jnp.finfo(value.dtype).eps) ** 0.5
        total, size = abs(value.sum(axis=-2)), abs(value).sum(axis=-2)
        apart = xp.where(np.array(self.allowed)[:, :, None], 0, value)
        return xp.isfinite(value).all() & (total <= slack * size).all() & (apart == 0).all()

    def names(self, name: str, labels: answers.Labels) -> list[str]:
        each = zip(labels[0], self.allowed, strict=True)
        rows = [(label, str(j)) for label, row in each for j in range(sum(row) - 1)]
        return [f"contrast {name}[{i}, {j}, {p}]" for i, j in rows for p in labels[-1]]

    def constant(self, shape: answers.Shape) -> np.ndarray:
        allowed = np.array(self.allowed)
        alone = allowed.sum(axis=1, keepdims=True) == 1  # the coefficients of the only move of a state are zero
        return np.broadcast_to((~allowed | alone)[:, :, None], shape)

    def tangential(self, value: Array, slope: Array) -> Array:
        return self.forward(self.inverse(slope))

    def needs(self, shape: answers.Shape) -> str | None:
        k = len(self.allowed)
        return None if len(shape) == 3 and tuple(shape[:2]) == (k, k) else f"the shape ({k}, {k}, P)"


def basis_where(allowed: np.ndarray) -> np.ndarray:
    """Helmert's basis of the allowed places of each row of ``allowed (K, K)``, (K, K, K - 1), filled up with zeros."""
    k = allowed.shape[1]
    found = np.zeros((allowed.shape[0], k, k - 1))
    for i, row in enumerate(allowed):
        found[i, row, : row.sum() - 1] = contrasts(int(row.sum()))
    return found
