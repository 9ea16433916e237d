"""Arrays whose rows sum to zero, such as the coefficients of classes relative to their mean."""

import math

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

    def contains(self, value: Array) -> Array:
        slack = float(jnp.finfo(value.dtype).eps) ** 0.5
        total, size = jnp.abs(value.sum(axis=-2)), jnp.abs(value).sum(axis=-2)
        return jnp.isfinite(value).all() & (total <= slack * size).all()

    def names(self, name: str, labels: answers.Labels) -> list[str]:
        contrast = [str(j) for j in range(len(labels[-2]) - 1)]  # each compares a class with those before it
        return answers.elements(f"contrast {name}", [*labels[:-2], contrast, labels[-1]])

    def constant(self, shape: answers.Shape) -> np.ndarray:
        return np.full(shape, shape[-2] == 1)  # the coefficients of a single class are zero

    def tangential(self, value: Array, slope: Array) -> Array:
        return slope - slope.mean(axis=-2, keepdims=True)

    def needs(self, shape: answers.Shape) -> str | None:
        return None if len(shape) >= 2 else "two last axes, classes and covariates"
